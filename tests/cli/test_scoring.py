import pytest

from flextune.files import read_json, read_jsonl, write_jsonl


def measured(folder, solved, of=30, completion="    return 1\x1b[31m"):
    rows = [{"task_id": f"t/{n}", "sample": 0, "passed": n < solved} for n in range(of)]
    write_jsonl(
        folder / "verdicts.jsonl",
        [{**row, "verdict": "passed" if row["passed"] else "wrong_answer", "detail": ""} for row in rows],
    )
    write_jsonl(folder / "completions.jsonl", [{**row, "completion": completion} for row in rows])
    problems = [{"task_id": f"t/{n}", "language": "python", "prompt": "def f():\n", "tests": ""} for n in range(of)]
    write_jsonl(folder / "problems.jsonl", problems)
    return folder


def test_score(call, tmp_path):
    code, out, _ = call("score", measured(tmp_path / "a", 12), "--problems")
    assert code == 0
    assert "pass@1 40.0 % (95 % interval 24.6 % to 57.7 %; 30 problems, 30 samples)" in out
    assert "wrong answer" in out
    assert "t/29" in out
    assert read_json(tmp_path / "a" / "scores.json")["per_problem"]["t/29"] == {"samples": 1, "passed": 0}


def test_other_ks_leave_what_is_there(call, tmp_path):
    rows = [{"task_id": "t", "sample": n, "verdict": "passed", "passed": True} for n in range(3)]
    write_jsonl(tmp_path / "verdicts.jsonl", rows)
    call("score", tmp_path, "--benchmark", "humaneval")
    call("score", tmp_path, "--k", 2)
    found = read_json(tmp_path / "scores.json")
    assert (found["benchmark"], {key for key in found if key.startswith("pass@")}) == (
        "humaneval",
        {"pass@1", "pass@2"},
    )


def test_score_of_seeds(call, tmp_path):
    code, out, _ = call("score", *(measured(tmp_path / str(solved), solved) for solved in (10, 12, 14)))
    assert code == 0
    assert "pass@1 of 3 seeds: 40.0 %" in out
    assert "95 % interval 23.4 % to 56.6 % over seeds; over problems 2" in out


def test_one_folder_is_not_several_seeds(call, tmp_path):
    one, two = (str(measured(tmp_path / name, n)) for name, n in (("a", 12), ("b", 14)))
    for arguments in (("score", one, one), ("compare", one, f"{one}/"), ("compare", one, f"{two},{two}")):
        code, _, err = call(*arguments)
        assert (code, "named twice" in err) == (2, True)


def test_other_ks_of_seeds_come_beside_the_usual(call, tmp_path):
    for name in "ab":
        rows = [{"task_id": "t", "sample": n, "verdict": "passed", "passed": True} for n in range(3)]
        write_jsonl(tmp_path / name / "verdicts.jsonl", rows)
    _, out, _ = call("score", tmp_path / "a", tmp_path / "b", "--k", 2)
    assert [f"pass@{k} of 2 seeds" in out for k in (1, 2)] == [True, True]


def test_what_is_compared_is_written_where_there_are_no_programs(call, tmp_path):
    one, two = (measured(tmp_path / name, n) for name, n in (("a", 12), ("b", 14)))
    (two / "completions.jsonl").unlink()
    code, _, err = call("compare", one, two, "--output", tmp_path / "out")
    assert (code, "has no completions.jsonl" in " ".join(err.split())) == (2, True)
    assert read_json(tmp_path / "out/comparison.json")[0]["problems"] == 30


def test_more_samples_than_there_are(call, tmp_path):
    code, _, err = call("score", measured(tmp_path / "a", 12), "--k", 10)
    assert (code, "pass@10 needs 10 samples of a problem" in err) == (2, True)


def test_compare(call, tmp_path):
    base, tuned, worse = (measured(tmp_path / name, n) for name, n in (("base", 10), ("tuned", 20), ("worse", 8)))
    code, out, _ = call("compare", base, tuned, worse, "--output", tmp_path / "out")
    assert code == 0
    assert "+33.3 points" in out
    assert "as one of 2 comparisons, 30 problems): clearly more" in out
    assert "would have been found four times in five" in out
    assert [row["comparisons"] for row in read_json(tmp_path / "out" / "comparison.json")] == [2, 2]


def test_programs_are_shown_and_steer_no_terminal(call, tmp_path):
    base = measured(tmp_path / "base", 0, 1)
    tuned = measured(tmp_path / "tuned", 1, 1, "    return 2\x1b]0;owned\x07\udc80")
    code, out, _ = call("compare", base, tuned, "--show", "correction", "--output", tmp_path / "out")
    assert code == 0
    assert "correction: t/0 (- wrong answer, + passed)" in out
    assert r"+     return 2\x1b]0;owned\x07\udc80" in out
    assert "\x1b" not in out
    (row,) = read_jsonl(tmp_path / "out" / "changes.jsonl")
    assert (row["kind"], row["after"]["verdict"]) == ("correction", "passed")


