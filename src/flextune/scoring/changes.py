"""Programs side by side: what the one model failed and the other solved, and what both solved in different ways."""

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from flextune.errors import FlextuneError, UsageError
from flextune.files import Row, read_jsonl
from flextune.rundir import Measurement, is_checksum
from flextune.scoring.normal import normal_form
from flextune.scoring.score import read_verdicts

Kind = Literal["correction", "regression", "alternative"]
KINDS: tuple[Kind, ...] = ("correction", "regression", "alternative")
"""Failed before and solved after; solved before and failed after; solved both times, by different programs."""


@dataclass(frozen=True)
class Written:
    """A sample with its verdict."""

    sample: int
    completion: str
    verdict: str
    detail: str

    @property
    def passed(self) -> bool:
        """True if the tests ran to their end and passed."""
        return self.verdict == "passed"


@dataclass(frozen=True)
class Change:
    """One problem with a program of each of two measurements."""

    kind: Kind
    task_id: str
    language: str
    prompt: str
    before: Written
    after: Written

    @property
    def difference(self) -> list[tuple[str, str]]:
        """The completions line by line: `-` is only before, `+` only after, a blank is in both."""
        lines = difflib.ndiff(self.before.completion.splitlines(), self.after.completion.splitlines())
        return [(line[0], line[2:]) for line in lines if line[0] != "?"]

    def row(self) -> dict[str, Any]:
        """The change as a row of JSON Lines."""
        return {
            "kind": self.kind,
            "task_id": self.task_id,
            "language": self.language,
            "prompt": self.prompt,
            "before": vars(self.before),
            "after": vars(self.after),
            "difference": [list(line) for line in self.difference],
        }


def changes(first: Measurement, second: Measurement) -> Iterator[Change]:
    """The corrections, regressions and alternatives of the second against the first, in the order of its problems.

    Several samples a problem: a problem is failed if no sample passes, and then its first sample is shown; it is solved
    if one passes, and its first that does is shown. An alternative is shown where no passing program of the second is
    the same as one of the first but for names, comments and layout (`normal_form`).

    Raises:
        UsageError: A folder lacks `completions.jsonl` or `problems.jsonl`.
        FlextuneError: A verdict has no completion.
    """
    problems = {str(row["task_id"]): row for row in _rows(second, "problems")}
    before, after = _written(first), _written(second)
    for task_id in after:
        if task_id in before and task_id in problems:
            found = _change(problems[task_id], before[task_id], after[task_id])
            if found:
                yield found


def _change(problem: Row, before: list[Written], after: list[Written]) -> Change | None:
    def made(kind: Kind, one: Written, two: Written) -> Change:
        return Change(kind, str(problem["task_id"]), problem["language"], problem["prompt"], one, two)

    solved_before = [written for written in before if written.passed]
    solved_after = [written for written in after if written.passed]
    if solved_after and not solved_before:
        return made("correction", before[0], solved_after[0])
    if solved_before and not solved_after:
        return made("regression", solved_before[0], after[0])
    if not solved_before:
        return None

    head = problem["prompt"]
    if is_checksum(head):  # the prompt was not kept; a body in Python needs some head to be parsed
        head = "def f():\n" if problem["language"] == "python" else ""

    def form(completion: str) -> str:
        return normal_form(problem["language"], head + completion)

    known = {form(written.completion) for written in solved_before}
    if any(form(written.completion) in known for written in solved_after):
        return None
    return made("alternative", solved_before[0], solved_after[0])


def _rows(measurement: Measurement, what: Literal["completions", "problems"]) -> Iterator[Row]:
    path = getattr(measurement, what)
    if not path.exists():
        raise UsageError(f"{measurement.path} has no {what}.jsonl, without which there are no programs to show")
    return read_jsonl(path, ("task_id", "completion") if what == "completions" else ("task_id", "language", "prompt"))


def _written(measurement: Measurement) -> dict[str, list[Written]]:
    """The samples of each problem."""
    completions: dict[tuple[str, int], str] = {}
    seen: Counter[str] = Counter()
    for row in _rows(measurement, "completions"):
        task_id = str(row["task_id"])
        completions[task_id, row.get("sample", seen[task_id])] = row["completion"]  # without numbers, by their order
        seen[task_id] += 1
    found: dict[str, list[Written]] = {}
    for row in read_verdicts(measurement.verdicts):
        key = row["task_id"], row["sample"]
        if key not in completions:
            raise FlextuneError(
                f"{measurement.verdicts} judges sample {key[1]} of {key[0]!r}, which {measurement.completions} "
                "does not have"
            )
        written = Written(row["sample"], completions[key], row["verdict"], row.get("detail") or "")
        found.setdefault(row["task_id"], []).append(written)
    return found
