"""Whole runs compared: every measurement with its counterpart, all benchmarks together, corrected for their number.

compare_within("runs/a")                                # the tuned variants of a run against its base model
compare_runs("runs/plain", {"penalty": "runs/penalty"})
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from flextune.errors import UsageError
from flextune.rundir import RunDirectory, folder_name
from flextune.scoring.compare import Arm, adjusted, compare, compare_together

TOGETHER = "together"
"""Stands for the benchmark in a row on all of them."""


@dataclass(frozen=True, order=True)
class Place:
    """Which measurement of a run."""

    benchmark: str
    decoding: str
    variant: str


def measurements(run: str | Path) -> dict[Place, Path]:
    """The measurements of a run that have been judged, in the order of its recipe's benchmarks."""
    directory = RunDirectory(run)
    found = {
        Place(folder.parent.parent.name, folder.name, folder.parent.name): folder
        for folder in (path.parent for path in (directory.path / "evaluation").glob("*/*/*/verdicts.jsonl"))
    }
    recipe = directory.settings if directory.recipe.exists() else {}
    order = [folder_name(name) for name in recipe.get("evaluation", {}).get("benchmarks", ())]

    def key(place: Place) -> tuple[Any, ...]:
        return order.index(place.benchmark) if place.benchmark in order else len(order), place

    return dict(sorted(found.items(), key=lambda item: key(item[0])))


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
        pairs = {
            Place(place.benchmark, place.decoding, variant): (folder, places[other])
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

    Counterparts have one benchmark and decoding, and the same variant where both sides have tuned ones. A side that has
    only a base model is compared by it with each tuned variant of the other.

    Args:
        reference: A run directory, or several that differ by the seed of their training.
        others: By name, the runs to compare with it.
        k: Compare pass@k.
        anyway: As for `compare`.

    Returns:
        Rows as of `compare_within`, with `name` of the other; `p_adjusted` is corrected for all rows of single
        benchmarks.

    Raises:
        UsageError: One of them has no measurement in common with the reference; as for `compare`.
    """
    single, together = [], []
    for name, arm in others.items():
        found = _unadjusted(_counterparts(reference, arm), k, anyway)
        single += [{"name": name, **row} for row in found[0]]
        together += [{"name": name, **row} for row in found[1]]
    return [*adjusted(single), *adjusted(together)]


def _unadjusted(
    pairs: Mapping[Place, tuple[Arm, Arm]], k: int, anyway: bool
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each pair, and one for each variant and decoding that several benchmarks have."""
    single = [{**vars(place), **compare(*pair, k=k, anyway=anyway)} for place, pair in pairs.items()]
    together = []
    for (decoding, variant), group in groupby(
        sorted(pairs, key=lambda place: (place.decoding, place.variant)), lambda place: (place.decoding, place.variant)
    ):
        of = {place.benchmark: pairs[place] for place in group}
        if len(of) > 1:
            place = Place(TOGETHER, decoding, variant)
            together.append({**vars(place), **compare_together(of, k=k, anyway=anyway)})
    return single, together


def _counterparts(reference: Arm, arm: Arm) -> dict[Place, tuple[Arm, Arm]]:
    """The measurements of two arms that belong together, the variant named `base` only where there is no other."""
    one, two = _of_arm(reference), _of_arm(arm)
    pairs: dict[Place, tuple[Arm, Arm]] = {}
    for benchmark, decoding in dict.fromkeys((place.benchmark, place.decoding) for place in one):
        here, there = (
            {p.variant: f for p, f in side.items() if (p.benchmark, p.decoding) == (benchmark, decoding)}
            for side in (one, two)
        )
        tuned_here, tuned_there = ({v: f for v, f in side.items() if v != "base"} for side in (here, there))
        if tuned_here and tuned_there:
            matched = {v: (tuned_here[v], tuned_there[v]) for v in tuned_here if v in tuned_there}
        elif tuned_there and "base" in here:
            matched = {v: (here["base"], folder) for v, folder in tuned_there.items()}
        elif tuned_here and "base" in there:
            matched = {v: (folder, there["base"]) for v, folder in tuned_here.items()}
        else:
            matched = {v: (here[v], there[v]) for v in here if v in there}
        pairs |= {Place(benchmark, decoding, variant): pair for variant, pair in matched.items()}
    if not pairs:
        raise UsageError(f"{_names(reference)} and {_names(arm)} have no benchmark and decoding in common")
    return pairs


def _names(arm: Arm) -> str:
    return str(arm) if isinstance(arm, str | Path) else ",".join(map(str, arm))


def _of_arm(arm: Arm) -> dict[Place, list[Path]]:
    """The measurements that all runs of an arm have."""
    runs: Sequence[str | Path] = [arm] if isinstance(arm, str | Path) else arm
    found = [measurements(run) for run in runs]
    return {place: [each[place] for each in found] for place in found[0] if all(place in each for each in found)}
