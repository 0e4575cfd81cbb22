import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.files import read_jsonl, write_json, write_jsonl
from flextune.rundir import without_texts
from flextune.scoring.compare import compare, compare_each, compare_together
from flextune.scoring.intervals import bootstrap_mean, newcombe_paired
from flextune.scoring.runs import compare_runs, compare_within
from flextune.scoring.significance import detectable, detectable_mean, mcnemar_exact


def measured(folder, passed, language="python", name="t/{}", **execution):
    """A measurement; `passed` has one entry a problem, a list where there are several samples."""
    ids = [name.format(number) for number in range(len(passed))]
    rows = [
        {"task_id": task_id, "sample": sample, "verdict": "passed" if ok else "timeout", "passed": ok}
        for task_id, samples in zip(ids, passed, strict=True)
        for sample, ok in enumerate(samples if isinstance(samples, list) else [samples])
    ]
    write_jsonl(folder / "verdicts.jsonl", rows)
    problems = [
        {"task_id": i, "language": language, "prompt": f"{language} {n}", "tests": "", "stop": [], "upstream": f"u/{n}"}
        for n, i in enumerate(ids)
    ]
    write_jsonl(folder / "problems.jsonl", problems)
    about = {"limits": {"cpu_seconds": 5.0}, "toolchains": {language: "1"}, "java_release": None, "compatible": False}
    write_json(folder / "execution.json", {**about, **execution})
    return folder


def first(solved, of):
    return [number < solved for number in range(of)]


def test_a_hand_made_table(tmp_path):
    """10 solved by both, 3 by the first only, 9 by the second only, 18 by neither."""
    one = measured(tmp_path / "a", [True] * 10 + [True] * 3 + [False] * 9 + [False] * 18)
    two = measured(tmp_path / "b", [True] * 10 + [False] * 3 + [True] * 9 + [False] * 18)
    found = compare(one, two)
    expected = newcombe_paired(10, 3, 9, 18)
    assert found["difference"] == {"value": expected.value, "low": expected.low, "high": expected.high}
    assert found["p_value"] == mcnemar_exact(3, 9)
    assert found["detectable"] == detectable(40, 12 / 40)
    assert (found["lost"], len(found["won"])) == (["t/10", "t/11", "t/12"], 9)
    assert (found["unlike"], found["unrecorded"], found["seeds"]) == ([], [], 1)


def test_all_or_none_solved_and_one_problem_only(tmp_path):
    for one, two in ((True, True), (False, False), (False, True)):
        for n in (1, 12):
            folders = [measured(tmp_path / f"{name}{one}{two}{n}", [ok] * n) for name, ok in (("a", one), ("b", two))]
            found = compare(*folders)
            difference = found["difference"]
            assert -1 <= difference["low"] <= difference["value"] == two - one <= difference["high"] <= 1
            assert difference["low"] < difference["high"]
            assert 0 < found["p_value"] <= 1


@pytest.mark.parametrize("passed", [[[True, True]], [[False, False]], [[True, False]]])
def test_one_problem_with_several_samples(tmp_path, passed):
    found = compare(measured(tmp_path / "a", passed), measured(tmp_path / "b", [[True, True]]))
    assert found["p_value"] == 1
    assert found["detectable"] is None
    assert all(value == value for value in found["difference"].values())  # no NaN


def test_other_conditions_are_refused_and_stamped(tmp_path):
    one = measured(tmp_path / "a", first(3, 9))
    slow = measured(tmp_path / "b", first(5, 9), limits={"cpu_seconds": 10.0})
    with pytest.raises(UsageError, match=r"limits.cpu_seconds is 5.0 there, 10.0 here. If .*--anyway"):
        compare(one, slow)
    found = compare(one, slow, anyway=True)
    assert found["unlike"] == ["limits.cpu_seconds is 5.0 there, 10.0 here"]
    newer = measured(tmp_path / "c", first(5, 9), toolchains={"python": "2"})
    with pytest.raises(UsageError, match=r"toolchains.python is '1' there, '2' here"):
        compare(one, newer)


def test_another_revision_is_refused(tmp_path):
    one, two = measured(tmp_path / "a", first(3, 9)), measured(tmp_path / "b", first(3, 9))
    text = (two / "problems.jsonl").read_text().replace("python 4", "python IV")
    (two / "problems.jsonl").write_text(text)
    with pytest.raises(UsageError, match=r"1 of 9 problems do not have the same texts .* such as 't/4'"):
        compare(one, two)


def test_a_kept_copy_is_compared_by_its_checksums(tmp_path):
    one, two = measured(tmp_path / "a", first(3, 9)), measured(tmp_path / "b", first(5, 9))
    problems = list(read_jsonl(two / "problems.jsonl"))
    write_jsonl(two / "problems.jsonl", map(without_texts, problems))
    assert compare(one, two)["unlike"] == []
    assert compare(two, one)["unlike"] == []
    problems[4]["prompt"] += " "
    write_jsonl(two / "problems.jsonl", map(without_texts, problems))
    with pytest.raises(UsageError, match=r"1 of 9 problems do not have the same texts .* such as 't/4'"):
        compare(one, two)


