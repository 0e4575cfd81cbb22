"""Held near the model it came from: the divergence is the definition, and the logged loss is the task alone."""

import pytest
import torch

from flextune.adapters import with_adapter
from flextune.errors import UsageError
from flextune.files import read_jsonl, sha256
from flextune.models import ModelSource, load_model
from flextune.rundir import RunDirectory
from flextune.tasks import load_training_set
from flextune.tuning import train as stage
from flextune.tuning.adapters import add_adapter
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.divergence import base_logits, divergence
from flextune.tuning.settings import Adapter, Penalty, Training
from flextune.tuning.trainer import gradient_norm


@pytest.fixture
def tuned(tiny_model):
    base, tokenizer = load_model(ModelSource(tiny_model, {}), "float32")
    model = add_adapter(base, Adapter(rank=2, dropout=0.0))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model, tokenizer


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_the_sum_over_what_is_learned(tuned, packed):
    model, tokenizer = tuned
    rows = tokenize(load_training_set("basics", limit=5).examples, tokenizer, 512).rows
    inputs = Collator(tokenizer.pad_token_id, packed=packed)(rows)
    with torch.no_grad():
        found = divergence(base_logits(model, inputs), model(**inputs).logits, inputs)
        expected = 0.0
        for row in rows:  # alone, each distribution written out
            ids = torch.tensor([row["input_ids"]])
            q = model(ids).logits[0].softmax(-1).double()
            with model.disable_adapter():
                p = model(ids).logits[0].softmax(-1).double()
            for position, label in enumerate(row["labels"][1:]):
                if label >= 0:
                    expected += float((p[position] * (p[position] / q[position]).log()).sum())
    assert float(found) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.1


def train(tiny_model, folder, adapter=None, **settings):
    """Four examples learned three times, in one step each time."""
    run = RunDirectory(folder)
    short = {"epochs": 3, "batch_size": 4, "learning_rate": 0.1, "warmup": 0.0, "schedule": "constant"}
    stage.train(
        ModelSource(tiny_model, {}),
        load_training_set("basics", limit=4).examples,
        run,
        training=Training(**short | settings),
        adapter=adapter or Adapter(rank=2, dropout=0.0),
        penalty=Penalty(strength=0.0),
        dtype="float32",
    )
    return list(read_jsonl(run.metrics)), run


def test_a_step_is_that_of_the_task_and_the_divergence(tiny_model, tmp_path):
    _, before = train(tiny_model, tmp_path / "before", kl=5.0, epochs=2)
    rows, _ = train(tiny_model, tmp_path / "run", kl=5.0)
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # B is 0
    base, tokenizer = load_model(ModelSource(tiny_model, {}), "float32")
    model = with_adapter(base, before.adapter, trainable=True)
    inputs = Collator(tokenizer.pad_token_id)(
        tokenize(load_training_set("basics", limit=4).examples, tokenizer, 512).rows
    )
    tokens = int((inputs["labels"][:, 1:] >= 0).sum())
    outputs = model(**inputs, num_items_in_batch=tokens)
    kl = divergence(base_logits(model, inputs), outputs.logits, inputs) / tokens
    assert rows[2]["kl"] == pytest.approx(float(kl), rel=1e-3)
    assert rows[2]["loss"] == pytest.approx(float(outputs.loss), rel=1e-4)
    (outputs.loss + 5.0 * kl).backward()
    assert rows[2]["task_grad_norm"] == pytest.approx(float(gradient_norm(model)), rel=1e-3)
    assert float(kl) > 0.01


def test_it_does_not_depend_on_accumulation(tiny_model, tmp_path):
    whole, _ = train(tiny_model, tmp_path / "whole", kl=5.0)
    parts, _ = train(tiny_model, tmp_path / "parts", kl=5.0, batch_size=1, accumulation=4)
    for key in ("kl", "loss", "task_grad_norm"):
        assert parts[2][key] == pytest.approx(whole[2][key], rel=1e-2)


def test_an_adapter_that_changes_the_weights_beside_it_is_refused(tiny_model, tmp_path):
    with pytest.raises(UsageError, match=r"training.kl = 1 with adapter.peft.init_lora_weights"):
        train(tiny_model, tmp_path, adapter=Adapter(rank=2, peft={"init_lora_weights": "pissa"}), kl=1.0)
    with pytest.raises(UsageError, match=r"training.kl = 1 with adapter.peft.bias: .* leave out one of the two"):
        train(tiny_model, tmp_path, adapter=Adapter(rank=2, peft={"bias": "all"}), kl=1.0)


def test_without_it_nothing_changes(tiny_model, tmp_path, monkeypatch):
    rows, before = train(tiny_model, tmp_path / "before")
    assert "kl" not in rows[0]
    monkeypatch.delattr(stage._Trainer, "compute_loss")
    _, after = train(tiny_model, tmp_path / "after")
    assert sha256(before.adapter) == sha256(after.adapter)
