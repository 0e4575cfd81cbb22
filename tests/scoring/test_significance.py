import numpy as np
import pytest
from scipy import stats

from flextune.scoring.significance import (
    detectable,
    detectable_mean,
    holm,
    mcnemar_exact,
    power_of_mcnemar,
    sign_flip,
    t_test,
)


@pytest.mark.parametrize(("first", "second"), [(0, 1), (2, 10), (7, 7), (0, 30), (41, 25)])
def test_mcnemar_is_the_sign_test(first, second):
    few, many = sorted((first, second))
    expected = min(1.0, 2 * stats.binom.cdf(few, few + many, 0.5))
    assert mcnemar_exact(first, second) == pytest.approx(expected)
    assert mcnemar_exact(second, first) == pytest.approx(expected)


def test_mcnemar_of_no_difference():
    assert mcnemar_exact(0, 0) == 1


def test_mcnemar_is_statsmodels():
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    assert mcnemar_exact(5, 14) == pytest.approx(tables.mcnemar([[30, 5], [14, 51]], exact=True).pvalue)


def test_signs_are_flipped_in_all_ways():
    # of 2^5 ways to sign them, only all plus and all minus are as far out
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5]) == pytest.approx(2 / 32)
    # zeros have no sign: they neither help nor harm
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5, 0.0, 0.0, 0.0]) == pytest.approx(2 / 32)
    assert sign_flip([0.5]) == 1
    assert sign_flip([0.0]) == 1


def test_signs_of_single_samples_are_mcnemars():
    differences = [1.0] * 9 + [-1.0] * 2 + [0.0] * 30
    assert sign_flip(differences) == pytest.approx(mcnemar_exact(2, 9))


def test_holm_by_hand():
    assert holm([0.01, 0.02, 0.03, 0.5]) == pytest.approx([0.04, 0.06, 0.06, 0.5])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_t_of_seeds():
    assert t_test([0.01, 0.03, 0.02]) == pytest.approx(stats.ttest_1samp([0.01, 0.03, 0.02], 0).pvalue)
    assert (t_test([0.5]), t_test([0.0, 0.0]), t_test([0.1, 0.1])) == (1, 1, 0)


@pytest.mark.parametrize(("n", "first", "second"), [(40, 0.1, 0.3), (158, 0.05, 0.13), (500, 0.1, 0.1)])
def test_power_is_what_simulation_finds(n, first, second):
    rng = np.random.default_rng(1)
    tables = rng.multinomial(n, (first, second, 1 - first - second), size=4000)
    found, counts = np.unique(tables[:, :2], axis=0, return_counts=True)
    rejected = sum(count for pair, count in zip(found, counts, strict=True) if mcnemar_exact(*map(int, pair)) <= 0.05)
    # four standard errors of 4,000 draws
    assert power_of_mcnemar(n, first, second) == pytest.approx(rejected / 4000, abs=4 * (0.25 / 4000) ** 0.5)


def test_the_level_is_kept():
    """Without a difference the exact test finds one at most one time in twenty."""
    assert 0.02 < power_of_mcnemar(158, 0.1, 0.1) <= 0.05


@pytest.mark.parametrize(("n", "unlike"), [(40, 0.3), (158, 0.05), (158, 0.2), (500, 0.25)])
def test_what_is_detectable_is_found_four_times_in_five(n, unlike):
    rng = np.random.default_rng(2)
    difference = detectable(n, unlike)
    both_ways = max(unlike, difference)
    shares = ((both_ways - difference) / 2, (both_ways + difference) / 2, 1 - both_ways)
    tables = rng.multinomial(n, shares, size=4000)
    found, counts = np.unique(tables[:, :2], axis=0, return_counts=True)
    rejected = sum(count for pair, count in zip(found, counts, strict=True) if mcnemar_exact(*map(int, pair)) <= 0.05)
    assert rejected / 4000 == pytest.approx(0.8, abs=0.026)


def test_nothing_is_detectable_with_five_problems():
    assert detectable(5, 0.4) is None
    assert detectable(1, 1.0) is None
    assert detectable(6, 0.0) == pytest.approx(0.8 ** (1 / 6), abs=1e-4)  # all six, in one direction


def test_what_means_show_is_found_four_times_in_five():
    rng = np.random.default_rng(3)
    scatter = rng.normal(size=120)
    difference = detectable_mean((0.1 * scatter).tolist())
    spread = float(np.std(0.1 * scatter, ddof=1))
    samples = rng.normal(difference, spread, size=(4000, 120))
    assert np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.026)


def test_means_that_do_not_vary_show_nothing():
    assert detectable_mean([0.0] * 10) is None
    assert detectable_mean([0.3]) is None
    assert detectable_mean([1.0, -1.0]) is None
