"""Where tests report that they ran to their end.

The report is made from the end of the tests' own code: a statement there works out a number from two that stand in the
source, and writes it into a pipe. A program that ends early, however cleanly, has not written it. docs/execution.md
says what a program that studies this from inside could still forge.
"""

import re
from collections.abc import Callable

from flextune.errors import FlextuneError
from flextune.languages.language import End


def at_end(statement: str) -> Callable[[str, End], str]:
    """Report after the last line of the tests."""
    return lambda tests, end: f"{tests.rstrip()}\n{statement.format(**vars(end))}\n"


LEAVING = re.compile(r"\b(return\b|((std::)?exit|System\.exit)\s*\()[^;{}]*;\s*\Z")
"""A last statement that leaves the tests: the report has to stand before it."""


def before_braces(count: int, statement: str) -> Callable[[str, End], str]:
    """Report inside the function that the last `count` closing braces end."""

    def insert(tests: str, end: End) -> str:
        position = len(tests)
        for _ in range(count):
            position = tests.rfind("}", 0, position)
        if position < 0:
            raise FlextuneError(f"the tests do not end with {count} closing braces: {tests[-80:]!r}")
        leaving = LEAVING.search(tests, 0, position)
        position = leaving.start() if leaving else position
        return tests[:position] + statement.format(**vars(end)) + "\n" + tests[position:]

    return insert


def before(end: str, statement: str) -> Callable[[str, End], str]:
    """Report before what the tests end with, a regular expression."""

    def insert(tests: str, to_report: End) -> str:
        found = re.search(rf"(?:{end})\s*\Z", tests)
        if found is None:
            raise FlextuneError(f"the tests do not end with {end}: {tests[-80:]!r}")
        return tests[: found.start()] + statement.format(**vars(to_report)) + "\n" + tests[found.start() :]

    return insert
