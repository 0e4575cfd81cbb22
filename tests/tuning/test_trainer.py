import json

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from spectra import by_autograd
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from flextune import FlextuneError, FourierPenalty, SpectralTrainerMixin, UsageError, attach
from flextune.tasks import load_training_set
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.trainer import SpectralTrainer, ramp


def settings(tmp_path, **more):
    return {
        "output_dir": str(tmp_path),
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-2,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "dataloader_pin_memory": False,
        **more,
    }


def trainer_on(tiny_model, kind, tmp_path, strength=None, dtype=torch.float32, options=None, **more):
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=dtype)
    config = LoraConfig(r=2, target_modules=["up_proj", "down_proj"], init_lora_weights="gaussian")
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    rows = tokenize(load_training_set("basics", limit=8).examples, tokenizer, 512).rows
    arguments = TrainingArguments(**settings(tmp_path, remove_unused_columns=False, **more))
    extra = {} if strength is None else {"penalty": FourierPenalty(model, strength=strength), **(options or {})}
    return kind(
        model=model,
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows[:3],
        data_collator=Collator(tokenizer.pad_token_id),
        **extra,
    )


def trained(*args, **kwargs):
    trainer = trainer_on(*args, **kwargs)
    trainer.train()
    return trainer, [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_without_strength_it_is_the_plain_trainer_bit_for_bit(tiny_model, tmp_path, dtype):
    _, plain = trained(tiny_model, Trainer, tmp_path, dtype=dtype)
    _, zero = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.0, dtype=dtype)
    _, none = trained(tiny_model, SpectralTrainer, tmp_path, dtype=dtype)
    _, penalised = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, dtype=dtype)
    assert same(plain, zero)
    assert same(plain, none)
    assert not same(plain, penalised)


class Naive(Trainer):
    """The penalty in the loss of each forward pass: counted once too often for each accumulation step."""

    def __init__(self, *args, penalty, **kwargs):
        super().__init__(*args, **kwargs)
        self.strength = penalty.strength

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
        return loss + self.strength * by_autograd([p for p in model.parameters() if p.requires_grad])


def gradient(kind, tiny_model, tmp_path, accumulation):
    """The gradient of the first step, before clipping; in float64, so that nothing but a wrong factor shows."""
    trainer = trainer_on(
        tiny_model,
        kind,
        tmp_path,
        0.1,
        torch.float64,
        per_device_train_batch_size=8 // accumulation,
        gradient_accumulation_steps=accumulation,
        max_steps=1,
        max_grad_norm=0,
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
        assert (parts - whole).norm() / whole.norm() < 1e-6


def test_the_naive_penalty_fails_this(tiny_model, tmp_path):
    whole = gradient(Naive, tiny_model, tmp_path, 1)
    assert (gradient(SpectralTrainer, tiny_model, tmp_path, 1) - whole).norm() / whole.norm() < 1e-6
    parts = gradient(Naive, tiny_model, tmp_path, 4)
    assert (parts - whole).norm() / whole.norm() > 0.5


def test_the_loss_and_the_evaluation_loss_are_the_tasks_alone(tiny_model, tmp_path):
    plain, _ = trained(tiny_model, Trainer, tmp_path, max_steps=1)
    ours, _ = trained(tiny_model, SpectralTrainer, tmp_path, strength=10.0, max_steps=1)
    assert ours.state.log_history[0]["loss"] == plain.state.log_history[0]["loss"]
    before = trainer_on(tiny_model, Trainer, tmp_path).evaluate()["eval_loss"]
    evaluation = trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=10.0).evaluate()
    assert evaluation["eval_loss"] == before
    assert "fourier_loss" not in evaluation


def test_what_it_logs(tiny_model, tmp_path):
    plain, _ = trained(tiny_model, Trainer, tmp_path, max_steps=1)
    ours, _ = trained(tiny_model, SpectralTrainer, tmp_path, strength=10.0, max_steps=1, max_grad_norm=0.01)
    row, model = ours.state.log_history[0], ours.model
    factors = {letter: [p for name, p in model.named_parameters() if f"lora_{letter}" in name] for letter in "AB"}
    assert row["fourier_loss"] == pytest.approx(by_autograd(factors["A"] + factors["B"]).item(), rel=1e-5)
    for letter in "AB":
        norm = torch.cat([p.flatten() for p in factors[letter]]).norm().item()
        assert row[f"lora_{letter}_norm"] == pytest.approx(norm, rel=1e-5)
    assert row["task_grad_norm"] == pytest.approx(plain.state.log_history[0]["grad_norm"], rel=1e-5)
    assert row["grad_norm"] > 2 * row["task_grad_norm"]
    json.dumps(ours.state.log_history)  # plain numbers, for trackers


