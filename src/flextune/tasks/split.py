"""What of a benchmark is asked, what of a training set is learned, and what its loss is measured on."""

import difflib
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from flextune.errors import FlextuneError, UsageError
from flextune.progress import say
from flextune.tasks import Benchmark, Example, Problem, TrainingSet
from flextune.tasks.overlap import find_overlaps


def ask(
    benchmarks: Sequence[Benchmark], only: Sequence[str] | None = None, without: Sequence[str] = ()
) -> list[Benchmark]:
    """Benchmarks with some of their problems only, and without others.

    A name is that of a problem, or of the one that it was translated from: `HumanEval/0` is asked, or left out, in
    every language.

    Raises:
        UsageError: No problem has one of the names, or a benchmark would have none left.

    >>> from flextune.tasks import load_benchmark
    >>> both = [load_benchmark("basics-python"), load_benchmark("basics-java")]
    >>> [[problem.task_id for problem in found.problems] for found in ask(both, only=["basics/beetle_legs"])]
    [['basics/beetle_legs'], ['basics/beetle_legs']]
    """
    known = {name for benchmark in benchmarks for problem in benchmark.problems for name in _names(problem)}
    among = ", ".join(benchmark.name for benchmark in benchmarks) or "no benchmark"
    for key, names in (("only", only or ()), ("without", without)):
        if unknown := [name for name in names if name.lower() not in known]:
            close = difflib.get_close_matches(unknown[0].lower(), known, n=1)
            raise UsageError(
                f"evaluation.{key}: no problem of {among} is called "
                f"{unknown[0]!r}, nor was translated from it{f'; did you mean {close[0]}?' if close else ''}"
            )
    found = []
    for benchmark in benchmarks:
        wanted, unwanted = ({name.lower() for name in names} for names in (only or (), without))
        kept = [
            problem
            for problem in benchmark.problems
            if (only is None or wanted & _names(problem)) and not unwanted & _names(problem)
        ]
        if not kept:
            raise UsageError(
                f"evaluation.only and evaluation.without leave no problem of {benchmark.name}: leave it out of "
                "evaluation.benchmarks, or name other problems"
            )
        about = {} if len(kept) == len(benchmark.problems) else {"asked": len(kept)}
        found.append(replace(benchmark, problems=kept, provenance=benchmark.provenance | about))
    return found


def _names(problem: Problem) -> set[str]:
    """What a problem may be called, in lower case."""
    return {problem.task_id.lower(), problem.upstream.lower()} - {""}


def hold_out(learn: TrainingSet, fixed: TrainingSet, count: int) -> tuple[TrainingSet, TrainingSet]:
    """Divide a training set; solutions of one problem stay together, so that the last may bring a few more than asked.

    What is held out comes from `fixed`, the same set drawn with seed 0: it is the same whatever the recipe's seed, so
    that runs can be compared.
    """
    if count >= len(learn.examples):
        raise UsageError(
            f"training.validation = {count}: {learn.name} has {len(learn.examples)} examples; hold out fewer"
        )
    problems: dict[str, int] = Counter(map(_problem, learn.examples))
    held: set[str] = set()
    taken = 0
    for problem in random.Random(0).sample(list(problems), len(problems)):
        if taken >= count:
            break
        held.add(problem)
        taken += problems[problem]
    rest = [example for example in learn.examples if _problem(example) not in held]
    if not rest:
        raise UsageError(f"training.validation = {count}: nothing of {learn.name} is left to learn; hold out fewer")
    away = [example for example in fixed.examples if _problem(example) in held]
    about = {"held out": len(away)}
    return (
        replace(learn, examples=rest, provenance=learn.provenance | about),
        replace(fixed, examples=away, provenance=fixed.provenance | about),
    )


def without_overlaps(found: TrainingSet, benchmarks: Sequence[Benchmark], overlap: str) -> TrainingSet:
    """The examples that are no problems of a benchmark measured here; refuses if it is to."""
    if overlap == "keep":
        return found
    shared: set[str] = set()
    for benchmark in benchmarks:
        same = find_overlaps(found.examples, benchmark.problems, hints=False)
        if same and overlap == "refuse":
            raise UsageError(
                f"{len(same)} examples of {found.name} are problems of {benchmark.name}, such as "
                f"{same[0].example} and {same[0].problem} (same {same[0].kind}): leave them out with "
                "training.overlap=drop, or train on them knowingly with training.overlap=keep "
                f"(all of them: flextune data overlap {found.name} {benchmark.name})"
            )
        shared |= {one.example for one in same}
    problems = {_problem(example) for example in found.examples if example.id in shared}
    kept = [example for example in found.examples if _problem(example) not in problems]
    dropped = len(found.examples) - len(kept)
    if dropped:
        say(f"{dropped} examples of {found.name} left out: they are problems of a benchmark measured here")
    if not kept:
        raise FlextuneError(f"every example of {found.name} is a problem of a benchmark measured here")
    return replace(found, examples=kept, provenance={**found.provenance, "dropped": dropped})


def _problem(example: Example) -> str:
    """What several solutions have in common."""
    return example.upstream or example.id
