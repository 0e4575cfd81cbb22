"""Two measurements of the same problems: who solved what the other did not, and how sure the difference is."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from flextune.errors import UsageError
from flextune.files import Row
from flextune.scoring.intervals import Interval, bootstrap_mean, mcnemar_exact, newcombe_paired
from flextune.scoring.score import pass_at_1, pass_rates, read_verdicts


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Compare two `verdicts.jsonl`, the second against the first, problem by problem.

    One sample a problem: Newcombe's paired interval and the exact McNemar test. Several: a bootstrap over problems and
    a sign-flip permutation test of the per-problem differences.

    Raises `UsageError` if the two were not asked the same problems.
    """
    before, after = read_verdicts(first), read_verdicts(second)
    one, two = pass_rates(before), pass_rates(after)
    if one.keys() != two.keys():
        only = sorted(one.keys() ^ two.keys())
        raise UsageError(
            f"{first} and {second} were not asked the same problems: {len(only)} are in one of them only, "
            f"such as {only[0]!r}"
        )
    won = [task_id for task_id in one if two[task_id] > one[task_id]]
    lost = [task_id for task_id in one if two[task_id] < one[task_id]]
    difference, p_value, method = _difference(before, after, one, two)
    return {
        "problems": len(one),
        "first": asdict(pass_at_1(before)),
        "second": asdict(pass_at_1(after)),
        "difference": asdict(difference),
        "p_value": p_value,
        "method": method,
        "won": won,
        "lost": lost,
    }


def _difference(
    before: list[Row], after: list[Row], one: dict[str, float], two: dict[str, float]
) -> tuple[Interval, float, str]:
    if len(before) == len(one) and len(after) == len(two):
        both = sum(one[t] == two[t] == 1 for t in one)
        only_first = sum(one[t] > two[t] for t in one)
        only_second = sum(two[t] > one[t] for t in one)
        neither = len(one) - both - only_first - only_second
        interval = newcombe_paired(both, only_first, only_second, neither)
        return interval, mcnemar_exact(only_first, only_second), "Newcombe's paired interval, exact McNemar test"
    differences = np.array([two[t] - one[t] for t in one])
    p_value = 1.0
    if np.any(differences):
        p_value = float(
            stats.permutation_test(
                (differences,), np.mean, permutation_type="samples", n_resamples=9999, rng=np.random.default_rng(0)
            ).pvalue
        )
    return (
        bootstrap_mean(differences.tolist(), lowest=-1.0),
        p_value,
        "bootstrap over problems, sign-flip permutation test",
    )