def test_a_factor_that_is_no_longer_finite_is_named(tiny_model, tmp_path):
    with pytest.raises(FlextuneError, match=r"lora_A.default.weight holds \S+ at \(0, 0\): lower the"):
        trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, learning_rate=float("inf"))


def test_it_starts_at_its_step_and_grows(tiny_model, tmp_path):
    _, plain = trained(tiny_model, Trainer, tmp_path)
    _, late = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, options={"start_step": 3})
    assert same(plain, late)
    _, last = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, options={"start_step": 2})
    assert not same(plain, last)
    # of three steps the last alone, at half strength
    _, half = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, options={"start_step": 2, "ramp_steps": 2})
    _, same_half = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.05, options={"start_step": 2})
    assert same(half, same_half)
    assert not same(half, last)
    for name in ("start_step", "ramp_steps"):
        with pytest.raises(UsageError, match=f"{name} = -1: expected"):
            trainer_on(tiny_model, SpectralTrainer, tmp_path, 0.1, options={name: -1})
    options = {"start_step": 3, "decoupled": True}
    _, decoupled = trained(tiny_model, SpectralTrainer, tmp_path, strength=5.0, options=options)
    assert same(plain, decoupled)
    assert [ramp(step) for step in range(2)] == [1.0, 1.0]


def test_decoupled_it_takes_from_the_weights_after_the_optimizer(tiny_model, tmp_path):
    _, plain = trained(tiny_model, Trainer, tmp_path, max_steps=1, lr_scheduler_type="constant")
    trainer, decoupled = trained(
        tiny_model,
        SpectralTrainer,
        tmp_path,
        strength=5.0,
        options={"decoupled": True},
        max_steps=1,
        lr_scheduler_type="constant",
    )
    stepped = [p.clone().requires_grad_() for p in plain]
    expected = [
        p - 1e-2 * 5.0 * g for p, g in zip(stepped, torch.autograd.grad(by_autograd(stepped), stepped), strict=True)
    ]
    for found, wanted in zip(decoupled, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)
    row = trainer.state.log_history[0]
    assert row["grad_norm"] == pytest.approx(row["task_grad_norm"])


def test_coupled_it_leaves_the_weights_to_the_optimizer(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(FourierPenalty, "decay_", lambda *args: pytest.fail("the weights were changed directly"))
    trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, max_steps=1)


def test_one_line_gives_it_to_a_trainer_that_exists(tiny_model, tmp_path):
    _, ours = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1)
    trainer = trainer_on(tiny_model, Trainer, tmp_path)
    assert attach(trainer, FourierPenalty(trainer.model, strength=0.1)) is trainer
    assert isinstance(trainer, SpectralTrainerMixin)
    assert isinstance(trainer, Trainer)
    trainer.train()
    assert same(ours, [p for p in trainer.model.parameters() if p.requires_grad])
    with pytest.raises(UsageError, match="has a Fourier penalty already"):
        attach(trainer, FourierPenalty(trainer.model))
    with pytest.raises(UsageError, match=r"expected a transformers.Trainer, found str"):
        attach("trainer", FourierPenalty(trainer.model))


def test_with_trls_trainer(tiny_model, tmp_path):
    trl = pytest.importorskip("trl")
    examples = load_training_set("basics", limit=8).examples
    rows = Dataset.from_list([{"prompt": e.prompt, "completion": e.completion} for e in examples])

    def sft(kind=trl.SFTTrainer, **more):
        set_seed(0)
        return kind(
            model=AutoModelForCausalLM.from_pretrained(tiny_model),
            processing_class=AutoTokenizer.from_pretrained(tiny_model),
            args=trl.SFTConfig(**settings(tmp_path, bf16=False, max_steps=2)),
            train_dataset=rows,
            peft_config=LoraConfig(r=2, target_modules=["up_proj", "down_proj"]),
            **more,
        )

    def weights(trainer):
        trainer.train()
        return [p.detach().clone() for p in trainer.model.parameters() if p.requires_grad]

    plain, zero, ours = sft(), sft(), sft()
    attach(zero, FourierPenalty(zero.model, strength=0.0))
    attach(ours, FourierPenalty(ours.model, strength=0.1))
    plain_weights, zero_weights, our_weights = weights(plain), weights(zero), weights(ours)
    assert same(plain_weights, zero_weights)
    assert not same(plain_weights, our_weights)
    row = ours.state.log_history[0]
    assert row["loss"] == plain.state.log_history[0]["loss"]
    assert row["fourier_loss"] > 0
    assert row["task_grad_norm"] == pytest.approx(plain.state.log_history[0]["grad_norm"], rel=1e-4)

    class SpectralSFTTrainer(SpectralTrainerMixin, trl.SFTTrainer):
        pass

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=2, target_modules=["up_proj", "down_proj"])
    )
    trainer = SpectralSFTTrainer(
        model=model,
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        args=trl.SFTConfig(**settings(tmp_path, bf16=False, max_steps=1)),
        train_dataset=rows,
        penalty=FourierPenalty(model),
    )
    trainer.train()
    assert trainer.state.log_history[0]["fourier_loss"] > 0


