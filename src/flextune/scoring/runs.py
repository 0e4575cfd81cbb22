"""Whole runs compared: every measurement with its counterpart, all benchmarks together, corrected for their number.

compare_within("runs/a")                                # the tuned variants of a run against its base model
compare_runs("runs/plain", {"penalty": "runs/penalty"})
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from flextune.errors import UsageError
from flextune.rundir import RunDirectory, folder_name
from flextune.scoring.compare import Arm, adjusted, compare, compare_together, folders_of

TOGETHER = "together"
"""Stands for the benchmark in a row on all of them."""


@dataclass(frozen=True, order=True)
class Place:
    """Which measurement of a run."""

    benchmark: str
    decoding: str
    variant: str

    @property
    def tuned(self) -> bool:
        """Whether an adapter is measured, rather than the base model."""
        return self.variant != "base"

    @property
    def way(self) -> str:
        """The variant, with its decoding if that is not greedy."""
        return self.variant if self.decoding == "greedy" else f"{self.variant} ({self.decoding})"


Pair = tuple[Place, Place]
"""A measurement of the first side and its counterpart on the second."""


def measurements(run: str | Path) -> dict[Place, Path]:
    """The measurements of a run that have been judged, in the order of its recipe's benchmarks."""
    directory = RunDirectory(run)
    found = {
        Place(folder.parent.parent.name, folder.name, folder.parent.name): folder
        for folder in (path.parent for path in (directory.path / "evaluation").glob("*/*/*/verdicts.jsonl"))
    }
    recipe = _settings(run)
    order = [folder_name(name) for name in recipe.get("evaluation", {}).get("benchmarks", ())]

    def key(place: Place) -> tuple[Any, ...]:
        return order.index(place.benchmark) if place.benchmark in order else len(order), place

    return dict(sorted(found.items(), key=lambda item: key(item[0])))


def planned(run: str | Path) -> list[Place]:
    """The measurements that the recipe of a run asks for; none where the run has no `recipe.yaml`.

    Without `evaluation.variants` the variants are those of `flextune.recipe.Recipe.variants`.
    """
    settings = _settings(run)
    evaluation = settings.get("evaluation") or {}
    variants = evaluation.get("variants")
    if variants is None:
        tuned = settings.get("training") is not None or evaluation.get("adapter")
        variants = ["base", "unmerged"] if tuned else ["base"]
    return [
        Place(folder_name(benchmark), decoding, variant)
        for benchmark in evaluation.get("benchmarks") or ()
        for decoding in evaluation.get("decodings") or ("greedy",)
        for variant in variants
    ]


def _settings(run: str | Path) -> dict[str, Any]:
    """The recipe of a run, or an empty mapping."""
    directory = RunDirectory(run)
    return directory.settings if directory.recipe.exists() else {}


def compare_within(run: str | Path) -> list[dict[str, Any]]:
    """Each tuned variant of a run against its base, and merged against unmerged.

    What a later start of the run may have changed, such as a toolchain, is stamped on the rows.

    Returns:
        Rows as of `compare`, with `benchmark`, `decoding`, `variant` and `against`, and with `p_adjusted`, corrected
        for all rows of single benchmarks that are against the same. Where there are several benchmarks, rows of the
        benchmark `together` give the mean over them (`compare_together`).
    """
    places = measurements(run)
    rows = []
    for against, others in (("base", ("unmerged", "merged")), ("unmerged", ("merged",))):
        pairs: dict[Pair, tuple[Arm, Arm]] = {
            (place, other): (folder, places[other])
            for place, folder in places.items()
            if place.variant == against
            for variant in others
            if (other := Place(place.benchmark, place.decoding, variant)) in places
        }
        for family in _unadjusted(pairs, 1, anyway=True):
            rows += [{"against": against, **row} for row in adjusted(family)]
    return rows


