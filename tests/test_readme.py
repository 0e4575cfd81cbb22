"""What the README shows is run."""

import re

import pytest
import torch
import yaml
from documents import blocks, commands, read, targets
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flextune import cli
from flextune.recipe import parse_recipe
from flextune.report.sweep import read_sweep


def page(name):
    return blocks(f"docs/{name}", "python")


def recipes(name):
    return [parse_recipe(yaml.safe_load(text), name) for text in blocks(name, "yaml")]


def test_the_python_of_the_page_on_execution_runs(capsys):
    (code,) = page("execution.md")
    exec(code, {})
    assert capsys.readouterr().out == "passed\n"


def test_the_python_of_the_page_on_the_penalty_runs(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    row = {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}
    batch = {key: torch.tensor([value]) for key, value in row.items()}
    names = {"batches": [batch, batch], "dataset": [row, row]}
    loop, trainer = page("penalty.md")
    exec(loop.replace('"codellama/CodeLlama-7b-hf"', repr(str(tiny_model))), names)
    assert "λ = 0.02" in capsys.readouterr().out
    before = names["penalty"].norms()["lora_A_norm"]
    exec(trainer, names)
    assert names["trainer"].state.log_history[0]["fourier_loss"] > 0
    assert names["penalty"].norms()["lora_A_norm"] < before


def test_the_python_of_the_page_on_training_runs(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model), LoraConfig(r=2, target_modules=["up_proj"])
    )
    row = {"input_ids": [1, 2, 3], "labels": [1, 2, 3]}
    batch = {key: torch.tensor([value]) for key, value in row.items()}
    names = {"model": model, "batches": [batch] * 3, "dataset": [row, row]}
    loop, trainer = page("training.md")
    exec(loop, names)
    assert names["optimizer"].refreshes == 3
    assert re.fullmatch(r"γ = [0-9.]+ leaves [0-9]+% of the coordinates unclipped\n", capsys.readouterr().out)
    exec(trainer, names)
    assert names["trainer"].state.log_history[2]["sophia_refreshes"] == 3


def test_the_recipe_on_the_page_on_training_is_one():
    (recipe,) = recipes("docs/training.md")
    assert recipe.training.optimizer == "sophia"


def test_the_python_of_the_page_on_generation_runs(tiny_model, capsys):
    (code,) = page("generation.md")
    exec(code.replace('"smollm2-135m"', repr(str(tiny_model))), {})
    assert capsys.readouterr().out == "[12, 12]\n"


def test_the_recipe_on_the_page_on_generation_names_the_decodings_that_the_page_names():
    (recipe,) = recipes("docs/generation.md")
    decodings = recipe.evaluation.decodings
    assert len(decodings) == 1 + 5 + 4 + 6
    assert {"greedy", "temperature-0.2", "beam-4"} <= set(decodings)


def test_the_recipes_on_the_page_on_studies_are_searches():
    assert [len(recipe.sweep.grid()) for recipe in recipes("docs/studies.md")] == [30, 9, 7]


@pytest.mark.slow
def test_the_python_of_the_page_on_studies_runs(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = page("studies.md")
    exec(code.replace('"smollm2-135m"', repr(str(tiny_model))), {"__name__": "__main__"})
    assert [trial["state"] for trial in read_sweep("runs/search")["trials"]] == ["complete"] * 2


@pytest.mark.slow
def test_the_python_runs(tiny_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    code = code.replace('"smollm2-135m"', f'{str(tiny_model)!r}, evaluation={{"limit": 2}}')
    code = code.replace('dataset="basics"', 'dataset="basics", limit=4, epochs=1').replace("=96", "=4")
    exec(code, {})
    assert (tmp_path / "runs/first/report/index.html").exists()


def test_the_recipe_is_one():
    (recipe,) = recipes("README.md")
    assert recipe.variants == ["base", "unmerged", "merged"]


def test_the_commands_are_there():
    found = list(commands("README.md"))
    assert len(found) >= 11
    for command in found:
        function, *_ = cli.app.parse_args(command[1:], exit_on_error=False, print_error=False)
        assert function.__name__.strip("_") in command[1:3]
    for target in targets("README.md"):
        assert f"\n{target}:" in read("Makefile")
