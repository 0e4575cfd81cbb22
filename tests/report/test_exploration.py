"""Figures of a search, from trials made by hand."""

import random

import pytest

from flextune.files import write_json
from flextune.report.exploration import figures
from flextune.report.page import Link, write_page
from flextune.report.sweep import sweep_page


def trials(count=16, value=lambda x, y, z: x + 10 * y):
    found = []
    for number in range(count):
        x, y, z = (number % 4) / 4, (number // 4) / 4, 10.0 ** -(1 + number % 3)
        settings = {"a.x": x, "a.y": y, "a.z": z, "a.kind": ["p", "q"] if number % 2 else "all"}
        found.append({"number": number, "settings": settings, "value": value(x, y, z)})
    return found


def named(found, name):
    return next(figure for figure in found if figure.name == name)


def test_all_of_them_with_their_data():
    found = figures([*trials(), {"number": 99, "settings": {"a.x": 5}, "value": None}], "pass@1")
    assert [figure.name for figure in found] == ["trials", "settings", "three-settings", "surface"]
    assert len(named(found, "trials").rows) == 16
    assert named(found, "trials").rows[5]["pass@1 in %"] == pytest.approx(100 * (0.25 + 2.5))
    assert named(found, "settings").rows[1]["a.kind"] == "p,q"
    cloud = named(found, "three-settings").turned
    assert cloud["data"][0]["x"][:4] == [0, 0.25, 0.5, 0.75]
    assert cloud["layout"]["scene"]["zaxis"]["type"] == "log"
    assert cloud["layout"]["scene"]["xaxis"]["type"] == "linear"


def test_the_surface_is_over_what_matters_and_close_to_the_truth():
    surface = named(figures(trials(), "validation_loss"), "surface")
    rows = surface.rows
    assert {"a.x", "a.y"} <= rows[0].keys()  # not a.z, which does nothing
    for row in rows[:: len(rows) // 20]:
        assert row["expected validation loss"] == pytest.approx(row["a.x"] + 10 * row["a.y"], abs=0.3)
    assert "so the surface says something" in surface.says
    assert surface.turned["data"][0]["type"] == "surface"


def test_a_surface_through_noise_says_that_it_says_nothing():
    draw = random.Random(0)
    noise = trials(value=lambda x, y, z: draw.gauss(0, 1))
    assert "says nothing that the mean does not" in named(figures(noise, "validation_loss"), "surface").says


def test_what_there_is_too_little_for_is_left_out():
    assert figures([], "pass@1") == []
    assert figures([{"number": 0, "settings": {}, "value": None}], "pass@1") == []
    assert [figure.name for figure in figures(trials(5), "pass@1")] == ["trials", "settings"]
    same = [{**trial, "settings": {"a.x": 1}} for trial in trials()]
    assert [figure.name for figure in figures(same, "pass@1")] == ["trials"]


def test_without_the_library_there_is_no_surface(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.gaussian_process", None)
    assert [figure.name for figure in figures(trials(), "pass@1")] == ["trials", "settings", "three-settings"]


def sweep(**last):
    rows = [{**trial, "state": "complete", "cause": None, "seconds": 1.0, "run": "r"} for trial in trials(3)]
    rows[-1].update(last)
    return {
        "objective": "pass@1",
        "best": 0,
        "trials": rows,
        "recipe": {"model": "m", "sweep": {"space": {"a.x": [1]}}},
    }


def test_a_failed_trial_is_there_with_its_cause(tmp_path):
    cause = "the loss stopped being a number <b>"
    write_json(tmp_path / "sweep.json", sweep(state="fail", value=None, cause=cause))
    text = write_page(sweep_page(tmp_path), tmp_path / "report").read_text()
    assert "failed: the loss stopped being a number &lt;b&gt;" in text
    assert "1 failed" in text


def test_a_trial_is_linked_where_it_has_a_page(tmp_path):
    write_json(tmp_path / "sweep.json", sweep())

    def table():
        return sweep_page(tmp_path).sections[0].blocks[-1]

    assert table().right == ["pass@1", "seconds"]
    page = tmp_path / "r" / "report" / "index.html"
    page.parent.mkdir(parents=True)
    page.touch()
    assert (table().right[-1], table().rows[0][-1]) == ("run", Link("page", page))


def test_no_trial_has_a_value(tmp_path):
    content = sweep()
    content["trials"] = [{**content["trials"][0], "state": "running", "value": None, "seconds": None}]
    write_json(tmp_path / "sweep.json", {**content, "best": None})
    assert "No trial has a value yet." in write_page(sweep_page(tmp_path), tmp_path / "report").read_text()


def test_what_was_chosen_comes_first(tmp_path):
    write_json(tmp_path / "sweep.json", sweep())
    assert sweep_page(tmp_path).sections[0].title == "Trials"
    found = {"candidates": [], "states": {"fail": 2}, "chosen": None}
    write_json(tmp_path / "autotune.json", found)
    choice = sweep_page(tmp_path).sections[0]
    assert choice.title == "Choice"
    assert choice.blocks[-1].text == "No setting is left: the model as it came is the best of them"


def test_plotly_beside_the_page_only_where_something_turns(tmp_path, monkeypatch):
    rows = [{**trial, "state": "complete", "cause": None, "seconds": 1.0, "run": "r"} for trial in trials()]
    write_json(tmp_path / "sweep.json", {**sweep(), "trials": rows})
    page = write_page(sweep_page(tmp_path), tmp_path / "report")
    assert (tmp_path / "report/lib/plotly.min.js").stat().st_size > 1_000_000
    assert (tmp_path / "report/figures/surface.js").read_text().startswith('turn(...["surface", {"data"')
    assert "unsafe-eval" in page.read_text()
    monkeypatch.setattr("flextune.report.page._copy_plotly", lambda folder: False)
    page = write_page(sweep_page(tmp_path), tmp_path / "without").read_text()
    assert "install Plotly" in page
    assert "unsafe-eval" not in page


def test_values_that_are_no_numbers_are_left_out():
    strange = [{"number": n, "settings": {}, "value": value} for n, value in enumerate((float("nan"), float("inf")))]
    assert len(named(figures([*trials(), *strange], "validation_loss"), "trials").rows) == 16
