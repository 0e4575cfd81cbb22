"""Reranking: from files of samples and tests to the chosen samples; and once with a sandbox, from end to end."""

import math

import pytest
from fake_backend import FakeBackend

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError
from flextune.execution import sandbox
from flextune.files import read_json, read_jsonl, write_jsonl
from flextune.generation import engine
from flextune.generation.backend import Text
from flextune.generation.generate import sample_seed
from flextune.reranking import ask_for_tests, choose, cross
from flextune.rundir import Measurement
from flextune.tasks import Problem
from flextune.tasks.self_tests import test_prompt, test_stop

TWICE = Problem("a/twice", "python", "def twice(x):\n", "assert twice(2) == 4\n", ("\ndef",))
THRICE = Problem("a/thrice", "python", "def thrice(x):\n", "assert thrice(2) == 6\n", ("\ndef",))
RUBY = Problem("a/ruby", "ruby", "def f(x)\n", "")


@pytest.fixture
def measurement(tmp_path):
    return Measurement(tmp_path)


def given(measurement, samples, tests, finish_reason="stop"):
    """The two files of texts, from lists of them by task; tests are taken from what was written whole."""
    for folder, texts, cut in ((measurement.samples, samples, str), (measurement.self_tests, tests, lambda _: "")):
        write_jsonl(
            folder.completions,
            [
                {"task_id": t, "sample": n, "completion": cut(text), "raw": text}
                | {"finish_reason": finish_reason, "tokens": 1}
                for t, found in texts.items()
                for n, text in enumerate(found)
            ],
        )


def judged(measurement, passed):
    """Verdicts of what was crossed: passed where `passed` has the task and the completion."""
    rows = list(read_jsonl(measurement.crossed.completions))
    write_jsonl(
        measurement.crossed.verdicts,
        [
            {
                "task_id": row["task_id"],
                "sample": row["sample"],
                "passed": (row["task_id"], row["completion"]) in passed,
            }
            for row in rows
        ],
    )


def rows(path):
    return list(read_jsonl(path))


# Asking for tests


def test_what_is_asked_is_a_list_of_assertions():
    (asked,) = ask_for_tests([TWICE])
    assert (asked.task_id, asked.tests) == (TWICE.task_id, TWICE.tests)
    assert asked.prompt == test_prompt(TWICE) != TWICE.prompt
    assert asked.stop == test_stop(TWICE) != TWICE.stop


def test_problems_that_cannot_be_asked_are_left_out():
    assert [problem.task_id for problem in ask_for_tests([RUBY, TWICE])] == [TWICE.task_id]


def test_none_that_can_be_asked_is_an_error():
    with pytest.raises(UsageError, match=r"self_tests: a model cannot be asked for tests of a/ruby \(ruby\)"):
        ask_for_tests([RUBY])


# Crossing


def test_each_sample_meets_each_distinct_test(measurement):
    given(measurement, {"a/twice": ["A", "B"]}, {"a/twice": ["1) == 2\nassert twice(3) == 6\n", "1) == 2\n"]})
    crossed = cross([TWICE], measurement)
    assert [(problem.task_id, problem.prompt, problem.tests) for problem in crossed] == [
        ("a/twice/by-test-0", TWICE.prompt, "assert twice(1) == 2\n"),
        ("a/twice/by-test-1", TWICE.prompt, "assert twice(3) == 6\n"),
    ]
    found = [(row["task_id"], row["sample"], row["completion"]) for row in rows(measurement.crossed.completions)]
    assert found == [
        ("a/twice/by-test-0", 0, "A"),
        ("a/twice/by-test-0", 1, "B"),
        ("a/twice/by-test-1", 0, "A"),
        ("a/twice/by-test-1", 1, "B"),
    ]


def test_a_sample_that_was_drawn_twice_is_judged_once(measurement):
    given(measurement, {"a/twice": ["A", "B", "A", "A"]}, {"a/twice": ["1) == 2\n"]})
    cross([TWICE], measurement)
    assert [(row["sample"], row["completion"]) for row in rows(measurement.crossed.completions)] == [(0, "A"), (1, "B")]


