"""The verb `reproduce` on the command line."""

import json

import huggingface_hub
import pytest
from made_rows import make_row
from transformers import LlamaConfig

from flextune import hub


def test_what_is_kept_is_printed_without_a_model(call, tmp_path):
    make_row(tmp_path / "small", "round-0", 0, {"humaneval": {1, 2}}, "base")
    code, out, _ = call("reproduce", "--results", tmp_path)
    assert code == 0
    assert "10.0 (2.8 to 30.1)" in out


def test_a_dry_run_needs_no_weights(call, tmp_path, data, monkeypatch):
    monkeypatch.setattr(hub, "online", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # as the real one does
    LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4).save_pretrained(
        tmp_path
    )
    code, out, _ = call("reproduce", "--dry-run", "--rounds", "5,plain", f"model={tmp_path}", f"data={data}")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if "%" in line] == ["round-5", "plain"]
    code, out, err = call("reproduce", "--dry-run", "--scale", "paper", f"model={tmp_path}", f"data={data}")
    rows = [line.split()[0] for line in out.splitlines() if line.startswith(("round", "table", "plain"))]
    assert (code, len(rows), "round-2" in rows, "plain" in rows) == (2, 11, False, True)
    said = " ".join(err.split())
    assert "3 of 14 rows cannot be run so: round-2: every example of apps-competition is a problem of" in said
    assert "code-llama-python: the configuration of codellama/CodeLlama-7b-Python-hf cannot be read" in said
    recipe = tmp_path / "recipe.yaml"
    made = {"model": str(tmp_path), "training": {"limit": 8, "epochs": 1}}
    recipe.write_text(json.dumps(made))
    code, out, _ = call("run", recipe, "--dry-run")
    assert (code, "8" in out.split(), "2" in out.split(), "study" in out) == (0, True, True, False)
    made["training"]["validation"] = 2
    study = {"compare": {"a": {}, "b": {"training.optimizer": "sophia"}}, "seeds": [0, 1, 2]}
    recipe.write_text(json.dumps({**made, "study": {**study, "tune": {"b": {"training.learning_rate": [1e-4, 1e-3]}}}}))
    code, out, _ = call("run", recipe, "--dry-run")
    assert (code, "A study: 8 trainings, each of them like this" in out) == (0, True)
    served = {"backend": "openai", "server": "http://127.0.0.1:9/v1"}  # where nobody listens
    recipe.write_text(json.dumps({"model": "there", "training": None, "generation": served}))
    code, out, err = call("run", recipe, "--dry-run", "evaluation.benchmarks=[basics-python]")
    assert (code, "48" in out.split()) == (0, True), err


@pytest.mark.slow
def test_a_search_from_the_command_line(call, tmp_path, tiny_model):
    recipe = tmp_path / "search.yaml"
    content = {
        "model": str(tiny_model),
        "training": {"limit": 8, "validation": 2, "epochs": 1},
        "evaluation": {"benchmarks": []},
        "sweep": {"space": {"adapter.rank": [2]}},
    }
    recipe.write_text(json.dumps(content))
    code, out, err = call("sweep", recipe, "--output", tmp_path / "search")
    assert code == 0, err
    assert "1 trials: 1 complete, 0 ended early, 0 failed" in out
    assert "Best: trial 0, validation_loss" in out
    code, _, err = call("sweep", recipe, "sweep=null", "--output", tmp_path / "other")
    assert (code, "the recipe has no `sweep`" in err) == (2, True)
    for minutes in (0, "nan", "inf"):
        code, _, err = call("autotune", tiny_model, "--minutes", minutes)
        assert (code, "expected at least 1 worker, and some minutes" in " ".join(err.split())) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rounds", "7"), "'7' is no row of scale small; there are round-0"),
        (
            ("--rounds", "0", "--seeds", "a"),
            "seeds = 'a': expected whole numbers with commas between them, such as 0,1,2",
        ),
        (("--rounds", "0", "--seeds", ""), "seeds = '': expected whole numbers"),
    ],
)
def test_errors_are_one_sentence(call, tmp_path, arguments, message):
    code, _, err = call("reproduce", "--results", tmp_path, *arguments)
    assert code == 2
    assert message in " ".join(err.split())
