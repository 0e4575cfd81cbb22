"""Which variant stands on each side of a comparison of runs, and which runs are not complete enough for one."""

import pytest

from flextune.errors import UsageError
from flextune.files import write_json, write_jsonl
from flextune.recipe import Recipe, Training, dump_recipe
from flextune.rundir import RunDirectory
from flextune.scoring.compare import compare, compare_each, compare_together
from flextune.scoring.matrix import not_measured
from flextune.scoring.runs import compare_runs, compare_within, planned
from flextune.scoring.score import score_seeds

TUNED = {"training": Training()}
JAVA, CPP = "x-java", "x-cpp"


def made(path, measured, benchmarks=(JAVA,), variants=None, **keys):
    """A run with a recipe; `measured` says how many of 10 problems each benchmark and variant solves."""
    recipe = Recipe(model="m", evaluation={"benchmarks": list(benchmarks), "variants": variants}, **keys)
    run = RunDirectory(path)
    run.begin(dump_recipe(recipe), {}, {})
    for benchmark in benchmarks:
        problems = [{"task_id": f"{benchmark}/{n}", "language": "java", "prompt": "", "tests": ""} for n in range(10)]
        write_jsonl(run.problems(benchmark), problems)
    for (benchmark, variant), solved in measured.items():
        verdicts = [
            {
                "task_id": f"{benchmark}/{n}",
                "sample": 0,
                "verdict": "passed" if n < solved else "timeout",
                "passed": n < solved,
            }
            for n in range(10)
        ]
        measurement = run.measurement(benchmark, variant, "greedy")
        write_jsonl(measurement.verdicts, verdicts)
        write_json(measurement.execution, {"limits": {}, "toolchains": {}})
    return run.path


@pytest.fixture
def whole(tmp_path):
    """A run that is complete."""
    return made(tmp_path / "whole", {(JAVA, "base"): 0, (JAVA, "unmerged"): 10}, **TUNED)


@pytest.fixture
def unfinished(tmp_path):
    """A run whose adapter is not trained yet."""
    return made(tmp_path / "unfinished", {(JAVA, "base"): 0}, **TUNED)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"training": Training()},
        {"evaluation": {"adapter": "folder"}},
        {"training": Training(), "evaluation": {"variants": ["base"]}},
        {"training": Training(), "evaluation": {"variants": []}},
        {"training": Training(), "evaluation": {"benchmarks": []}},
        {"evaluation": {"adapter": "folder", "variants": ["unmerged", "merged"]}},
        {"evaluation": {"benchmarks": ["humaneval", "own/file.jsonl"], "decodings": {"greedy": {}, "beam": {}}}},
    ],
)
def test_what_a_recipe_asks_for(tmp_path, keys):
    recipe = Recipe(model="m", **keys)
    RunDirectory(tmp_path).begin(dump_recipe(recipe), {}, {})
    names = {"own/file.jsonl": "file"}
    assert {(place.benchmark, place.decoding, place.variant) for place in planned(tmp_path)} == {
        (names.get(benchmark, benchmark), decoding, variant)
        for benchmark in recipe.evaluation.benchmarks
        for decoding in recipe.evaluation.decodings
        for variant in recipe.variants
    }


def test_without_a_recipe_nothing_is_asked_for(tmp_path):
    assert planned(tmp_path) == []


@pytest.mark.parametrize("anyway", [False, True])
@pytest.mark.parametrize("turned", [False, True])
def test_a_base_never_takes_the_place_of_a_tuned_model_that_is_missing(whole, unfinished, anyway, turned):
    sides = (whole, unfinished) if turned else (unfinished, whole)
    with pytest.raises(UsageError) as found:
        compare_runs(sides[0], {"other": sides[1]}, anyway=anyway)
    assert str(found.value) == (
        f"{unfinished} has no verdicts yet for unmerged on x-java, which its recipe.yaml asks for: finish it with "
        f"`flextune run {unfinished}/recipe.yaml --output {unfinished}`"
    )


def test_an_adapter_from_elsewhere_counts_as_a_tuned_variant(whole, tmp_path):
    other = made(tmp_path / "other", {(JAVA, "base"): 0})
    text = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(text.replace("adapter: null", "adapter: folder"))
    with pytest.raises(UsageError, match="other has no verdicts yet for unmerged on x-java"):
        compare_runs(other, {"whole": whole})