def test_a_penalty_on_what_is_not_trained_is_refused_when_training_begins(tiny_model, tmp_path):
    trainer, other = (trainer_on(tiny_model, Trainer, tmp_path) for _ in range(2))
    attach(trainer, FourierPenalty(other.model))
    with pytest.raises(UsageError, match=r"lora_A.default.weight is not trained in this trainer's model"):
        trainer.train()
    trainer = trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=0.1)
    trainer.train()
    trainer.model.add_adapter("second", LoraConfig(r=2, target_modules=["up_proj"]))
    trainer.model.set_adapter("second")  # the first one is frozen by this
    with pytest.raises(UsageError, match=r"lora_A.default.weight is not trained"):
        trainer.train()


@pytest.mark.parametrize("options", [{}, {"decoupled": True}])
def test_a_penalty_that_is_replaced_is_gone(tiny_model, tmp_path, options):
    _, fresh = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, options=options)
    trainer = trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=5.0, options={"decoupled": True})
    trainer.penalty = None
    kind = type(trainer)
    attach(trainer, FourierPenalty(trainer.model, strength=0.1), **options)
    assert type(trainer) is kind
    trainer.train()
    assert same(fresh, [p for p in trainer.model.parameters() if p.requires_grad])


def test_a_training_step_that_goes_around_it_is_an_error(tiny_model, tmp_path):
    trainer = trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=0.1)
    trainer.training_step = lambda *args: Trainer.training_step(trainer, *args)
    with pytest.raises(FlextuneError, match="so the Fourier penalty was not added"):
        trainer.train()


def test_the_scale_of_the_loss_is_the_penaltys_too(tiny_model, tmp_path):
    def step(scale):
        trainer = trainer_on(tiny_model, SpectralTrainer, tmp_path, 0.1, torch.float64)
        if scale:
            trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.current_gradient_accumulation_steps = 1
        trainer.accelerator.gradient_state._set_sync_gradients(True)
        trainer.training_step(trainer.model, next(iter(trainer.get_train_dataloader())), None)
        gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.requires_grad]
        return torch.cat(gradients), trainer._task_grad_norm.item()

    (plain, norm), (scaled, scaled_norm) = step(None), step(1024.0)
    torch.testing.assert_close(scaled, 1024 * plain, rtol=1e-5, atol=1e-6)
    assert scaled_norm == pytest.approx(norm, rel=1e-5)


def test_what_the_strength_amounts_to_is_said_at_the_start(tiny_model, tmp_path, capsys):
    trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=0.02)
    said = capsys.readouterr().err
    assert "λ = 0.02" in said
    assert "0.0136 on 2 of shape 2×32" in said
    trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=0.0)
    assert "λ" not in capsys.readouterr().err


def test_an_optimizer_in_the_backward_pass_and_a_model_to_come_are_refused(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="optim = 'lomo' steps during the backward pass"):
        trainer_on(tiny_model, SpectralTrainer, tmp_path, strength=0.1, optim="lomo")
    trainer = trainer_on(tiny_model, Trainer, tmp_path)
    trainer.model_init = lambda: None
    with pytest.raises(UsageError, match="model_init makes another model"):
        attach(trainer, FourierPenalty(trainer.model))


def test_deepspeed_is_refused(tiny_model, tmp_path, monkeypatch):
    trainer = trainer_on(tiny_model, Trainer, tmp_path)
    monkeypatch.setattr(type(trainer.accelerator), "distributed_type", "DEEPSPEED")
    with pytest.raises(UsageError, match=r"cannot train with DeepSpeed.*use DDP or FSDP2"):
        attach(trainer, FourierPenalty(trainer.model))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_on_a_gpu(tiny_model, tmp_path, precision):
    _, plain = trained(tiny_model, Trainer, tmp_path, **{precision: True})
    _, zero = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.0, **{precision: True})
    trainer, ours = trained(tiny_model, SpectralTrainer, tmp_path, strength=0.1, **{precision: True})
    assert same(plain, zero)
    assert not same(plain, ours)
    assert all(torch.isfinite(torch.tensor(row["task_grad_norm"])) for row in trainer.state.log_history[:-1])
