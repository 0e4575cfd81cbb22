"""How a language writes the problems of `basics`: types, values, a function's head and its tests."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SHOWN = 2
"""How many of the cases a prompt shows."""


@dataclass(frozen=True)
class Rule:
    """One problem before it is rendered in a language."""

    name: str
    about: str
    parameters: dict[str, str]
    returns: str
    cases: list[tuple[list[Any], Any]]
    solutions: dict[str, str]

    def call(self, literal: "Literal", arguments: list[Any]) -> str:
        """The call of the function with these arguments, as source code."""
        values = zip(self.parameters.values(), arguments, strict=True)
        return f"{self.name}({', '.join(literal(kind, value) for kind, value in values)})"

    def comment(self, literal: "Literal") -> list[str]:
        """The rule and the cases that are shown, as lines of a comment."""
        shown = (
            (f">>> {self.call(literal, given)}", literal(self.returns, expected))
            for given, expected in self.cases[:SHOWN]
        )
        return [*textwrap.wrap(self.about, 100), *(line for pair in shown for line in pair)]


Literal = Callable[[str, Any], str]
"""A type of `basics` and a value, to source code."""


@dataclass(frozen=True)
class Syntax:
    """How one language writes types, values, a function's head and its tests."""

    prompt: Callable[[Rule], str]
    tests: Callable[[Rule], str]
    stop: tuple[str, ...]
    indent: str
    closing: str = ""
    """What a completion ends with; in Java and C++ the tests close the function."""

    def body(self, rule: Rule, language: str) -> str:
        """The reference solution as a completion."""
        return textwrap.indent(rule.solutions[language].rstrip(), self.indent) + f"\n{self.closing}"


def quoted(text: str) -> str:
    r"""A text in double quotes.

    >>> print(quoted('a "b"'))
    "a \"b\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
