import multiprocessing

import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json
from flextune.recipe import Recipe, dump_recipe
from flextune.rundir import RunDirectory, folder_name


def begin(run, inputs=None, **recipe):
    run.begin(dump_recipe(Recipe(model="m", **recipe)), inputs or {"model": "x"}, {"python": "3"})


def test_a_run_goes_on_only_as_it_was_begun(tmp_path):
    run = RunDirectory(tmp_path)
    begin(run)
    begin(run, execution={"workers": 7})
    assert len(read_json(run.provenance)["starts"]) == 2
    with pytest.raises(UsageError, match="seed is 0 there, 1 here"):
        begin(run, seed=1)
    with pytest.raises(UsageError, match="begun with another model: x there, y here"):
        begin(run, {"model": "y"})


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
