import numpy as np
import pytest
from scipy import stats

from flextune.scoring.intervals import bootstrap_mean, mcnemar_exact, newcombe_paired, wilson


def test_wilson_is_the_textbooks_formula():
    for k, n in ((0, 48), (5, 48), (69, 164), (48, 48)):
        z, p = 1.959964, k / n
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
        found = wilson(k, n)
        assert (found.low, found.high) == pytest.approx((centre - half, centre + half), abs=1e-6)


def test_newcombe_is_the_papers_example():
    """Newcombe 1998: 36, 12, 2, 0 gives 0.0569 to 0.3404 by method 10."""
    found = newcombe_paired(both=36, first=2, second=12, neither=0)
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0569, 0.3404), abs=5e-5)


@pytest.mark.parametrize("table", [(5, 0, 0, 0), (0, 0, 0, 5), (0, 5, 0, 0), (0, 0, 5, 0), (1, 0, 0, 0)])
def test_newcombe_of_extreme_tables(table):
    found = newcombe_paired(*table)
    assert -1 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high


def test_newcombe_turns_its_sign_with_the_order():
    one, other = newcombe_paired(10, 3, 9, 20), newcombe_paired(10, 9, 3, 20)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_newcombe_covers():
    """At 158 problems the interval holds the true difference about 95 times in 100."""
    rng = np.random.default_rng(0)
    probabilities = (0.25, 0.08, 0.14, 0.53)
    tables = rng.multinomial(158, probabilities, size=600)
    held = [found.low <= 0.06 <= found.high for found in (newcombe_paired(*map(int, table)) for table in tables)]
    assert 0.93 <= np.mean(held) <= 0.98


def test_mcnemar_is_the_sign_test():
    assert mcnemar_exact(0, 0) == 1
    assert mcnemar_exact(2, 10) == pytest.approx(2 * stats.binom.cdf(2, 12, 0.5))


def test_bootstrap_is_about_the_normal_interval_and_exact_when_nothing_varies():
    values = [0.0, 0.25, 0.5, 1.0] * 40
    found = bootstrap_mean(values)
    half = 1.96 * np.std(values) / len(values) ** 0.5
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half), abs=0.01)


def test_nothing_that_varies_is_no_certainty():
    none, all_of_them = bootstrap_mean([0.0] * 48), bootstrap_mean([1.0] * 48)
    assert (none.low, none.high) == (0, pytest.approx(wilson(0, 48).high))
    assert (all_of_them.low, all_of_them.high) == (pytest.approx(wilson(48, 48).low), 1)
    no_difference = bootstrap_mean([0.0] * 48, lowest=-1.0)
    assert no_difference.low == -no_difference.high < 0
