"""`basics`: the embedded data set, small and easy, the same problems in Python, Java, JavaScript and C++.

`evaluation.yaml` and `training.yaml` say for each problem the rule, the types, the cases and a reference solution.
Prompts and tests are rendered here in MultiPL-E's form (its types, comments, assertions and stop strings), so that all
four languages are asked the same.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flextune.files import sha256
from flextune.tasks.problem import Example, Problem

FOLDER = Path(__file__).parent
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

    def call(self, language: "Syntax", arguments: list[Any]) -> str:
        """The call of the function with these arguments, as source code."""
        values = zip(self.parameters.values(), arguments, strict=True)
        return f"{self.name}({', '.join(language.literal(kind, value) for kind, value in values)})"

    def comment(self, language: "Syntax") -> list[str]:
        """The rule and the cases that are shown, as lines of a comment."""
        shown = (
            (f">>> {self.call(language, given)}", language.literal(self.returns, expected))
            for given, expected in self.cases[:SHOWN]
        )
        return [*textwrap.wrap(self.about, 100), *(line for pair in shown for line in pair)]


@dataclass(frozen=True)
class Syntax:
    """How one language writes types, values, a function's head and its tests."""

    literal: Callable[[str, Any], str]
    prompt: Callable[[Rule], str]
    tests: Callable[[Rule], str]
    stop: tuple[str, ...]
    indent: str
    closing: str = ""
    """What a completion ends with; in Java and C++ the tests close the function."""

    def body(self, rule: Rule, language: str) -> str:
        """The reference solution as a completion."""
        return textwrap.indent(rule.solutions[language].rstrip(), self.indent) + f"\n{self.closing}"


def load(language: str) -> tuple[list[Problem], dict[str, object]]:
    """The evaluation problems in one language."""
    path = FOLDER / "evaluation.yaml"
    syntax = SYNTAX[language]
    problems = [
        Problem(
            task_id=f"basics/{rule.name}",
            language=language,
            prompt=syntax.prompt(rule),
            tests=syntax.tests(rule),
            stop=syntax.stop,
            upstream=f"basics/{rule.name}",
            solution=syntax.body(rule, language),
        )
        for rule in _rules(path)
    ]
    return problems, {"embedded": path.name, "rows": len(problems), "sha256": sha256(path)}


def examples() -> tuple[list[Example], dict[str, object]]:
    """The training problems, in Python."""
    path = FOLDER / "training.yaml"
    python = SYNTAX["python"]
    found = [
        Example(
            id=f"basics-train/{rule.name}",
            prompt=python.prompt(rule),
            completion=python.body(rule, "python"),
        )
        for rule in _rules(path)
    ]
    return found, {"embedded": path.name, "rows": len(found), "sha256": sha256(path)}


def training_problems() -> list[Problem]:
    """The training problems with their tests, so that their solutions can be judged."""
    python = SYNTAX["python"]
    return [
        Problem(
            f"basics-train/{rule.name}",
            "python",
            python.prompt(rule),
            python.tests(rule),
            python.stop,
            solution=python.body(rule, "python"),
        )
        for rule in _rules(FOLDER / "training.yaml")
    ]


def _rules(path: Path) -> list[Rule]:
    return [
        Rule(
            name=row["name"],
            about=" ".join(row["about"].split()),
            parameters=row["parameters"],
            returns=row["returns"],
            cases=[(arguments, expected) for arguments, expected in row["cases"]],
            solutions=row["solutions"] if "solutions" in row else {"python": row["solution"]},
        )
        for row in yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    ]


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# Python

PYTHON_TYPES = {"int": "int", "bool": "bool", "str": "str", "list[int]": "List[int]", "list[str]": "List[str]"}


def _python_prompt(rule: Rule) -> str:
    syntax = SYNTAX["python"]
    arguments = ", ".join(f"{name}: {PYTHON_TYPES[kind]}" for name, kind in rule.parameters.items())
    shown = "".join(f"    >>> {rule.call(syntax, given)}\n    {expected!r}\n" for given, expected in rule.cases[:SHOWN])
    about = "\n".join(textwrap.wrap(rule.about, 100, initial_indent='    """', subsequent_indent="    "))
    imports = "from typing import List\n\n" if "List[" in f"{arguments}{PYTHON_TYPES[rule.returns]}" else ""
    head = f"def {rule.name}({arguments}) -> {PYTHON_TYPES[rule.returns]}:\n"
    return f'{imports}{head}{about}\n{shown}    """\n'


def _python_tests(rule: Rule) -> str:
    lines = "".join(
        f"    assert candidate({', '.join(map(repr, given))}) == {expected!r}\n" for given, expected in rule.cases
    )
    return f"def check(candidate):\n{lines}\ndef test_check():\n    check({rule.name})\n\ntest_check()\n"


# Java