def test_both_unfinished_runs_are_named(unfinished, tmp_path):
    other = made(tmp_path / "other", {(JAVA, "base"): 3}, **TUNED)
    with pytest.raises(UsageError, match=r"unfinished has no verdicts yet .*; .*other has no verdicts yet") as found:
        compare_runs(unfinished, {"other": other}, anyway=True)
    assert "--anyway" not in str(found.value)


@pytest.mark.parametrize("keys", [{}, {"variants": ["base"], **TUNED}])
def test_a_recipe_of_the_base_alone_is_compared_with_tuned_runs(whole, tmp_path, keys):
    base = made(tmp_path / "base", {(JAVA, "base"): 4}, **keys)
    (row,) = compare_runs(base, {"tuned": whole})
    assert (row["first_variant"], row["second_variant"], row["variant"]) == ("base", "unmerged", "unmerged")
    assert row["difference"]["value"] == pytest.approx(0.6)
    (row,) = compare_runs(whole, {"base": base})
    assert (row["first_variant"], row["second_variant"], row["variant"]) == ("unmerged", "base", "unmerged")
    assert row["difference"]["value"] == pytest.approx(-0.6)


def test_two_base_models_are_named_as_such(tmp_path):
    one, two = (made(tmp_path / name, {(JAVA, "base"): solved}) for name, solved in (("one", 4), ("two", 6)))
    (row,) = compare_runs(one, {"two": two})
    assert (row["first_variant"], row["second_variant"], row["variant"]) == ("base", "base", "base")


def test_a_base_model_is_compared_with_each_tuned_variant(whole, tmp_path):
    base = made(tmp_path / "base", {(JAVA, "base"): 4})
    both = made(
        tmp_path / "both", {(JAVA, "unmerged"): 5, (JAVA, "merged"): 6}, variants=["unmerged", "merged"], **TUNED
    )
    rows = compare_runs(base, {"both": both})
    assert [(row["first_variant"], row["second_variant"]) for row in rows] == [("base", "merged"), ("base", "unmerged")]
    (row,) = compare_runs(whole, {"both": both})  # merged has no counterpart
    assert (row["first_variant"], row["second_variant"]) == ("unmerged", "unmerged")
    assert row["not_compared"] == [f"{both} has merged on x-java, which has no counterpart in {whole}"]


def test_a_merged_variant_that_is_still_missing_matters_only_where_the_other_has_one(whole, tmp_path):
    half = {(JAVA, "base"): 0, (JAVA, "unmerged"): 5}
    later = made(tmp_path / "later", half, variants=["base", "unmerged", "merged"], **TUNED)
    (row,) = compare_runs(whole, {"later": later})
    assert (row["second_variant"], row["not_compared"]) == ("unmerged", [])
    both = made(tmp_path / "both", {**half, (JAVA, "merged"): 6}, variants=["base", "unmerged", "merged"], **TUNED)
    with pytest.raises(UsageError, match=r"later has no verdicts yet for merged on x-java.*With --anyway"):
        compare_runs(both, {"later": later})
    (row,) = compare_runs(both, {"later": later}, anyway=True)
    assert row["second_variant"] == "unmerged"
    assert row["not_compared"] == [f"{later} has no verdicts yet for merged on x-java, which its recipe.yaml asks for"]


def test_a_benchmark_that_is_not_measured_yet(tmp_path):
    """It is refused, or left out with a sentence: a base of that benchmark is never used, and not in the mean."""
    solved = {(JAVA, "base"): 0, (JAVA, "unmerged"): 5, (CPP, "base"): 0, (CPP, "unmerged"): 10}
    whole = made(tmp_path / "whole", solved, (JAVA, CPP), **TUNED)
    del solved[CPP, "unmerged"]
    half = made(tmp_path / "half", solved, (JAVA, CPP), **TUNED)
    with pytest.raises(
        UsageError, match=r"half has no verdicts yet for unmerged on x-cpp, .*\. With --anyway flextune"
    ):
        compare_runs(half, {"whole": whole})
    (row,) = compare_runs(half, {"whole": whole}, anyway=True)
    assert (row["benchmark"], row["first_variant"], row["second_variant"]) == (JAVA, "unmerged", "unmerged")
    assert row["difference"]["value"] == 0
    assert row["not_compared"] == [f"{half} has no verdicts yet for unmerged on x-cpp, which its recipe.yaml asks for"]


