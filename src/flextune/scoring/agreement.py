"""Which of several samples to answer with: dual execution agreement (CodeT, Chen et al. 2022, arXiv 2207.10397).

    choice = pick(completions, passed)
    completions[choice.sample]

Samples that pass exactly the same tests agree with each other, and the tests agree with them. The more samples and the
more tests a group has, the likelier it is right: wrong programs and wrong tests seldom go wrong alike.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """The chosen sample of one problem, and what spoke for it."""

    sample: int
    group: tuple[int, ...]
    """The samples that pass the same tests as it does, itself among them."""
    tests: tuple[int, ...]
    """The tests that they pass."""
    score: float
    groups: int
    """How many groups there were: 1 where the tests told nothing apart."""

    def row(self, task_id: str) -> dict[str, Any]:
        """The row of `agreement.jsonl`."""
        return {"task_id": task_id, **asdict(self), "group": list(self.group), "tests": list(self.tests)}


def pick(
    completions: Mapping[int, str],
    passed: Mapping[int, Collection[int]],
    written: Mapping[int, int] | None = None,
) -> Choice:
    r"""Choose one of a problem's samples by the tests that they pass.

    A group of samples that pass the same set of tests scores √samples · tests. The paper writes |S_x|·|S_y|; the root
    is that of the authors' program (`CodeT/src/agreement.py`), so that many samples with one common error do not
    outvote the tests. Samples with the same text count as often as they were drawn, as there: what a model
    writes often is what it believes. The best group wins; among equals the one that passes more tests, then the one
    with the lowest sample. Within it, it is the text that stands there most often, then the lowest sample.

    Where no test was written, or no sample passes any, all samples are one group of score 0, so that the most frequent
    text wins.

    Args:
        completions: The text of each sample, by its number.
        passed: For each sample the numbers of the tests that it passes; a sample that is not there passes none.
        written: How often each test was written, by its number; a test that is not there counts once. With it, a test
            that the model wrote many times weighs as many, as in the authors' program.

    Raises:
        ValueError: There is no sample, or something passed that is none.

    >>> pick({0: "a", 1: "b", 2: "c", 3: "c"}, {0: {0}, 1: {0, 1, 2}, 2: {1, 2}, 3: {1, 2}})
    Choice(sample=1, group=(1,), tests=(0, 1, 2), score=3.0, groups=3)
    """
    if not completions:
        raise ValueError("there is no sample to pick")
    if unknown := passed.keys() - completions.keys():
        raise ValueError(f"tests were passed by what is no sample: {sorted(unknown)}")
    groups: dict[frozenset[int], list[int]] = defaultdict(list)
    for sample in sorted(completions):
        groups[frozenset(passed.get(sample, ()))].append(sample)

    def weight(tests: frozenset[int]) -> int:
        return sum((written or {}).get(test, 1) for test in tests)

    # by the square of the score, so that equal scores are equal numbers; of equals, max takes the first sample's group
    tests, group = max(groups.items(), key=lambda item: (len(item[1]) * weight(item[0]) ** 2, weight(item[0])))
    texts = Counter(completions[sample] for sample in group)
    sample = max(group, key=lambda sample: (texts[completions[sample]], -sample))
    score = math.sqrt(len(group)) * weight(tests)
    return Choice(sample, tuple(group), tuple(sorted(tests)), score, len(groups))
