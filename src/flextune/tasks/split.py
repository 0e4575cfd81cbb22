"""What of a training set is learned, what its loss is measured on, and what neither may see."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from flextune.errors import FlextuneError, UsageError
from flextune.progress import say
from flextune.tasks import Benchmark, Example, TrainingSet
from flextune.tasks.overlap import find_overlaps


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
    for problem in random.Random(0).sample(list(problems), len(problems)):
        if sum(problems[name] for name in held) < count:
            held.add(problem)
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
        same = [o for o in find_overlaps(found.examples, benchmark.problems) if o.certain]
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
