import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json, read_jsonl, write_json, write_jsonl
from flextune.rundir import Measurement, without_texts
from flextune.scoring.compare import compare
from flextune.scoring.form import is_code
from flextune.scoring.score import is_scored, score, score_seeds


def verdicts(path, passed):
    """One row for each entry; a list for a problem with several samples."""
    rows = [
        {"task_id": f"t/{n}", "sample": s, "verdict": "passed" if ok else "wrong_answer", "passed": ok}
        for n, samples in enumerate(passed)
        for s, ok in enumerate(samples if isinstance(samples, list) else [samples])
    ]
    write_jsonl(path / "verdicts.jsonl", rows)
    return path


def test_scores_of_one_sample_a_problem(tmp_path):
    verdicts(tmp_path, [True] * 3 + [False] * 5)
    write_json(tmp_path / "execution.json", {"sandbox": "bubblewrap"})
    score(Measurement(tmp_path), "b")
    found = read_json(tmp_path / "scores.json")
    assert (found["benchmark"], found["problems"], found["samples"]) == ("b", 8, 8)
    value = found["pass@1"]
    assert (value["value"], value["low"], value["high"]) == pytest.approx((0.375, 0.13684, 0.69426), abs=1e-4)
    assert (value["problems"], value["too_few"]) == (8, [])
    assert found["per_problem"]["t/0"] == {"samples": 1, "passed": 1}
    assert found["verdicts"] == {"wrong_answer": 5, "passed": 3}
    assert found["provenance"]["execution"] == {"sandbox": "bubblewrap"}


def test_samples_of_one_problem_are_not_more_problems(tmp_path):
    verdicts(tmp_path, [[True, True, False, False], [False] * 4, [True] * 4, [True, False, False, False]])
    found = score(Measurement(tmp_path), "b")
    assert (found["problems"], found["samples"], found["pass@1"]["value"]) == (4, 16, 0.4375)
    # far wider than 7 of 16 would be
    assert found["pass@1"]["high"] - found["pass@1"]["low"] > 0.6


def test_what_is_no_code_is_counted(tmp_path):
    verdicts(tmp_path, [True, False])
    write_jsonl(
        tmp_path / "problems.jsonl",
        [{"task_id": f"t/{n}", "language": "python", "prompt": "def f(x):\n", "tests": ""} for n in range(2)],
    )
    write_jsonl(
        tmp_path / "completions.jsonl",
        [
            {"task_id": "t/0", "sample": 0, "completion": "    return x"},
            {"task_id": "t/1", "sample": 0, "completion": "Sure, here it is:"},
        ],
    )
    assert score(Measurement(tmp_path), "b")["not_code"] == 1
    verdicts(tmp_path, [True, True])  # what passed is code
    assert score(Measurement(tmp_path), "b")["not_code"] == 0
    write_jsonl(tmp_path / "completions.jsonl", [{"name": "t/0", "completion": "    return x"}])
    assert "not_code" not in score(Measurement(tmp_path), "b")  # a peer's file, with other keys


def test_where_prompts_were_not_kept_what_is_no_code_stays_as_it_was_counted(tmp_path):
    verdicts(tmp_path, [True, False])
    asked = [{"task_id": f"t/{n}", "language": "python", "prompt": "def f():\n", "tests": ""} for n in range(2)]
    write_jsonl(tmp_path / "problems.jsonl", asked)
    written = [{"task_id": f"t/{n}", "completion": text} for n, text in enumerate(("    return 1", "Sure! Here it is"))]
    write_jsonl(tmp_path / "completions.jsonl", written)
    assert score(Measurement(tmp_path), "b")["not_code"] == 1
    write_jsonl(tmp_path / "problems.jsonl", map(without_texts, asked))
    assert score(Measurement(tmp_path), "b")["not_code"] == 1
    (tmp_path / "scores.json").unlink()
    assert "not_code" not in score(Measurement(tmp_path), "b")


def test_scores_are_of_the_verdicts_that_are_there(tmp_path):
    measurement = Measurement(tmp_path)
    verdicts(tmp_path, [True, False])
    assert not is_scored(measurement)
    score(measurement, "b", (1,))
    assert is_scored(measurement)
    verdicts(tmp_path, [False, False])
    assert not is_scored(measurement)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"passed": "false"}, "row 2: passed = 'false'; expected true or false"),
        ({"passed": True}, "row 2: verdict = 'wrong_answer' beside passed = True"),
        ({"verdict": "passed"}, "row 2: verdict = 'passed' beside passed = False"),
        ({"task_id": ["t/1"]}, r"row 2: task_id = \['t/1'\]; expected a text"),
        ({"sample": None}, "row 2: sample = None; expected a whole number"),
        ({"task_id": "t/0"}, "row 2: sample 0 of 't/0' stands there twice"),
    ],
)
def test_a_verdict_that_cannot_be_is_named(tmp_path, changed, message):
    verdicts(tmp_path, [True, False])
    rows = list(read_jsonl(tmp_path / "verdicts.jsonl"))
    write_jsonl(tmp_path / "verdicts.jsonl", [rows[0], rows[1] | changed])
    with pytest.raises(FlextuneError, match=f"verdicts.jsonl, {message}"):
        score(Measurement(tmp_path), "b")


def test_no_verdicts(tmp_path):
    with pytest.raises(UsageError, match="judge the completions"):
        score(Measurement(tmp_path), "b")
    (tmp_path / "verdicts.jsonl").write_text("")
    with pytest.raises(FlextuneError, match="holds no verdict"):
        score(Measurement(tmp_path), "b")


