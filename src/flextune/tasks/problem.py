"""What a model is asked, and what it is taught: `Problem` and `Example`."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StandardInput:
    """Tests of a program that reads standard input: it is run once for each pair of input and expected output."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    r"""One problem of a benchmark, in one programming language.

    The program that is judged is `prompt + completion + "\n" + tests`, without the tests where they are
    `StandardInput`. So the prompt is code of the language, with prose in comments or docstrings.
    """

    task_id: str
    language: str
    """`python`, `java`, `javascript`, `cpp`, …: a key of `flextune.execution.LANGUAGES`."""
    prompt: str
    tests: str | StandardInput
    stop: tuple[str, ...] = ()
    """A completion ends before the first of these strings."""
    upstream: str = ""
    """The problem that this one is, or was translated from: `humaneval/85`, `mbpp/601`; empty if there is none."""
    solution: str = ""
    """A reference completion, where the data set has one."""

    def snapshot(self) -> dict[str, Any]:
        """The row of `problems.jsonl`: what was asked, without the answer."""
        tests: Any = self.tests
        if isinstance(tests, StandardInput):
            tests = {"inputs": list(tests.inputs), "outputs": list(tests.outputs)}
        return {
            "task_id": self.task_id,
            "language": self.language,
            "prompt": self.prompt,
            "tests": tests,
            "stop": list(self.stop),
            "upstream": self.upstream,
        }

    @classmethod
    def from_snapshot(cls, row: dict[str, Any]) -> "Problem":
        """The inverse of `snapshot`."""
        tests = row["tests"]
        if isinstance(tests, dict):
            tests = StandardInput(inputs=tuple(tests["inputs"]), outputs=tuple(tests["outputs"]))
        return cls(
            task_id=str(row["task_id"]),
            language=row["language"],
            prompt=row["prompt"],
            tests=tests,
            stop=tuple(row.get("stop", ())),
            upstream=row.get("upstream", ""),
        )


@dataclass(frozen=True)
class Example:
    """One training example: the loss is taken on the completion only."""

    id: str
    prompt: str
    completion: str
    upstream: str = ""
    """As for `Problem`."""


def truncate(text: str, stop: Iterable[str]) -> str:
    r"""Cut a completion before the earliest stop string.

    >>> truncate("    return 1\n\ndef main():", ["\ndef", "\nclass"])
    '    return 1\n'
    """
    ends = [position for token in stop if (position := text.find(token)) >= 0]
    return text[: min(ends)] if ends else text
