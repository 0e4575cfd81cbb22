"""One process of two, under DDP or FSDP2: gradients with the penalty, and steps of Sophia, are written to a file.

torchrun --standalone --nproc-per-node 2 tests/two_processes.py MODEL OUTPUT
"""

import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

from flextune import FourierPenalty, SophiaG, refresh_curvature
from flextune.tasks import load_training_set
from flextune.tuning import curvature
from flextune.tuning.adapters import gathered
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.trainer import SpectralTrainer, gradient_norm

STRENGTH = 0.1


def model_and_rows(folder):
    """The same on each process: a model in float64 with an odd rank, so that its shards are uneven, and eight rows."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)
    config = LoraConfig(r=3, target_modules=["up_proj", "down_proj"], init_lora_weights="gaussian")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    rows = tokenize(load_training_set("basics", limit=8).examples, tokenizer, 512).rows
    return model, rows, Collator(tokenizer.pad_token_id)


def by_trainer(folder, accumulation=1):
    """The gradient before clipping of the trainer's first step; whatever the number of processes, on all eight rows."""
    model, rows, collator = model_and_rows(folder)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        max_steps=1,
        per_device_train_batch_size=8 // accumulation // processes,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        use_cpu=True,
        ddp_backend="gloo" if processes > 1 else None,
        ddp_find_unused_parameters=False,
    )
    trainer = SpectralTrainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        data_collator=collator,
        penalty=FourierPenalty(model, STRENGTH),
    )
    seen = {}
    step = trainer.create_optimizer().step

    def spying(*args, **kwargs):
        seen.update({name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad})
        return step(*args, **kwargs)

    trainer.optimizer.step = spying
    trainer.train()
    return seen, trainer.state.log_history[0]


def by_hand(folder, form="factors", shard=False, low=0, high=8):
    """The same in a plain loop with one backward pass; FSDP2 averages the processes' gradients."""
    model, rows, collator = model_and_rows(folder)
    penalty = FourierPenalty(model, STRENGTH, form=form)
    if shard:
        for layer in model.base_model.model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    loss = model(**collator(rows[low:high]), num_items_in_batch=1).loss
    if shard:
        loss = loss * dist.get_world_size()
    loss.backward()
    norm = gradient_norm(model).item()
    penalty.add_gradient_()
    figures = {"fourier_loss": penalty.value().item(), "task_grad_norm": norm}
    figures |= {name: value.item() for name, value in penalty.norms().items()}
    gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    return {name: g.full_tensor() if shard else g for name, g in gradients.items()}, figures


def sophia_steps(folder, kind="alone", low=0, high=8):
    """Where two steps of Sophia with an estimate each lead; the labels drawn are a function of the logits."""
    model, rows, collator = model_and_rows(folder)
    if kind == "fsdp2":
        for layer in model.base_model.model.model.layers:
            fully_shard(layer)
        fully_shard(model)
    wrapped = DistributedDataParallel(model) if kind == "ddp" else model
    scale = 1 if kind == "alone" else dist.get_world_size()
    factors = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = SophiaG(factors.values(), lr=0.1, betas=(0.9, 0.9))
    drawing, curvature.draw_labels = curvature.draw_labels, lambda logits, _: (7 * logits.argmax(-1) + 3) % 500
    for _ in range(2):
        batch = collator(rows[low:high])
        (wrapped(**batch, num_items_in_batch=100).loss * scale).backward()
        labels = refresh_curvature(optimizer, wrapped, batch)
        optimizer.step()
        optimizer.zero_grad()
    curvature.draw_labels = drawing
    figures = {"labels": labels, "gamma": optimizer.gamma, "unclipped": optimizer.unclipped_share()}
    figures["norm"] = optimizer.curvature_norm()
    return gathered(model), figures


def main(folder, output):
    """Both ways on this process; the first process writes."""
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    found = {}
    for form in ("factors", "product", "permuted"):
        found[f"fsdp2 {form}"] = by_hand(folder, form, shard=True, low=4 * rank, high=4 * rank + 4)
    for kind in ("ddp", "fsdp2"):
        found[f"sophia {kind}"] = sophia_steps(folder, kind, low=4 * rank, high=4 * rank + 4)
    for accumulation in (1, 2):
        found[f"ddp {accumulation}"] = by_trainer(folder, accumulation=accumulation)
    if rank == 0:
        torch.save(found, output)
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort an orderly exit


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
