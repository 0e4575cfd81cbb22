import pytest

from flextune.errors import FlextuneError, UsageError
from flextune.files import read_jsonl, write_jsonl
from flextune.rundir import Measurement, without_texts
from flextune.scoring.changes import changes

PROMPT = "def f(x):\n"


def measured(folder, written, problems=True):
    """`written`: for each problem its samples, each a completion and whether it passed."""
    rows = [
        {"task_id": task_id, "sample": sample, "completion": completion, "passed": passed}
        for task_id, samples in written.items()
        for sample, (completion, passed) in enumerate(samples)
    ]
    write_jsonl(folder / "completions.jsonl", rows)
    write_jsonl(
        folder / "verdicts.jsonl",
        [{**row, "verdict": "passed" if row["passed"] else "wrong_answer", "detail": "d"} for row in rows],
    )
    if problems:
        asked = [{"task_id": i, "language": "python", "prompt": PROMPT, "tests": "", "stop": []} for i in written]
        write_jsonl(folder / "problems.jsonl", asked)
    return Measurement(folder)


@pytest.fixture
def two(tmp_path):
    first = {
        "corrected": [("    return 1", False)],
        "lost": [("    return 2", True)],
        "same": [("    a = x\n    return a", True)],
        "other": [("    return x + x", True)],
        "never": [("    return 5", False)],
        "samples": [("    return 6", False), ("    return 7", False)],
    }
    second = {
        "corrected": [("    y = x\n    return y", True)],
        "lost": [("    return 3", False)],
        "same": [("    # as before\n    b = x\n    return b", True)],
        "other": [("    return 2 * x", True)],
        "never": [("    return 8", False)],
        "samples": [("    return 9", False), ("    return x", True)],
    }
    return measured(tmp_path / "a", first), measured(tmp_path / "b", second)


def test_what_changed(two):
    found = {change.task_id: change for change in changes(*two)}
    assert {task_id: change.kind for task_id, change in found.items()} == {
        "corrected": "correction",
        "lost": "regression",
        "other": "alternative",
        "samples": "correction",
    }
    corrected = found["corrected"]
    assert (corrected.before.verdict, corrected.after.verdict) == ("wrong_answer", "passed")
    assert sorted(corrected.difference) == [("+", "    return y"), ("+", "    y = x"), ("-", "    return 1")]
    assert (corrected.language, corrected.prompt) == ("python", PROMPT)
    assert found["samples"].after.sample == 1
    assert ["-", "    return 1"] in corrected.row()["difference"]


def test_the_other_way_round_a_correction_is_a_regression(two):
    assert {change.task_id: change.kind for change in changes(two[1], two[0])}["corrected"] == "regression"


def test_one_of_several_passing_samples_that_is_known_is_no_alternative(tmp_path):
    first = measured(tmp_path / "a", {"p": [("    return x", True)]})
    second = measured(tmp_path / "b", {"p": [("    return x + 0", True), ("    return  x", True)]})
    assert list(changes(first, second)) == []


def test_one_sample_that_passed_is_no_failure(tmp_path):
    first = measured(tmp_path / "a", {"p": [("    return 1", False), ("    return x", True)]})
    second = measured(tmp_path / "b", {"p": [("    return 1", False), ("    return x + 0", True)]})
    (change,) = changes(first, second)
    assert (change.kind, change.before.completion, change.after.sample) == ("alternative", "    return x", 1)


def test_prompts_that_were_not_kept_are_no_programs(tmp_path):
    one = measured(tmp_path / "a", {"t": [("    return x", True)]})
    two = measured(tmp_path / "b", {"t": [("    return (x)", True)]})  # one program, written in two ways
    for measurement in (one, two):
        kept = map(without_texts, list(read_jsonl(measurement.problems)))
        write_jsonl(measurement.path / "problems.jsonl", kept)
    assert list(changes(one, two)) == []


def test_samples_without_numbers_are_numbered_by_their_order(tmp_path):
    one = measured(tmp_path / "a", {"t": [("    return 1", False), ("    return 2", False)]})
    two = measured(tmp_path / "b", {"t": [("    return 3", False), ("    return x", True)]})
    for measurement in (one, two):
        rows = [{key: row[key] for key in ("task_id", "completion")} for row in read_jsonl(measurement.completions)]
        write_jsonl(measurement.completions, rows)
    (change,) = changes(one, two)
    assert (change.kind, change.after.completion) == ("correction", "    return x")


def test_without_programs_it_says_so(tmp_path, two):
    (two[0].path / "completions.jsonl").unlink()
    with pytest.raises(UsageError, match=r"a has no completions.jsonl, without which"):
        list(changes(*two))
    (two[1].path / "problems.jsonl").unlink()
    with pytest.raises(UsageError, match=r"b has no problems.jsonl"):
        list(changes(*two))


def test_a_verdict_without_its_completion(two):
    write_jsonl(two[1].path / "completions.jsonl", [{"task_id": "corrected", "sample": 0, "completion": ""}])
    with pytest.raises(FlextuneError, match=r"judges sample 0 of 'lost', which .*completions.jsonl does not have"):
        list(changes(*two))
