"""The page of a run, from files made by hand."""

import json
from unittest import mock

import pytest
import yaml
from made_run import HOSTILE, make_run
from made_spectrum import adapter, content
from rich.console import Console

from flextune import pipeline
from flextune.errors import UsageError
from flextune.files import read_json, read_jsonl, write_json, write_jsonl
from flextune.recipe import Recipe, Training, dump_recipe
from flextune.report.card import write_card
from flextune.report.results import read_results
from flextune.report.run import run_page, summary, write_report
from flextune.rundir import RunDirectory
from flextune.scoring.score import score


def blocks(page, section):
    (found,) = (each for each in page.sections if each.title == section)
    return found.blocks


def named(page, name):
    (found,) = (figure for figure in page.figures if figure.name == name)
    return found


def test_the_page_shows_what_the_files_say(tmp_path):
    run = make_run(tmp_path)
    page = write_report(run.path).read_text()
    for shown in (
        "basics-python, unmerged against base",
        "+50.0 points",
        "0.0 % → 50.0 %",
        "No difference beyond noise",
        "1 won, 0 lost",
        "3 optimizer steps",
        'href="../evaluation/basics-python/unmerged/greedy/scores.json"',
    ):
        assert shown in page
    assert {path.name for path in (run.report / "figures").iterdir()} == {
        f"{name}.{kind}" for name in ("pass-at-1", "verdicts", "problems", "training") for kind in ("svg", "csv")
    }
    assert (run.report / "figures/training.csv").read_text().splitlines()[1] == "run,0,1,1.0,2.0"


def test_what_a_model_wrote_is_shown_and_never_run(tmp_path):
    run = make_run(tmp_path)
    page = write_report(run.path).read_text()
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "&lt;/script&gt;&lt;script&gt;" in page  # in run.json
    text = (run.report / "programs/0.js").read_text()
    assert text.startswith("programs(...[0, [")
    assert json.loads(text.removeprefix("programs(...").removesuffix(");\n"))[1][0]["programs"][0]["text"] == HOSTILE
    for figure in (run.report / "figures").glob("*.svg"):
        assert "<script" not in figure.read_text()


def test_programs_are_shown_once_with_all_that_wrote_them(tmp_path):
    (programs,) = run_page(make_run(tmp_path, ("base", "unmerged", "merged")).path).programs
    assert [problem.kinds for problem in programs.problems] == [["correction"], []]
    assert [cell.words for cell in programs.problems[0].cells] == ["error while running", "passed", "passed"]
    ((_, text),) = programs.chunks()
    one, two = json.loads(text.removeprefix("programs(...").removesuffix(");\n"))[1]
    assert [program["by"] for program in one["programs"]] == [
        [["base", ""]],
        [["unmerged", ""], ["merged", ""]],
    ]
    assert [program["by"] for program in two["programs"]] == [[["base", ""], ["unmerged", ""], ["merged", ""]]]


def test_several_samples(tmp_path):
    run = make_run(tmp_path, ("base",), training=False)
    measurement = run.measurement("basics-python", "base", "greedy")
    rows = [{"task_id": f"basics/{i}", "sample": s} for i in ("one", "two") for s in range(4)]
    write_jsonl(measurement.completions, [{**row, "completion": f"return {row['sample'] // 3}"} for row in rows])
    write_jsonl(
        measurement.verdicts,
        [{**row, "verdict": "passed" if row["sample"] < 3 else "timeout", "passed": row["sample"] < 3} for row in rows],
    )
    score(measurement, "basics-python", (1, 2))
    page = run_page(run.path)
    (programs,) = page.programs
    assert programs.problems[0].cells[0].words == "3 of 4"
    assert programs.problems[0].cells[0].full == "base: 3 passed, 1 too slow"
    ((_, text),) = programs.chunks()
    assert '"by": [["base", "3 times"]]' in text
    assert '"by": [["base", "sample 3"]]' in text
    assert [row["problems"] for row in named(page, "samples").rows] == [0, 0, 0, 0, 0, 0, 0, 2, 0, 0]
    table = next(block for block in blocks(page, "Results") if block.kind == "table")
    assert list(table.right) == ["solved", "pass@1 (95 % interval)", "pass@2 (95 % interval)", "no code", "file"]


