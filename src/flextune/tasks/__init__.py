"""Data sets: benchmarks that a model is measured on, and training sets that it is taught.

    problems = load_benchmark("humaneval-java", data="folder")
    examples = load_training_set("mbpp", data="folder")

A benchmark's name is one of `BENCHMARKS`, any MultiPL-E config (`humaneval-rs`, `mbpp-cpp`, …), or the path of a JSON
Lines file. Rows come from the folder `data` where it has the file, from the Hub at a pinned revision otherwise.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flextune.errors import UsageError
from flextune.tasks import apps, basics, code_search_net, humaneval, humaneval_x, mbpp, multipl_e, own
from flextune.tasks.problem import Example, Problem, StandardInput, truncate
from flextune.tasks.reply import completion_of, message

__all__ = [
    "BENCHMARKS",
    "TRAINING_SETS",
    "Benchmark",
    "Example",
    "Problem",
    "StandardInput",
    "TrainingSet",
    "chooses",
    "completion_of",
    "load_benchmark",
    "load_training_set",
    "message",
    "truncate",
]

BENCHMARKS = {
    "basics-python": "the embedded problems in Python",
    "basics-java": "the embedded problems in Java",
    "basics-javascript": "the embedded problems in JavaScript",
    "basics-cpp": "the embedded problems in C++",
    "humaneval": "HumanEval, 164 Python problems",
    "humaneval-java": "HumanEval in Java by MultiPL-E, 158 problems; other languages: humaneval-cpp, humaneval-js, …",
    "mbpp-java": "MBPP in Java by MultiPL-E, 386 problems of all splits; other languages: mbpp-cpp, mbpp-js, …",
    "mbpp-java-validation": "the 39 of them that are MBPP's validation problems; also mbpp-cpp-validation, …",
    "humaneval-x-java": "HumanEval in Java by hand, 164 problems; also python, js, cpp",
    "mbpp": "MBPP, the 500 test problems; mbpp-validation: the 90 of validation",
    "apps": "APPS, the test problems; also apps-introductory, apps-interview, apps-competition",
}
"""Names that `flextune data list` shows, with what each is."""

TRAINING_SETS = {
    "basics": ("the embedded Python problems", ("function",)),
    "mbpp": ("MBPP, the 374 training problems; mbpp-validation: the 90 of validation", tuple(mbpp.TEMPLATES)),
    "apps": ("APPS; also apps-introductory, apps-interview, apps-competition", tuple(apps.TEMPLATES)),
    "code-search-net": (
        "CodeSearchNet, documented Python functions; code-search-net-validation: those of validation",
        tuple(code_search_net.TEMPLATES),
    ),
}
"""Names, what each is, and its prompt templates, the default first."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark's problems and where they came from."""

    name: str
    problems: list[Problem]
    provenance: dict[str, Any]


@dataclass(frozen=True)
class TrainingSet:
    """A training set's examples and where they came from."""

    name: str
    examples: list[Example]
    provenance: dict[str, Any]


def load_benchmark(name: str, data: str | Path | None = None, limit: int | None = None) -> Benchmark:
    """Load a benchmark by name or path; `limit` keeps the first problems only.

    Raises `UsageError` for an unknown name, `FlextuneError` if the rows cannot be had.

    >>> load_benchmark("basics-java").problems[0].language
    'java'
    """
    _check_limit(limit)
    folder = Path(data) if data is not None else None
    problems, provenance = _benchmark_loader(name, folder)()
    seen: set[str] = set()
    for problem in problems:
        if problem.task_id in seen:
            raise UsageError(f"{name}: the task_id {problem.task_id!r} stands there twice")
        seen.add(problem.task_id)
    return first(Benchmark(name, problems, provenance), limit)


def _check_limit(limit: int | None) -> None:
    if limit is not None and limit < 1:
        raise UsageError(f"limit = {limit}: expected at least 1")


def first(benchmark: Benchmark, limit: int | None) -> Benchmark:
    """A benchmark with its first problems only, if there is a limit."""
    if limit is None or limit >= len(benchmark.problems):
        return benchmark
    return replace(benchmark, problems=benchmark.problems[:limit], provenance={**benchmark.provenance, "limit": limit})


def _benchmark_loader(name: str, data: Path | None) -> Callable[[], tuple[list[Problem], dict[str, object]]]:
    if name.endswith(".jsonl"):
        return lambda: own.load(_existing(name))
    if name.startswith("basics-") and name.removeprefix("basics-") in basics.SYNTAX:
        return lambda: basics.load(name.removeprefix("basics-"))
    if name == "humaneval":
        return lambda: humaneval.load(data)
    if name.startswith("humaneval-x-"):
        return lambda: humaneval_x.load(name.removeprefix("humaneval-x-"), data)
    if match := re.fullmatch(r"(mbpp-[a-z]+)-validation", name):
        return lambda: _validation(match[1], data)
    if name in ("mbpp", "mbpp-validation"):
        return lambda: mbpp.load(data, "validation" if name == "mbpp-validation" else "test")
    if name == "apps" or name.startswith("apps-"):
        return lambda: apps.load(name.removeprefix("apps").removeprefix("-") or None, data)
    if re.fullmatch(r"(humaneval|mbpp)-[a-z]+", name):
        return lambda: multipl_e.load(name, data)
    known = ", ".join(BENCHMARKS)
    raise UsageError(f"{name!r} is not a benchmark; there are {known}, MultiPL-E's configs, and paths of .jsonl files")


