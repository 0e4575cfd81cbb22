"""Measurements of the same problems compared: who solved what the other did not, and how sure the difference is.

compare("runs/a/evaluation/humaneval/base/greedy", "runs/a/evaluation/humaneval/merged/greedy")
compare("base", ["seed-0", "seed-1", "seed-2"])         # a training with three seeds against the base model
compare_each("base", {"plain": "out", "penalty": "other"})
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flextune.errors import UsageError
from flextune.rundir import Measurement
from flextune.scoring.conditions import Conditions, read_conditions, unlike, unrecorded
from flextune.scoring.intervals import across_seeds, as_row, bootstrap_mean, newcombe_paired, wilson
from flextune.scoring.pass_at_k import count, estimates
from flextune.scoring.score import read_verdicts, refuse_repeated, variant_of
from flextune.scoring.significance import detectable, detectable_mean, holm, mcnemar_exact, sign_flip, t_test

Arm = str | Path | Sequence[str | Path]
"""The folder of a measurement, or those of several that differ by the seed of their training."""
Values = dict[str, float]
"""By problem."""
DIGITS = 12
"""After the point, of differences."""


def compare(first: Arm, second: Arm, *, k: int = 1, anyway: bool = False) -> dict[str, Any]:
    """Compare the second against the first, problem by problem.

    One sample a problem: Newcombe's paired interval and the exact McNemar test. Several: a bootstrap over problems and
    a sign-flip permutation test of the problems' differences. Several training seeds: over the problems as before,
    from each problem's mean over the seeds; and over the seeds Student's t, each seed against the one of the same place
    (or against the only one) on the other side; the wider interval and the larger p-value stand for both.

    Args:
        first: A folder with `verdicts.jsonl`, or several that differ by the seed of their training.
        second: Another; as many as the first, or one of the two is a single folder.
        k: Compare pass@k.
        anyway: Compare what was measured under different conditions too, on the problems that both were asked;
            translations of a problem count as the same. What differs is stamped on the result.

    Returns:
        `first_variant` and `second_variant`, what is measured on each side, by the names of the folders (None for
        folders outside of a run);
        `problems`, `seeds`; `first` and `second`, the value of each with its interval; `difference` likewise;
        `p_value` and `method`; `detectable`, the smallest difference that would have been found four times in five
        (None where none would; of several seeds the larger of that over problems and that over seeds); `won` and
        `lost`, the ids of the problems that the second solves more and less often; `unlike`, what differs in the
        conditions, and `unrecorded`, where nothing is said of them.

    Raises:
        UsageError: The problems, their texts, limits or toolchains differ and `anyway` is false; a problem has fewer
            than k samples; several seeds on both sides, and not as many; the folders of one side are of different
            variants.
        FlextuneError: There are no verdicts.
    """
    return {**_variants([first], [second]), **_compared(*_matched(first, second, k, anyway))}


def compare_each(
    reference: Arm, others: Mapping[str, Arm], *, k: int = 1, anyway: bool = False
) -> list[dict[str, Any]]:
    """Compare several with one reference; `p_adjusted` is corrected for their number (Holm)."""
    return adjusted([{"name": name, **compare(reference, arm, k=k, anyway=anyway)} for name, arm in others.items()])


def adjusted(comparisons: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The comparisons with `p_adjusted`, Holm's correction for as many as there are, and `comparisons`, how many."""
    values = holm([found["p_value"] for found in comparisons])
    return [
        {**found, "p_adjusted": value, "comparisons": len(values)}
        for found, value in zip(comparisons, values, strict=True)
    ]


