"""The tables that `flextune reproduce` prints, from rows made by hand."""

import pytest
from made_rows import make_row
from rich.console import Console

from flextune.files import write_jsonl
from flextune.report.reproduction import summary
from flextune.studies.rows import PAPER, TABLE_3, abouts

HALF = set(range(10))


def printed(arms):
    console = Console(width=180)
    with console.capture() as text:
        console.print(summary(arms, PAPER, TABLE_3, abouts("small")))
    return text.get()


def line(text, start):
    return next(found for found in text.splitlines() if found.startswith(start))


@pytest.fixture
def arms(tmp_path):
    made = {
        "round-0": {0: make_row(tmp_path, "round-0", 0, {"humaneval": HALF}, "base")},
        "round-3": {0: make_row(tmp_path, "round-3", 0, {"humaneval-java": HALF}, "base")},
    }
    for row, java in (("round-5", set(range(14))), ("plain", set(range(9)))):
        solved = {"humaneval": HALF, "humaneval-java": java}
        made[row] = {seed: make_row(tmp_path, row, seed, solved) for seed in (0, 1)}
    write_jsonl(made["plain"][0] / "training/metrics.jsonl", [{"step": 1, "seconds": 60, "peak_memory_mb": 9}])
    return made


def test_the_papers_number_ours_and_the_difference(arms):
    text = printed(arms)
    assert line(text, "Table 2").split()[:3] == ["Table", "2", "measured"]
    assert line(text, "round-0").split()[:4] == ["round-0", "humaneval,", "base", "34.15"]
    assert "50.0 (29.9 to 70.1)" in line(text, "round-0")
    assert "+15.8" in line(text, "round-0")
    five = line(text, "round-5 ")
    assert "42.07 %" in five
    assert "70.0 (" in five
    assert "20 × 2 seeds" in five
    assert "+27.9" in five
    assert "+20.0 (" in five
    assert line(text, "round-4 ").split()[-4:] == ["–"] * 4  # not there yet


def test_all_languages_and_the_penalty_against_the_control(arms):
    text = printed(arms)
    assert "Models: m" in text
    assert "round-5 against each row that was measured on humaneval-java" in text
    assert "against plain, seeds 0, 1: +25.0 points" in " ".join(text.split())
    assert "comparisons" not in text  # the first question is one


def test_the_other_rows_are_corrected_for_their_number(arms, tmp_path):
    for row in ("permuted", "l2"):
        arms[row] = {s: make_row(tmp_path, row, s, {"humaneval": HALF, "humaneval-java": HALF}) for s in (0, 1)}
    text = " ".join(printed(arms).split())
    assert text.count("as one of 2 comparisons") == 2
    assert "as one of" not in text.partition("against plain")[2].partition("against permuted")[0]


def test_all_languages(arms):
    text = printed(arms)
    cells = line(text, "plain, unmerged")
    assert "Round 5 without a penalty" in cells
    assert cells.split()[-2:] == ["50.0", "45.0"]


def test_table_3_has_what_was_measured(arms, tmp_path):
    arms["round-2"] = {seed: make_row(tmp_path, "round-2", seed, {"humaneval": HALF}, "merged") for seed in (0, 1)}
    for seed, loss in ((0, 1.25), (1, 1.35)):
        rows = [{"step": 9, "seconds": 600.0, "peak_memory_mb": 2000, "validation_loss": loss}]
        write_jsonl(arms["round-2"][seed] / "training/metrics.jsonl", rows)
    found = [text for text in printed(arms).splitlines() if text.startswith("round-2 ") and "1.2437" in text]
    assert found[0].split() == ["round-2", "1.2437", "1.3000", "40.3", "10.0", "3670.9", "2000"]


def test_nothing_kept(tmp_path):
    text = printed({})
    assert "42.07 %" in text
    assert "against each row" not in text
    assert "nothing is kept yet" in text
