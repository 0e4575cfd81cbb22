"""The stage `train`: a recipe and a training set become `adapter/` and `training/metrics.jsonl`.

A killed run goes on from its last whole checkpoint and ends with the adapter of an undisturbed one. Under torchrun or
`accelerate launch` every process calls `train`; the first writes.
"""

import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import PrinterCallback, TrainingArguments, set_seed

from flextune import processes
from flextune.checkpoints import compute_dtype
from flextune.errors import FlextuneError, NoRoomError, UsageError
from flextune.files import publish
from flextune.models import ModelSource, context, load_model
from flextune.progress import progress, say
from flextune.rundir import RunDirectory
from flextune.tasks import Example
from flextune.tuning.adapters import (
    add_adapter,
    changes_the_base,
    gathered,
    load_weights,
    save_adapter,
)
from flextune.tuning.batching import Collator, Row, bins, packing_is_exact, tokenize
from flextune.tuning.curvature import SophiaCallback
from flextune.tuning.divergence import base_logits, divergence
from flextune.tuning.fourier import FourierPenalty
from flextune.tuning.metrics import WHOLE, Metrics
from flextune.tuning.outcome import check_outcome
from flextune.tuning.settings import Adapter, Penalty, Training
from flextune.tuning.sophia import SophiaG
from flextune.tuning.trackers import trackers
from flextune.tuning.trainer import SpectralTrainer
from flextune.tuning.validation import loss_per_token, perplexity

WHEN = ("start_step", "ramp_steps", "decoupled")
"""The keys of `Penalty` that say when and how it acts; the others say what it is."""
OF_THE_CALLBACK = ("estimator", "refresh_every", "refresh_share")
"""The keys of `Sophia` that say how its curvature is estimated; the others are the optimizer's."""


def train(
    source: ModelSource,
    examples: Sequence[Example],
    run: RunDirectory,
    *,
    training: Training,
    adapter: Adapter,
    penalty: Penalty,
    validation: Sequence[Example] = (),
    dtype: str = "auto",
    seed: int = 0,
) -> None:
    """Fine-tune with LoRA and the Fourier penalty.

    With `validation` examples the loss on them is measured before the first step and at each checkpoint, and the
    adapter of the best checkpoint is kept; without, that of the last step.

    Raises `FlextuneError` if the loss stops being a number, memory or disk is full, or no example fits; each says what
    to change, and keeps the last checkpoint.
    """
    if source.quantization and not torch.cuda.is_available():
        raise UsageError(
            f"quantization = {source.quantization!r}: 4-bit weights train on a GPU only; on a processor bitsandbytes "
            "packs them for inference when they are first used, and gives wrong gradients from then on"
        )
    processes.check_environment()
    set_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()  # what was held before, to measure the base, is not of training
    base, tokenizer = load_model(source, compute_dtype(source, dtype))
    model = add_adapter(base, adapter)
    if training.kl and changes_the_base(model):
        raise UsageError(
            f"training.kl = {training.kl:g} with adapter.peft.init_lora_weights: the weights beside such an adapter "
            "are not those of the model as it came; leave out one of the two"
        )
    if training.kl and model.peft_config["default"].layer_replication:
        raise UsageError(
            f"training.kl = {training.kl:g} with layer_replication: without its adapter such a model still has the "
            "additional layers, and is not the base model; leave out one of the two"
        )
    if training.kl and model.peft_config["default"].bias != "none":
        raise UsageError(
            f"training.kl = {training.kl:g} with adapter.peft.bias: PEFT cannot switch trained biases off, and so not "
            "show the model as it came; leave out one of the two"
        )
    longest = min(training.max_length, context(model.config) or training.max_length)
    embedding_rows = model.get_input_embeddings().weight.shape[0]
    data = tokenize(examples, tokenizer, longest, embedding_rows=embedding_rows)
    held_out = tokenize(validation, tokenizer, longest, "validation set", embedding_rows) if validation else None
    trainable, total = model.get_nb_trainable_parameters()
    say(
        f"Training {trainable:,} of {total:,} parameters ({trainable / total:.2%}) on {len(data.rows)} examples "
        f"of {training.dataset}"
        + (f"; {data.too_long} longer than {longest} tokens left out" if data.too_long else "")
        + (f"; {data.unwritable} that the tokenizer cannot write left out" if data.unwritable else "")
        + (f"; validating on {len(held_out.rows)}, {len(validation) - len(held_out.rows)} left out" if held_out else "")
    )
    packed = packing_is_exact(model)
    if not packed:
        say("This model mixes examples that stand in one row: they are padded instead, which is slower")
    # nothing looks at padding, but every token needs a row of the embedding
    pad = tokenizer.pad_token_id if (tokenizer.pad_token_id or 0) < embedding_rows else 0
    collator = Collator(pad or 0, packed=packed)
    rows: list[Any] = data.rows
    if training.batch_tokens is not None:
        rows = bins(data.rows, training.batch_tokens, by_length=not packed, seed=seed)
    arguments = _arguments(run, training, seed, validate=held_out is not None)
    steps = _steps(arguments, len(rows))
    if math.ceil(steps * training.warmup) >= steps:
        arguments.warmup_steps = steps - 1  # the rate of the first warm-up step is 0: nothing would be learned
    if processes.leads():
        discard_half_written(run.checkpoints)
    processes.wait_for_all()
    checkpoint = last_checkpoint(run.checkpoints)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    arguments.eval_on_start = held_out is not None and not done
    start = run.checkpoints / "start"
    if changes_the_base(model) and processes.leads() and not done:
        model.save_pretrained(start)
    if checkpoint:
        say(f"Going on with training after step {done} of {steps}")
    with progress(f"training on {training.dataset}", steps, done) as step:
        metrics = Metrics(run.metrics, done, step, training.patience)
        trainer = _Trainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=collator,
            validation=_batches(held_out.rows, collator, training) if held_out else [],
            kl=training.kl,
            processing_class=tokenizer,
            # also with λ = 0, which changes nothing, for its figures in metrics.jsonl
            penalty=FourierPenalty(model, **_but(penalty, WHEN), seed=seed),
            **_only(penalty, WHEN),
            **_sophia(training),
            callbacks=[*_curvature(training, seed), metrics, *trackers(run, training)],
        )
        trainer.remove_callback(PrinterCallback)
        with _explained(run.checkpoints, trainer):
            _refuse_what_cannot_be_saved(model, trainer)
            if done < steps and not metrics.patience_is_over:
                trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            else:  # killed after the last step; what it would have loaded or kept at its end
                load_weights(model, run.checkpoints / f"checkpoint-{metrics.best['step'] if metrics.best else done}")
            if metrics.best is not None:
                say(
                    f"Keeping the adapter of step {metrics.best['step']}: validation loss "
                    f"{metrics.best['validation_loss']:.4f} per token"
                )
            some = collator(rows[: arguments.per_device_train_batch_size])
            check_outcome(model, some, training.learning_rate, steps)
            _save(model, trainer, run, start)


