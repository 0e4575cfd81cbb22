"""The tables that `flextune reproduce` prints, from rows made by hand."""

import itertools
import shutil

import pytest
import yaml
from made_rows import make_row
from made_spectrum import adapter, content
from rich.console import Console

from flextune.errors import UsageError
from flextune.files import read_json, read_jsonl, write_json, write_jsonl
from flextune.report.page import write_page
from flextune.report.reproduction import Paper, summary
from flextune.report.rows import rows_page
from flextune.rundir import Measurement, RunDirectory
from flextune.scoring.score import score
from flextune.studies.rows import PAPER, TABLE_3, abouts

HALF = set(range(10))
SMALL = Paper(PAPER, TABLE_3, abouts("small"))


def printed(arms):
    console = Console(width=180)
    with console.capture() as text:
        console.print(summary(arms, SMALL))
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
    assert line(text, "Table 2").split() == ["Table", "2"]
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


def test_a_row_that_learned_from_a_few_examples_is_named(arms):
    assert "Trained on a part" not in printed(arms)
    run = RunDirectory(arms["plain"][0])
    limited = "training: {dataset: apps, limit: 100}"
    run.recipe.write_text(run.recipe.read_text().replace("training: null", limited))
    write_json(run.provenance, {**read_json(run.provenance), "inputs": {"training set apps": {"rows": 5}}})
    assert "longer than training.max_length: plain: 100 examples or fewer from 5 rows of apps." in printed(arms)


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
    assert cells.split()[-4:] == ["0,", "1", "50.0", "45.0"]


def test_a_benchmark_that_a_kept_run_lacks_is_said(arms):
    whole = printed(arms)
    shutil.rmtree(arms["plain"][1] / "evaluation/humaneval-java")
    text = printed(arms)
    assert "plain, seed 1: not measured yet, or lost: humaneval-java" in text
    assert "not measured yet" not in whole
    assert "against plain, seeds 0: " in text  # on the same benchmarks, with the seed that has them
    shutil.rmtree(arms["plain"][0] / "evaluation")
    assert "plain, seed 0: not measured yet, or lost: humaneval, humaneval-java" in printed(arms)


def test_another_type_of_numbers_is_said(arms, tmp_path):
    arms["round-4"] = {0: make_row(tmp_path, "round-4", 0, {"humaneval": HALF}, "merged", dtype="bfloat16")}
    said = "Not under the conditions of the model as it came, dtype is auto there, bfloat16 here: round-4, merged, "
    assert said + "humaneval" in " ".join(printed(arms).split())


def test_a_damaged_recipe_is_named(arms):
    for damaged, found in (("", "a recipe is a mapping of keys .* found None"), ("a: [", "line 1: not valid YAML")):
        recipe = RunDirectory(arms["plain"][1]).recipe
        recipe.write_text(damaged)
        with pytest.raises(UsageError, match=f"{recipe}.*{found}"):
            printed(arms)


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


def test_the_page_has_every_row_and_the_penalty_first(arms, tmp_path):
    page = rows_page(arms, "Rows", SMALL)
    titles = [section.title for section in page.sections]
    assert titles == ["Results", "The paper", "Programs", "Cost", "Runs"]
    cards = page.sections[0].blocks[0].cards
    assert cards[0].place == "round-5 against plain, in humaneval-java"
    assert cards[0].value == "+25.0 points"
    assert [card.place for card in cards[1:]] == [
        f"{row}, unmerged: {what}"
        for row in ("round-5", "plain")
        for what in ("learned, humaneval", "kept, humaneval-java")
    ]
    assert [figure.name for figure in page.figures] == ["pass-at-1", "learned-and-kept", "verdicts", "problems"]
    learned = {row["training"]: row for row in page.figures[1].rows}
    assert learned["round-5, unmerged"]["kept value"] == pytest.approx(0.2)
    assert learned["plain, unmerged"]["learned value"] == 0
    text = write_page(page, tmp_path / "page").read_text()
    assert "not run yet" in text
    assert "seed-1/recipe.yaml" in text


def test_the_map_says_who_won_what(arms):
    (problems,) = (figure for figure in rows_page(arms, "Rows", SMALL).figures if figure.name == "problems")
    found = {(row["comparison"], row["problem"]): row["outcome"] for row in problems.rows}
    assert found["humaneval-java, round-5, unmerged", "humaneval/12"] == "won"
    assert found["humaneval-java, round-5, unmerged", "humaneval/3"] == "solved by both"
    assert found["humaneval-java, plain, unmerged", "humaneval/9"] == "lost"
    assert found["humaneval-java, plain, unmerged", "humaneval/19"] == "solved by neither"


def test_a_page_without_the_penalty_says_so(arms):
    del arms["round-5"]
    texts = [block.text for block in rows_page(arms, "Rows", SMALL).sections[0].blocks if block.kind == "text"]
    assert texts == ["The row with the penalty is not measured yet: nothing can be said about it."]


def test_nothing_kept_gives_a_page(tmp_path):
    assert "Nothing has been measured yet." in write_page(rows_page({}, "Rows", SMALL), tmp_path).read_text()


