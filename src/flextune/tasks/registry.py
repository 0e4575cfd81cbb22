"""All data sets by name, in one table: what each is, how it is loaded, and what it may be used for.

    entry, match = find("mbpp-java-validation", "measure")

A new data set is one entry, with a loader in a module of its own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from flextune.errors import UsageError
from flextune.languages import LANGUAGES, UNJUDGED
from flextune.tasks import apps, basics, code_search_net, humaneval, humaneval_x, mbpp, multipl_e, own
from flextune.tasks.problem import Example, Problem

Measured = tuple[list[Problem], dict[str, object]]
Taught = tuple[list[Example], dict[str, object]]


@dataclass(frozen=True)
class Wanted:
    """What a training set is asked for; see `load_training_set`."""

    data: Path | None
    template: str
    limit: int | None
    solutions: int
    seed: int


@dataclass(frozen=True)
class DataSet:
    """One data set, or one of several that are loaded alike."""

    pattern: str
    """A regular expression that all its names match; its groups tell the loader which one."""
    about: str
    """What it is, for people."""
    shown: tuple[str, ...] = ()
    """The names that a list shows."""
    measure: Callable[[dict[str, str | None], Path | None], Measured] | None = None
    """Loads problems; None if it is not to be measured."""
    learn: Callable[[dict[str, str | None], Wanted], Taught] | None = None
    """Loads examples; None if it is not to be learned."""
    templates: tuple[str, ...] = ()
    """How a row becomes a prompt, the default first."""
    solutions: bool = False
    """Several solutions of a problem can be learned."""
    chooses: bool = False
    """Settings may be chosen by it, since nothing is reported on it."""


def _either(names: list[str]) -> str:
    return "|".join(map(re.escape, sorted(names)))


BASICS = [name for name, language in LANGUAGES.items() if language.basics]
SHORT = _either([*(language.short for language in LANGUAGES.values()), *UNJUDGED])
TITLES = {name: LANGUAGES[name].title for name in BASICS}

DATA_SETS = (
    DataSet(
        r"(?P<path>.+\.jsonl)",
        "a file of your own: task_id, language, prompt, tests, stop; or prompt, completion",
        measure=lambda groups, data: own.load(_existing(groups["path"])),
        learn=lambda groups, wanted: own.examples(_existing(groups["path"])),
        chooses=True,
    ),
    *(
        DataSet(
            f"basics-{name}",
            f"the embedded problems in {TITLES[name]}",
            (f"basics-{name}",),
            measure=lambda groups, data, name=name: basics.load(name),  # type: ignore[misc]
            chooses=True,
        )
        for name in sorted(BASICS, key=lambda name: (name != "python", name))
    ),
    DataSet(
        "basics",
        "the embedded Python problems",
        ("basics",),
        learn=lambda groups, wanted: basics.examples(),
        templates=("function",),
    ),
    DataSet(
        "humaneval",
        "HumanEval, 164 Python problems",
        ("humaneval",),
        measure=lambda groups, data: humaneval.load(data),
    ),
    DataSet(
        rf"(?P<config>humaneval-(?:{SHORT}))",
        "HumanEval in Java by MultiPL-E, 158 problems; other languages: humaneval-cpp, humaneval-js, …",
        ("humaneval-java",),
        measure=lambda groups, data: multipl_e.load(str(groups["config"]), data),
    ),
    DataSet(
        rf"(?P<config>mbpp-(?:{SHORT}))",
        "MBPP in Java by MultiPL-E, 386 problems of all splits; other languages: mbpp-cpp, mbpp-js, …",
        ("mbpp-java",),
        measure=lambda groups, data: multipl_e.load(str(groups["config"]), data),
    ),
    DataSet(
        rf"(?P<config>mbpp-(?:{SHORT}))-validation",
        "the 39 of them that are MBPP's validation problems; also mbpp-cpp-validation, …",
        ("mbpp-java-validation",),
        measure=lambda groups, data: _validation(str(groups["config"]), data),
        chooses=True,
    ),
    DataSet(
        r"humaneval-x-(?P<short>.+)",
        f"HumanEval in Java by hand, 164 problems; also {', '.join(sorted({*humaneval_x.FORMS} - {'java'}))}",
        ("humaneval-x-java",),
        measure=lambda groups, data: humaneval_x.load(str(groups["short"]), data),
    ),
    DataSet(
        "mbpp",
        "MBPP, 500 test problems and 374 training problems",
        ("mbpp",),
        measure=lambda groups, data: mbpp.load(data, "test"),
        learn=lambda groups, wanted: mbpp.examples(wanted.data, wanted.template, "train"),
        templates=tuple(mbpp.TEMPLATES),
    ),
    DataSet(
        "mbpp-validation",
        "MBPP, the 90 problems of validation",
        ("mbpp-validation",),
        measure=lambda groups, data: mbpp.load(data, "validation"),
        learn=lambda groups, wanted: mbpp.examples(wanted.data, wanted.template, "validation"),
        templates=tuple(mbpp.TEMPLATES),
        chooses=True,
    ),
    DataSet(
        r"apps(?:-(?P<difficulty>.+))?",
        "APPS; also apps-introductory, apps-interview, apps-competition",
        ("apps",),
        measure=lambda groups, data: apps.load(groups["difficulty"], data),
        learn=lambda groups, wanted: apps.examples(
            wanted.data, wanted.template, groups["difficulty"], wanted.solutions, wanted.seed
        ),
        templates=tuple(apps.TEMPLATES),
        solutions=True,
    ),
    DataSet(
        r"code-search-net(?:-(?P<split>validation))?",
        "CodeSearchNet, documented Python functions; code-search-net-validation: those of validation",
        ("code-search-net",),
        learn=lambda groups, wanted: code_search_net.examples(
            wanted.data, wanted.template, wanted.limit, groups["split"] or "train"
        ),
        templates=tuple(code_search_net.TEMPLATES),
    ),
)


def find(name: str, use: Literal["measure", "learn"]) -> tuple[DataSet, dict[str, str | None]]:
    """The data set of a name, and which one of several it is.

    Raises `UsageError` with the names that there are.
    """
    for entry in DATA_SETS:
        match = re.fullmatch(entry.pattern, name)
        if match and getattr(entry, use) is not None:
            return entry, match.groupdict()
    kind, also = ("a benchmark", ", MultiPL-E's configs") if use == "measure" else ("a training set", "")
    known = ", ".join(name for name, _ in listed(use))
    raise UsageError(f"{name!r} is not {kind}; there are {known}{also}, and paths of .jsonl files")


def listed(use: Literal["measure", "learn"]) -> list[tuple[str, DataSet]]:
    """The names to show, with their data sets."""
    return [(name, entry) for entry in DATA_SETS if getattr(entry, use) is not None for name in entry.shown]


def chooses(name: str) -> bool:
    """Whether a benchmark is for choosing settings, and not for reporting: the embedded ones, validation splits, files.

    >>> chooses("mbpp-java-validation"), chooses("humaneval-java")
    (True, False)
    """
    return any(entry.chooses for entry in DATA_SETS if entry.measure and re.fullmatch(entry.pattern, name))


def _validation(config: str, data: Path | None) -> Measured:
    """Those of MBPP's translations whose problem is one of its validation split."""
    problems, provenance = multipl_e.load(config, data)
    first, last = mbpp.SPLITS["validation"]
    kept = [problem for problem in problems if first <= int(problem.upstream.partition("/")[2] or 0) <= last]
    return kept, {**provenance, "split": "validation", "rows": len(kept)}


def _existing(name: Any) -> Path:
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"the data file {path} does not exist")
    return path