def compare_runs(
    reference: Arm, others: Mapping[str, Arm], *, k: int = 1, anyway: bool = False
) -> list[dict[str, Any]]:
    """Every measurement of one or more runs with its counterpart in a reference.

    Counterparts have the same benchmark and decoding, and the same variant where both sides have tuned ones. Where the
    recipes of a side ask for the base model only, it is compared with each tuned variant of the other side. Where a
    recipe asks for a tuned variant, the base model never takes its place. Each row names the variants of both sides.

    Args:
        reference: A run directory, or several that differ by the seed of their training.
        others: By name, the runs to compare with it.
        k: Compare pass@k.
        anyway: As for `compare`. Where a run lacks measurements, the others are compared.

    Returns:
        Rows as of `compare_within`, without `against`, with `name` of the other, and with `not_compared`, a sentence
        for each run that lacks measurements and for each side that has some without a counterpart. `p_adjusted` is
        corrected for all rows of single benchmarks.

    Raises:
        UsageError: A run lacks a measurement that its recipe asks for, or that another seed of its side has. With
            `anyway` this is an error only if nothing else can be compared.
        UsageError: One of them has no measurement in common with the reference; as for `compare`.
    """
    single, together = [], []
    for name, arm in others.items():
        pairs, not_compared = _counterparts(reference, arm, anyway)
        found = _unadjusted(pairs, k, anyway)
        single += [{"name": name, **row, "not_compared": not_compared} for row in found[0]]
        together += [{"name": name, **row, "not_compared": not_compared} for row in found[1]]
    return [*adjusted(single), *adjusted(together)]