def test_problems_that_only_one_was_asked(tmp_path):
    one, two = measured(tmp_path / "a", first(5, 9)), measured(tmp_path / "b", first(2, 6))
    with pytest.raises(
        UsageError, match=r"3 are in the first only, 0 in the second only, such as 't/6'; 6 are in both"
    ):
        compare(one, two)
    found = compare(one, two, anyway=True)
    assert (found["problems"], found["difference"]["value"]) == (6, -0.5)
    assert len(found["unlike"]) == 1


def test_translations_are_compared_when_asked(tmp_path):
    python = measured(tmp_path / "a", first(6, 8))
    java = measured(tmp_path / "b", first(3, 8), "java", "Java_{}_f")
    with pytest.raises(UsageError, match="problems in python are compared with their translations into java"):
        compare(python, java)
    found = compare(python, java, anyway=True)
    assert (found["problems"], found["difference"]["value"], len(found["lost"])) == (8, -3 / 8, 3)
    assert found["unlike"] == ["problems in python are compared with their translations into java"]


def test_nothing_in_common(tmp_path):
    one, two = measured(tmp_path / "a", first(1, 2)), measured(tmp_path / "b", first(1, 2), name="other/{}")
    for folder in (one, two):
        (folder / "problems.jsonl").unlink()
    with pytest.raises(UsageError, match="no problem was asked in all of them"):
        compare(one, two, anyway=True)


def test_verdicts_alone_can_be_compared_and_it_says_what_is_not_known(tmp_path):
    one, two = measured(tmp_path / "a", first(1, 9)), measured(tmp_path / "b", first(1, 9))
    (two / "execution.json").unlink()
    assert compare(one, two)["unrecorded"] == [f"{two} does not say how it was judged"]


def test_an_empty_file(tmp_path):
    one, two = measured(tmp_path / "a", first(1, 3)), measured(tmp_path / "b", first(1, 3))
    (two / "verdicts.jsonl").write_text("")
    with pytest.raises(FlextuneError, match=r"b/verdicts.jsonl holds no verdict"):
        compare(one, two)


def test_more_samples_than_there_are(tmp_path):
    one = measured(tmp_path / "a", [[True, False, True], [True, False]])
    with pytest.raises(
        UsageError, match=r"pass@3 needs 3 samples of every problem: 1 of .*a have fewer, such as 't/1' with 2"
    ):
        compare(one, one, k=3)
    assert compare(one, one, k=2)["first"]["value"] == 1


def test_seeds_are_crossed_with_problems(tmp_path):
    base = measured(tmp_path / "base", first(20, 60))
    seeds = [measured(tmp_path / f"s{solved}", first(solved, 60)) for solved in (22, 28, 40)]
    found = compare(base, seeds)
    assert (found["seeds"], found["problems"]) == (3, 60)
    difference = found["difference"]
    assert difference["value"] == pytest.approx((2 + 8 + 20) / 3 / 60)
    # over problems it is beyond noise, over three trainings it is not
    assert (difference["wider"], difference["low"] < 0 < difference["over_problems"][0]) == ("seeds", True)
    assert found["p_value"] > 0.05
    assert (difference["low"], difference["high"]) == tuple(difference["over_seeds"])
    mean = [sum(n < solved for solved in (22, 28, 40)) / 3 - (n < 20) for n in range(60)]
    expected = bootstrap_mean(mean, lowest=-1.0)
    assert difference["over_problems"] == [expected.low, expected.high]
    assert found["detectable"] == pytest.approx(detectable_mean([2 / 60, 8 / 60, 20 / 60]))
    assert found["detectable"] > detectable_mean(mean)


def test_what_seeds_could_have_shown_is_no_less_than_what_problems_could(tmp_path):
    base = measured(tmp_path / "base", first(20, 60))
    seeds = [measured(tmp_path / f"s{n}", first(solved, 60)) for n, solved in enumerate((30, 30))]
    mean = [0.0] * 20 + [1.0] * 10 + [0.0] * 30
    assert compare(base, seeds)["detectable"] == detectable_mean(mean)  # the seeds agree
    apart = [measured(tmp_path / f"a{solved}", first(solved, 60)) for solved in (21, 59)]
    assert compare(base, apart)["detectable"] is None


def test_seeds_are_paired_in_their_order(tmp_path):
    ones = [measured(tmp_path / f"a{solved}", first(solved, 60)) for solved in (10, 30)]
    twos = [measured(tmp_path / f"b{solved}", first(solved, 60)) for solved in (15, 35)]
    assert compare(ones, twos)["difference"]["over_seeds"] == pytest.approx([5 / 60, 5 / 60])
    with pytest.raises(UsageError, match="2 seeds cannot be paired with 3"):
        compare(ones, [*twos, measured(tmp_path / "b20", first(20, 60))])