def test_problems_do_not_meet_each_others_tests(measurement):
    given(
        measurement,
        {"a/twice": ["A"], "a/thrice": ["B"], "a/ruby": ["C"]},
        {"a/thrice": ["1) == 3\n"], "a/twice": ["1) == 2\n"]},
    )
    crossed = cross([TWICE, THRICE, RUBY], measurement)
    assert [problem.tests for problem in crossed] == ["assert twice(1) == 2\n", "assert thrice(1) == 3\n"]
    assert [row["completion"] for row in rows(measurement.crossed.completions)] == ["A", "B"]


@pytest.mark.parametrize(("finish_reason", "count"), [("stop", 2), ("length", 1)])
def test_a_last_line_counts_where_the_text_ended_of_itself(measurement, finish_reason, count):
    given(measurement, {"a/twice": ["A"]}, {"a/twice": ["1) == 2\nassert twice(2) == 4"]}, finish_reason)
    assert len(cross([TWICE], measurement)) == count


# Choosing


def test_the_sample_that_passes_the_tests_is_chosen(measurement):
    given(measurement, {"a/twice": ["A", "A", "B"]}, {"a/twice": ["1) == 2\nassert twice(3) == 6\n"]})
    cross([TWICE], measurement)
    judged(measurement, {("a/twice/by-test-0", "B"), ("a/twice/by-test-1", "B"), ("a/twice/by-test-0", "A")})
    choose([TWICE], measurement)
    assert rows(measurement.completions) == [
        {
            "task_id": "a/twice",
            "sample": 0,
            "completion": "B",
            "raw": "B",
            "finish_reason": "stop",
            "tokens": 1,
            "chosen": 2,
        }
    ]
    assert rows(measurement.agreement) == [
        {"task_id": "a/twice", "sample": 2, "group": [2], "tests": [0, 1], "score": 2.0, "groups": 2}
    ]


def test_what_is_judged_once_speaks_for_all_that_say_it(measurement):
    given(measurement, {"a/twice": ["A", "B", "B", "B"]}, {"a/twice": ["1) == 2\nassert twice(3) == 6\n"]})
    cross([TWICE], measurement)
    judged(measurement, {("a/twice/by-test-0", "A"), ("a/twice/by-test-1", "B")})
    choose([TWICE], measurement)
    (row,) = rows(measurement.agreement)
    assert (row["sample"], row["group"], row["tests"]) == (1, [1, 2, 3], [1])
    assert row["score"] == pytest.approx(math.sqrt(3))


def test_a_test_that_was_written_often_weighs_as_often(measurement):
    texts = ["1) == 1\n", "1) == 2\n", "1) == 2\n"]
    given(measurement, {"a/twice": ["A", "B"]}, {"a/twice": texts})
    cross([TWICE], measurement)
    judged(measurement, {("a/twice/by-test-0", "A"), ("a/twice/by-test-1", "B")})
    choose([TWICE], measurement)
    (row,) = rows(measurement.agreement)
    assert (row["sample"], row["score"]) == (1, 2.0)


def test_without_tests_the_most_frequent_text_is_chosen(measurement):
    given(measurement, {"a/ruby": ["A", "B", "B"], "a/twice": ["C", "D", "D"]}, {"a/twice": ["no test"]})
    assert cross([RUBY, TWICE], measurement) == []
    choose([RUBY, TWICE], measurement)
    assert [(row["task_id"], row["completion"], row["chosen"]) for row in rows(measurement.completions)] == [
        ("a/ruby", "B", 1),
        ("a/twice", "D", 1),
    ]
    assert [row["score"] for row in rows(measurement.agreement)] == [0, 0]


def test_verdicts_of_one_problem_say_nothing_of_another(measurement):
    given(
        measurement,
        {"a/twice": ["A", "B", "B"], "a/thrice": ["A", "B", "B"]},
        {"a/twice": ["1) == 2\n"], "a/thrice": ["1) == 3\n"]},
    )
    cross([TWICE, THRICE], measurement)
    judged(measurement, {("a/thrice/by-test-0", "A")})
    choose([TWICE, THRICE], measurement)
    assert [(row["completion"], row["chosen"]) for row in rows(measurement.completions)] == [("B", 1), ("A", 0)]


# From end to end

RIGHT, WRONG, WORSE = "    return 2 * x\n", "    return x + 2\n", "    return 'never'\n"


