"""Data sets: benchmarks that a model is measured on, and training sets that it is taught.

    problems = load_benchmark("humaneval-java", data="folder")
    examples = load_training_set("mbpp", data="folder")

`tasks.registry` has all names in one table; the path of a JSON Lines file is one too. Rows come from the folder `data`
where it has the file, from the Hub at a pinned revision otherwise.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flextune.errors import UsageError
from flextune.tasks.problem import Example, Problem, StandardInput, truncate
from flextune.tasks.registry import Wanted, chooses, find
from flextune.tasks.reply import completion_of, message

__all__ = [
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
    entry, groups = find(name, "measure")
    assert entry.measure is not None
    problems, provenance = entry.measure(groups, folder)
    seen: set[str] = set()
    for problem in problems:
        if problem.task_id in seen:
            raise UsageError(f"{name}: the task_id {problem.task_id!r} appears twice")
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
        name: A data set that `flextune data list` shows, or a path.
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
    entry, groups = find(name, "learn")
    assert entry.learn is not None
    if solutions > 1 and not entry.solutions:
        raise UsageError(f"training.solutions = {solutions}: only APPS has several of a problem, {name} has one")
    if template is not None and template not in entry.templates:
        known = (
            f"{name} has {', '.join(entry.templates)}"
            if entry.templates
            else ("a file of prompts and completions has no templates")
        )
        raise UsageError(f"training.template = {template!r}: {known}")
    chosen = template or next(iter(entry.templates), "")
    folder = Path(data) if data is not None else None
    examples, provenance = entry.learn(groups, Wanted(folder, chosen, limit, solutions, seed))
    how = {"template": chosen} if chosen else {}
    return TrainingSet(name, examples[:limit], {**provenance, **how})


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
