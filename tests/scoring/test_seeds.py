import pytest
from made_study import metrics
from scipy import stats

from flextune.errors import FlextuneError
from flextune.scoring.seeds import compare_arms, first_at_most, outcome, t_interval


def test_the_interval_is_that_of_a_t_test():
    values = [2.31, 2.35, 2.29]
    found = t_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.value, found.n) == (pytest.approx(2.31666667), 3)


def test_too_few_values_have_no_interval_and_equal_ones_no_width():
    assert t_interval([]).value is None
    assert (t_interval([5.0]).value, t_interval([5.0]).low) == (5.0, None)
    assert (t_interval([5, 5]).low, t_interval([5, 5]).high) == (5, 5)


def test_the_outcome_is_that_of_the_last_row_but_memory_and_the_best_of_all():
    rows = metrics(3.0, 1.0, 2.0)
    rows[0]["validation_loss"] = 0.5  # the model before training
    rows[3]["peak_memory_mb"] = 999
    assert outcome(rows, "here") == {
        "validation_loss": 2.0,
        "best_validation_loss": 1.0,
        "perplexity": 4.0,
        "steps": 15,
        "seconds": 15.0,
        "peak_memory_mb": 999,
    }
    with pytest.raises(FlextuneError, match="here: the last row has no validation_loss"):
        outcome(rows[:-1], "here")


def test_reaching_is_the_first_time_and_equal_counts():
    assert first_at_most(metrics(3.0, 1.0, 2.0, 1.0), 2.0)["step"] == 10
    assert first_at_most(metrics(3.0, 2.0), 2.0)["step"] == 10
    assert first_at_most(metrics(3.0, 2.0), 1.9) is None


def test_arms_are_compared_seed_by_seed():
    slow = {0: metrics(3.0, 2.5, 2.0), 1: metrics(5.0, 4.5, 4.0), 2: metrics(1.0, 0.9, 0.8)}
    fast = {
        0: metrics(2.9, 1.9, 1.8, seconds=3.0),  # there at step 10
        1: metrics(3.9, 3.8, 3.7, seconds=3.0),  # there at step 5
        2: metrics(1.0, 0.95, 0.9, seconds=3.0),  # never there
    }
    reference, other = compare_arms({"slow": slow, "fast": fast})
    assert reference["difference"] is None
    assert reference["steps_to_reference"]["value"] == 15
    paired = stats.ttest_1samp([-0.2, -0.3, 0.1], 0).confidence_interval(0.95)
    assert other["difference"]["value"] == pytest.approx(-0.4 / 3)
    assert (other["difference"]["low"], other["difference"]["high"]) == pytest.approx((paired.low, paired.high))
    assert other["reached"] == [
        {"seed": 0, "step": 10, "seconds": 30.0},
        {"seed": 1, "step": 5, "seconds": 15.0},
        {"seed": 2, "step": None, "seconds": None},
    ]
    assert (other["steps_to_reference"]["value"], other["steps_to_reference"]["n"]) == (7.5, 2)
    assert other["seconds_to_reference"]["value"] == 22.5
    assert other["validation_loss"]["value"] == pytest.approx(6.4 / 3)


def test_a_seed_that_failed_is_in_no_mean_and_in_no_difference():
    reference, other, none = compare_arms(
        {
            "a": {0: metrics(2.0), 1: metrics(3.0)},
            "b": {1: metrics(2.5), 2: metrics(0.1)},
            "c": {2: metrics(1.0)},
        }
    )
    assert [arm["seeds"] for arm in (reference, other, none)] == [[0, 1], [1, 2], [2]]
    assert reference["validation_loss"]["value"] == 2.5
    assert other["validation_loss"]["value"] == pytest.approx(1.3)
    assert (other["difference"]["value"], other["difference"]["n"]) == (-0.5, 1)
    assert [row["seed"] for row in other["reached"]] == [1]
    assert (none["difference"]["value"], none["difference"]["n"], none["reached"]) == (None, 0, [])