def compare_together(pairs: Mapping[str, tuple[Arm, Arm]], *, k: int = 1, anyway: bool = False) -> dict[str, Any]:
    """The mean difference over several benchmarks, each counted once, with translations of a problem kept together.

    The languages of MultiPL-E share HumanEval's problems, so that a problem that is hard in one is hard in the others:
    the interval and the test are over problems with all their translations, not over rows.

    Args:
        pairs: For each benchmark the first and the second, as for `compare`.
        k: Compare pass@k.
        anyway: As for `compare`.

    Returns:
        As `compare` does, without `first`, `second`, `won` and `lost`; `benchmarks` are their names, `problems` the
        number of distinct problems.

    Raises:
        UsageError: One side has different variants on different benchmarks; as for `compare`.
    """
    variants = _variants([first for first, _ in pairs.values()], [second for _, second in pairs.values()])
    found = {name: _matched(*pair, k, anyway) for name, pair in pairs.items()}
    seeds = {len(_differences(one, two)) for one, two, _ in found.values()}
    if len(seeds) > 1:
        raise UsageError(f"the benchmarks were measured with different numbers of seeds: {sorted(seeds)}")
    clusters: dict[str, None] = {}
    parts: list[dict[str, list[float]]] = [{} for _ in range(seeds.pop())]
    for one, two, _ in found.values():
        for part, values in zip(parts, _differences(one, two), strict=True):
            for task_id, value in values.items():
                cluster = one.conditions.upstream.get(task_id, task_id)
                clusters[cluster] = None
                part.setdefault(cluster, []).append(value / len(values) / len(found))
    differences = [{c: sum(part.get(c, [])) * len(clusters) for c in clusters} for part in parts]
    reasons = [sentence for one, two, sentences in found.values() for sentence in sentences]
    unknown = [sentence for one, two, _ in found.values() for sentence in unrecorded(one.conditions, two.conditions)]
    return {
        **variants,
        "benchmarks": list(found),
        "problems": len(clusters),
        "seeds": len(differences),
        **_over_problems_and_seeds(differences),
        "unlike": list(dict.fromkeys(reasons)),
        "unrecorded": list(dict.fromkeys(unknown)),
    }


def folders_of(arm: Arm) -> list[str | Path]:
    """The folders of an arm, also where it is one.

    >>> folders_of("base"), folders_of(["seed-0", "seed-1"])
    (['base'], ['seed-0', 'seed-1'])
    """
    return [arm] if isinstance(arm, str | Path) else list(arm)


