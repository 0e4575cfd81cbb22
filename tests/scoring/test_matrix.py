"""Arms on benchmarks, with numbers that can be counted by hand."""

import shutil

import pytest
from made_rows import make_row, solve

from flextune.files import write_json
from flextune.recipe import Recipe
from flextune.rundir import RunDirectory
from flextune.scoring.compare import compare
from flextune.scoring.matrix import bases, learned_and_kept, matrix, transfer

HALF = set(range(10))


@pytest.fixture
def arms(tmp_path):
    def made(name, seed, python, java, js, variant="unmerged"):
        solved = {"humaneval": python, "humaneval-java": java, "humaneval-js": js}
        return make_row(tmp_path, name, seed, solved, variant)

    return {
        "base": {0: made("base", 0, HALF, HALF, HALF, "base")},
        "plain": {
            0: made("plain", 0, HALF | {10, 11}, HALF - {0}, HALF - {0, 1}),
            1: made("plain", 1, HALF | {10}, HALF - {0, 1}, HALF),
        },
        "penalty": {
            0: made("penalty", 0, HALF | {10}, HALF | {12, 13}, HALF),
            1: made("penalty", 1, HALF | {10}, HALF | {12}, HALF),
        },
    }


def test_each_arm_on_each_benchmark_against_the_base(arms):
    found = {(row["arm"], row["benchmark"]): row for row in matrix(arms)}
    assert len(found) == 9
    base = found["base", "humaneval-java"]
    assert (base["language"], base["problems"], base["seeds"]) == ("java", 20, [0])
    assert (base["value"]["value"], base["against_base"]) == (0.5, None)
    plain = found["plain", "humaneval-java"]
    assert plain["value"]["value"] == pytest.approx((9 + 8) / 40)
    assert plain["seeds"] == [0, 1]
    assert plain["against_base"]["difference"]["value"] == pytest.approx(-1.5 / 20)
    assert plain["against_base"]["comparisons"] == 3
    assert plain["against_base"]["p_adjusted"] >= plain["against_base"]["p_value"]


def test_the_mean_over_the_languages_that_were_not_learned(arms):
    rows = {row["reference"]: row for row in transfer(arms, "penalty", "python")}
    assert set(rows) == {"plain"}  # the base has no variant `unmerged`
    found = rows["plain"]
    assert found["benchmarks"] == ["humaneval-java", "humaneval-js"]
    # Java: (12 − 9 + 11 − 8) / 2, JavaScript: (10 − 8 + 10 − 10) / 2 of 20 problems
    assert found["difference"]["value"] == pytest.approx((3 + 1) / 2 / 20)
    assert (found["seeds"], found["problems"]) == ([0, 1], 20)


def test_seeds_that_only_one_side_has_are_left_out(arms, tmp_path):
    del arms["plain"][1]
    found = transfer(arms, "penalty", "python")[0]
    assert found["seeds"] == [0]
    assert found["difference"]["value"] == pytest.approx((3 + 2) / 2 / 20)


def test_a_seed_that_lacks_a_benchmark_does_not_count_there(arms, tmp_path):
    arms["plain"][2] = make_row(tmp_path, "plain", 2, {"humaneval": HALF})
    found = {(row["arm"], row["benchmark"]): row for row in matrix(arms)}
    assert found["plain", "humaneval"]["seeds"] == [0, 1, 2]
    assert found["plain", "humaneval-java"]["seeds"] == [0, 1]


def test_another_model_has_another_base(arms, tmp_path):
    for name, model in (("base", "a"), ("plain", "b"), ("penalty", "a")):
        for run in arms[name].values():
            write_json(RunDirectory(run).provenance, {"inputs": {"model": {"folder": name, "sha256": {"m": model}}}})
    found = {(row["arm"], row["benchmark"]): row["against_base"] for row in matrix(arms)}
    assert found["penalty", "humaneval-java"]["difference"]["value"] == pytest.approx(1.5 / 20)
    assert found["plain", "humaneval-java"] is None
    assert transfer(arms, "penalty", "python") == []