def _unadjusted(
    pairs: Mapping[Pair, tuple[Arm, Arm]], k: int, anyway: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each pair, and one for each decoding and variants of the two sides that several benchmarks have."""
    single = [{**_place(*pair), **compare(*folders, k=k, anyway=anyway)} for pair, folders in pairs.items()]
    together = []
    for _, group in groupby(sorted(pairs, key=_sides), _sides):
        same = {first.benchmark: (first, second) for first, second in group}
        if len(same) > 1:
            place = {**_place(*next(iter(same.values()))), "benchmark": TOGETHER}
            folders = {benchmark: pairs[pair] for benchmark, pair in same.items()}
            together.append({**place, **compare_together(folders, k=k, anyway=anyway)})
    return single, together


def _place(first: Place, second: Place) -> dict[str, str]:
    """The keys of a row on two measurements; `variant` is the tuned one, if there is one."""
    return vars(first if second.variant == "base" else second)


def _sides(pair: Pair) -> tuple[str, str, str]:
    """What is the same on all benchmarks of a row `together`."""
    first, second = pair
    return first.decoding, second.variant, first.variant


@dataclass(frozen=True)
class _Run:
    """A run with the measurements that it has, and those that its recipe asks for."""

    path: str | Path
    measured: Mapping[Place, Path]
    planned: Sequence[Place]

    @property
    def places(self) -> list[Place]:
        """The measurements that it has or is to have."""
        return list(dict.fromkeys((*self.measured, *self.planned)))


class _Side:
    """The runs of one side of a comparison."""

    def __init__(self, arm: Arm):
        self.name = ",".join(map(str, folders_of(arm)))
        self.runs = [_Run(run, measurements(run), planned(run)) for run in folders_of(arm)]
        self.places = list(dict.fromkeys(place for run in self.runs for place in run.places))
        self.tuned = any(place.tuned for place in self.places)
        """Whether a run has or is to have a tuned variant, so that its base model is not what is compared."""

    @property
    def measured(self) -> list[Place]:
        """The measurements that at least one of the runs has."""
        return list(dict.fromkeys(place for run in self.runs for place in run.measured))

    def variants(self, benchmark: str, decoding: str) -> list[str]:
        """The variants of a benchmark and decoding that a run has or is to have."""
        return [place.variant for place in self.places if (place.benchmark, place.decoding) == (benchmark, decoding)]

    def folders(self, place: Place) -> list[Path]:
        """The measurement of each run."""
        return [run.measured[place] for run in self.runs]

    def lacks(self, place: Place) -> bool:
        """Whether at least one of the runs has not been measured there."""
        return any(place not in run.measured for run in self.runs)

    def lacking(self, places: Sequence[Place]) -> Iterator[tuple[str, str]]:
        """For each run that lacks some of the measurements: what it lacks, and what to do about it."""
        for run in self.runs:
            lacks = [place for place in places if place not in run.measured]
            if own := [place for place in lacks if place in run.planned]:
                recipe, output = (shlex.quote(str(path)) for path in (RunDirectory(run.path).recipe, run.path))
                yield (
                    f"{run.path} has no verdicts yet for {_listed(own)}, which its recipe.yaml asks for",
                    f"finish it with `flextune run {recipe} --output {output}`",
                )
            if others := [place for place in lacks if place not in run.planned]:
                other = next(other for other in self.runs if others[0] in other.places)
                yield (
                    f"{run.path} does not measure {_listed(others)}, unlike {other.path}",
                    "the seeds of one side need the same variants and benchmarks",
                )

    def unpaired(self, paired: Sequence[Place]) -> list[Place]:
        """The measurements without a counterpart; those of the base model only where there is no tuned variant."""
        return [
            place
            for place in self.measured
            if place not in paired and (place.tuned or set(self.variants(place.benchmark, place.decoding)) == {"base"})
        ]


def _counterparts(reference: Arm, arm: Arm, anyway: bool) -> tuple[dict[Pair, tuple[Arm, Arm]], list[str]]:
    """The measurements of two arms that belong together, and a sentence for what is not compared."""
    one, two = _Side(reference), _Side(arm)
    pairs = list(_pairs(one, two))
    there = [(first, second) for first, second in pairs if not one.lacks(first) and not two.lacks(second)]
    firsts, seconds = [first for first, _ in pairs], [second for _, second in pairs]
    lacking = dict([*one.lacking(firsts), *two.lacking(seconds)])
    if lacking and not (anyway and there):
        found = "; ".join(f"{reason}: {advice}" for reason, advice in lacking.items())
        hint = ". With --anyway flextune compares what both sides have, and says what it left out" if there else ""
        raise UsageError(found + hint)
    if not there:
        raise UsageError(
            f"{one.name} and {two.name} have no benchmark and decoding in common with variants that can be compared: "
            f"the first has {_listed(one.measured)}, the second has {_listed(two.measured)}"
        )
    alone = [
        f"{side.name} has {_listed(places)}, which has no counterpart in {other.name}"
        for side, other, paired in ((one, two, firsts), (two, one, seconds))
        if (places := side.unpaired(paired))
    ]
    return {pair: (one.folders(pair[0]), two.folders(pair[1])) for pair in there}, [*lacking, *alone]


def _pairs(one: _Side, two: _Side) -> Iterator[Pair]:
    """The measurements to compare, also those that are still missing.

    Tuned variants are paired with the same variant. The base model is paired with a tuned variant only if no run of its
    side has, or is to have, a tuned variant on any benchmark.
    """
    for benchmark, decoding in dict.fromkeys((place.benchmark, place.decoding) for place in one.places):
        here, there = one.variants(benchmark, decoding), two.variants(benchmark, decoding)
        tuned_here, tuned_there = ([variant for variant in side if variant != "base"] for side in (here, there))
        matched: list[tuple[str, str]] = []
        if tuned_here and tuned_there:
            matched = [(variant, variant) for variant in tuned_here if variant in tuned_there]
        elif tuned_there and "base" in here and not one.tuned:
            matched = [("base", variant) for variant in tuned_there]
        elif tuned_here and "base" in there and not two.tuned:
            matched = [(variant, "base") for variant in tuned_here]
        elif not tuned_here and not tuned_there and "base" in here and "base" in there:
            matched = [("base", "base")]
        for first, second in matched:
            yield Place(benchmark, decoding, first), Place(benchmark, decoding, second)


def _listed(places: Sequence[Place]) -> str:
    """Measurements in words: `unmerged on humaneval, humaneval-java`."""
    ways: dict[str, list[str]] = {}
    for place in places:
        ways.setdefault(place.way, []).append(place.benchmark)
    return " and ".join(f"{way} on {', '.join(benchmarks)}" for way, benchmarks in ways.items()) or "nothing"
