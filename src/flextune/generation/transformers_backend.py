"""The transformers backend: batches of prompts on the CPU or a GPU, always there.

It decodes token by token itself, so that finished rows leave the batch, each row has stop strings and random numbers of
its own, and greedy output is that of `model.generate` (which the tests check).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from flextune.errors import FlextuneError
from flextune.generation.settings import Decoding
from flextune.models import ModelSource, find_adapter, load_model, with_adapter

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Text:
    """What a model wrote after one prompt, before truncation."""

    text: str
    finish_reason: str
    """`stop` for a stop string or the end of text, `length` for the limit."""
    tokens: int


class TransformersBackend:
    """A loaded model, with an adapter beside its weights, added into them, or none.

    Args:
        source: The base model.
        adapter: A PEFT folder.
        merged: Add the adapter into the weights, in float32, and cast once to `dtype`.
        dtype: As for `load_model`.
    """

    def __init__(self, source: ModelSource, adapter: "Path | None" = None, merged: bool = False, dtype: str = "auto"):
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = load_model(source, dtype)
        if adapter is not None:
            self.model = with_adapter(self.model, find_adapter(adapter), merged)
        self.model.eval()
        self.tokenizer.padding_side = "left"
        self._ends = _end_tokens(self.model)

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has."""
        return len(self.tokenizer(prompt)["input_ids"])

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        stops: Sequence[Sequence[str]],
        seeds: Sequence[int],
        decoding: Decoding,
        limit: int,
    ) -> list[Text]:
        """Complete a batch of prompts, each with stop strings and a seed of its own, to `limit` new tokens at most.

        A row leaves the batch as soon as it is done, so that the rest goes faster.
        """
        from transformers import DynamicCache

        device = self.model.device
        batch = self.tokenizer(list(prompts), return_tensors="pt", padding=True).to(device)
        ids_BT, mask_BT = batch["input_ids"], batch["attention_mask"]
        self._check_window(ids_BT.shape[1], limit)
        prompt_tokens = [ids_T[mask_T.bool()].tolist() for ids_T, mask_T in zip(ids_BT, mask_BT, strict=True)]
        written: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        rows = list(range(len(prompts)))
        choose = _Choice(decoding, seeds)
        cache = DynamicCache(config=self.model.config)
        for _ in range(limit):
            out = self.model(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                position_ids=(mask_BT.cumsum(-1) - 1).clamp_min(0)[:, -ids_BT.shape[1] :],
                past_key_values=cache,
                logits_to_keep=1,
            )
            next_B = choose(out.logits[:, -1, :], rows)
            for row, token in zip(rows, next_B.tolist(), strict=True):
                if token in self._ends:
                    ended[row] = True
                else:
                    written[row].append(token)
            going = [i for i, row in enumerate(rows) if not (ended[row] or self._stopped(written[row], stops[row]))]
            if not going:
                break
            if len(going) < len(rows):
                rows = [rows[i] for i in going]
                kept_B = torch.tensor(going, device=device)
                cache.batch_select_indices(kept_B)
                mask_BT, next_B = mask_BT[kept_B], next_B[kept_B]
            ids_BT = next_B[:, None]
            mask_BT = torch.cat([mask_BT, mask_BT.new_ones(len(rows), 1)], dim=-1)
        texts = []
        for row, stop in enumerate(stops):
            text = self._decode_after(prompt_tokens[row], written[row])
            stopped = ended[row] or any(token in text for token in stop)
            texts.append(Text(text, "stop" if stopped else "length", len(written[row])))
        return texts

    def _check_window(self, prompt: int, limit: int) -> None:
        window = getattr(self.model.config, "max_position_embeddings", None)
        if window is not None and prompt + limit > window:
            raise FlextuneError(
                f"a prompt of {prompt} tokens and generation.max_new_tokens = {limit} exceed the model's context of "
                f"{window}; lower generation.max_new_tokens"
            )

    def _stopped(self, written: list[int], stop: Sequence[str]) -> bool:
        """True if a stop string stands at the end of what was written."""
        # a token has at least one byte, and a character at most four
        tail = self.tokenizer.decode(
            written[-4 * max((len(token) for token in stop), default=0) - 4 :], skip_special_tokens=True
        )
        return any(token in tail for token in stop)

    def _decode_after(self, prompt: list[int], written: list[int]) -> str:
        """The new text alone; decoded with its prompt, since some tokenizers drop a leading space."""
        before = self.tokenizer.decode(prompt, skip_special_tokens=True)
        return str(self.tokenizer.decode(prompt + written, skip_special_tokens=True))[len(before) :]


class _Choice:
    """Chooses the next token of each row: the likeliest, or a draw from the row's own random numbers.

    By the Gumbel trick the argmax of logits plus Gumbel noise is a draw from their softmax, so that a draw depends on
    the row's seed and its logits, and not on the batch it stands in.
    """

    def __init__(self, decoding: Decoding, seeds: Sequence[int]):
        self.processors = LogitsProcessorList()
        if decoding.temperature is not None:
            self.processors.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_p is not None:
            self.processors.append(TopPLogitsWarper(decoding.top_p))
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds] if decoding.kind == "sampling" else []

    def __call__(self, logits_BV: Tensor, rows: Sequence[int]) -> Tensor:
        """The next token of each of the `rows`."""
        if not self.generators:
            return torch.argmax(logits_BV, dim=-1)
        scores_BV = self.processors(logits_BV.new_empty(0), logits_BV.float())
        size = scores_BV.shape[-1]
        uniform_BV = torch.stack([torch.rand(size, generator=self.generators[row]) for row in rows])
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp(1e-20, 1 - 1e-7)))
        return torch.argmax(scores_BV + gumbel_BV.to(scores_BV.device), dim=-1)


def sample_seed(seed: int, task_id: str, sample: int) -> int:
    """The seed of one sample of one problem, independent of everything else in the run."""
    digest = hashlib.sha256(f"{seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}
