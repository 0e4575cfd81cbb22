"""Which page belongs to what is named."""

import pytest
from filelock import FileLock
from made_rows import make_row
from made_run import make_run

from flextune.cli import stages
from flextune.errors import UsageError
from flextune.files import write_json
from flextune.report import page
from flextune.report.find import find_page, is_under_way
from flextune.report.reproduction import Paper

SETTINGS = {"settings": {"seed": 1}, "value": 0.5, "cause": None, "seconds": 9, "run": "trials/0000"}
TRIAL = {"number": 0, "state": "complete", **SETTINGS}
FIGURES = ("pass-at-1", "verdicts", "problems", "training")
RECIPE = {"model": "m", "sweep": {"space": {"seed": [1]}}}
SWEEP = {"objective": "pass@1", "best": 0, "trials": [TRIAL], "recipe": RECIPE}


def test_a_folder_of_rows(tmp_path):
    make_row(tmp_path / "results/small", "plain", 0, {"humaneval": {1}})
    make_row(tmp_path / "results/small", "round-5", 0, {"humaneval": {1}})
    (tmp_path / "results/small/plain/notes").mkdir()
    papers = {"small": Paper(abouts={"round-5": "The penalty", "plain": "", "round-0": ""})}
    for folder in ("results", "results/small"):
        page = find_page([tmp_path / folder], papers)
        assert page.title == "The rows in small"
        assert [row[0] for row in page.sections[-1].blocks[0].rows] == ["round-5", "plain", "round-0"]
    make_row(tmp_path / "results/paper", "plain", 0, {"humaneval": {1}})
    with pytest.raises(UsageError, match=r"several sets of rows; name one: .*paper, .*small"):
        find_page([tmp_path / "results"], papers)


def test_several_runs(tmp_path):
    for name, seed, solved in (("a", 0, {1}), ("a", 1, {1, 2}), ("b", 0, {3})):
        make_row(tmp_path, name, seed, {"humaneval": solved})
    page = find_page([f"{tmp_path}/a/seed-0,{tmp_path}/a/seed-1", f"{tmp_path}/b/seed-0"], {})
    runs = page.sections[-1].blocks[0].rows
    assert [(row[0], row[2]) for row in runs] == [
        (f"{tmp_path}/a/seed-0", "0"),
        (f"{tmp_path}/a/seed-0", "1"),
        (f"{tmp_path}/b/seed-0", "0"),
    ]
    with pytest.raises(UsageError, match="nowhere is not a run directory"):
        find_page([tmp_path / "a/seed-0", "nowhere"], {})


def test_what_a_run_is_stands_there_if_its_recipe_says_it(tmp_path):
    make_row(tmp_path, "a", 0, {"humaneval": {1}}, about="The first try")
    make_row(tmp_path, "b", 0, {"humaneval": {2}})
    page = find_page([tmp_path / "a/seed-0", tmp_path / "b/seed-0"], {})
    assert [row[1] for row in page.sections[-1].blocks[0].rows] == ["The first try", ""]
    (languages,) = (block for block in page.sections[0].blocks if getattr(block, "title", "") == "All languages")
    assert [row[1] for row in languages.rows] == ["The first try", ""]


def test_a_search(tmp_path):
    write_json(tmp_path / "sweep.json", SWEEP)
    assert "a search for pass@1" in find_page([tmp_path], {}).title
    assert not is_under_way(tmp_path)
    (tmp_path / "trials").mkdir()
    with FileLock(tmp_path / "trials/.0000.lock"):  # as the worker of a trial holds it
        assert is_under_way(tmp_path)
        assert find_page([tmp_path], {}, watched=True).under_way
        assert not find_page([tmp_path], {}).under_way
    assert not is_under_way(tmp_path)


def test_what_is_neither(tmp_path):
    with pytest.raises(UsageError, match=r"holds nothing to report: no recipe\.yaml"):
        find_page([tmp_path], {})
    with pytest.raises(UsageError, match="is no folder"):
        find_page([tmp_path / "nothing"], {})


def test_the_verb(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    stages.report(str(run.path))
    assert (run.report / "index.html").exists()
    stages.report(str(run.path), output=str(tmp_path / "figures"), format="png")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{n}.png" for n in FIGURES}
    assert (tmp_path / "figures/training.png").read_bytes().startswith(b"\x89PNG")
    stages.report(str(run.path), output=str(tmp_path / "figures"), format="pdf")
    assert (tmp_path / "figures/training.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(UsageError, match="needs a folder"):
        stages.report()


def test_a_run_is_watched_until_its_process_is_done(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path)
    pages = []

    def sleep(seconds):
        pages.append((run.report / "index.html").read_text())
        if len(pages) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr(stages.time, "sleep", sleep)
    held = run.lock()
    held.__enter__()
    stages.report(str(run.path), watch=True)
    assert ["data-under-way" in page for page in pages] == [True, True]
    assert "data-under-way" not in (run.report / "index.html").read_text()
    with pytest.raises(UsageError, match="--watch shows one run"):
        stages.report(str(run.path), str(run.path), watch=True)


def test_a_file_that_is_just_being_written_does_not_end_the_watch(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    whole = run.metrics.read_text()
    rounds = []

    def sleep(seconds):
        rounds.append(1)
        run.metrics.write_text(whole + '{"step":' if len(rounds) == 1 else whole)
        if len(rounds) == 2:
            held.__exit__(None, None, None)

    monkeypatch.setattr(stages.time, "sleep", sleep)
    held = run.lock()
    held.__enter__()
    stages.report(str(run.path), watch=True)
    assert len(rounds) == 2


def test_a_page_that_the_run_itself_is_just_writing_does_not_end_the_watch(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    written = []

    def write(*_):
        written.append(run.busy)
        if run.busy:
            raise FileNotFoundError("index.html.partial")

    monkeypatch.setattr(page, "write_page", write)
    monkeypatch.setattr(stages.time, "sleep", lambda seconds: held.__exit__(None, None, None))
    held = run.lock()
    held.__enter__()
    stages.report(str(run.path), watch=True)
    assert (written[0], written[-1]) == (True, False)


def test_two_runs_of_one_seed_are_not_two_seeds(tmp_path):
    for name in ("a", "b"):
        make_row(tmp_path, name, 3, {"humaneval": {1}})
    with pytest.raises(UsageError, match="have the same seed, 3"):
        find_page([f"{tmp_path}/a/seed-3,{tmp_path}/b/seed-3"], {})


def test_a_comma_in_a_name(tmp_path):
    run = make_run(tmp_path / "one, two")
    assert find_page([run.path], {}).title == "m, tuned on basics"