def test_decodings_are_drawn_over_their_settings(tmp_path):
    decodings = {
        "greedy": {},
        **{f"t{t}": {"kind": "sampling", "temperature": t} for t in (0.2, 0.8)},
        **{f"beam{n}": {"kind": "beam", "beams": n} for n in (2, 4)},
    }
    run = make_run(tmp_path, ("base",), training=False)
    recipe = Recipe(
        model="m", evaluation={"benchmarks": ["basics-python"], "variants": ["base"], "decodings": decodings}
    )
    run.recipe.write_text(dump_recipe(recipe))
    greedy = run.measurement("basics-python", "base", "greedy")
    for name in decodings:
        there = run.measurement("basics-python", "base", name)
        verdicts = [
            {**row, "passed": name == "beam4", "verdict": "passed" if name == "beam4" else "timeout"}
            for row in read_jsonl(greedy.verdicts)
        ]
        write_jsonl(there.verdicts, verdicts)
        score(there, "basics-python")
    page = run_page(run.path)
    assert [row["beams"] for row in named(page, "by-beams").rows] == [2, 4]
    assert [row["pass@1 value"] for row in named(page, "by-beams").rows] == [0, 1]
    assert [row["temperature"] for row in named(page, "by-temperature").rows] == [0.2, 0.8]
    assert named(page, "by-beams").paper == "Figures 10, 16, 18"
    assert not [figure for figure in page.figures if figure.name == "by-top-p"]


def test_missing_pieces_are_said(tmp_path):
    page = write_report(make_run(tmp_path / "one", ("base",), training=False).path).read_text()
    assert "Measured without training." in page
    run = RunDirectory(tmp_path / "two")
    run.begin(dump_recipe(Recipe(model="m", training=Training())), {}, {})
    page = write_report(run.path).read_text()
    assert "Nothing has been measured yet." in page
    assert "Not finished yet." in page
    with pytest.raises(UsageError, match="not a run directory"):
        write_report(tmp_path)


def test_what_is_still_to_come_is_named(tmp_path):
    run = make_run(tmp_path)
    recipe = run.recipe.read_text().replace("- basics-python", "- basics-python\n  - basics-java")
    run.recipe.write_text(recipe)
    assert "Not measured yet: basics-java (base), basics-java (unmerged)." in write_report(run.path).read_text()


def test_verdicts_without_programs(tmp_path):
    run = make_run(tmp_path)
    for path in run.path.rglob("completions.jsonl"):
        path.unlink()
    write_report(run.path)
    assert '"text": null' in (run.report / "programs/0.js").read_text()


def test_kept_runs_have_no_texts_of_problems(tmp_path):
    make_run(tmp_path / "run").keep(tmp_path / "kept")
    write_report(tmp_path / "kept")
    text = (tmp_path / "kept/report/programs/0.js").read_text()
    assert '"prompt": null' in text
    assert "sha256" not in text


def test_spectrum_and_merge_check_are_shown_where_they_were_measured(tmp_path):
    run = make_run(tmp_path)
    assert "Adapter" not in [section.title for section in run_page(run.path).sections]
    write_json(run.spectrum, content(adapter("x")))
    row = {"name": "merged, float32", "against": "unmerged", "largest_logit": 0.1, "kl": 1e-6, "flipped": 0.0}
    check = {"rows": [{**row, "kept": 1.0, "error": 0.0}], "positions": 8, "prompts": 2, "skipped": [], "fault": None}
    write_json(run.merge_check, {"check": check})
    page = run_page(run.path)
    assert [block.kind for block in blocks(page, "Adapter")].count("figure") == 3
    assert "Merged and unmerged are equal in float32" in blocks(page, "Adapter")[-1].text
    run.keep(tmp_path / "kept")
    assert "Adapter" in [section.title for section in run_page(tmp_path / "kept").sections]


