"""`basics`: the embedded data set, small and easy, the same problems in Python, Java, JavaScript and C++.

`evaluation.yaml` and `training.yaml` say for each problem the rule, the types, the cases and a reference solution.
Prompts and tests are rendered here in MultiPL-E's form (its types, comments, assertions and stop strings), so that all
four languages are asked the same.
"""

from pathlib import Path

import yaml

from flextune.errors import UsageError
from flextune.files import sha256
from flextune.languages import LANGUAGES
from flextune.languages.rules import Rule, Syntax
from flextune.tasks.problem import Example, Problem

FOLDER = Path(__file__).parent


def load(language: str) -> tuple[list[Problem], dict[str, object]]:
    """The evaluation problems in one language."""
    path = FOLDER / "evaluation.yaml"
    syntax = _syntax(language)
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


def _syntax(language: str) -> Syntax:
    syntax = LANGUAGES[language].basics if language in LANGUAGES else None
    if syntax is None:
        known = ", ".join(name for name, found in LANGUAGES.items() if found.basics)
        raise UsageError(f"basics-{language}: this language has none of these problems; there are {known}")
    return syntax


def examples() -> tuple[list[Example], dict[str, object]]:
    """The training problems, in Python."""
    path = FOLDER / "training.yaml"
    python = _syntax("python")
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
    python = _syntax("python")
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
