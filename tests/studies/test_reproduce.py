"""Rows run, kept and read back, on a tiny model: whole rows are not run again, and one that fails stops no other."""

import shutil

import pytest
import yaml
from made_rows import solve

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json, read_jsonl, write_jsonl
from flextune.models import find_model
from flextune.recipe import dump_recipe
from flextune.report.reproduction import Paper, tables
from flextune.rundir import RunDirectory
from flextune.scoring.matrix import matrix
from flextune.studies import reproduce as module
from flextune.studies.reproduce import kept_runs, reproduce

SHORT = (
    "dtype=float32",
    "training.dataset=basics",
    "training.limit=8",
    "training.learning_rate=0.01",
    "evaluation.benchmarks=[basics-python, basics-javascript]",
    "evaluation.limit=3",
    "generation.max_new_tokens=8",
)


PAPER = Paper(abouts={"plain": "no penalty"})


@pytest.fixture
def here(monkeypatch):
    """In this process: starting one for each run takes ten seconds."""
    monkeypatch.setattr(module, "alone", lambda function, *arguments: function(*arguments))


def begin(folder):
    """A run that has begun, and measured nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text("model: m\n")


def rows(tiny_model, tmp_path, *chosen, seeds=(0, 1), overrides=()):
    return reproduce(
        "small",
        chosen,
        [f"model={tiny_model}", *SHORT, *overrides],
        seeds=seeds,
        output=tmp_path / "runs",
        results=tmp_path / "results",
    )


@pytest.mark.slow
def test_rows_are_run_kept_and_read_back(tiny_model, tmp_path, here, monkeypatch, capsys):
    # scale-0.5 needs plain's adapter, which is trained for it, and measured only once
    assert rows(tiny_model, tmp_path, "round-0", "scale-0.5", "plain") == []
    arms = kept_runs(tmp_path / "results", "small")
    assert {row: list(seeds) for row, seeds in arms.items()} == {"round-0": [0], "plain": [0, 1], "scale-0.5": [0, 1]}
    assert "scale-0.5 goes on from plain, which is trained first" in " ".join(capsys.readouterr().err.split())
    run, kept = (RunDirectory(tmp_path / side / "small/plain/seed-1") for side in ("runs", "results"))
    assert (run.adapter.exists(), kept.adapter.exists(), kept.report.exists()) == (True, False, False)
    assert {path.name for path in kept.path.rglob("*") if path.is_file()} == {
        *("recipe.yaml", "run.json", "metrics.jsonl", "problems.jsonl", "spectrum.json"),
        *("completions.jsonl", "verdicts.jsonl", "execution.json", "scores.json"),
    }
    assert yaml.safe_load(kept.recipe.read_text())["seed"] == 1
    asked = list(read_jsonl(kept.problems("basics-python")))
    assert all(row[key].startswith("sha256:") for row in asked for key in ("prompt", "tests"))
    assert len({row["prompt"] for row in asked}) == len(asked)
    assert [row["task_id"] for row in asked] == [row["task_id"] for row in read_jsonl(run.problems("basics-python"))]
    texts = [path.read_text() for path in kept.path.parents[1].rglob("*") if path.is_file()]
    assert not [text for text in texts if str(tmp_path) in text or str(tiny_model) in text]
    assert yaml.safe_load(kept.recipe.read_text())["model"] == tiny_model.name
    scores = kept.measurement("basics-python", "unmerged", "greedy").scores
    assert read_json(scores)["problems"] == 3

    # what is kept is not done again, wherever the runs are
    monkeypatch.setattr(pipeline, "run", lambda *_: pytest.fail("run again"))
    assert rows(tiny_model, tmp_path, "round-0", "plain", "scale-0.5") == []
    other = shutil.copytree(tiny_model, tmp_path / "other")
    (other / "more.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"round-0/seed-0 was made of another model than .*other"):
        rows(other, tmp_path, "round-0")
    with pytest.raises(UsageError, match=r"plain/seed-0 was made with another recipe: .*learning_rate is 0\.01 there"):
        rows(tiny_model, tmp_path, "plain", overrides=["training.learning_rate=0.02"])


def test_a_row_that_fails_stops_no_other(tiny_model, tmp_path, here, monkeypatch):
    done = []

    def run(recipe, folder):
        if recipe.penalty.form == "l2":
            raise FlextuneError("out of memory in step 3") if recipe.seed else RuntimeError("CUDA error")
        done.append(str(folder.relative_to(tmp_path)))
        begin(folder)

    monkeypatch.setattr(pipeline, "run", run)
    failures = rows(tiny_model, tmp_path, "l2", "plain", seeds=(0, 5))
    assert failures == ["l2, seed 0: RuntimeError: CUDA error", "l2, seed 5: out of memory in step 3"]
    assert done == ["runs/small/plain/seed-0", "runs/small/plain/seed-5"]


def test_all_rows_of_a_seed_come_before_the_next_seed(tiny_model, tmp_path, here, monkeypatch):
    done = []

    def run(recipe, folder):
        done.append((folder.parent.name, recipe.seed))
        begin(folder)

    monkeypatch.setattr(pipeline, "run", run)
    rows(tiny_model, tmp_path, "round-0", "plain", "l2", seeds=(0, 1))
    assert done == [("round-0", 0), ("plain", 0), ("l2", 0), ("plain", 1), ("l2", 1)]
    done.clear()
    rows(tiny_model, tmp_path / "again", "plain", "round-0", seeds=(2,))  # the model as it came has no seed
    assert done == [("round-0", 0), ("plain", 2)]


def test_an_adapter_that_was_trained_with_other_settings_is_not_taken(tiny_model, tmp_path, here, monkeypatch):
    trained = []
    monkeypatch.setattr(pipeline, "train_only", lambda made, folder: trained.append((folder.parent.name, made.seed)))
    monkeypatch.setattr(pipeline, "run", lambda recipe, folder: begin(folder))
    adapter = tmp_path / "runs/small/plain/seed-0/adapter"
    adapter.mkdir(parents=True)
    rows(tiny_model, tmp_path, "scale-0.5", seeds=(0,))
    assert trained == [("plain", 0)]  # which does nothing for the same settings, and refuses others


def test_a_training_file_of_ones_own_is_the_same_wherever_it_lies(tiny_model, tmp_path, here, monkeypatch):
    own = tmp_path / "own.jsonl"
    write_jsonl(own, [{"prompt": "a", "completion": "b"}])
    done = []

    def run(recipe, folder):
        done.append(folder)
        model = {"model": find_model(str(tiny_model)).provenance}
        RunDirectory(folder).begin(dump_recipe(recipe), {**model, f"training set {own}": {"rows": 1}}, {})
        for benchmark in recipe.evaluation.benchmarks:
            solve(folder, recipe, benchmark, {0}, 3)

    monkeypatch.setattr(pipeline, "run", run)
    for _ in range(2):
        assert rows(tiny_model, tmp_path, "plain", seeds=(0,), overrides=[f"training.dataset={own}"]) == []
    assert len(done) == 1
    kept = kept_runs(tmp_path / "results", "small")
    assert str(tmp_path) not in RunDirectory(kept["plain"][0]).provenance.read_text()
    assert "plain: 8 examples or fewer from 1 rows of own.jsonl" in str(list(tables(matrix(kept), kept, PAPER)))
    with pytest.raises(UsageError, match=r"training.dataset is 'own.jsonl' there, 'basics' here"):
        rows(tiny_model, tmp_path, "plain", seeds=(0,))


def test_nothing_kept(tmp_path):
    assert kept_runs(tmp_path, "small") == {}
