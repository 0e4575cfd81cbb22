import numpy as np
import pytest
from scipy import stats

from flextune.scoring.intervals import across_seeds, bootstrap_mean, newcombe_paired, wilson


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


@pytest.mark.parametrize("n", [40, 158, 500])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_wilson_covers_as_the_textbooks_formula_does(n, p):
    """All outcomes are enumerated: how often the interval holds p, ours and the formula's."""
    k = np.arange(n + 1)
    z, share = stats.norm.ppf(0.975), k / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    weights = stats.binom.pmf(k, n, p)
    expected = weights[(centre - half <= p) & (p <= centre + half)].sum()
    ours = sum(
        w for w, found in zip(weights, (wilson(int(i), n) for i in k), strict=True) if found.low <= p <= found.high
    )
    assert ours == pytest.approx(expected, abs=1e-12)
    assert 0.92 < ours < 0.98


def test_seeds_that_agree_leave_the_problems_scatter():
    problems = {f"p{i}": float(i % 2) for i in range(40)}
    found = across_seeds([problems, problems, problems])
    assert (found.wider, found.over_seeds.width) == ("problems", 0)
    one = bootstrap_mean(list(problems.values()))
    assert (found.low, found.high) == (one.low, one.high)


def test_seeds_that_do_not_agree_are_not_more_problems():
    seeds = [{f"p{i}": float(i < solved) for i in range(100)} for solved in (30, 40, 50)]
    found = across_seeds(seeds)
    assert found.value == pytest.approx(0.4)
    # Student's t with two degrees of freedom: 0.4 ± 4.303 · 0.1 / √3
    assert found.over_seeds.low == pytest.approx(0.4 - 4.302653 * 0.1 / 3**0.5)
    assert (found.wider, found.low, found.high) == ("seeds", found.over_seeds.low, found.over_seeds.high)
    # 300 rows taken as 300 problems would give ± 5.5 points; the problems alone scatter more than that
    assert found.over_problems.width > 0.16


def newcombe_of_the_book(e, f, g, h):
    """Newcombe 1998, method 10, for (f − g) / n: both e, first only f, second only g, neither h."""
    n = e + f + g + h

    def limits(k):
        z, p = stats.norm.ppf(0.975), k / n
        centre, half = (p + z**2 / (2 * n)), z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
        return p, (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n)

    (p_1, low_1, high_1), (p_2, low_2, high_2) = limits(e + f), limits(e + g)
    product, margins = e * h - f * g, (e + f) * (g + h) * (e + g) * (f + h)
    numerator = product - n / 2 if product > n / 2 else 0 if product >= 0 else product
    phi = numerator / margins**0.5 if margins else 0
    below = (p_1 - low_1) ** 2 - 2 * phi * (p_1 - low_1) * (high_2 - p_2) + (high_2 - p_2) ** 2
    above = (high_1 - p_1) ** 2 - 2 * phi * (high_1 - p_1) * (p_2 - low_2) + (p_2 - low_2) ** 2
    return p_1 - p_2 - below**0.5, p_1 - p_2 + above**0.5


def test_newcombe_is_the_textbooks_formula_on_every_small_table():
    cells = [(e, f, g) for e in range(9) for f in range(9 - e) for g in range(9 - e - f)]
    for e, f, g in cells:
        found = newcombe_paired(both=e, first=g, second=f, neither=8 - e - f - g)
        assert (found.low, found.high) == pytest.approx(newcombe_of_the_book(e, f, g, 8 - e - f - g), abs=1e-12)
