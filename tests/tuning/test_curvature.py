import itertools
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

from flextune import SophiaCallback, SophiaG, UsageError
from flextune.tasks import load_training_set
from flextune.tuning import curvature
from flextune.tuning.batching import IGNORED, Collator, tokenize
from flextune.tuning.curvature import refresh_curvature

VOCABULARY, FEATURES = 3, 2


class Softmax(nn.Module):
    """Logits W x, with fixed features x for each token: its Gauss–Newton matrix is its Hessian, and known."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.features = torch.randn(VOCABULARY, FEATURES, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(torch.randn(VOCABULARY, FEATURES, generator=generator, dtype=torch.float64))

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=self.features[input_ids] @ self.weight.T)

    def exact(self, batch):
        """Mean over the label positions of p (1 − p) ⊗ x²."""
        kept = batch["labels"][:, 1:] != IGNORED
        x_ND = self.features[batch["input_ids"][:, :-1][kept]]
        p_NV = (x_ND @ self.weight.detach().T).softmax(-1)
        return torch.einsum("nv,nd->vd", p_NV * (1 - p_NV), x_ND.square()) / len(x_ND)


def batch_of(rows, padding=0):
    """Each row's tokens; its first label is ignored, and so is padding."""
    length = max(len(row) for row in rows) + padding
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    labels = torch.tensor([[IGNORED] + row[1:] + [IGNORED] * (length - len(row)) for row in rows])
    return {"input_ids": ids, "labels": labels}


def estimate(model, batch, **options):
    """The one estimate, as it arrives in the optimizer."""
    optimizer = SophiaG(model.parameters(), betas=(0.9, 0.0))
    refresh_curvature(optimizer, model, batch, **options)
    return optimizer.state[optimizer.parameters()[0]]["curvature"]


def expectation(model, batch, monkeypatch, **options):
    """Over every way to draw the labels, each as likely as the model has it."""
    count = int((batch["labels"][:, 1:] != IGNORED).sum())
    total = 0.0
    for labels in itertools.product(range(VOCABULARY), repeat=count):
        probability = []

        def draw(logits, generator, labels=labels, probability=probability):
            chosen = torch.tensor(labels)[: len(logits)]
            probability.append(logits.detach().log_softmax(-1).gather(1, chosen[:, None]).sum().exp())
            return chosen

        monkeypatch.setattr(curvature, "draw_labels", draw)
        found = estimate(model, batch, **options)
        total = total + probability[0] * found
    return total


ROWS = [[0, 1, 2], [2, 0]]  # three labels


def test_the_expectation_over_labels_is_the_gauss_newton_diagonal(monkeypatch):
    model, batch = Softmax(), batch_of(ROWS)
    torch.testing.assert_close(expectation(model, batch, monkeypatch), model.exact(batch), rtol=1e-6, atol=0)


@pytest.mark.parametrize("other", [batch_of(ROWS, padding=3), batch_of([[0, 1, 2], [2, 0], [0, 1, 2], [2, 0]])])
def test_it_depends_neither_on_padding_nor_on_the_batchs_size(monkeypatch, other):
    model = Softmax()
    alone = expectation(model, batch_of(ROWS), monkeypatch)
    torch.testing.assert_close(expectation(model, other, monkeypatch), alone, rtol=1e-6, atol=0)


def test_squares_of_the_training_gradient_are_no_curvature():
    model, batch = Softmax(), batch_of(ROWS)
    exact, naive = model.exact(batch), estimate(model, batch, estimator="empirical_fisher")
    assert ((naive - exact).norm() / exact.norm()) > 0.5


def test_what_is_drawn_is_the_models_own_distribution():
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7]])).expand(20_000, 3)
    drawn = curvature.draw_labels(logits, torch.Generator().manual_seed(0))
    assert (drawn.bincount() / len(drawn)).tolist() == pytest.approx([0.1, 0.2, 0.7], abs=0.01)


def test_hutchinson_expects_the_hessians_diagonal(monkeypatch):
    model, batch = Softmax(), batch_of(ROWS)
    total, count = torch.zeros(VOCABULARY, FEATURES, dtype=torch.float64), 0
    for signs in itertools.product((-1.0, 1.0), repeat=VOCABULARY * FEATURES):
        drawn = torch.tensor(signs, dtype=torch.float64).view(VOCABULARY, FEATURES)
        monkeypatch.setattr(curvature, "draw_signs", lambda like, generator, drawn=drawn: drawn)
        total, count = total + estimate(model, batch, estimator="hutchinson"), count + 1
    torch.testing.assert_close(total / count, model.exact(batch), rtol=1e-6, atol=0)


def test_gradients_that_are_there_are_left_alone():
    model, batch = Softmax(), batch_of(ROWS)
    model.weight.grad = before = torch.ones_like(model.weight)
    for estimator in ("gnb", "hutchinson", "empirical_fisher"):
        estimate(model, batch, estimator=estimator)
        assert model.weight.grad is before
        assert torch.equal(before, torch.ones_like(before))


