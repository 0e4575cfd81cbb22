import multiprocessing

import pytest
import yaml

from flextune import rundir
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json, write_json
from flextune.recipe import Recipe, dump_recipe
from flextune.rundir import RunDirectory, folder_name


def begin(run, inputs=None, **recipe):
    run.begin(dump_recipe(Recipe(model="m", **recipe)), inputs or {"model": "x"}, {"python": "3"})


def test_a_run_goes_on_only_as_it_was_begun(tmp_path):
    run = RunDirectory(tmp_path)
    begin(run)
    begin(run, execution={"workers": 7})
    assert len(read_json(run.provenance)["starts"]) == 2
    with pytest.raises(UsageError, match=r"holds another run: recipe\.seed is 0 there, 1 here; name another --output"):
        begin(run, seed=1)
    with pytest.raises(UsageError, match=r"input\.model is 'x' there, 'y' here"):
        begin(run, {"model": "y"})


def test_data_may_lie_elsewhere_and_be_no_other(tmp_path):
    run = RunDirectory(tmp_path)
    begin(run, {"benchmark b": {"file": "/a/b.jsonl", "sha256": "1"}}, data="/a")
    begin(run, {"benchmark b": {"file": "/c/b.jsonl", "sha256": "1"}}, data="/c")
    assert read_json(run.provenance)["inputs"]["benchmark b"]["file"] == "/c/b.jsonl"
    with pytest.raises(UsageError, match=r"input\.benchmark b\.sha256 is '1' there, '2' here"):
        begin(run, {"benchmark b": {"file": "/c/b.jsonl", "sha256": "2"}}, data="/c")


def test_benchmarks_can_be_added(tmp_path):
    run = RunDirectory(tmp_path)
    begin(run, {"model": "x", "benchmark humaneval": "h"}, evaluation={"benchmarks": ["humaneval"]})
    both = {"model": "x", "benchmark humaneval": "h", "benchmark mbpp": "m"}
    begin(run, both, evaluation={"benchmarks": ["humaneval", "mbpp"]})
    assert read_json(run.provenance)["inputs"] == both
    with pytest.raises(UsageError, match=r"recipe\.evaluation\.limit is None there, 3 here"):
        begin(run, both, evaluation={"benchmarks": ["humaneval", "mbpp"], "limit": 3})


def test_training_can_be_changed_until_there_is_an_adapter(tmp_path, capsys):
    run = RunDirectory(tmp_path)
    begin(run, {"model": "x", "training set a": 1}, training={"dataset": "a"})
    (run.checkpoints / "checkpoint-3").mkdir(parents=True)
    run.metrics.parent.mkdir()
    run.metrics.write_text("{}")
    begin(run, {"model": "x", "training set a": 2}, training={"dataset": "a", "learning_rate": 1})
    assert "Training starts anew: recipe.training.learning_rate is 0.0002 there, 1.0 here" in capsys.readouterr().err
    assert not run.checkpoints.exists()
    assert not run.metrics.exists()
    run.adapter.mkdir()
    with pytest.raises(UsageError, match=r"recipe\.training\.learning_rate is 1\.0 there, 2\.0 here"):
        begin(run, {"model": "x", "training set a": 2}, training={"dataset": "a", "learning_rate": 2})


def hold(path, held, done):
    with RunDirectory(path).lock():
        held.set()
        done.wait(10)


def test_a_second_writer_is_refused_until_the_first_is_gone(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    first = context.Process(target=hold, args=(tmp_path, held, done))
    first.start()
    held.wait(30)
    with pytest.raises(FlextuneError, match="another flextune process"), RunDirectory(tmp_path).lock():
        pass
    first.kill()
    first.join()
    with RunDirectory(tmp_path).lock():
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FlextuneError, match="cannot be made: Not a directory"),
        RunDirectory(tmp_path / "file/x").lock(),
    ):
        pass


def test_a_file_of_problems_becomes_a_folder():
    assert folder_name("some/own.jsonl") == "own"
    assert folder_name("humaneval-java") == "humaneval-java"


def test_a_copy_that_was_cut_short_is_not_whole_with_the_recipe_of_an_earlier_one(tmp_path, monkeypatch):
    run, kept = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "kept")
    begin(run)
    run.keep(kept.path)
    assert kept.recipe.exists()

    def full(*_):
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(rundir, "_keep", full)
        with pytest.raises(OSError, match="full"):
            run.keep(kept.path)
    assert not kept.recipe.exists()
    run.keep(kept.path)
    assert kept.recipe.exists()


def test_what_is_kept_says_nothing_of_where_things_lay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, kept = RunDirectory(tmp_path / "runs/first"), RunDirectory(tmp_path / "kept")
    model = {"folder": "/home/me/qwen", "sha256": {"m": "1f"}}
    run.begin("model: /home/me/qwen\nseed: 0\ndata: /home/me/data\n", {"model": model}, {})
    write_json(run.merge_check, {"model": model})
    write_json(run.spectrum, {"adapters": [{"folder": str(run.adapter), "power": [1 / 3]}]})
    run.keep(kept.path)
    assert yaml.safe_load(kept.recipe.read_text()) == {"model": "qwen", "seed": 0, "data": "data"}
    there = {"folder": "qwen", "sha256": {"m": "1f"}}
    assert read_json(kept.provenance)["inputs"]["model"] == there
    assert read_json(kept.merge_check)["model"] == there
    assert read_json(kept.spectrum)["adapters"] == [{"folder": "runs/first/adapter", "power": [0.333333]}]