def test_the_same_run_gives_the_same_page(tmp_path):
    run = make_run(tmp_path)
    write_report(run.path, tmp_path / "page")
    first = {path.name: path.read_bytes() for path in (tmp_path / "page").rglob("*") if path.is_file()}
    write_report(run.path, tmp_path / "page")
    assert first == {path.name: path.read_bytes() for path in (tmp_path / "page").rglob("*") if path.is_file()}


def test_conditions_that_differ_are_on_the_card(tmp_path):
    run = make_run(tmp_path)
    rows = read_json(run.comparison)
    rows[0]["unlike"] = ["cpu_seconds 5 and 9"]
    write_json(run.comparison, rows)
    assert "Not the same conditions: cpu_seconds 5 and 9." in write_report(run.path).read_text()


def test_the_table_in_the_terminal(tmp_path):
    console = Console(width=160, record=True)
    console.print(summary(read_results(make_run(tmp_path).path)))
    text = console.export_text()
    assert "1 of 2" in text
    assert "+50.0 points" in text


def test_a_run_of_before_has_keys_that_were_not_there(tmp_path):
    run = make_run(tmp_path)
    recipe = yaml.safe_load(run.recipe.read_text())
    del recipe["about"], recipe["evaluation"]["scale"]
    run.recipe.write_text(yaml.safe_dump(recipe))
    write_json(run.adapter / "adapter_config.json", {})
    assert "m, tuned on basics" in write_report(run.path).read_text()
    assert "# m, tuned on basics" in write_card(run.path).read_text()


def test_comparisons_and_scores_of_before(tmp_path):
    run = make_run(tmp_path)
    rows = read_json(run.comparison)
    for key in ("comparisons", "p_adjusted", "unlike"):
        del rows[0][key]
    write_json(run.comparison, rows)
    for path in run.path.rglob("scores.json"):
        write_json(path, {key: value for key, value in read_json(path).items() if key != "problems"})
    assert "+50.0 points" in write_report(run.path).read_text()


def test_scores_without_verdicts_and_verdicts_that_nobody_knows(tmp_path):
    run = make_run(tmp_path)
    base, tuned = (run.measurement("basics-python", variant, "greedy") for variant in ("base", "unmerged"))
    base.verdicts.unlink()
    write_jsonl(tuned.verdicts, [{**row, "verdict": "strange"} for row in read_jsonl(tuned.verdicts)])
    assert "strange" in write_report(run.path).read_text()


def test_one_temperature_is_no_line(tmp_path):
    run = make_run(tmp_path, ("base",), training=False)
    decodings = {f"s{n}": {"kind": "sampling", "temperature": 0.8, "samples": n} for n in (1, 2)}
    evaluation = {"benchmarks": ["basics-python"], "variants": ["base"], "decodings": decodings}
    run.recipe.write_text(dump_recipe(Recipe(model="m", evaluation=evaluation)))
    greedy = run.measurement("basics-python", "base", "greedy")
    for name in decodings:
        write_jsonl(run.measurement("basics-python", "base", name).verdicts, read_jsonl(greedy.verdicts))
        score(run.measurement("basics-python", "base", name), "basics-python")
    assert "by-temperature" not in [figure.name for figure in run_page(run.path).figures]


def test_a_report_that_fails_takes_nothing_from_the_run(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path)
    write_json(run.adapter / "adapter_config.json", {})
    monkeypatch.setattr(pipeline, "write_report", mock.Mock(side_effect=KeyError("x"), __name__="write_report"))
    pipeline._write_up(run)
    assert "The run is whole, but write_report failed: KeyError: 'x'" in " ".join(capsys.readouterr().err.split())
    assert (run.adapter / "README.md").exists()