def test_a_seed_draws_the_same_again():
    model, batch = Softmax(), batch_of(ROWS)
    assert torch.equal(estimate(model, batch, seed=3), estimate(model, batch, seed=3))
    assert len({estimate(model, batch, seed=seed).sum().item() for seed in range(5)}) > 1


def test_without_a_label_nothing_changes():
    model = Softmax()
    optimizer = SophiaG(model.parameters())
    batch = batch_of([[0], [1]])
    assert refresh_curvature(optimizer, model, batch) == 0
    assert optimizer.refreshes == 0
    with pytest.raises(UsageError, match="the batch has no labels"):
        refresh_curvature(optimizer, model, {"input_ids": batch["input_ids"]})


def test_a_part_of_a_batch_is_its_first_rows():
    model, batch = Softmax(), batch_of([[0, 1, 2], [2, 0, 1], [1, 1, 1], [2, 2, 2]])
    half = {key: value[:2] for key, value in batch.items()}
    part = estimate(model, batch, estimator="empirical_fisher", share=0.5)
    assert torch.equal(part, estimate(model, half, estimator="empirical_fisher"))
    least = estimate(model, batch, estimator="empirical_fisher", share=0.01)
    assert torch.equal(least, estimate(model, {k: v[:1] for k, v in batch.items()}, estimator="empirical_fisher"))


def lora_model(folder, targets=("up_proj", "down_proj")):
    set_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    base.config.use_cache = False
    model = get_peft_model(base, LoraConfig(r=2, target_modules=list(targets), init_lora_weights="gaussian"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.02)
    rows = tokenize(load_training_set("basics", limit=8).examples, tokenizer, 512).rows
    return model, rows, tokenizer


def of_all(model, batch, **options):
    optimizer = SophiaG([p for p in model.parameters() if p.requires_grad], betas=(0.9, 0.0))
    labels = refresh_curvature(optimizer, model, batch, **options)
    return torch.cat([optimizer.state[p]["curvature"].flatten() for p in optimizer.parameters()]), labels


def test_padded_packed_and_ordinary_batches_give_the_same(tiny_model):
    model, rows, tokenizer = lora_model(tiny_model)
    model.double()  # so that what differs is not rounding
    padded, packed = (Collator(tokenizer.pad_token_id, packed=packed) for packed in (False, True))
    ordinary = padded(rows[:4])
    kept = ordinary.pop("logits_to_keep")
    labels = torch.full_like(ordinary["input_ids"], IGNORED)
    labels[:, -kept:] = ordinary["labels"]
    found = [
        of_all(model, batch, estimator="empirical_fisher")
        for batch in (padded(rows[:4]), packed(rows[:4]), ordinary | {"labels": labels})
    ]
    for other, count in found[1:]:
        assert count == found[0][1]
        torch.testing.assert_close(other, found[0][0], rtol=1e-4, atol=1e-12)


def test_a_part_of_a_packed_row_is_its_first_examples(tiny_model):
    model, rows, tokenizer = lora_model(tiny_model)
    packed = Collator(tokenizer.pad_token_id, packed=True)
    share = (len(rows[0]["input_ids"]) + 1) / sum(len(row["input_ids"]) for row in rows[:4])
    part, labels = of_all(model, packed(rows[:4]), estimator="empirical_fisher", share=share)
    two, expected = of_all(model, packed(rows[:2]), estimator="empirical_fisher")
    assert labels == expected
    torch.testing.assert_close(part, two, rtol=1e-4, atol=1e-12)


def test_logits_are_computed_only_where_there_are_labels(tiny_model):
    model, rows, _ = lora_model(tiny_model)
    seen = []
    head = model.get_base_model().lm_head
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[:-1].numel()))
    row = rows[0]
    batch = {key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}
    _, labels = of_all(model, batch)
    assert seen == [labels]
    assert labels < len(row["labels"])


def settings(tmp_path, **more):
    return TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        report_to="none",
        disable_tqdm=True,
        logging_steps=1,
        save_strategy="no",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        **more,
    )


def sophia_trainer(folder, tmp_path, callback=None, **more):
    model, rows, tokenizer = lora_model(folder)
    return Trainer(
        model=model,
        args=settings(tmp_path, **more),
        train_dataset=rows,
        data_collator=Collator(tokenizer.pad_token_id),
        optimizer_cls_and_kwargs=(SophiaG, {"lr": 1e-3}),
        callbacks=[callback or SophiaCallback()],
    )


@pytest.mark.parametrize("accumulation", [1, 2])
def test_in_a_plain_trainer(tiny_model, tmp_path, accumulation):
    trainer = sophia_trainer(tiny_model, tmp_path, gradient_accumulation_steps=accumulation)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["sophia_refreshes"] for row in rows] == [1, 2, 3, 3, 4, 4, 4, 4, 5, 5, 6, 6]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert all(0 < row["sophia_unclipped"] < 1 for row in rows)
    assert rows[-1]["sophia_gamma"] > 0
    assert rows[-1]["sophia_curvature"] > 0


