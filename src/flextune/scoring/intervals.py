"""Confidence intervals for shares of problems solved, and for the difference of two on the same problems."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A value with the 95 % interval around it."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Interval:
    """Wilson's score interval for a share (Wilson 1927), from scipy.

    >>> wilson(69, 164)
    Interval(value=0.4207..., low=0.3478..., high=0.4972...)
    """
    found = stats.binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / n, float(found.low), float(found.high))


def bootstrap_mean(per_problem: Sequence[float], lowest: float = 0.0, highest: float = 1.0) -> Interval:
    """Percentile bootstrap over problems for a mean of per-problem values, for several samples a problem.

    Where the values do not vary, resampling them shows nothing: then the interval reaches as far as Wilson's does for
    as many problems of which none was solved.

    Args:
        per_problem: One value for each problem.
        lowest: The least a value can be.
        highest: The most a value can be.
    """
    values = np.asarray(per_problem, dtype=float)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        reach = wilson(0, len(values)).high
        return Interval(mean, max(mean - reach, lowest), min(mean + reach, highest))
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def newcombe_paired(both: int, first: int, second: int, neither: int) -> Interval:
    """Interval for the difference second − first of two shares on the same problems.

    Newcombe's square-and-add interval with Wilson limits (Newcombe 1998, Statistics in Medicine 17:2635, method 10).

    Args:
        both: Problems solved by both.
        first: Problems solved by the first only.
        second: Problems solved by the second only.
        neither: Problems solved by neither.

    The worked example of the paper (36, 12, 2, 0 for first − second):

    >>> found = newcombe_paired(36, 2, 12, 0)
    >>> round(found.value, 4), round(found.low, 4), round(found.high, 4)
    (0.2, 0.0569, 0.3404)
    """
    n = both + first + second + neither
    one, two = wilson(both + first, n), wilson(both + second, n)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    phi = 0.0
    if margins:
        product = float(both * neither - first * second)
        # continuity correction of the correlation, for positive products only
        product = max(product - n / 2, 0.0) if product > 0 else product
        phi = product / margins**0.5
    value = two.value - one.value
    low = _hypotenuse(two.value - two.low, one.high - one.value, phi)
    high = _hypotenuse(two.high - two.value, one.value - one.low, phi)
    return Interval(value, value - low, value + high)


def _hypotenuse(a: float, b: float, correlation: float) -> float:
    return float(max(a * a - 2 * correlation * a * b + b * b, 0.0) ** 0.5)


def mcnemar_exact(first: int, second: int) -> float:
    """Exact two-sided p-value that two runs solve equally many, from the problems that only one of them solved.

    >>> mcnemar_exact(3, 3), round(mcnemar_exact(0, 6), 5)
    (1.0, 0.03125)
    """
    if first + second == 0:
        return 1.0
    return float(stats.binomtest(first, first + second, 0.5).pvalue)