JAVA_TYPES = {
    "int": "long",
    "bool": "boolean",
    "str": "String",
    "list[int]": "ArrayList<Long>",
    "list[str]": "ArrayList<String>",
}
JAVA_IMPORTS = "".join(
    f"import java.{package}.*;\n" for package in ("util", "lang.reflect", "security", "math", "io", "util.stream")
)


def _java_literal(kind: str, value: Any) -> str:
    if kind == "int":
        return f"({value}l)"
    if kind == "bool":
        return f"({str(value).lower()})"
    if kind == "str":
        return f"({_quoted(value)})"
    element = "Long" if kind == "list[int]" else "String"
    items = ", ".join(f"(long){item}l" if element == "Long" else f"(String){_quoted(item)}" for item in value)
    return f"(new ArrayList<{element}>(Arrays.asList({items})))"


def _java_prompt(rule: Rule) -> str:
    syntax = SYNTAX["java"]
    arguments = ", ".join(f"{JAVA_TYPES[kind]} {name}" for name, kind in rule.parameters.items())
    comments = "".join(f"    // {line}\n" for line in rule.comment(syntax))
    head = f"    public static {JAVA_TYPES[rule.returns]} {rule.name}({arguments}) {{\n"
    return f"{JAVA_IMPORTS}class Problem {{\n{comments}{head}"


def _java_tests(rule: Rule) -> str:
    syntax = SYNTAX["java"]
    primitive = rule.returns in ("int", "bool")
    lines = "".join(
        f"    assert({rule.call(syntax, given)}{f' == {value}' if primitive else f'.equals({value})'});\n"
        for given, expected in rule.cases
        for value in [syntax.literal(rule.returns, expected)]
    )
    return f"    }}\n    public static void main(String[] args) {{\n{lines}    }}\n\n}}\n"


# JavaScript


def _javascript_literal(kind: str, value: Any) -> str:
    if kind == "str":
        return _quoted(value)
    if kind == "bool":
        return str(value).lower()
    if kind.startswith("list"):
        return f"[{', '.join(_javascript_literal(kind[5:-1], item) for item in value)}]"
    return str(value)


def _javascript_prompt(rule: Rule) -> str:
    syntax = SYNTAX["javascript"]
    return (
        "".join(f"//{line}\n" for line in rule.comment(syntax))
        + f"function {rule.name}({', '.join(rule.parameters)}){{\n"
    )


def _javascript_tests(rule: Rule) -> str:
    syntax = SYNTAX["javascript"]
    call = rule.call
    lines = "".join(
        f"  assert.deepEqual({call(syntax, given).replace(rule.name, 'candidate', 1)},"
        f"{syntax.literal(rule.returns, expected)});\n"
        for given, expected in rule.cases
    )
    return (
        f"const assert = require('node:assert');\n\n\nfunction test() {{\n  let candidate = {rule.name};\n"
        f"{lines}}}\n\ntest();\n"
    )


# C++

CPP_TYPES = {
    "int": "long",
    "bool": "bool",
    "str": "std::string",
    "list[int]": "std::vector<long>",
    "list[str]": "std::vector<std::string>",
}


def _cpp_literal(kind: str, value: Any) -> str:
    if kind == "str":
        return f"({_quoted(value)})"
    if kind == "bool":
        return f"({str(value).lower()})"
    if kind == "int":
        return f"({value})"
    items = ", ".join(f"(long){item}" if kind == "list[int]" else f"(std::string){_quoted(item)}" for item in value)
    return f"({CPP_TYPES[kind]}({{{items}}}))"


def _cpp_prompt(rule: Rule) -> str:
    syntax = SYNTAX["cpp"]
    arguments = ", ".join(f"{CPP_TYPES[kind]} {name}" for name, kind in rule.parameters.items())
    comments = "".join(f"// {line}\n" for line in rule.comment(syntax))
    head = f"{CPP_TYPES[rule.returns]} {rule.name}({arguments}) {{\n"
    return f"#include<assert.h>\n#include<bits/stdc++.h>\n{comments}{head}"


def _cpp_tests(rule: Rule) -> str:
    syntax = SYNTAX["cpp"]
    lines = "".join(
        f"    assert({rule.call(syntax, given).replace(rule.name, 'candidate', 1)} =="
        f" {syntax.literal(rule.returns, expected)});\n"
        for given, expected in rule.cases
    )
    return f"}}\nint main() {{\n    auto candidate = {rule.name};\n{lines}}}\n"


SYNTAX = {
    "python": Syntax(
        lambda kind, value: repr(value), _python_prompt, _python_tests, ("\ndef", "\n#", "\nif", "\nclass"), " " * 4
    ),
    "java": Syntax(_java_literal, _java_prompt, _java_tests, ("\n    }\n",), " " * 8),
    "javascript": Syntax(
        _javascript_literal,
        _javascript_prompt,
        _javascript_tests,
        ("\nfunction ", "\n/*", "\n//", "\nconsole.log"),
        " " * 4,
        closing="}\n",
    ),
    "cpp": Syntax(_cpp_literal, _cpp_prompt, _cpp_tests, ("\n}",), " " * 4),
}