def test_programs_that_stopped_to_compile_are_pointed_out(arms):
    for run, benchmark in itertools.product(arms["plain"].values(), ("humaneval", "humaneval-java")):
        measurement = RunDirectory(run).measurement(benchmark, "unmerged", "greedy")
        rows = list(read_jsonl(measurement.verdicts))
        for row in rows:
            row["verdict"] = row["verdict"] if row["passed"] else "compile_error"
        write_jsonl(measurement.verdicts, rows)
        score(measurement, benchmark)
    page = rows_page(arms, "Rows", SMALL)
    assert texts(page) == [
        "Programs that do not compile, which may be a lost form and no lost skill: "
        "plain, unmerged, humaneval: 20 of 40, 0 of 20 before; "
        "plain, unmerged, humaneval-java: 22 of 40, 0 of 20 before."
    ]
    (figure,) = (figure for figure in page.figures if figure.name == "verdicts")
    found = {(row["model"], row["programs"]): row["count"] for row in figure.rows}
    assert found["humaneval-java, plain, unmerged", "does not compile"] == 22
    assert found["humaneval-java, plain, unmerged", "passed"] == 18


def texts(page):
    return [block.text for block in page.sections[0].blocks if block.kind == "text"]


def other_model(run):
    write_json(RunDirectory(run).provenance, {"inputs": {"model": {"sha256": {"m": "other"}}}})


def test_a_model_is_compared_with_itself_as_it_came(tmp_path):
    arms = {
        "a": {0: make_row(tmp_path, "a", 0, {"humaneval": set()}, "base")},
        "b": {0: make_row(tmp_path, "b", 0, {"humaneval": HALF}, "base")},
        "c": {0: make_row(tmp_path, "c", 0, {"humaneval": HALF})},
    }
    for name in ("b", "c"):
        other_model(arms[name][0])
    (programs,) = rows_page(arms).programs
    assert [(column.label, column.against) for column in programs.columns] == [
        ("model 1 as it came", ""),
        ("model 2 as it came", ""),
        ("c, unmerged", "model 2 as it came"),
    ]


def test_other_conditions_are_said(arms):
    for run in arms["plain"].values():
        execution = RunDirectory(run).measurement("humaneval", "unmerged", "greedy").execution
        write_json(execution, {"limits": {"cpu_seconds": 9}, "toolchains": {}})
    said = {text.partition(",")[0]: text.rpartition(": ")[2] for text in texts(rows_page(arms, "Rows", SMALL))}
    assert said == {"Not under the conditions of the model as it came": "plain, unmerged, humaneval."}


def test_what_cannot_be_compared_is_said(arms, tmp_path):
    for seed in (0, 1):
        measurement = RunDirectory(arms["plain"][seed]).measurement("humaneval", "unmerged", "greedy")
        rows = [{**row, "task_id": f"other/{row['task_id']}"} for row in read_jsonl(measurement.verdicts)]
        write_jsonl(measurement.verdicts, rows)
        write_jsonl(RunDirectory(arms["plain"][seed]).problems("humaneval"), [])
        score(measurement, "humaneval")
    (said,) = texts(rows_page({name: arms[name] for name in ("round-0", "plain")}))
    assert said.startswith("plain, unmerged, humaneval: not compared with the model as it came: ")


def test_another_decoding_where_there_is_no_greedy_one(tmp_path):
    run = make_row(tmp_path, "sampled", 0, {"humaneval": HALF})
    folder = RunDirectory(run).measurement("humaneval", "unmerged", "greedy").path
    folder.rename(folder.with_name("warm"))
    page = rows_page({"sampled": {0: run}, "greedy": {0: make_row(tmp_path, "greedy", 0, {"humaneval": {1}})}})
    (bars,) = (figure for figure in page.figures if figure.name == "pass-at-1")
    assert [(row["model"], row["pass@1 value"]) for row in bars.rows] == [
        ("sampled, unmerged, warm", 0.5),
        ("greedy, unmerged", 0.05),
    ]


def test_the_terminal_shows_the_greedy_one_of_several_decodings(tmp_path):
    run = make_row(tmp_path, "plain", 0, {"humaneval": HALF})
    beam = shutil.copytree(
        RunDirectory(run).measurement("humaneval", "unmerged", "greedy").path,
        RunDirectory(run).measurement("humaneval", "unmerged", "beam-4").path,
    )
    failed = {"verdict": "wrong_answer", "passed": False}
    write_jsonl(beam / "verdicts.jsonl", [row | failed for row in read_jsonl(beam / "verdicts.jsonl")])
    score(Measurement(beam), "humaneval")
    assert "50.0" in line(printed({"plain": {0: run}}), "plain, unmerged")


