"""pass@k: the probability that one of k samples of a problem passes, estimated from n samples of which c passed."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from flextune.files import Row

USUAL = (1, 10, 100)
"""The k that are reported where every problem has that many samples."""


@dataclass(frozen=True)
class Count:
    """The samples of one problem."""

    samples: int
    passed: int


def count(verdicts: Iterable[Row]) -> dict[str, Count]:
    """For each problem, in the order of the verdicts, its samples and how many passed."""
    passed: dict[str, list[bool]] = {}
    for row in verdicts:
        passed.setdefault(row["task_id"], []).append(bool(row["passed"]))
    return {task_id: Count(len(found), sum(found)) for task_id, found in passed.items()}


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate 1 − C(n − c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, eq. 1).

    It is the share of all ways to take k of the n samples in which at least one passes; computed in whole numbers, so
    that it is exact to the last bit for any n.

    Args:
        samples: n, at least k.
        passed: c, of these.
        k: At least 1.

    Raises:
        ValueError: k is below 1 or above n, or c above n.

    >>> pass_at_k(10, 3, 1), pass_at_k(10, 3, 5), pass_at_k(10, 8, 5)
    (0.3, 0.9166666666666666, 1.0)
    """
    if not 1 <= k <= samples or not 0 <= passed <= samples:
        raise ValueError(f"pass@{k} of {samples} samples, {passed} of them passed, is not defined")
    ways = math.comb(samples, k)
    return (ways - math.comb(samples - passed, k)) / ways


def estimates(counts: Mapping[str, Count], k: int) -> dict[str, float]:
    """pass@k of each problem that has at least k samples."""
    return {
        task_id: pass_at_k(found.samples, found.passed, k) for task_id, found in counts.items() if found.samples >= k
    }


def usual(counts: Mapping[str, Count]) -> list[int]:
    """Which of 1, 10 and 100 every problem has samples for."""
    fewest = min(found.samples for found in counts.values())
    return [k for k in USUAL if k <= fewest]
