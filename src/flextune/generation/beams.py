"""Beam search that ends each beam at the stop strings and scores it by what it wrote.

The rules are those of transformers' `generate` (early_stopping=False), with two differences: a stop string ends a beam
as the end-of-text token does, and as many candidates are looked at as are needed to go on with all beams.

Letters in names: B beams, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flextune.generation.backend import Request
from flextune.generation.choice import warpers
from flextune.generation.settings import DRAWS, Decoding
from flextune.generation.slots import Slots

if TYPE_CHECKING:
    from flextune.generation.transformers_backend import TransformersBackend


@dataclass(frozen=True)
class Beam:
    """A text under way, or one that has ended."""

    tokens: list[int]
    score: float
    """Its log-probability; of one that has ended, divided by its length to the power of the length penalty."""
    stopped: bool = False


@dataclass
class _Problem:
    """The beams of one prompt, the best first; those of `live` stand in the rows `rows`."""

    number: int
    rows: list[int]
    live: list[Beam]
    generator: torch.Generator
    ended: list[Beam] = field(default_factory=list)


class BeamSearch:
    """Beam search over a batch of prompts, which stand in the first rows; there is a row for each of their beams.

    A beam's length counts its new tokens, the one that ends it included. With `beam-sampling` the candidates are drawn
    without replacement, in proportion to the probabilities that temperature, top-k and top-p leave; as in transformers,
    these also make the score.
    """

    def __init__(
        self,
        model: "TransformersBackend",
        slots: Slots,
        requests: Sequence[Request],
        prompts: Sequence[list[int]],
        decoding: Decoding,
        limit: int,
    ):
        self.model, self.slots, self.requests, self.prompts = model, slots, requests, prompts
        self.limit = limit
        self.beams = decoding.beams or 1
        self.power = 1.0 if decoding.length_penalty is None else decoding.length_penalty
        self.draws = decoding.kind in DRAWS
        self.warpers = warpers(decoding)
        self.searches = [
            _Problem(number, [number], [Beam([], 0.0)], torch.Generator().manual_seed(request.seed))
            for number, request in enumerate(requests)
        ]

    def run(self) -> list[tuple[list[int], bool]]:
        """The tokens of each prompt's best text, and whether it came to an end."""
        found: list[Beam] = [Beam([], 0.0)] * len(self.requests)
        searches = self.searches
        parents = [search.rows[0] for search in searches]
        while searches:
            self._move(searches, parents)
            flat = [(search, beam) for search in searches for beam in search.live]
            logits_RV = self.model.step(
                self.slots,
                [beam.tokens[-1] if beam.tokens else self.prompts[search.number][-1] for search, beam in flat],
                [len(self.prompts[search.number]) + len(beam.tokens) - 1 for search, beam in flat],
                partial(self._text, flat),
            )
            parents, going = [], []
            for search in searches:
                chosen = self._next(search, logits_RV[search.rows])
                if self._done(search):
                    found[search.number] = search.ended[0]
                else:
                    parents += [search.rows[beam] for beam in chosen]
                    going.append(search)
            searches = going
        return [(beam.tokens, beam.stopped) for beam in found]

    def _text(self, flat: Sequence[tuple[_Problem, Beam]], row: int) -> tuple[str, list[int]]:
        """The name of a row's problem, and all of the row's tokens."""
        search, beam = flat[row]
        return self.requests[search.number].name, self.prompts[search.number] + beam.tokens

    def _move(self, searches: list[_Problem], parents: list[int]) -> None:
        """Let the live beams stand in the first rows, each with the past of its parent."""
        longest = max(
            len(self.prompts[search.number]) + len(beam.tokens) for search in searches for beam in search.live
        )
        self.slots.select(parents, longest)
        row = 0
        for search in searches:
            search.rows = list(range(row, row + len(search.live)))
            row += len(search.live)

    def _next(self, search: _Problem, logits_BV: Tensor) -> list[int]:
        """Take one more token: new live beams and ended ones; returns the beam that each live one came from."""
        raw_BV = torch.log_softmax(logits_BV.float(), dim=-1)
        scores_BV = self.warpers(raw_BV.new_empty(0), raw_BV) + raw_BV.new_tensor([[b.score] for b in search.live])
        order = scores_BV.flatten()
        if self.draws:
            noise = torch.rand(len(order), generator=search.generator, dtype=torch.float64)
            order = order - torch.log(-torch.log(noise.clamp(1e-300, 1 - 1e-16))).to(order.device)
        stop, size = self.requests[search.number].stop, scores_BV.shape[-1]
        looked = 2 * self.beams
        while True:
            keys, places = order.topk(min(looked, len(order)))
            ended: list[Beam] = []
            live: list[Beam] = []
            parents: list[int] = []
            for rank, (key, place) in enumerate(zip(keys.tolist(), places.tolist(), strict=True)):
                if key == -torch.inf or len(live) == self.beams:
                    break
                parent, token = divmod(place, size)
                beam = search.live[parent]
                score = float(scores_BV[parent, token])
                ends = self.model.ends(token)
                tokens = [*beam.tokens, token]
                if ends or self.model.stops(tokens, stop):
                    # a text that is not among the best when it ends never counts
                    if rank < self.beams:
                        ended.append(Beam(beam.tokens if ends else tokens, score / len(tokens) ** self.power, True))
                elif len(tokens) == self.limit:
                    if rank < self.beams:
                        ended.append(Beam(tokens, score / len(tokens) ** self.power))
                else:
                    live.append(Beam(tokens, score))
                    parents.append(parent)
            at_limit = len(search.live[0].tokens) + 1 == self.limit
            if len(live) == self.beams or at_limit or looked >= len(order) or keys[-1] == -torch.inf:
                break
            looked *= 2
        search.ended = sorted([*search.ended, *ended], key=lambda beam: -beam.score)[: self.beams]
        best = sorted(range(len(live)), key=lambda i: -live[i].score)
        search.live = [live[i] for i in best]
        return [parents[i] for i in best]

    def _done(self, search: _Problem) -> bool:
        """Whether no live beam is left, or none can be better than what has ended, were it to end now."""
        if not search.live:
            return True
        if len(search.ended) < self.beams:
            return False
        best = search.live[0]
        return bool(best.score / len(best.tokens) ** self.power <= search.ended[-1].score)