@pytest.fixture
def two(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def test_a_comparison_is_made_problem_by_problem(two):
    first = verdicts(two[0], [True] * 10 + [False] * 20)
    second = verdicts(two[1], [False] * 1 + [True] * 9 + [True] * 9 + [False] * 11)
    found = compare(first, second)
    assert (found["won"], found["lost"]) == ([f"t/{n}" for n in range(10, 19)], ["t/0"])
    assert found["difference"]["value"] == pytest.approx(8 / 30)
    assert found["difference"]["low"] > 0
    assert found["p_value"] == pytest.approx(2 * 11 / 2**10)


def test_several_samples_are_compared_by_their_shares(two):
    first = verdicts(two[0], [[True, False]] * 12)
    second = verdicts(two[1], [[True, True]] * 10 + [[True, False]] * 2)
    found = compare(first, second)
    assert found["difference"]["value"] == pytest.approx(5 / 12)
    assert found["p_value"] < 0.01
    assert "permutation" in found["method"]
    assert compare(first, first)["p_value"] == 1


def test_different_problems_are_not_compared(two):
    with pytest.raises(
        UsageError,
        match="not asked the same problems: 0 are in the first only, 1 in the second only, such as 't/2'",
    ):
        compare(verdicts(two[0], [True, True]), verdicts(two[1], [True, True, True]))


@pytest.mark.parametrize(
    ("language", "completion", "expected"),
    [
        ("python", "    return x\n", True),
        ("python", "    if x:\n        return 1\n", True),
        ("python", "    # a comment\n    y = x\n    return (", True),
        ("python", "", False),
        ("python", "    # a comment\n", False),
        ("python", "```python\ndef f(x):\n", False),
        ("python", "Sure! Here it is:", False),
        ("python", "x", False),
        ("java", "        return x;\n", True),
        ("java", "        // first\n        for (int i = 0; i < 3; i++) {\n", True),
        ("java", "The function returns x.\n\nreturn x;", False),
        ("java", "```\n", False),
        ("javascript", "\n", False),
        ("cpp", "    return x;", True),
        ("cpp", "    std::vector<int> days = {31, 28,\n31};", True),
        ("javascript", "    return a + b\n}", True),
        ("javascript", "    total += a\n", True),
        ("typescript", "    console.log(a)\n", True),
        ("php", "Sure (this is what you asked for)", False),
        ("java", "I'm happy to help, here is the code:", False),
        ("bash", "    echo $1", None),
        ("rust", "    a + b\n}", None),
    ],
)
def test_what_is_code(language, completion, expected):
    prompt = 'def f(x):\n    """Doc."""\n' if language == "python" else ""
    assert is_code(language, prompt, completion) is expected


def test_pass_at_k_by_hand(tmp_path):
    verdicts(tmp_path, [[True, False, False], [False, False, False]])
    found = score(Measurement(tmp_path), "b", (1, 2))
    assert found["pass@1"]["value"] == pytest.approx(1 / 6)
    assert found["pass@2"]["value"] == pytest.approx((2 / 3) / 2)


def test_ten_samples_give_pass_at_10_too(tmp_path):
    verdicts(tmp_path, [[True] + [False] * 9, [False] * 10])
    found = score(Measurement(tmp_path), "b")
    assert {name: found[name]["value"] for name in found if name.startswith("pass@")} == {
        "pass@1": 0.05,
        "pass@10": 0.5,
    }


def test_problems_with_fewer_samples_are_left_out_and_named(tmp_path):
    verdicts(tmp_path, [[True, False], [True], [False, False]])
    found = score(Measurement(tmp_path), "b", (2,))["pass@2"]
    assert (found["value"], found["problems"], found["too_few"]) == (0.5, 2, ["t/1"])
    with pytest.raises(UsageError, match=r"pass@3 needs 3 samples of a problem; .* has at most 2"):
        score(Measurement(tmp_path), "b", (3,))
    with pytest.raises(UsageError, match="k = 0: pass@k is of at least 1 sample"):
        score(Measurement(tmp_path), "b", (0,))


@pytest.mark.parametrize("samples", [1, 4])
@pytest.mark.parametrize("solved", [True, False])
@pytest.mark.parametrize("n", [1, 30])
def test_all_or_none_solved(tmp_path, samples, solved, n):
    verdicts(tmp_path, [[solved] * samples] * n)
    found = score(Measurement(tmp_path), "b")["pass@1"]
    assert 0 <= found["low"] <= found["value"] == solved <= found["high"] <= 1
    assert found["low"] < found["high"]


def test_seeds(tmp_path):
    folders = [tmp_path / str(seed) for seed in range(3)]
    for folder, solved in zip(folders, (3, 5, 7), strict=True):
        folder.mkdir()
        verdicts(folder, [number < solved for number in range(10)])
    found = score_seeds([Measurement(folder) for folder in folders])
    assert (found["seeds"], found["problems"], found["pass@1"]["value"]) == (3, 10, pytest.approx(0.5))
    assert found["pass@1"]["over_seeds"][0] == pytest.approx(0.5 - 4.302653 * 0.2 / 3**0.5, abs=1e-6)
    verdicts(folders[1], [True] * 9)
    with pytest.raises(UsageError, match="not asked the same problems: 1 are in one of them only, such as 't/9'"):
        score_seeds([Measurement(folder) for folder in folders])