def _variants(firsts: Sequence[Arm], seconds: Sequence[Arm]) -> dict[str, str | None]:
    """What each side of a row measures; an error if a side mixes variants."""
    return {
        f"{side}_variant": variant_of([folder for arm in arms for folder in folders_of(arm)])
        for side, arms in (("first", firsts), ("second", seconds))
    }


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: for each seed the value of each problem."""

    conditions: Conditions
    seeds: list[Values]
    once: bool
    """One sample a problem, of one training."""


def _side(arm: Arm, k: int) -> list[_Side]:
    """The measurements of an arm, one for each seed."""
    if k < 1:
        raise UsageError(f"k = {k}: pass@k takes at least 1 sample")
    folders = folders_of(arm)
    if not folders:
        raise UsageError("there is nothing to compare: no folder is named")
    refuse_repeated(folders)
    return [_measurement(Measurement(Path(folder)), k, once=len(folders) == 1) for folder in folders]


def _measurement(measurement: Measurement, k: int, once: bool) -> _Side:
    counts = count(read_verdicts(measurement.verdicts))
    values = estimates(counts, k)
    if too_few := [task_id for task_id in counts if task_id not in values]:
        raise UsageError(
            f"pass@{k} needs {k} samples of every problem: {len(too_few)} of {measurement.path} have fewer, such as "
            f"{too_few[0]!r} with {counts[too_few[0]].samples}"
        )
    single = all(found.samples == 1 for found in counts.values())
    return _Side(read_conditions(measurement), [values], once and single)


def _matched(first: Arm, second: Arm, k: int, anyway: bool) -> tuple[_Side, _Side, list[str]]:
    """Both sides on the problems that all their measurements were asked, by the ids of the first; and what differs."""
    one, two = _side(first, k), _side(second, k)
    if len(one) != len(two) and 1 not in (len(one), len(two)):
        raise UsageError(f"{len(one)} seeds cannot be paired with {len(two)}: name as many, or one on one side")
    reference = one[0]
    reasons: list[str] = []
    ids = {task_id: task_id for task_id in reference.seeds[0]}
    names = []  # for each other measurement, its id of each shared problem
    for other in [*one[1:], *two]:
        shared = _shared(reference, other)
        reasons += _not_shared(reference, other, shared)
        reasons += unlike(reference.conditions, other.conditions, shared)
        ids = {task_id: task_id for task_id in ids if task_id in shared}
        names.append(shared)
    reasons = list(dict.fromkeys(reasons))
    if not ids:
        raise UsageError("no problem was asked in all of them")
    if reasons and not anyway:
        raise UsageError(
            f"{'; '.join(reasons)}. If they are to be compared all the same: --anyway, which is stamped on the result"
        )
    kept = [
        {task_id: found.seeds[0][called[task_id]] for task_id in ids}
        for found, called in zip([*one, *two], [ids, *names], strict=True)
    ]
    sides = kept[: len(one)], kept[len(one) :]
    return (
        _Side(reference.conditions, sides[0], reference.once),
        _Side(two[0].conditions, sides[1], two[0].once),
        reasons,
    )


def _shared(first: _Side, second: _Side) -> dict[str, str]:
    """The problems of both, the first's ids to the second's: the same ids, or else the same problems translated."""
    shared = {task_id: task_id for task_id in first.seeds[0] if task_id in second.seeds[0]}
    if shared:
        return shared
    others = {upstream: task_id for task_id, upstream in second.conditions.upstream.items()}
    upstream = first.conditions.upstream
    return {
        task_id: others[upstream[task_id]]
        for task_id in first.seeds[0]
        if upstream.get(task_id) in others and others[upstream[task_id]] in second.seeds[0]
    }


def _not_shared(first: _Side, second: _Side, shared: Mapping[str, str]) -> list[str]:
    """A sentence if the two were not asked the same problems."""
    here = [task_id for task_id in first.seeds[0] if task_id not in shared]
    there = sorted(second.seeds[0].keys() - set(shared.values()))
    if not here and not there:
        return []
    return [
        f"{first.conditions.folder} and {second.conditions.folder} were not asked the same problems: {len(here)} are "
        f"in the first only, {len(there)} in the second only, such as {[*here, *there][0]!r}; {len(shared)} are in both"
    ]


def _differences(first: _Side, second: _Side) -> list[Values]:
    """For each seed, second − first of each problem; a side of one measurement is set against each of the other's.

    Rounded, so that differences that are the same are the same number.
    """
    seeds = max(len(first.seeds), len(second.seeds))
    ones, twos = (side.seeds * (seeds if len(side.seeds) == 1 else 1) for side in (first, second))
    return [
        {task_id: round(two[task_id] - one[task_id], DIGITS) for task_id in one}
        for one, two in zip(ones, twos, strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), DIGITS)


def _compared(first: _Side, second: _Side, reasons: list[str]) -> dict[str, Any]:
    differences = _differences(first, second)
    mean = {task_id: _mean([values[task_id] for values in differences]) for task_id in differences[0]}
    if first.once and second.once:
        found = _over_single_samples(first.seeds[0], second.seeds[0])
    else:
        found = _over_problems_and_seeds(differences)
    return {
        "problems": len(mean),
        "seeds": len(differences),
        "first": _value(first),
        "second": _value(second),
        **found,
        "won": [task_id for task_id, value in mean.items() if value > 0],
        "lost": [task_id for task_id, value in mean.items() if value < 0],
        "unlike": reasons,
        "unrecorded": unrecorded(first.conditions, second.conditions),
    }


def _value(side: _Side) -> dict[str, Any]:
    """The mean of a side with its interval."""
    if len(side.seeds) > 1:
        return as_row(across_seeds(side.seeds))
    values = list(side.seeds[0].values())
    return as_row(wilson(round(sum(values)), len(values)) if side.once else bootstrap_mean(values))


def _over_single_samples(one: Values, two: Values) -> dict[str, Any]:
    """Difference and test where each problem was tried once on each side."""
    both = sum(one[i] == two[i] == 1 for i in one)
    first, second = sum(one[i] > two[i] for i in one), sum(two[i] > one[i] for i in one)
    return {
        "difference": as_row(newcombe_paired(both, first, second, len(one) - both - first - second)),
        "p_value": mcnemar_exact(first, second),
        "method": "Newcombe's paired interval, exact McNemar test",
        "detectable": detectable(len(one), (first + second) / len(one)),
    }


def _over_problems_and_seeds(differences: Sequence[Values]) -> dict[str, Any]:
    """Difference and test from the problems' differences, one mapping a seed."""
    mean = [_mean(found) for found in zip(*(values.values() for values in differences), strict=True)]
    of_seeds = [_mean(list(values.values())) for values in differences]
    p_value, method = sign_flip(mean), "bootstrap over problems, sign-flip permutation test"
    found = [detectable_mean(mean)]
    if len(differences) == 1:
        interval = as_row(bootstrap_mean(mean, lowest=-1.0))
    else:
        interval = as_row(across_seeds(differences, lowest=-1.0))
        p_value = max(p_value, t_test(of_seeds))
        method += "; Student's t over seeds; the wider interval, the larger p-value"
        if np.ptp(of_seeds):  # seeds that agree hide nothing
            found.append(detectable_mean(of_seeds))
    return {
        "difference": interval,
        "p_value": p_value,
        "method": method,
        "detectable": None if None in found else max(value for value in found if value is not None),
    }