def test_it_is_made_of_the_last_batch_of_a_step(tiny_model, tmp_path, monkeypatch):
    seen, used, seeds = [], [], set()
    refresh = curvature.refresh_curvature

    def spying(optimizer, model, batch, **options):
        used.append(batch["input_ids"])
        seeds.add(options["seed"])
        return refresh(optimizer, model, batch, **options)

    monkeypatch.setattr(curvature, "refresh_curvature", spying)
    trainer = sophia_trainer(tiny_model, tmp_path, gradient_accumulation_steps=2)
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"]) if "labels" in kwargs else None, with_kwargs=True
    )
    trainer.train()
    assert len(used) == len(seeds) == 6  # each draws labels of its own
    assert all(torch.equal(batch, seen[2 * step + 1]) for step, batch in zip((0, 1, 2, 4, 8, 10), used, strict=True))


@pytest.mark.parametrize("kind", ["float16 weights", "float16 autocast"])
def test_float16_gives_what_float32_gives(tiny_model, kind):
    """Where each label has a small part in the mean, its gradient would vanish in float16."""
    model, rows, tokenizer = lora_model(tiny_model)
    batch = Collator(tokenizer.pad_token_id, packed=True)(rows * 8)
    exact, labels = of_all(model, batch, estimator="empirical_fisher")
    if kind == "float16 weights":
        model.get_base_model().half()
        for name, parameter in model.named_parameters():
            if "lora" in name:
                parameter.data = parameter.data.float()
        found, counted = of_all(model, batch, estimator="empirical_fisher")
    else:
        with torch.autocast("cpu", dtype=torch.float16):
            found, counted = of_all(model, batch, estimator="empirical_fisher")
    assert counted == labels
    assert ((found - exact).norm() / exact.norm()) < 0.02


def test_a_gradient_too_small_for_float16_arrives():
    p = nn.Parameter(torch.ones(1))
    (found,) = curvature._gradients(p.half().float().sum() * 1e-9, [p], 1)
    assert found.item() == pytest.approx(1e-9, rel=0.02)


def test_a_gradient_that_overflows_is_not_taken(tiny_model):
    model, rows, tokenizer = lora_model(tiny_model)
    optimizer = SophiaG([p for p in model.parameters() if p.requires_grad])
    with torch.no_grad():
        optimizer.parameters()[0][0, 0] = float("nan")
    assert refresh_curvature(optimizer, model, Collator(tokenizer.pad_token_id)(rows[:2])) == 0
    assert optimizer.refreshes == 0


def test_the_estimate_comes_before_the_step_and_changes_no_gradient(tiny_model, tmp_path):
    def first_gradient(callback):
        trainer = sophia_trainer(tiny_model, tmp_path, callback, max_grad_norm=0)
        seen = []
        step = trainer.create_optimizer().step

        def spying(*args, **kwargs):
            seen.append([p.grad.clone() for p in trainer.model.parameters() if p.requires_grad])
            refreshes.append(trainer.optimizer.optimizer.refreshes)
            return step(*args, **kwargs)

        refreshes = []
        trainer.optimizer.step = spying
        trainer.train()
        return seen[0], refreshes[0]

    class Never(SophiaCallback):
        def on_pre_optimizer_step(self, *args, **kwargs):
            pass

    with_it, refreshes = first_gradient(SophiaCallback())
    without, none = first_gradient(Never())
    assert (refreshes, none) == (1, 0)
    assert all(torch.equal(a, b) for a, b in zip(with_it, without, strict=True))


def test_with_trl(tiny_model, tmp_path):
    datasets, trl = pytest.importorskip("datasets"), pytest.importorskip("trl")
    set_seed(0)
    rows = [{"prompt": e.prompt, "completion": e.completion} for e in load_training_set("basics", limit=8).examples]
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32),
        args=trl.SFTConfig(
            output_dir=str(tmp_path), max_steps=3, learning_rate=1e-3, bf16=False, gradient_checkpointing=False,
            report_to="none", disable_tqdm=True, logging_steps=1, save_strategy="no", dataloader_pin_memory=False,
        ),
        processing_class=AutoTokenizer.from_pretrained(tiny_model),
        train_dataset=datasets.Dataset.from_list(rows),
        peft_config=LoraConfig(r=2, target_modules=["up_proj"]),
        optimizer_cls_and_kwargs=(SophiaG, {"lr": 1e-3}),
        callbacks=[SophiaCallback()],
    )  # fmt: skip
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert logged[-1]["sophia_refreshes"] == 3
    assert logged[-1]["sophia_unclipped"] > 0


def test_another_optimizer_is_refused(tiny_model, tmp_path):
    model, rows, tokenizer = lora_model(tiny_model)
    trainer = Trainer(
        model=model,
        args=settings(tmp_path),
        train_dataset=rows,
        data_collator=Collator(tokenizer.pad_token_id),
        callbacks=[SophiaCallback()],
    )
    with pytest.raises(UsageError, match="optimizer is AcceleratedOptimizer; give it optimizer_cls_and_kwargs"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"refresh_every": 0}, "refresh_every = 0"), ({"refresh_share": 0.0}, r"refresh_share = 0\.0")],
)
def test_wrong_arguments_name_the_value(options, message):
    with pytest.raises(UsageError, match=message):
        SophiaCallback(**options)