def _save(model: Any, trainer: "_Trainer", run: RunDirectory, start: Path) -> None:
    """Write the adapter under its name when it is whole."""
    partial = run.adapter.with_name(f".{run.adapter.name}.partial")
    if processes.leads():
        shutil.rmtree(partial, ignore_errors=True)
    processes.wait_for_all()
    if trainer.is_fsdp_enabled:
        weights = gathered(model)
        if processes.leads():
            model.save_pretrained(partial, state_dict=weights)
    elif processes.leads():
        save_adapter(model, partial, start)
    processes.wait_for_all()
    if processes.leads():
        publish(partial, run.adapter)
        shutil.rmtree(run.checkpoints, ignore_errors=True)


class _Trainer(SpectralTrainer):
    """Counts the tokens it learns, validates per token over the whole set, and stays near the base model if asked."""

    control: Any

    def __init__(self, *args: Any, validation: list[dict[str, Any]], kl: float = 0.0, **kwargs: Any):
        super().__init__(*args, eval_dataset=validation or None, **kwargs)
        self._validation = validation
        self._kl = kl
        self._divergence: Any = 0.0
        self._tokens: Any = None

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        self._tokens = num_items_in_batch  # of the whole optimizer step, over all processes
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(self, model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
        if not self._kl:
            return super().compute_loss(model, inputs, **kwargs)
        base = base_logits(self.accelerator.unwrap_model(model), inputs)
        loss, outputs = super().compute_loss(model, inputs, **{**kwargs, "return_outputs": True})
        # each process sees its share of the tokens, and the trainer takes the mean over processes
        share = divergence(base, outputs.logits, inputs) * self.accelerator.num_processes / self._tokens
        self._divergence = self._divergence + share.detach()
        return loss + self._kl * share

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self._tokens is not None:
            logs["tokens"] = int(self._tokens)
        if "loss" in logs and self._kl:
            logs["kl"] = self.accelerator.reduce(self._divergence, reduction="mean").item()
            logs["loss"] -= self._kl * logs["kl"]  # the task's alone, as without
            self._divergence = 0.0
        super().log(logs, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        loss = loss_per_token(self.model, self._validation)
        metrics = {"eval_loss": loss, "eval_perplexity": perplexity(loss)}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def _refuse_what_cannot_be_saved(model: Any, trainer: "_Trainer") -> None:
    if trainer.is_fsdp_enabled and changes_the_base(model):
        raise UsageError(
            "adapter.peft.init_lora_weights: an adapter that takes its factors out of the weights cannot be saved from "
            "shards; train it with DDP, or start from true, gaussian or orthogonal"
        )


def _arguments(run: RunDirectory, training: Training, seed: int, validate: bool) -> TrainingArguments:
    arguments = TrainingArguments(
        output_dir=str(run.checkpoints.resolve()),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size if training.batch_tokens is None else 1,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        optim="adamw_torch_fused",
        lr_scheduler_type=training.schedule if training.schedule != "constant" else "constant_with_warmup",
        warmup_steps=training.warmup,  # below 1 it is a share
        max_grad_norm=training.max_grad_norm,
        gradient_checkpointing=training.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if training.gradient_checkpointing else None,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_steps=training.checkpoint_steps,
        eval_strategy="steps" if validate else "no",
        eval_steps=training.checkpoint_steps,
        load_best_model_at_end=validate,
        metric_for_best_model="eval_loss" if validate else None,
        greater_is_better=False if validate else None,
        seed=seed,
        data_seed=seed,
        disable_tqdm=True,
        report_to="none",  # trackers come after what adds to the log
        project="flextune",
        run_name=run.path.name,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process, one GPU: nn.DataParallel would multiply the batch; see torchrun for more
    return arguments


def _steps(arguments: TrainingArguments, rows: int) -> int:
    """Optimizer steps of a whole training."""
    batches = math.ceil(math.ceil(rows / arguments.per_device_train_batch_size) / processes.count())
    per_epoch: int = math.ceil(batches / arguments.gradient_accumulation_steps)
    return math.ceil(per_epoch * float(arguments.num_train_epochs))


def _batches(rows: list[Row], collator: Collator, training: Training) -> list[dict[str, Any]]:
    """The validation set, neighbours in length together, in batches of the training's size."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    if training.batch_tokens is not None:
        return [collator(bin_) for bin_ in bins(ordered, training.batch_tokens, by_length=True, seed=0)]
    size = training.batch_size
    return [collator(ordered[start : start + size]) for start in range(0, len(ordered), size)]


def _sophia(training: Training) -> dict[str, Any]:
    if training.optimizer != "sophia":
        return {}
    # the trainer passes on no learning rate to an optimizer of one's own
    return {
        "optimizer_cls_and_kwargs": (SophiaG, {"lr": training.learning_rate, **_but(training.sophia, OF_THE_CALLBACK)})
    }


def _curvature(training: Training, seed: int) -> list[Any]:
    return (
        [SophiaCallback(**_only(training.sophia, OF_THE_CALLBACK), seed=seed)] if training.optimizer == "sophia" else []
    )


def _only(section: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in asdict(section).items() if key in keys}


def _but(section: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in asdict(section).items() if key not in keys}


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / WHOLE).exists()]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def discard_half_written(folder: Path) -> None:
    """Remove the checkpoints whose writing did not come to its end."""
    for path in folder.glob("checkpoint-*"):
        if not (path / WHOLE).exists():
            shutil.rmtree(path, ignore_errors=True)


NO_ROOM = ("No space left", "Disk quota", "PytorchStreamWriter", "unexpected pos")
NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
"""What the libraries' messages say; torch and safetensors each have errors of their own for a full disk."""


@contextmanager
def _explained(checkpoints: Path, trainer: SpectralTrainer) -> Iterator[None]:
    """Say at which step memory or disk was full, what is kept, and what to change."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        text, step = str(error), trainer.state.global_step
        disk, memory = (any(sign in text for sign in signs) for signs in (NO_ROOM, NO_MEMORY))
        if not (disk or memory):
            raise
        if disk and processes.leads():
            discard_half_written(checkpoints)
        last = last_checkpoint(checkpoints)
        kept = f"{last.name} is kept" if last else "there is no checkpoint yet"
        if disk:
            raise NoRoomError(
                f"there is no room on the disk of {checkpoints.parent} for the weights of step {step}; {kept}: make "
                "room, and the same command goes on"
            ) from error
        raise FlextuneError(
            f"out of memory in step {step + 1} ({text.strip().splitlines()[0]}); {kept}: set "
            "training.gradient_checkpointing=true to go on from there, or lower training.batch_size or "
            "training.batch_tokens and raise training.accumulation, or lower training.max_length, to start anew"
        ) from error
