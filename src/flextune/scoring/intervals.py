"""Confidence intervals: of shares of problems solved, of differences on the same problems, and over training seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
BATCH = 500
"""Resamples at a time: they bound the memory that thousands of problems take, and change no number."""


@dataclass(frozen=True)
class Interval:
    """A value with the 95 % interval around it."""

    value: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """From end to end."""
        return self.high - self.low


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
        (values,),
        np.mean,
        confidence_level=CONFIDENCE,
        method="percentile",
        batch=BATCH,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


def newcombe_paired(both: int, first: int, second: int, neither: int) -> Interval:
    """Interval for the difference second − first of two shares on the same problems.

    Newcombe's square-and-add interval with Wilson limits (Newcombe 1998, Statistics in Medicine 17:2635, method 10);
    neither scipy nor statsmodels has one for paired shares.

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


@dataclass(frozen=True)
class Mean:
    """The mean of n values with its 95 % interval; a single value has no interval, and no value no mean."""

    value: float | None
    low: float | None
    high: float | None
    n: int


def t_interval(values: Sequence[float]) -> Mean:
    """Student's t interval for the mean of a few values.

    Values that are all the same give an interval of no width.

    >>> t_interval([1.0, 2.0, 3.0])
    Mean(value=2.0, low=-0.484..., high=4.484..., n=3)
    >>> t_interval([1.0])
    Mean(value=1.0, low=None, high=None, n=1)
    """
    n = len(values)
    if n == 0:
        return Mean(None, None, None, 0)
    mean = float(np.mean(values))
    if n == 1:
        return Mean(mean, None, None, 1)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(values, ddof=1) / n**0.5)
    return Mean(mean, mean - reach, mean + reach, n)


@dataclass(frozen=True)
class Crossed:
    """A mean over training seeds and problems, with the wider of its two intervals.

    Seeds and problems are crossed: every seed was asked every problem, so that S seeds on n problems are not S · n
    results. Over problems, with these very seeds, the interval says what other problems would have given; over seeds,
    with these very problems, what other trainings would have given.
    """

    value: float
    low: float
    high: float
    over_problems: Interval
    over_seeds: Interval

    @property
    def wider(self) -> str:
        """Which of the two intervals is the headline."""
        return "seeds" if self.over_seeds.width > self.over_problems.width else "problems"


def across_seeds(seeds: Sequence[Mapping[str, float]], lowest: float = 0.0, highest: float = 1.0) -> Crossed:
    """The mean over seeds and problems with both intervals.

    Over problems: a bootstrap of each problem's mean over the seeds. Over seeds: Student's t interval of each seed's
    mean over the problems, cut to what is possible.

    Args:
        seeds: For each seed (at least two), the value of each problem; the same problems for all.
        lowest: The least a value can be.
        highest: The most a value can be.

    >>> found = across_seeds([{"a": 1.0, "b": 0.0, "c": 1.0}, {"a": 1.0, "b": 0.0, "c": 0.0}])
    >>> found.value, found.over_seeds.low, found.over_seeds.high
    (0.5, 0.0, 1.0)
    """
    values = np.array([[each[task_id] for task_id in seeds[0]] for each in seeds])
    over_problems = bootstrap_mean(values.mean(axis=0).tolist(), lowest, highest)
    mean = t_interval(values.mean(axis=1).tolist())
    if mean.value is None or mean.low is None or mean.high is None:
        raise ValueError("one seed has no spread over seeds")
    over_seeds = Interval(mean.value, max(mean.low, lowest), min(mean.high, highest))
    wider = max(over_seeds, over_problems, key=lambda interval: interval.width)
    return Crossed(mean.value, wider.low, wider.high, over_problems, over_seeds)


def as_row(found: Interval | Crossed) -> dict[str, Any]:
    """The keys that a result file has for a value: `value`, `low`, `high`, and over seeds both intervals."""
    row: dict[str, Any] = {"value": found.value, "low": found.low, "high": found.high}
    if isinstance(found, Crossed):
        row["wider"] = found.wider
        row["over_problems"] = [found.over_problems.low, found.over_problems.high]
        row["over_seeds"] = [found.over_seeds.low, found.over_seeds.high]
    return row
