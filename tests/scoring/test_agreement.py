import itertools
import json
from math import sqrt

import pytest

from flextune.scoring.agreement import Choice, pick


def test_the_larger_group_wins_over_the_sample_that_passes_more():
    # √3 · 3 = 5.2 against √1 · 5 = 5
    completions = dict(enumerate("abcd"))
    passed = {0: {0, 1, 2, 3, 4}, 1: {0, 1, 2}, 2: {0, 1, 2}, 3: {2, 1, 0}}
    assert pick(completions, passed) == Choice(1, (1, 2, 3), (0, 1, 2), pytest.approx(3 * sqrt(3)), 2)


def test_many_samples_with_one_error_do_not_outvote_the_tests():
    # √8 · 2 = 5.7 against √2 · 5 = 7.1; without the root it would be 16 against 10
    completions = dict(enumerate("wwwwwwwwrr"))
    passed = {**{sample: {0, 1} for sample in range(8)}, 8: {1, 2, 3, 4, 5}, 9: {1, 2, 3, 4, 5}}
    assert pick(completions, passed).group == (8, 9)


def test_groups_are_of_exactly_the_same_tests():
    # as many tests each, but not the same: three groups of one, and the first of them
    found = pick(dict(enumerate("abc")), {0: {0, 1}, 1: {1, 2}, 2: {0, 2}})
    assert (found.sample, found.group, found.groups) == (0, (0,), 3)


def test_ties_go_to_more_tests_then_to_the_lowest_sample():
    # √4 · 1 = √1 · 2, and the whole numbers that are compared are equal too
    completions = dict(enumerate("aaaab"))
    assert pick(completions, {**{sample: {0} for sample in range(4)}, 4: {1, 2}}).sample == 4
    assert pick({7: "a", 3: "b"}, {7: {0}, 3: {1}}).sample == 3


def test_within_a_group_the_most_frequent_text_then_the_lowest_sample():
    passed = {sample: {0} for sample in range(5)}
    assert pick(dict(enumerate("abbcc")), passed).sample == 1
    assert pick(dict(enumerate("edcba")), passed).sample == 0


def test_the_same_text_counts_as_often_as_it_was_drawn():
    # √3 · 2 = 3.5 against √1 · 3 = 3; as one text, a would lose
    passed = {0: {0, 1}, 1: {0, 1}, 2: {0, 1}, 3: {2, 3, 4}}
    assert pick(dict(enumerate("aaab")), passed).sample == 0


def test_a_test_may_weigh_as_often_as_it_was_written():
    passed = {0: {0, 1}, 1: {2}}
    assert pick({0: "a", 1: "b"}, passed).sample == 0
    found = pick({0: "a", 1: "b"}, passed, written={2: 3})
    assert (found.sample, found.tests, found.score) == (1, (2,), 3)


@pytest.mark.parametrize("passed", [{}, {0: set(), 1: [], 2: ()}])
def test_without_a_passed_test_the_most_frequent_text_wins(passed):
    assert pick(dict(enumerate("abb")), passed) == Choice(1, (0, 1, 2), (), 0.0, 1)


def test_samples_that_pass_nothing_lose_however_many_they_are():
    found = pick(dict(enumerate("aaaab")), {4: {0}})
    assert (found.sample, found.groups) == (4, 2)


def test_one_sample_and_all_alike():
    assert pick({5: "a"}, {5: {0, 1}}) == Choice(5, (5,), (0, 1), 2.0, 1)
    assert pick(dict(enumerate("aaaa")), {n: {0} for n in range(4)}) == Choice(0, (0, 1, 2, 3), (0,), 2.0, 1)


def test_the_order_of_samples_and_tests_does_not_matter():
    completions, passed = dict(enumerate("abcab")), {0: [0, 1], 1: [2], 2: [1, 0], 3: [2, 3], 4: [2]}
    found = {
        pick({sample: completions[sample] for sample in order}, {sample: passed[sample][::-1] for sample in order})
        for order in itertools.permutations(range(5))
    }
    assert found == {pick(completions, passed)}


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="no sample to pick"):
        pick({}, {})
    with pytest.raises(ValueError, match=r"no sample: \[2\]"):
        pick({0: "a"}, {2: {0}})


def test_the_row_of_a_file():
    row = pick({0: "a", 1: "a"}, {0: {3}, 1: {3}}).row("HumanEval/0")
    assert json.loads(json.dumps(row)) == row
    assert row == {
        "task_id": "HumanEval/0",
        "sample": 0,
        "group": [0, 1],
        "tests": [3],
        "score": pytest.approx(sqrt(2)),
        "groups": 1,
    }