def test_seeds_are_joined_by_commas(call, tmp_path):
    base = measured(tmp_path / "base", 10)
    seeds = ",".join(str(measured(tmp_path / f"s{n}", n)) for n in (14, 15, 16))
    code, out, _ = call("compare", base, seeds)
    assert code == 0
    assert "+16.7 points (95 % interval" in out
    assert "over seeds" in out


def made(path, recipe, **solved):
    """A run of the benchmark x, with the number of problems that each variant solves."""
    for variant, number in solved.items():
        measured(path / "evaluation/x" / variant / "greedy", number)
    (path / "recipe.yaml").write_text(recipe)
    return path


def test_the_variant_of_each_run_is_printed_and_written(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "plain", "evaluation: {benchmarks: [x]}", base=10)
    made(tmp_path / "tuned", "training: {}\nevaluation: {benchmarks: [x], variants: [unmerged]}", unmerged=20)
    measured(tmp_path / "tuned/evaluation/y/unmerged/greedy", 20)
    code, out, _ = call("compare", "plain", "tuned", "--output", "out")
    assert code == 0
    assert "tuned (unmerged) against plain (base): x, greedy" in out
    assert "base 33.3 % → unmerged 66.7 %; Newcombe" in out
    assert "Not compared: tuned has unmerged on y, which has no counterpart in plain" in out
    (row,) = read_json(tmp_path / "out/comparison.json")
    assert (row["first_variant"], row["second_variant"], row["variant"]) == ("base", "unmerged", "unmerged")
    assert row["not_compared"] == ["tuned has unmerged on y, which has no counterpart in plain"]
    code, out, _ = call("compare", "tuned", "plain")
    assert (code, "plain (base) against tuned (unmerged): x, greedy" in out) == (0, True)


@pytest.mark.parametrize("more", [[], ["--anyway"]])
def test_a_run_whose_tuned_model_is_not_judged_yet_is_refused(call, tmp_path, monkeypatch, more):
    monkeypatch.chdir(tmp_path)
    recipe = "training: {}\nevaluation: {benchmarks: [x], variants: null}"
    made(tmp_path / "whole", recipe, base=0, unmerged=30)
    made(tmp_path / "under way", recipe, base=0)
    code, out, err = call("compare", "under way", "whole", *more)
    assert (code, "points" in out) == (2, False)
    assert (
        "under way has no verdicts yet for unmerged on x, which its recipe.yaml asks for: finish it with "
        "`flextune run 'under way/recipe.yaml' --output 'under way'`"
    ) in " ".join(err.split())


def test_the_variant_of_a_folder_in_a_run_is_printed(call, tmp_path, monkeypatch):
    run = made(tmp_path / "run", "evaluation: {benchmarks: [x]}", base=10, unmerged=20)
    monkeypatch.chdir(run / "evaluation/x")
    code, out, _ = call("compare", "base/greedy", "unmerged/greedy", "--output", tmp_path / "out")
    assert code == 0
    assert "unmerged/greedy (unmerged) against base/greedy (base)\n" in out
    (row,) = read_json(tmp_path / "out/comparison.json")
    assert (row["first_variant"], row["second_variant"]) == ("base", "unmerged")
    bare = measured(tmp_path / "bare", 12)
    code, out, _ = call("compare", "base/greedy", bare, "--output", tmp_path / "out")
    assert (code, f"{bare} against base/greedy (base)\n" in out, "base 33.3 % → 40.0 %" in out) == (0, True, True)
    assert read_json(tmp_path / "out/comparison.json")[0]["second_variant"] is None


def test_seeds_of_two_variants_are_no_side(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        made(tmp_path / name, "evaluation: {benchmarks: [x]}", base=10, unmerged=20)
    mixed = "a/evaluation/x/unmerged/greedy", "b/evaluation/x/base/greedy"
    for arguments in (("compare", "a/evaluation/x/base/greedy", ",".join(mixed), "--anyway"), ("score", *mixed)):
        code, _, err = call(*arguments)
        assert code == 2
        assert f"{mixed[0]} measures unmerged, but {mixed[1]} measures base" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a"], "compare needs at least two"),
        (["a", "a"], "one folder is named twice"),
        (["a", "b", "--k", "0"], "k = 0: pass@k takes at least 1 sample"),
        (["a", "missing"], "missing is neither a run directory nor a folder with verdicts.jsonl"),
        (["a", "run"], "a run directory cannot be compared with a measurement"),
        (["a", "b", "c", "--show", "correction"], "--show needs two folders"),
        (["a", "short"], "were not asked the same problems: 20 are in the first only"),
    ],
)
def test_wrong_input(call, tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        measured(tmp_path / name, 3)
    measured(tmp_path / "short", 3, 10)
    (tmp_path / "run" / "evaluation").mkdir(parents=True)
    code, _, err = call("compare", *arguments)
    assert (code, expected in err) == (2, True), err
