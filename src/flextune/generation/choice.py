"""The next token: the likeliest, or a draw from the row's own random numbers.

Letters in names: R rows, V vocabulary, N the likeliest tokens that are looked at first.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from flextune.generation.settings import DRAWS, Decoding

LOOK = 128
"""A draw among so many of the likeliest tokens needs no sorting of the whole vocabulary."""


class Choice:
    """Chooses the next token of each row.

    A draw is that token at which the sum of probabilities, the likeliest first, passes the row's next random number. So
    it depends on the row's seed and logits, and not on the batch it stands in.
    """

    def __init__(self, decoding: Decoding, seeds: Sequence[int]):
        self.decoding = decoding
        draws = decoding.kind in DRAWS
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds] if draws else []

    def __call__(self, logits_RV: Tensor, rows: Sequence[int]) -> list[int]:
        """The next token of each of the `rows`, numbers into the seeds."""
        if not self.generators:
            return torch.argmax(logits_RV, dim=-1).tolist()
        numbers = [torch.rand(1, generator=self.generators[row], dtype=torch.float64) for row in rows]
        scores_RV = logits_RV.float() / (self.decoding.temperature or 1.0)
        tokens_R1 = self._draw(scores_RV, torch.stack(numbers).to(logits_RV.device), self.decoding.top_k or LOOK)
        return tokens_R1[:, 0].tolist()

    def _draw(self, scores_RV: Tensor, numbers_R1: Tensor, look: int) -> Tensor:
        top_p, top_k, size = self.decoding.top_p, self.decoding.top_k, scores_RV.shape[-1]
        scores_RN, tokens_RN = scores_RV.topk(min(look, size), dim=-1)
        among = scores_RV if top_k is None else scores_RN
        sums_RN = (scores_RN.double() - among.logsumexp(-1, keepdim=True)).exp().cumsum(-1)
        goal_R1 = numbers_R1
        if top_p is not None:
            # the smallest set with this much probability ends at the first sum that reaches it
            end_R1 = torch.searchsorted(sums_RN, torch.full_like(numbers_R1, top_p)).clamp_max(sums_RN.shape[-1] - 1)
            goal_R1 = numbers_R1 * sums_RN.gather(-1, end_R1)
        place_R1 = torch.searchsorted(sums_RN, goal_R1).clamp_max(sums_RN.shape[-1] - 1)
        chosen_R1 = tokens_RN.gather(-1, place_R1)
        if top_k is None and look < size:
            short_R = sums_RN[:, -1] < (numbers_R1[:, 0] if top_p is None else top_p)
            if short_R.any():
                chosen_R1[short_R] = self._draw(scores_RV[short_R], numbers_R1[short_R], size)
        return chosen_R1


def warpers(decoding: Decoding) -> LogitsProcessorList:
    """The processors of transformers for a beam's log-probabilities, in its order."""
    found = LogitsProcessorList()
    if decoding.temperature is not None:
        found.append(TemperatureLogitsWarper(decoding.temperature))
    if decoding.top_k is not None:
        found.append(TopKLogitsWarper(decoding.top_k))
    if decoding.top_p is not None:
        found.append(TopPLogitsWarper(decoding.top_p))
    return found
