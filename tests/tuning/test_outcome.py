"""A training ends with an adapter that does something, in numbers, or says that it does not."""

import json
import math

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flextune.errors import DivergedError, FlextuneError
from flextune.files import read_jsonl, write_jsonl
from flextune.models import ModelSource, load_model
from flextune.rundir import RunDirectory
from flextune.tasks import Example, load_training_set
from flextune.tuning import train as stage
from flextune.tuning.batching import Collator, tokenize
from flextune.tuning.outcome import check_outcome, is_identity
from flextune.tuning.settings import Adapter, Penalty, Training


def train(tiny_model, tmp_path, examples=4, *, adapter=None, penalty=0.0, source=None, **settings):
    run = RunDirectory(tmp_path / "run")
    if isinstance(examples, int):
        examples = load_training_set("basics", limit=examples).examples
    stage.train(
        source or ModelSource(tiny_model, {}),
        examples,
        run,
        training=Training(**{"epochs": 1, "batch_size": 4, "learning_rate": 1e-2} | settings),
        adapter=adapter or Adapter(rank=2, dropout=0.0),
        penalty=Penalty(strength=penalty),
        dtype="float32",
    )
    return run, list(read_jsonl(run.metrics))


def factors(run):
    from safetensors.torch import load_file

    return load_file(run.adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.03, 0.9])
def test_the_warm_up_never_takes_all_steps(tiny_model, tmp_path, capsys, steps, warmup):
    run, rows = train(tiny_model, tmp_path, 4 * steps, warmup=warmup)
    assert len(rows) == steps
    assert max(row["learning_rate"] for row in rows) > 0
    assert any(weight.any() for name, weight in factors(run).items() if "lora_B" in name)
    assert "still does nothing" not in capsys.readouterr().err


def test_otherwise_the_schedule_is_that_of_transformers(tiny_model, tmp_path):
    from transformers import get_cosine_schedule_with_warmup

    _, rows = train(tiny_model, tmp_path, 16, batch_size=2, warmup=0.3, learning_rate=1e-3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = get_cosine_schedule_with_warmup(optimizer, math.ceil(0.3 * 8), 8)
    for row in rows:
        assert row["learning_rate"] == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_an_adapter_that_does_nothing_is_said(tiny_model, capsys):
    base, tokenizer = load_model(ModelSource(tiny_model, {}), "float32")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["up_proj"]))
    batch = Collator(1)(tokenize(load_training_set("basics", limit=2).examples, tokenizer, 512).rows)
    check_outcome(model, batch, 1e-4, 7)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "Warning: the adapter still does nothing after 7 steps, since every factor B is zero: the tuned model is"
        in said
    )
    model.base_model.model.model.layers[1].mlp.up_proj.lora_B["default"].weight.data[0, 0] = 1e-6
    assert not is_identity(model)
    check_outcome(model, batch, 1e-4, 7)
    assert capsys.readouterr().err == ""


def test_a_head_that_is_trained_whole_is_something(tiny_model):
    base = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert not is_identity(get_peft_model(base, LoraConfig(target_modules=["up_proj"], modules_to_save=["lm_head"])))


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sophia"}, {"epochs": 2}, {"max_grad_norm": 0}])
def test_a_learning_rate_that_leads_nowhere_is_an_error(tiny_model, tmp_path, settings):
    with pytest.raises(DivergedError, match=r"lower training.learning_rate \(now 1e\+30\)"):
        train(tiny_model, tmp_path, learning_rate=1e30, schedule="constant", warmup=0, **settings)
    run = RunDirectory(tmp_path / "run")
    assert not run.adapter.exists()
    for line in run.metrics.read_text().splitlines() if run.metrics.exists() else ():
        json.loads(line, parse_constant=pytest.fail)


def test_metrics_are_json(tmp_path):
    with pytest.raises(FlextuneError, match="grad_norm = nan"):
        write_jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "grad_norm": math.nan}])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_examples_beyond_the_models_context_are_left_out(tmp_path, tiny_model, capsys):
    """GPT-2 has a row for each position, and none beyond its context."""
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = GPT2Config(vocab_size=600, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    examples = [Example("short", "a = 1\n", "b = 2\n"), Example("long", "a = 1\n" * 40, "b = 2\n")]
    source = ModelSource(tmp_path / "gpt2", {})
    train(tiny_model, tmp_path, examples, source=source)
    assert "1 longer than 64 tokens left out" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(FlextuneError, match=r"no example of at most training\.max_length = 64 tokens"):
        train(tiny_model, tmp_path / "none", examples[1:], source=source)
