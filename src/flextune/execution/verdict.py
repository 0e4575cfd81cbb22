"""What execution can find out about a program."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "passed",
    "wrong_answer",
    "runtime_error",
    "compile_error",
    "compile_timeout",
    "timeout",
    "memory_limit",
    "output_limit",
    "early_exit",
]
"""passed: the tests ran to their end. wrong_answer: an assertion failed, or the output differs. runtime_error: any
other failure. compile_error, compile_timeout: of the compiler, or Python's and JavaScript's parser. timeout,
memory_limit, output_limit: stopped at a limit. early_exit: it ended with success before the tests did."""


@dataclass(frozen=True)
class Verdict:
    """The row of `verdicts.jsonl`."""

    task_id: str
    sample: int
    verdict: Kind
    seconds: float
    """Wall time of compiling and running."""
    detail: str = ""
    """The end of what the compiler or the program printed, if it did not pass."""

    def row(self) -> dict[str, Any]:
        """With `passed`, which readers of the file want to add up."""
        return {
            "task_id": self.task_id,
            "sample": self.sample,
            "verdict": self.verdict,
            "passed": self.verdict == "passed",
            "seconds": self.seconds,
            "detail": self.detail,
        }