def _validation(config: str, data: Path | None) -> tuple[list[Problem], dict[str, object]]:
    """Those of MBPP's translations whose problem is one of its validation split."""
    problems, provenance = multipl_e.load(config, data)
    first, last = mbpp.SPLITS["validation"]
    kept = [problem for problem in problems if first <= int(problem.upstream.partition("/")[2] or 0) <= last]
    return kept, {**provenance, "split": "validation", "rows": len(kept)}


def chooses(name: str) -> bool:
    """Whether a benchmark is for choosing settings, and not for reporting: the embedded ones, validation splits, files.

    >>> chooses("mbpp-java-validation"), chooses("humaneval-java")
    (True, False)
    """
    return name.endswith((".jsonl", "-validation")) or name.startswith("basics-")


def load_training_set(
    name: str,
    data: str | Path | None = None,
    template: str | None = None,
    limit: int | None = None,
    solutions: int = 1,
    seed: int = 0,
) -> TrainingSet:
    """Load a training set by name, or a `.jsonl` file of `prompt` and `completion`.

    Args:
        name: A key of `TRAINING_SETS`, `apps-<difficulty>`, `mbpp-validation`, `code-search-net-validation`, or a path.
        data: The folder with local copies, if any.
        template: How a row becomes a prompt; the first of the set's templates by default.
        limit: Keep the first examples only.
        solutions: Of each problem of APPS: 1 takes its first; more draws as many distinct ones without replacement, in
            their order, or takes all where there are no more. Solutions that differ in white space only count once.
        seed: Of that draw.

    Raises `UsageError` for an unknown name or template and for `solutions` of other sets than APPS, `FlextuneError` if
    the rows cannot be had.

    >>> len(load_training_set("basics", limit=3).examples)
    3
    """
    _check_limit(limit)
    folder = Path(data) if data is not None else None
    family, split = ("apps", "train") if name.startswith("apps-") else (name, "train")
    if name in ("mbpp-validation", "code-search-net-validation"):
        family, split = name.removesuffix("-validation"), "validation"
    if solutions > 1 and (family != "apps" or name.endswith(".jsonl")):
        raise UsageError(f"training.solutions = {solutions}: only APPS has several of a problem, {name} has one")
    if name.endswith(".jsonl"):
        if template is not None:
            raise UsageError(f"training.template = {template!r}: a file of prompts and completions has no templates")
        examples, provenance = own.examples(_existing(name))
        return TrainingSet(name, examples[:limit], provenance)
    if family not in TRAINING_SETS:
        raise UsageError(
            f"{name!r} is not a training set; there are {', '.join(TRAINING_SETS)} and paths of .jsonl files"
        )
    templates = TRAINING_SETS[family][1]
    template = template or templates[0]
    if template not in templates:
        raise UsageError(f"training.template = {template!r}: {family} has {', '.join(templates)}")
    if family == "basics":
        examples, provenance = basics.examples()
    elif family == "mbpp":
        examples, provenance = mbpp.examples(folder, template, split)
    elif family == "apps":
        difficulty = name.removeprefix("apps").removeprefix("-") or None
        examples, provenance = apps.examples(folder, template, difficulty, solutions, seed)
    else:
        examples, provenance = code_search_net.examples(folder, template, limit, split)
    return TrainingSet(name, examples[:limit], {**provenance, "template": template})


def show(name: str, data: str | Path | None = None, number: int = 1, training: bool = False) -> str:
    """One problem of a benchmark, or one example of a training set, as a text."""
    if training:
        examples = load_training_set(name, data).examples
        example = examples[_position(number, len(examples), name)]
        return f"{example.id}\n\n{example.prompt}{example.completion}"
    problems = load_benchmark(name, data).problems
    problem = problems[_position(number, len(problems), name)]
    tests = problem.tests if isinstance(problem.tests, str) else f"{len(problem.tests.inputs)} inputs and outputs"
    return f"{problem.task_id} ({problem.language})\n\n{problem.prompt}\n… the completion …\n\n{tests}"


def _position(number: int, count: int, name: str) -> int:
    if not 1 <= number <= count:
        raise UsageError(f"number = {number}: {name} has {count}, from 1")
    return number - 1


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"the data file {path} does not exist")
    return path