def test_a_benchmark_that_one_recipe_does_not_have_is_said(tmp_path, whole):
    solved = {(benchmark, variant): 5 for benchmark in (JAVA, CPP) for variant in ("base", "unmerged")}
    more = made(tmp_path / "more", solved, (JAVA, CPP), **TUNED)
    (row,) = compare_runs(whole, {"more": more})
    assert row["benchmark"] == JAVA
    assert row["not_compared"] == [f"{more} has unmerged on x-cpp, which has no counterpart in {whole}"]
    (row,) = compare_runs(more, {"whole": whole})
    assert row["not_compared"] == [f"{more} has unmerged on x-cpp, which has no counterpart in {whole}"]


def test_all_benchmarks_together_are_of_one_variant_on_each_side(tmp_path):
    """Without a recipe: a run with a tuned model on one benchmark does not stand with its base on another."""
    solved = {(JAVA, "base"): 0, (JAVA, "unmerged"): 5, (CPP, "base"): 0, (CPP, "unmerged"): 10}
    one, two = (made(tmp_path / name, solved, (JAVA, CPP), **TUNED) for name in ("one", "two"))
    rows = compare_runs(one, {"two": two})
    assert [(row["benchmark"], row["first_variant"], row["second_variant"]) for row in rows] == [
        (JAVA, "unmerged", "unmerged"),
        (CPP, "unmerged", "unmerged"),
        ("together", "unmerged", "unmerged"),
    ]
    for run in (one, two):
        (run / "recipe.yaml").unlink()
    RunDirectory(two).measurement(CPP, "unmerged", "greedy").verdicts.unlink()
    for reference, other in ((two, one), (one, two)):
        (row,) = compare_runs(reference, {"other": other})
        assert (row["benchmark"], row["difference"]["value"]) == (JAVA, 0)
    assert row["not_compared"] == [
        f"{one} has unmerged on x-cpp, which has no counterpart in {two}",
        f"{two} has base on x-cpp, which has no counterpart in {one}",
    ]
    folders = [RunDirectory(one).measurement(*place, "greedy").path for place in ((JAVA, "base"), (CPP, "unmerged"))]
    with pytest.raises(UsageError, match=r"x-java/base/greedy measures base, but .*x-cpp/unmerged/greedy measures unm"):
        compare_together({JAVA: (folders[0], folders[0]), CPP: (folders[1], folders[1])})


def test_each_tuned_variant_has_a_mean_of_its_own(tmp_path):
    solved = {(b, v): n for b in (JAVA, CPP) for v, n in (("unmerged", 8), ("merged", 4))}
    both = made(tmp_path / "both", solved, (JAVA, CPP), ["unmerged", "merged"], **TUNED)
    base = made(tmp_path / "base", {(JAVA, "base"): 2, (CPP, "base"): 2}, (JAVA, CPP))
    for reference, other, sign in ((base, both, 1), (both, base, -1)):
        rows = [row for row in compare_runs(reference, {"other": other}) if row["benchmark"] == "together"]
        found = {(row["first_variant"], row["second_variant"]): row["difference"]["value"] * sign for row in rows}
        assert found == {("base", "merged")[::sign]: 0.2, ("base", "unmerged")[::sign]: 0.6}


@pytest.mark.parametrize("anyway", [False, True])
def test_a_seed_that_is_not_complete_is_refused(tmp_path, whole, unfinished, anyway):
    other = made(tmp_path / "other", {(JAVA, "base"): 2, (JAVA, "unmerged"): 4}, **TUNED)
    with pytest.raises(UsageError, match="unfinished has no verdicts yet for unmerged on x-java"):
        compare_runs(other, {"seeds": [whole, unfinished]}, anyway=anyway)
    base = made(tmp_path / "base", {(JAVA, "base"): 0})
    with pytest.raises(UsageError, match="unfinished has no verdicts yet for unmerged on x-java"):
        compare_runs(base, {"seeds": [whole, unfinished]}, anyway=anyway)  # not base against base
    with pytest.raises(UsageError) as found:
        compare_runs(other, {"seeds": [whole, base]}, anyway=anyway)
    assert str(found.value) == (
        f"{base} does not measure unmerged on x-java, unlike {whole}: the seeds of one side need the same variants and "
        "benchmarks"
    )


