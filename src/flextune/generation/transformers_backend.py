"""The transformers backend: batches of prompts on the CPU or a GPU, always there.

It decodes token by token itself, so that the next text begins where one has ended, each has stop strings and random
numbers of its own, and beams end at stop strings. Greedy texts are those of `model.generate` (which the tests check).
"""

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flextune.adapters import is_only_factors, with_adapter
from flextune.errors import FlextuneError
from flextune.finite import where_it_begins
from flextune.generation.backend import Request, Text, check_windows, end_tokens, prompt_tokens, written_text
from flextune.generation.beams import BeamSearch
from flextune.generation.choice import Choice
from flextune.generation.settings import BEAMS, Decoding
from flextune.generation.slots import ATTENTION, Slots
from flextune.models import ModelSource, context, load_model
from flextune.progress import say
from flextune.tokens import Tokens

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PREFILL_TOKENS = 4096
"""Tokens of prompts that are read at once: enough to keep a GPU busy, little memory beside the weights."""
TextOf = Callable[[int], tuple[str, list[int]]]
"""The name of a row's problem, and all of the row's tokens."""
REFILL = 4
"""New prompts are read when this share of the rows is free: many at a time are cheaper."""


class TransformersBackend:
    """A base model, loaded once, with one adapter after the other, or none.

    Args:
        source: The base model.
        dtype: As for `load_model`.
        concurrency: Texts under way at the same time.
    """

    def __init__(self, source: ModelSource, dtype: str = "auto", concurrency: int = 64):
        self.source, self.dtype, self.concurrency = source, dtype, concurrency
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self._using: tuple[Path | None, bool] = (None, False)
        self._said = 0  # the most tokens at once whose memory was said
        self._load()

    def _load(self) -> None:
        self.model, self.tokenizer = load_model(self.source, self.dtype)
        kinds = set(getattr(self.model.config.get_text_config(), "layer_types", None) or ["full_attention"])
        if not self.model._supports_attention_backend or kinds - {"full_attention", "sliding_attention"}:
            raise FlextuneError(
                f"the transformers backend cannot keep the state of {type(self.model).__name__} "
                f"({', '.join(sorted(kinds))}); use backend: vllm"
            )
        self.model.set_attn_implementation(ATTENTION)
        rows = self.model.get_input_embeddings().weight.shape[0]
        self.tokens = Tokens(self.tokenizer, rows, end_tokens(self.model.generation_config, self.model.config))
        self._using = (None, False)

    def use(self, adapter: Path | None, merged: bool = False) -> None:
        """Write with this PEFT adapter from now on, beside the base's weights or added into them, or with the base.

        The base stays loaded; it is loaded again only after an adapter that has changed its weights, by being added
        into them or by more than its factors.
        """
        if (adapter, merged) == self._using:
            return
        before, was_merged = self._using
        if was_merged or (before is not None and not is_only_factors(before)):
            self._load()
        elif before is not None:
            self.model = self.model.unload()
            self._using = (None, False)
        if adapter is not None:
            try:
                self.model = with_adapter(self.model, adapter, merged).eval()
            except FlextuneError:
                self._load()  # half an adapter may stand in it
                raise
        self._using = (adapter, merged)

    def count(self, request: Request) -> int:
        """How many tokens the request's prompt has, as the model reads it."""
        return len(prompt_tokens(self.tokens, request))

    def generate(self, requests: Sequence[Request], decoding: Decoding, limit: int) -> list[Text]:
        """Write one text for each request; where memory does not suffice, with half as many at the same time."""
        if not requests:
            return []
        prompts = [prompt_tokens(self.tokens, request) for request in requests]
        longest = max(map(len, prompts)) + limit
        check_windows(requests, prompts, limit, context(self.model.config))
        beams = decoding.beams or 1
        while True:
            rows = max(1, min(self.concurrency // beams, len(requests))) * beams
            if rows * longest > self._said:
                self._said = rows * longest
                gib = self._memory(rows, longest)
                say(f"Keys and values: {gib:.2f} GiB at most, for {rows} texts of up to {longest} tokens")
            try:
                written = self._generate(requests, prompts, decoding, limit, rows)
                break
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if rows == beams:
                    raise FlextuneError(
                        f"memory does not suffice for one text of {longest} tokens"
                        f"{f' and its {beams} beams' if beams > 1 else ''}: lower generation.max_new_tokens"
                        f"{' or beams' if beams > 1 else ''}, or take a machine with more"
                    ) from None
            # outside of the handler, which holds on to what did not fit
            self.concurrency = max(beams, rows // 2)
            say(f"Memory does not suffice for {rows} texts at a time: going on with {self.concurrency}")
            torch.cuda.empty_cache()
        return [
            Text(written_text(self.tokens, request, prompt, tokens), "stop" if stopped else "length", len(tokens))
            for request, prompt, (tokens, stopped) in zip(requests, prompts, written, strict=True)
        ]

    def close(self) -> None:
        """Let go of the model and its memory."""
        del self.model
        gc.collect()
        torch.cuda.empty_cache()

    @torch.inference_mode()
    def _generate(
        self, requests: Sequence[Request], prompts: Sequence[list[int]], decoding: Decoding, limit: int, rows: int
    ) -> list[tuple[list[int], bool]]:
        """The new tokens of each text, and whether it came to an end, with so many rows under way."""
        slots = Slots(rows, max(map(len, prompts)) + limit)
        if decoding.kind not in BEAMS:
            return self._write(slots, requests, prompts, decoding, limit)
        written = []
        size = rows // (decoding.beams or 1)
        for start in range(0, len(requests), size):
            part = slice(start, start + size)
            self._read(slots, prompts[part])
            written += BeamSearch(self, slots, requests[part], prompts[part], decoding, limit).run()
        return written

    def _read(self, slots: Slots, prompts: Sequence[list[int]], present: Sequence[list[int]] = ()) -> None:
        """Fill rows, after those that are under way, with all of their prompts but the last token.

        What a prompt has in common with one that is `present` in the first rows, or with all others that come, is not
        read again: all of it for a further sample of a problem, the imports for Java.
        """
        there = {tuple(prompt[:-1]): row for row, prompt in enumerate(present)}
        bodies = [tuple(prompt[:-1]) for prompt in prompts]
        new = sorted(set(bodies) - there.keys(), key=lambda body: (len(body), body))
        first, start = len(present), 0
        if new:
            common = _common_start([*new, *there])
            if common and not there:
                self._forward(slots, [new[0][:common]], [0])
            if common:
                slots.select([*range(first), *[0] * len(new)], common)
            while start < len(new):
                end = start + 1
                while end < len(new) and (end - start + 1) * (len(new[end]) - common) <= PREFILL_TOKENS:
                    end += 1
                if len(new[end - 1]) > common:
                    parts = [body[common:] for body in new[start:end]]
                    self._forward(slots, parts, [common] * len(parts), first + start)
                start = end
        row_of = there | {body: first + number for number, body in enumerate(new)}
        slots.select([*range(first), *(row_of[body] for body in bodies)], max(map(len, bodies)))

    def _forward(self, slots: Slots, tokens: Sequence[Sequence[int]], starts: Sequence[int], first: int = 0) -> Tensor:
        """Let the model read new tokens of rows from `first` on; the logits (rows, vocabulary) after the last column.

        Shorter rows are padded on the right: what follows a row's last token is overwritten before it is looked at.
        """
        device = self.model.device
        longest = max(map(len, tokens))
        ids_RT = torch.tensor([[*row, *[0] * (longest - len(row))] for row in tokens], device=device)
        positions_RT = torch.tensor(starts, device=device)[:, None] + torch.arange(longest, device=device)
        mask = slots.write_at(positions_RT, max(starts) + longest, first)
        out = self.model(
            input_ids=ids_RT,
            attention_mask=mask,
            position_ids=positions_RT,
            past_key_values=slots,
            use_cache=True,
            logits_to_keep=1,
        )
        logits_RV: Tensor = out.logits[:, -1]
        return logits_RV

    def step(self, slots: Slots, tokens: Sequence[int], positions: Sequence[int], text: TextOf) -> Tensor:
        """The logits (rows, vocabulary) after one more token a row.

        Raises `FlextuneError` where they are NaN or infinite, with the row's problem and the layer where it begins.
        """
        logits_RV = self._forward(slots, [[token] for token in tokens], positions)
        finite_R = torch.isfinite(logits_RV.amax(-1))  # a NaN is the largest of its row
        if not finite_R.all():
            name, ids = text(int((~finite_R).nonzero()[0]))
            place = where_it_begins(self.model, lambda: self._forward(Slots(1, len(ids)), [ids], [0]))
            raise FlextuneError(
                f"{name}: the model's logits after token {len(ids)} are NaN or infinite, beginning with {place}; try "
                "dtype: float32, or another checkpoint"
            )
        return logits_RV

    def _write(
        self, slots: Slots, requests: Sequence[Request], prompts: Sequence[list[int]], decoding: Decoding, limit: int
    ) -> list[tuple[list[int], bool]]:
        written: list[list[int]] = [[] for _ in requests]
        stopped = [False] * len(requests)
        choose = Choice(decoding, [request.seed for request in requests])
        waiting = list(range(len(requests)))[::-1]
        rows: list[int] = []  # which request stands in each row

        def text(row: int) -> tuple[str, list[int]]:
            return requests[rows[row]].name, prompts[rows[row]] + written[rows[row]]

        while rows or waiting:
            free = slots.rows - len(rows)
            if waiting and free * REFILL >= slots.rows:
                coming = [waiting.pop() for _ in range(min(free, len(waiting)))]
                self._read(slots, [prompts[row] for row in coming], [prompts[row] for row in rows])
                rows += coming
            positions = [len(prompts[row]) + len(written[row]) - 1 for row in rows]
            last = [(written[row] or prompts[row])[-1] for row in rows]
            tokens = choose(self.step(slots, last, positions, text), rows)
            for row, token in zip(rows, tokens, strict=True):
                stopped[row] = self.ends(token)
                if not stopped[row]:
                    written[row].append(token)
                    stopped[row] = self.stops(written[row], requests[row].stop)
            live = [i for i, row in enumerate(rows) if not stopped[row] and len(written[row]) < limit]
            kept = _fill_holes(live, len(rows))
            slots.select(kept, max(positions) + 1)
            rows = [rows[i] for i in kept]
        return list(zip(written, stopped, strict=True))

    def ends(self, token: int) -> bool:
        """Whether a token ends the text."""
        return token in self.tokens.ends

    def stops(self, written: Sequence[int], stop: tuple[str, ...]) -> bool:
        """Whether the last token brought a stop string to its end."""
        return self.tokens.stops(written, stop)

    def _memory(self, rows: int, tokens: int) -> float:
        """GiB that the keys and values of so many texts of so many tokens take."""
        config = self.model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        each = 2 * config.num_hidden_layers * heads * size * self.model.dtype.itemsize
        return float(rows * tokens * each / 2**30)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, on a GPU or a CPU."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text


def _common_start(bodies: Sequence[tuple[int, ...]]) -> int:
    """How many tokens all of several texts begin with; 0 for one alone."""
    if len(bodies) < 2:
        return 0
    first, last = min(bodies), max(bodies)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _fill_holes(live: list[int], rows: int) -> list[int]:
    """Which row each of the first rows takes over, so that as few as possible move.

    >>> _fill_holes([0, 2, 3, 5], 6)
    [0, 5, 2, 3]
    """
    kept = list(range(len(live)))
    late = [row for row in live if row >= len(live)]
    alive = set(live)
    return [row if row in alive else late.pop() for row in kept]
