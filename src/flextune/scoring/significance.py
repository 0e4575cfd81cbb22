"""Is a difference more than chance, over how many comparisons, and how small a one could have been seen at all?"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from flextune.scoring.intervals import BATCH

SIGNIFICANCE = 0.05
POWER = 0.8


def mcnemar_exact(first: int, second: int) -> float:
    """Exact two-sided p-value that two runs solve equally many, from the problems that only one of them solved.

    >>> mcnemar_exact(3, 3), round(mcnemar_exact(0, 6), 5)
    (1.0, 0.03125)
    """
    if first + second == 0:
        return 1.0
    return float(stats.binomtest(first, first + second, 0.5).pvalue)


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p-value that the differences of the problems scatter around zero: their signs are drawn anew.

    All ways are tried where there are few problems, 9,999 draws otherwise (scipy's `permutation_test`).

    >>> sign_flip([0.0, 0.0]), sign_flip([0.5] * 6)
    (1.0, 0.03125)
    """
    values = np.asarray(differences, dtype=float)
    values = values[values != 0]  # a zero has no sign to flip
    if len(values) < 2:
        return 1.0
    found = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=9999,
        batch=BATCH,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def t_test(values: Sequence[float]) -> float:
    """Two-sided p-value that a few values, one a training seed, scatter around zero; 1 for a single one.

    >>> t_test([1.0]), t_test([0.0, 0.0]), t_test([0.5, 0.5]), round(t_test([1.0, 2.0, 3.0]), 4)
    (1.0, 1.0, 0.0, 0.0742)
    """
    if len(values) < 2:
        return 1.0
    if np.ptp(values) == 0:
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for being several (Holm 1979), from statsmodels.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if not p_values:
        return []
    from statsmodels.stats.multitest import multipletests

    return [float(value) for value in multipletests(p_values, method="holm")[1]]


def power_of_mcnemar(n: int, first: float, second: float, significance: float = SIGNIFICANCE) -> float:
    """How often the exact McNemar test of n problems finds a difference.

    Args:
        n: Problems.
        first: Probability that a problem is solved by the first only.
        second: By the second only.
        significance: The level of the test.

    >>> round(power_of_mcnemar(158, 0.05, 0.15), 2)
    0.77
    """
    unlike = first + second
    if unlike == 0:
        return 0.0
    m = np.arange(1, n + 1)
    # the test rejects when the rarer kind is at most `limit` of m
    limit = stats.binom.ppf(significance / 2, m, 0.5)
    limit = np.where(stats.binom.cdf(limit, m, 0.5) * 2 > significance, limit - 1, limit)
    share = second / unlike
    rejects = stats.binom.cdf(limit, m, share) + stats.binom.sf(m - limit - 1, m, share)
    return float(np.sum(stats.binom.pmf(m, n, unlike) * rejects))


def detectable(n: int, unlike: float) -> float | None:
    """The smallest difference of two shares that the exact McNemar test of n problems finds four times in five.

    Args:
        n: Problems.
        unlike: The share of problems that only one of the two solves, as observed; where a difference is larger than
            this, all that differ are taken to differ in its direction.

    Returns:
        A share, or None where not even a difference on all problems would be found.

    >>> round(detectable(158, 0.1), 3), round(detectable(158, 0.3), 3), detectable(5, 0.4)
    (0.072, 0.125, None)
    """

    def power(difference: float) -> float:
        both_ways = max(unlike, difference)
        return power_of_mcnemar(n, (both_ways - difference) / 2, (both_ways + difference) / 2)

    if power(1.0) < POWER:
        return None
    return float(optimize.brentq(lambda difference: power(difference) - POWER, 1e-9, 1.0, xtol=1e-6))


def detectable_mean(differences: Sequence[float]) -> float | None:
    """The smallest mean difference that a paired t test of as many problems, or seeds, finds four times in five.

    For several samples a problem the scatter is that of the problems' differences, for several seeds also that of the
    seeds'.

    Returns:
        A difference; None where the differences do not vary, or where even 1 would not be found.

    >>> detectable_mean([0.5]), round(detectable_mean([0.1, -0.1] * 50), 4)
    (None, 0.0284)
    """
    n = len(differences)
    if n < 2 or np.ptp(differences) == 0:
        return None
    from statsmodels.stats.power import TTestPower

    effect = np.ravel(TTestPower().solve_power(nobs=n, alpha=SIGNIFICANCE, power=POWER))[0]
    found = float(effect * np.std(differences, ddof=1))
    return found if found <= 1 else None