def test_a_benchmark_that_one_seed_lacks(tmp_path):
    solved = {(benchmark, variant): 5 for benchmark in (JAVA, CPP) for variant in ("base", "unmerged")}
    runs = [made(tmp_path / name, solved, (JAVA, CPP), **TUNED) for name in "abc"]
    RunDirectory(runs[2]).measurement(CPP, "unmerged", "greedy").verdicts.unlink()
    with pytest.raises(UsageError, match="c has no verdicts yet for unmerged on x-cpp"):
        compare_runs(runs[0], {"seeds": runs[1:]})
    (row,) = compare_runs(runs[0], {"seeds": runs[1:]}, anyway=True)
    assert (row["benchmark"], row["seeds"]) == (JAVA, 2)
    assert row["not_compared"] == [
        f"{runs[2]} has no verdicts yet for unmerged on x-cpp, which its recipe.yaml asks for"
    ]


def test_a_base_that_only_one_seed_measures_is_not_needed(tmp_path):
    with_base = {(JAVA, "base"): 0, (JAVA, "unmerged"): 5}
    one = [
        made(tmp_path / "a", with_base, **TUNED),
        made(tmp_path / "b", {(JAVA, "unmerged"): 5}, variants=["unmerged"], **TUNED),
    ]
    two = [made(tmp_path / name, with_base, **TUNED) for name in "cd"]
    (row,) = compare_runs(one, {"two": two})
    assert (row["seeds"], row["first_variant"], row["not_compared"]) == (2, "unmerged", [])


def test_runs_without_a_variant_in_common_say_what_they_have(tmp_path):
    one = made(tmp_path / "one", {(JAVA, "unmerged"): 5}, variants=["unmerged"], **TUNED)
    two = made(tmp_path / "two", {(JAVA, "merged"): 5}, variants=["merged"], **TUNED)
    with pytest.raises(UsageError, match="the first has unmerged on x-java, the second has merged on x-java"):
        compare_runs(one, {"two": two})


def test_a_run_names_the_variants_that_it_compares(tmp_path):
    solved = {(b, v): n for b in (JAVA, CPP) for n, v in enumerate(("base", "unmerged", "merged"))}
    rows = compare_within(made(tmp_path, solved, (JAVA, CPP), ["base", "unmerged", "merged"], **TUNED))
    found = [(row["benchmark"], row["first_variant"], row["second_variant"]) for row in rows]
    assert len(found) == 9
    assert {"together"} == {benchmark for benchmark, *_ in found} - {JAVA, CPP}
    assert all((row["first_variant"], row["second_variant"]) == (row["against"], row["variant"]) for row in rows)


def test_the_variant_of_a_folder_is_that_of_its_place_in_a_run(whole, tmp_path, monkeypatch):
    folders = [whole / f"evaluation/x-java/{variant}/greedy" for variant in ("base", "unmerged")]
    (row,) = compare_each(folders[0], {"tuned": folders[1]})
    assert (row["first_variant"], row["second_variant"]) == ("base", "unmerged")
    monkeypatch.chdir(folders[0])
    (row,) = compare_each(".", {"tuned": "../../unmerged/greedy"})
    assert (row["first_variant"], row["second_variant"]) == ("base", "unmerged")
    bare = folders[1].rename(tmp_path / "bare")
    write_jsonl(bare / "problems.jsonl", [])
    (row,) = compare_each(folders[0], {"bare": bare}, anyway=True)
    assert (row["first_variant"], row["second_variant"]) == ("base", None)


def test_seeds_of_different_variants_are_refused(whole, tmp_path):
    other = made(tmp_path / "other", {(JAVA, "base"): 2}, **TUNED)
    base, tuned = (whole / f"evaluation/x-java/{variant}/greedy" for variant in ("base", "unmerged"))
    mixed = [tuned, other / "evaluation/x-java/base/greedy"]
    expected = "unmerged/greedy measures unmerged, but .*base/greedy measures base: all folders of one side"
    with pytest.raises(UsageError, match=expected):
        compare(base, mixed, anyway=True)
    with pytest.raises(UsageError, match=expected):
        score_seeds([RunDirectory(f.parents[3]).measurement(JAVA, f.parent.name, "greedy") for f in mixed])


def test_a_tuned_variant_that_a_run_lacks_is_reported(whole, unfinished, tmp_path):
    assert list(not_measured({"whole": {0: whole}})) == []
    (sentence,) = not_measured({"plain": {3: unfinished}})
    assert sentence == "plain, seed 3: not measured yet, or lost: x-java (unmerged)."
    nothing_asked = made(tmp_path / "nothing", {}, variants=[], **TUNED)
    assert list(not_measured({"nothing": {0: nothing_asked}})) == []
