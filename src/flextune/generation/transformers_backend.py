"""The transformers backend: batches of prompts through `generate`, on the CPU or a GPU, always there."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from flextune.errors import FlextuneError
from flextune.generation.settings import Decoding
from flextune.models import ModelSource, load_model

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

    def __init__(
        self, source: ModelSource, adapter: "Path | None" = None, merged: bool = False, dtype: str = "auto"
    ):
        self.model: PreTrainedModel
        self.tokenizer: PreTrainedTokenizerBase
        self.model, self.tokenizer = load_model(source, dtype)
        if adapter is not None:
            self.model = _with_adapter(self.model, adapter, merged)
        self.model.eval()
        self.tokenizer.padding_side = "left"

    def prompt_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has."""
        return len(self.tokenizer(prompt)["input_ids"])

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[str], stops: Sequence[Sequence[str]], seeds: Sequence[int], decoding: Decoding, limit: int
    ) -> list[Text]:
        """Complete a batch of prompts, each with stop strings and a seed of its own, to `limit` new tokens at most."""
        batch = self.tokenizer(list(prompts), return_tensors="pt", padding=True).to(self.model.device)
        start = batch["input_ids"].shape[1]
        window = getattr(self.model.config, "max_position_embeddings", None)
        if window is not None and start + limit > window:
            raise FlextuneError(
                f"a prompt of {start} tokens and generation.max_new_tokens = {limit} exceed the model's context of "
                f"{window}; lower generation.max_new_tokens"
            )
        out_BT = self.model.generate(
            **batch,
            max_new_tokens=limit,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            repetition_penalty=1.0,
            logits_processor=_processors(decoding, seeds),
            stopping_criteria=StoppingCriteriaList([StopStrings(self.tokenizer, stops, start)]),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        ends = _end_tokens(self.model)
        texts = []
        for row, stop in enumerate(stops):
            prompt_T = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            new_T = out_BT[row, start:]
            ended = [i for i, token in enumerate(new_T.tolist()) if token in ends]
            tokens = ended[0] if ended else len(new_T)
            text = self._decode_after(prompt_T, new_T[:tokens])
            stopped = ended or any(token in text for token in stop)
            texts.append(Text(text, "stop" if stopped else "length", tokens))
        return texts

    def _decode_after(self, prompt_T: Tensor, new_T: Tensor) -> str:
        """The new text alone; decoded with its prompt, since some tokenizers drop a leading space."""
        before = self.tokenizer.decode(prompt_T, skip_special_tokens=True)
        whole = self.tokenizer.decode(torch.cat([prompt_T, new_T]), skip_special_tokens=True)
        return str(whole)[len(before) :]


class StopStrings(StoppingCriteria):
    """A row is done when one of its stop strings stands in what it wrote."""

    def __init__(self, tokenizer: Any, stops: Sequence[Sequence[str]], start: int):
        self.tokenizer, self.stops, self.start = tokenizer, stops, start
        # a token has at least one byte, and a character at most four
        self.tail = 4 * max((len(token) for stop in stops for token in stop), default=0) + 4

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """A boolean for each row."""
        tails_BT = input_ids[:, max(self.start, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tails_BT, skip_special_tokens=True)
        found = [any(token in text for token in stop) for text, stop in zip(texts, self.stops, strict=True)]
        return torch.tensor(found, device=input_ids.device)


class SeededSampling(LogitsProcessor):
    """Draws one token for each row from the row's own random numbers, so that batching changes no draw.

    By the Gumbel trick the argmax of logits plus Gumbel noise is a draw from their softmax; all other tokens get −∞, so
    greedy search picks it.
    """

    def __init__(self, seeds: Sequence[int]):
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores in which the drawn token of each row is the only one left."""
        size = scores.shape[-1]
        uniform_BV = torch.stack([torch.rand(size, generator=generator) for generator in self.generators])
        gumbel_BV = -torch.log(-torch.log(uniform_BV.clamp_min(1e-20)))
        drawn_B = (scores.float() + gumbel_BV.to(scores.device)).argmax(-1, keepdim=True)
        return torch.full_like(scores, float("-inf")).scatter_(1, drawn_B, 0.0)


def sample_seed(seed: int, task_id: str, sample: int) -> int:
    """The seed of one sample of one problem, independent of everything else in the run."""
    digest = hashlib.sha256(f"{seed}/{task_id}/{sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _processors(decoding: Decoding, seeds: Sequence[int]) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if decoding.kind == "sampling":
        if decoding.temperature is not None:
            processors.append(TemperatureLogitsWarper(decoding.temperature))
        if decoding.top_p is not None:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(SeededSampling(seeds))
    return processors


def _end_tokens(model: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    return set(ends) if isinstance(ends, list) else {ends}


def _with_adapter(model: Any, adapter: "Path", merged: bool) -> Any:
    from peft import PeftModel

    if not (adapter / "adapter_config.json").exists():
        raise FlextuneError(f"{adapter} is not a PEFT adapter: it has no adapter_config.json")
    dtype = model.dtype
    try:
        tuned = PeftModel.from_pretrained(model.float() if merged else model, str(adapter))
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise FlextuneError(f"the adapter {adapter} does not fit the model: {first}") from None
    return tuned.merge_and_unload().to(dtype) if merged else tuned