@pytest.fixture
def reranked(tiny_model, tmp_path, monkeypatch):
    """Let a model that writes both right and wrong samples and tests write them; its folder and the backend."""
    benchmark = tmp_path / "own.jsonl"
    problems = [TWICE, RUBY, Problem("a/double", "python", "def double(x):\n", "assert double(3) == 6\n", ("\ndef",))]
    write_jsonl(benchmark, [problem.snapshot() for problem in problems])
    seeds = {sample_seed(0, problem.task_id, n): n for problem in problems for n in range(4)}
    samples = [WRONG, WRONG, RIGHT, WORSE]
    # two and two is four whether it is a sum or not; the last line is cut
    tests = ["2) == 4\nassert {0}(3) == 6\nassert {0}(0) ==", "5) == 10\nassert {0}(1) == 3\nassert {0}(4) == 9\n"]

    def text(request):
        before, _, name = request.prompt.removesuffix("(").rpartition("assert ")
        if before and request.prompt.endswith("("):
            return Text(tests[seeds[request.seed]].format(name), "length", 9)
        return f"{samples[seeds[request.seed]]}\ndef"

    backend = FakeBackend(text)
    monkeypatch.setattr(engine, "load", backend.load)

    def write(output="out", self_tests=2, **generation):
        decoding = {"kind": "sampling", "samples": 4, "self_tests": self_tests}
        settings = {"decoding": decoding, "generation": generation}
        return pipeline.generate_only(str(tiny_model), str(benchmark), tmp_path / output, **settings)

    return write, backend, Measurement(tmp_path / "out")


def test_the_right_sample_is_picked_by_the_models_own_tests(reranked):
    write, backend, measurement = reranked
    assert write() == measurement.completions
    assert len(backend.asked) == 3 * 4 + 2 * 2
    assert backend.loads == 1
    found = {row["task_id"]: row for row in rows(measurement.completions)}
    assert list(found) == ["a/twice", "a/ruby", "a/double"]
    for task_id in ("a/twice", "a/double"):
        row = found[task_id]
        assert (row["completion"], row["sample"], row["chosen"]) == (RIGHT, 0, 2)
        assert row["raw"] == f"{RIGHT}\ndef"
    assert found["a/ruby"]["chosen"] == 0  # it was drawn most often
    by_tests = {row["task_id"]: row["tests"] for row in rows(measurement.agreement)}
    assert by_tests == {"a/twice": [0, 1, 2], "a/ruby": [], "a/double": [0, 1, 2]}
    assert len(rows(measurement.crossed.verdicts)) == 2 * 3 * 5
    assert len(rows(measurement.samples.completions)) == 12
    assert len(rows(measurement.self_tests.completions)) == 4
    assert read_json(measurement.generation)["decoding"]["self_tests"] == 2


def test_a_second_time_nothing_is_asked_and_nothing_judged(reranked):
    write, backend, measurement = reranked
    write()
    measurement.completions.rename(measurement.path / "before.jsonl")
    verdicts = measurement.crossed.verdicts.stat().st_mtime_ns
    batches = len(backend.batches)
    write()
    assert measurement.completions.read_bytes() == (measurement.path / "before.jsonl").read_bytes()
    assert (len(backend.batches), measurement.crossed.verdicts.stat().st_mtime_ns) == (batches, verdicts)


def test_samples_that_were_drawn_without_tests_are_taken(reranked):
    write, backend, _ = reranked
    write("plain", self_tests=None)
    assert len(backend.asked) == 12
    write()
    assert len(backend.asked) == 12 + 4


def test_tests_are_asked_without_a_chat(reranked):
    write, backend, _ = reranked
    write(chat=True)
    assert sorted(request.chat for request in backend.asked) == [False] * 4 + [True] * 12
    plain = {request.prompt for request in backend.asked if not request.chat}
    assert test_prompt(TWICE) in plain


def test_where_no_test_was_written_nothing_is_judged(reranked, monkeypatch):
    write, backend, measurement = reranked
    monkeypatch.setattr(backend, "text", lambda request: f"    return {request.seed % 2}\n")
    write()
    assert not measurement.crossed.verdicts.exists()
    assert not (measurement.crossed.path / "execution.json").exists()
    assert len(rows(measurement.completions)) == 3


def test_no_sandbox_is_said_before_anything_is_written(reranked, monkeypatch):
    write, backend, _ = reranked
    monkeypatch.setattr(sandbox, "problem", lambda name: "it is not installed")
    with pytest.raises(FlextuneError, match="there is no sandbox"):
        write()
    assert backend.batches == []
