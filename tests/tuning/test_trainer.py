import pytest
import torch
from peft import LoraConfig, get_peft_model
from spectra import by_autograd
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from flextune import FourierPenalty
from flextune.tasks import load_training_set
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.trainer import SpectralTrainer


def trainer_on(tiny_model, kind, tmp_path, strength=None, batch=8, accumulation=1, steps=3, norm=1.0):
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    config = LoraConfig(r=2, target_modules=["up_proj", "down_proj"], init_lora_weights="gaussian")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    rows = tokenize(load_training_set("basics", limit=8).examples, tokenizer, 512).rows
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        max_grad_norm=norm,
        learning_rate=1e-2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        logging_steps=1,
        dataloader_pin_memory=False,
    )
    more = {} if strength is None else {"penalty": FourierPenalty(model, strength=strength)}
    collator = Collator(tokenizer.pad_token_id)
    return kind(model=model, args=arguments, train_dataset=rows, data_collator=collator, **more)


def trained(*args, **kwargs):
    trainer = trainer_on(*args, **kwargs)
    trainer.train()
    return trainer, [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]


def test_without_strength_it_is_the_plain_trainer_bit_for_bit(tiny_model, tmp_path):
    _, plain = trained(tiny_model, Trainer, tmp_path)
    _, zero = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.0)
    _, penalised = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1)
    assert all(torch.equal(a, b) for a, b in zip(plain, zero, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(plain, penalised, strict=True))


class Naive(Trainer):
    """The penalty in the loss of each forward pass: counted once too often for each accumulation step."""

    def __init__(self, *args, penalty, **kwargs):
        super().__init__(*args, **kwargs)
        self.strength = penalty.strength

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss + self.strength * by_autograd([p for p in model.parameters() if p.requires_grad])


def gradient(kind, tiny_model, tmp_path, accumulation):
    """The gradient of the first step, before clipping."""
    trainer = trainer_on(
        tiny_model, kind, tmp_path, 0.1, batch=8 // accumulation, accumulation=accumulation, steps=1, norm=0
    )
    seen = []
    step = trainer.create_optimizer().step
    trainer.optimizer.step = lambda *a, **k: (
        seen.extend(p.grad.clone() for p in trainer.model.parameters() if p.requires_grad),
        step(*a, **k),
    )[-1]
    trainer.train()
    return torch.cat([g.flatten() for g in seen])


def test_the_gradient_does_not_depend_on_accumulation(tiny_model, tmp_path):
    whole = gradient(SpectralTrainer, tiny_model, tmp_path, 1)
    for accumulation in (2, 4, 8):
        parts = gradient(SpectralTrainer, tiny_model, tmp_path, accumulation)
        assert (parts - whole).norm() / whole.norm() < 1e-5


def test_the_naive_penalty_fails_this(tiny_model, tmp_path):
    whole = gradient(Naive, tiny_model, tmp_path, 1)
    assert (gradient(SpectralTrainer, tiny_model, tmp_path, 1) - whole).norm() / whole.norm() < 1e-5
    parts = gradient(Naive, tiny_model, tmp_path, 4)
    assert (parts - whole).norm() / whole.norm() > 0.5


def test_the_logged_loss_is_the_task_loss_alone(tiny_model, tmp_path):
    plain, _ = trained(tiny_model, Trainer, tmp_path, steps=1)
    ours, _ = trained(tiny_model, SpectralTrainer, tmp_path, strength=10.0, steps=1)
    assert ours.state.log_history[0]["loss"] == pytest.approx(plain.state.log_history[0]["loss"])
    assert ours.state.log_history[0]["fourier_loss"] > 0