def test_an_arm_is_compared_with_its_own_base(tmp_path):
    arms = {}
    for name, base, tuned, keys in (
        ("full", HALF, HALF | {10}, {}),
        ("four bits", {0, 1}, {0, 1, 2, 3}, {"quantization": "nf4"}),
        ("lent", None, {0, 1, 2}, {"quantization": "nf4"}),
        ("merged before", {0}, {0, 1}, {"merge_first": "runs/other"}),
        ("lent, merged before", None, HALF, {"merge_first": "runs/other"}),
        ("last", None, HALF, {}),
    ):
        run = make_row(tmp_path, name, 0, {"humaneval": tuned}, **keys)
        if base is not None:
            solve(run, Recipe(model="m", evaluation={"variants": ["base"]}), "humaneval", base, 20)
        arms[name] = {0: run}
    found = {row["arm"]: row["against_base"] for row in matrix(arms) if row["variant"] == "unmerged"}
    differences = {arm: round(20 * row["difference"]["value"]) for arm, row in found.items()}
    assert differences == {
        "full": 1,
        "four bits": 2,
        "lent": 1,  # against four bits
        "merged before": 1,
        "lent, merged before": 0,  # against full: the model as it came
        "last": 0,
    }


def test_an_arm_that_lacks_one_of_the_languages_is_not_in_the_mean(arms, tmp_path):
    arms["java only"] = {0: make_row(tmp_path, "java only", 0, {"humaneval-java": HALF})}
    assert [row["reference"] for row in transfer(arms, "penalty", "python")] == ["plain"]


def test_a_seed_that_lacks_a_benchmark_is_not_in_the_mean(arms, tmp_path):
    for name, solved in (
        ("penalty", {"humaneval-java": HALF}),
        ("plain", {"humaneval-java": HALF, "humaneval-js": HALF}),
    ):
        arms[name][2] = make_row(tmp_path, name, 2, solved)
    for _ in range(2):  # whichever side lacks it
        (found,) = transfer(arms, "penalty", "python")
        assert (found["benchmarks"], found["seeds"]) == (["humaneval-java", "humaneval-js"], [0, 1])
        arms["penalty"][2], arms["plain"][2] = arms["plain"][2], arms["penalty"][2]


def test_one_seed_is_a_comparison_of_single_samples(arms):
    del arms["plain"][1]
    row = next(r for r in matrix(arms) if (r["arm"], r["benchmark"]) == ("plain", "humaneval-java"))
    folders = [arms[name][0] / "evaluation/humaneval-java" for name in ("base", "plain")]
    alone = compare(folders[0] / "base/greedy", folders[1] / "unmerged/greedy")
    assert row["against_base"]["p_value"] == alone["p_value"]
    assert "McNemar" in row["against_base"]["method"]


def test_nothing_at_all():
    assert matrix({}) == []


def test_what_was_learned_against_what_was_kept(arms):
    rows = {row["arm"]: row for row in learned_and_kept(arms, "python")}
    assert set(rows) == {"plain", "penalty"}
    plain = rows["plain"]
    assert (plain["variant"], plain["seeds"]) == ("unmerged", [0, 1])
    assert plain["learned"]["benchmarks"] == ["humaneval"]
    assert plain["learned"]["difference"]["value"] == pytest.approx((2 + 1) / 2 / 20)
    assert plain["kept"]["benchmarks"] == ["humaneval-java", "humaneval-js"]
    # Java: −(1 + 2) / 2, JavaScript: −(2 + 0) / 2 of 20 problems
    assert plain["kept"]["difference"]["value"] == pytest.approx(-(1.5 + 1) / 2 / 20)


def test_an_arm_of_one_language_has_learned_or_kept_nothing_to_show(arms, tmp_path):
    arms["java only"] = {0: make_row(tmp_path, "java only", 0, {"humaneval-java": HALF})}
    assert {row["arm"] for row in learned_and_kept(arms, "python")} == {"plain", "penalty"}
    del arms["base"]
    assert learned_and_kept(arms, "python") == []


def test_a_base_of_another_model_is_no_reference(arms):
    run = RunDirectory(arms["penalty"][0])
    write_json(run.provenance, {"inputs": {"model": {"sha256": {"m": "other"}}}})
    assert {arm for arm, *_ in bases(arms)} == {"base", "plain"}


def test_a_benchmark_that_one_seed_lacks_is_left_out(arms):
    shutil.rmtree(arms["plain"][1] / "evaluation/humaneval-java")
    plain = next(row for row in learned_and_kept(arms, "python") if row["arm"] == "plain")
    assert plain["kept"]["benchmarks"] == ["humaneval-js"]
