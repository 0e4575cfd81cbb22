import pytest
from made_run import make_run
from rich.console import Console

from flextune.errors import UsageError
from flextune.recipe import Recipe, Training, dump_recipe
from flextune.report.page import write_report
from flextune.report.results import read_results
from flextune.report.table import summary
from flextune.rundir import RunDirectory


def test_the_page_shows_what_the_files_say(tmp_path):
    run = make_run(tmp_path)
    page = write_report(run.path).read_text()
    assert "basics-python, unmerged against base" in page
    assert "+50.0 points" in page
    assert "0.0 % → 50.0 %" in page
    assert "no difference beyond noise" in page
    assert "1 won, 0 lost" in page
    assert "3 optimizer steps" in page
    assert {path.name for path in (run.report / "figures").iterdir()} == {"pass-at-1.svg", "training.svg"}


def test_what_a_model_wrote_is_shown_and_never_run(tmp_path):
    page = write_report(make_run(tmp_path).path).read_text()
    assert "<script>" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;/script&gt;&lt;script&gt;") >= 4


def test_won_and_lost_are_against_the_base(tmp_path):
    page = write_report(make_run(tmp_path, ("base", "unmerged", "merged")).path).read_text()
    assert page.count('<span class="mark won">won</span>') == 1
    assert page.count('<span class="mark "></span>') == 1


def test_missing_pieces_are_said(tmp_path):
    page = write_report(make_run(tmp_path / "one", ("base",), training=False).path).read_text()
    assert "Measured as it is, without training." in page
    run = RunDirectory(tmp_path / "two")
    run.begin(dump_recipe(Recipe(model="m", training=Training())), {}, {})
    page = write_report(run.path).read_text()
    assert "Nothing has been measured yet." in page
    assert "Not finished yet." in page
    with pytest.raises(UsageError, match="not a run directory"):
        write_report(tmp_path)


def test_the_table_in_the_terminal(tmp_path):
    console = Console(width=160, record=True)
    console.print(summary(read_results(make_run(tmp_path).path)))
    text = console.export_text()
    assert "1 of 2" in text
    assert "+50.0 points" in text