def test_seeds_have_their_own_names(tmp_path):
    arms = {"a": {seed: make_row(tmp_path, "a", seed, {"humaneval": {seed}}) for seed in (3, 7)}}
    for run in arms["a"].values():
        write_jsonl(RunDirectory(run).metrics, [{"step": 1, "loss": 1.0, "seconds": 1.0}])
        measurement = RunDirectory(run).measurement("humaneval", "unmerged", "greedy")
        rows = [{"task_id": row["task_id"], "completion": str(run)} for row in read_jsonl(measurement.verdicts)]
        write_jsonl(measurement.completions, rows)
    page = rows_page(arms)
    (training,) = (figure for figure in page.figures if figure.name == "training")
    assert [row["seed"] for row in training.rows] == [3, 7]
    ((_, text),) = page.programs[0].chunks()
    assert '"by": [["a, unmerged", "seed 3"]]' in text
    assert '"by": [["a, unmerged", "seed 7"]]' in text


def test_seeds_are_compared_with_the_same_seed(tmp_path):
    from flextune.report.programs import Column, Programs

    def measured(name, seed, solved):
        measurement = RunDirectory(make_row(tmp_path, name, seed, {"humaneval": solved}, of=1)).measurement(
            "humaneval", "unmerged", "greedy"
        )
        write_jsonl(measurement.completions, [{"task_id": "humaneval/0", "completion": "x"}])
        return {"humaneval": {seed: measurement}}

    before = {"humaneval": {**measured("b", 1, {0})["humaneval"], **measured("b", 2, set())["humaneval"]}}
    programs = Programs([Column("before", before), Column("after", measured("a", 2, {0}), "before")])
    assert programs.problems[0].kinds == ["correction"]


def test_of_many_findings_those_within_noise_have_no_card(arms, tmp_path):
    for row, java in (("permuted", HALF), ("l2", HALF), ("kl", HALF), ("tuned", set())):
        arms[row] = {0: make_row(tmp_path, row, 0, {"humaneval": HALF, "humaneval-java": java})}
    cards, more = rows_page(arms, "Rows", SMALL).sections[0].blocks[:2]
    assert [card.place for card in cards.cards] == [
        "round-5 against plain, in humaneval-java",
        "tuned, unmerged: kept, humaneval-java",
    ]
    assert more.text == "11 more are within noise; the figure of learned against kept has them."


def test_what_was_learned_in_another_language_is_not_called_kept(arms):
    for run in arms["plain"].values():
        recipe = RunDirectory(run).recipe
        recipe.write_text(recipe.read_text().replace("training: null", "training: {dataset: java.jsonl}"))
    page = rows_page(arms, "Rows", SMALL)
    assert [card.place for card in page.sections[0].blocks[0].cards] == ["round-5 against plain, in humaneval-java"]
    assert "learned-and-kept" not in [figure.name for figure in page.figures]


@pytest.mark.parametrize("dataset", ["apps-competition", "code-search-net", "mbpp"])
def test_every_set_with_a_name_is_in_python(arms, dataset):
    for run in arms["plain"].values():
        recipe = RunDirectory(run).recipe
        recipe.write_text(recipe.read_text().replace("training: null", f"training: {{dataset: {dataset}}}"))
    assert "learned-and-kept" in [figure.name for figure in rows_page(arms, "Rows", SMALL).figures]


def test_an_adapter_at_parts_of_its_strength_is_a_curve(arms, tmp_path):
    more = {}
    for row, scale, java in (("again", 1, 2), ("scale-0.5", 0.5, 11), ("scale-0.25", 0.25, 13)):
        run = RunDirectory(make_row(tmp_path, row, 0, {"humaneval": HALF, "humaneval-java": set(range(java))}))
        recipe = yaml.safe_load(run.recipe.read_text())
        recipe["evaluation"] |= {"adapter": "runs/small/plain/seed-0", "scale": scale}
        run.recipe.write_text(yaml.safe_dump(recipe))
        more[row] = {0: run.path}
    arms = {**more, **arms}
    (figure,) = (figure for figure in rows_page(arms, "Rows", SMALL).figures if figure.name == "learned-and-kept")
    (curve,) = (line for line in figure.drawing.axes[0].lines if line.get_linestyle() == ":")
    assert list(curve.get_ydata()) == pytest.approx([0, 15, 5, -5])  # from the model as it came to all of plain
    rows = {row["training"]: (row["adapter of"], row["strength"]) for row in figure.rows}
    assert rows["scale-0.25, unmerged"] == ("plain", 0.25)
    assert rows["round-5, unmerged"] == ("round-5", 1)
    legend = {text.get_text() for text in figure.drawing.legends[0].get_texts()}
    assert {"scale-0.25, unmerged", "plain, unmerged, 2 seeds"} <= legend  # points of unlike seeds are told apart


def test_spectra_side_by_side(arms):
    write_json(RunDirectory(arms["plain"][0]).spectrum, content(adapter("seed-0")))
    write_json(RunDirectory(arms["round-5"][0]).spectrum, content(adapter("seed-0")))
    other = {**content(adapter("seed-0")), "threshold": 0.9}
    write_json(RunDirectory(arms["round-0"][0]).spectrum, other)
    (section,) = (section for section in rows_page(arms, "Rows", SMALL).sections if section.title == "Adapters")
    assert {row[0] for row in section.blocks[0].rows} == {"round-0"}
    assert "Not shown" in section.blocks[-1].text
    assert "plain" in section.blocks[-1].text
