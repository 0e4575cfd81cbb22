"""Reranking: of several samples, answer with that which agrees best with tests that the model writes itself.

    samples/completions.jsonl       the samples
    self-tests/completions.jsonl    the texts of tests
    crossed/                        each distinct sample judged by each distinct test
    agreement.jsonl                 the choice for each problem, and what spoke for it
    completions.jsonl               the chosen samples

The steps are functions from files to files; `flextune.pipeline` has the model write and the sandbox judge in between.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

from flextune.errors import UsageError
from flextune.files import Row, read_jsonl, write_jsonl
from flextune.rundir import Measurement
from flextune.scoring.agreement import pick
from flextune.tasks import Problem
from flextune.tasks.self_tests import program_tests, test_prompt, test_stop, written_tests

BY_TEST = "/by-test-"


def ask_for_tests(problems: Sequence[Problem]) -> list[Problem]:
    """Each problem as one whose completion is a list of tests, where the model can be asked for them.

    Raises `UsageError` if it can be for none.
    """
    asked = []
    for problem in problems:
        prompt = test_prompt(problem)
        if prompt is not None:
            asked.append(replace(problem, prompt=prompt, stop=test_stop(problem)))
    if not asked:
        raise UsageError(
            f"self_tests: a model cannot be asked for tests of {problems[0].task_id} ({problems[0].language}) and the "
            "like; it can in Python, and in MultiPL-E's Java, JavaScript, TypeScript and C++"
        )
    return asked


def cross(problems: Sequence[Problem], measurement: Measurement) -> list[Problem]:
    """Write the samples once for each of the tests, as completions of new problems; returns these problems."""
    samples, tests = _samples(measurement), _tests(problems, measurement)
    crossed, rows = [], []
    for problem in problems:
        first: dict[str, int] = {}  # a text that was drawn twice is judged once
        for sample, row in samples[problem.task_id].items():
            first.setdefault(row["completion"], sample)
        for number, test in enumerate(tests[problem.task_id]):
            task_id = f"{problem.task_id}{BY_TEST}{number}"
            crossed.append(replace(problem, task_id=task_id, tests=program_tests(problem, test)))
            rows += [{"task_id": task_id, "sample": sample, "completion": text} for text, sample in first.items()]
    write_jsonl(measurement.crossed.completions, rows)
    return crossed


def choose(problems: Sequence[Problem], measurement: Measurement) -> None:
    """Write the choice for each problem, and the chosen samples as the completions."""
    samples, tests = _samples(measurement), _tests(problems, measurement)
    passed: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
    verdicts = measurement.crossed.verdicts
    for row in read_jsonl(verdicts, ("task_id", "sample", "passed")) if verdicts.exists() else ():
        task_id, _, number = row["task_id"].rpartition(BY_TEST)
        if row["passed"]:
            passed[task_id][samples[task_id][row["sample"]]["completion"]].add(int(number))
    agreement, rows = [], []
    for problem in problems:
        texts = {sample: row["completion"] for sample, row in samples[problem.task_id].items()}
        by_text = passed[problem.task_id]
        choice = pick(
            texts,
            {sample: by_text[text] for sample, text in texts.items() if text in by_text},
            dict(enumerate(tests[problem.task_id].values())),
        )
        agreement.append(choice.row(problem.task_id))
        rows.append({**samples[problem.task_id][choice.sample], "sample": 0, "chosen": choice.sample})
    write_jsonl(measurement.agreement, agreement)
    write_jsonl(measurement.completions, rows)


def _samples(measurement: Measurement) -> dict[str, dict[int, Row]]:
    """The samples' rows, by problem and number."""
    found: dict[str, dict[int, Row]] = defaultdict(dict)
    for row in read_jsonl(measurement.samples.completions, ("task_id", "sample", "completion")):
        found[row["task_id"]][row["sample"]] = row
    return found


def _tests(problems: Sequence[Problem], measurement: Measurement) -> dict[str, Counter[str]]:
    """The distinct tests that were written for each problem, and how often each was."""
    by_id = {problem.task_id: problem for problem in problems}
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in read_jsonl(measurement.self_tests.completions, ("task_id", "raw", "finish_reason")):
        # a text that ended by itself is whole to its last line
        text = row["raw"] + ("\n" if row["finish_reason"] == "stop" else "")
        found[row["task_id"]].update(written_tests(text, by_id[row["task_id"]]))
    return found