def test_differences_that_are_the_same_are_the_same_number(tmp_path):
    """Ten samples: 3 of 10 against 2, 8 against 7, … differ by 0.1 whatever the machine makes of it."""

    def samples(*passed):
        return [[number < solved for number in range(10)] for solved in passed]

    one = measured(tmp_path / "one", samples(1, 2, 3, 7, 8))
    two = measured(tmp_path / "two", samples(2, 3, 4, 8, 9))
    assert len({b / 10 - a / 10 for a, b in ((1, 2), (2, 3), (3, 4), (7, 8), (8, 9))}) > 1
    found = compare(one, two)
    assert (found["difference"]["value"], found["detectable"], len(found["won"])) == (0.1, None, 5)
    assert found["difference"]["low"] < 0.1 < found["difference"]["high"]

    def seeds(name, *passed):
        return [measured(tmp_path / f"{name}{n}", samples(solved)) for n, solved in enumerate(passed)]

    equal = compare(seeds("a", 1, 1, 1), seeds("b", 3, 0, 0))
    assert (equal["won"], equal["lost"]) == ([], [])


def test_one_folder_is_not_two_seeds(tmp_path):
    base = measured(tmp_path / "base", first(20, 60))
    one = measured(tmp_path / "one", first(22, 60))
    with pytest.raises(UsageError, match=r"one is named twice: seeds are folders of different trainings"):
        compare(base, [one, tmp_path / "base/../one"])


def test_several_against_one_are_corrected(tmp_path):
    base = measured(tmp_path / "base", first(10, 40))
    others = {str(solved): measured(tmp_path / str(solved), first(solved, 40)) for solved in (17, 16, 12)}
    rows = compare_each(base, others)
    p = [mcnemar_exact(0, won) for won in (7, 6, 2)]
    assert [row["p_value"] for row in rows] == p
    assert [row["p_adjusted"] for row in rows] == pytest.approx([3 * p[0], 2 * p[1], p[2]])
    assert {row["comparisons"] for row in rows} == {3}


def test_languages_together_are_not_more_problems(tmp_path):
    """Three translations with the same results say no more than one of them."""
    pairs = {
        language: (
            measured(tmp_path / f"a-{language}", first(10, 60), language, language + "_{}"),
            measured(tmp_path / f"b-{language}", first(17, 60), language, language + "_{}"),
        )
        for language in ("java", "cpp", "javascript")
    }
    one, three = compare_together({"java": pairs["java"]}), compare_together(pairs)
    assert (three["problems"], three["benchmarks"]) == (60, ["java", "cpp", "javascript"])
    for key in ("difference", "p_value", "detectable"):
        assert three[key] == pytest.approx(one[key])


def test_each_benchmark_counts_once_whatever_its_size(tmp_path):
    pairs = {
        "small": (
            measured(tmp_path / "a", first(0, 10), name="s/{}"),
            measured(tmp_path / "b", first(5, 10), name="s/{}"),
        ),
        "large": (
            measured(tmp_path / "c", first(0, 90), name="l/{}"),
            measured(tmp_path / "d", first(9, 90), name="l/{}"),
        ),
    }
    assert compare_together(pairs)["difference"]["value"] == pytest.approx((0.5 + 0.1) / 2)


def run(path, measurements):
    for (benchmark, variant), solved in measurements.items():
        language = benchmark.partition("-")[2]
        measured(path / "evaluation" / benchmark / variant / "greedy", first(solved, 30), language, benchmark + "_{}")
    return path


def test_a_run_is_compared_with_its_base(tmp_path):
    solved = {("x-java", "base"): 5, ("x-java", "unmerged"): 12, ("x-java", "merged"): 11, ("x-cpp", "base"): 5}
    (tmp_path / "recipe.yaml").write_text("evaluation: {benchmarks: [x-java, x-cpp]}\n")
    rows = compare_within(run(tmp_path, {**solved, ("x-cpp", "unmerged"): 6}))
    assert [(row["benchmark"], row["variant"], row["against"]) for row in rows] == [
        ("x-java", "unmerged", "base"),
        ("x-java", "merged", "base"),
        ("x-cpp", "unmerged", "base"),
        ("together", "unmerged", "base"),
        ("x-java", "merged", "unmerged"),
    ]
    assert [row["comparisons"] for row in rows] == [3, 3, 3, 1, 1]


def test_runs_are_compared_measurement_by_measurement(tmp_path):
    plain = run(tmp_path / "plain", {("x-java", "base"): 5, ("x-java", "unmerged"): 8, ("x-cpp", "unmerged"): 8})
    other = run(tmp_path / "other", {("x-java", "base"): 5, ("x-java", "unmerged"): 20, ("x-cpp", "unmerged"): 9})
    rows = compare_runs(plain, {"penalty": other})
    assert [(row["name"], row["benchmark"], row["variant"]) for row in rows] == [
        ("penalty", "x-cpp", "unmerged"),
        ("penalty", "x-java", "unmerged"),
        ("penalty", "together", "unmerged"),
    ]
    base = run(tmp_path / "base", {("x-java", "base"): 5})
    (row,) = compare_runs(base, {"tuned": plain})
    assert (row["benchmark"], row["variant"], row["difference"]["value"]) == ("x-java", "unmerged", 0.1)
    with pytest.raises(UsageError, match="no benchmark and decoding in common"):
        compare_runs(base, {"tuned": run(tmp_path / "far", {("y-java", "base"): 5})})
