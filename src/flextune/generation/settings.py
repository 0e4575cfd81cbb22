"""What a recipe says about generation: the decodings, the backend and the batches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from flextune.section import SECTION

DRAWS = ("sampling", "beam-sampling")
BEAMS = ("beam", "beam-sampling")
KINDS = {"temperature": DRAWS, "top_p": DRAWS, "top_k": DRAWS, "beams": BEAMS, "length_penalty": BEAMS}
"""Which kinds of decoding a setting has an effect on."""


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Decoding:
    """How the next token is chosen.

    >>> Decoding(kind="beam", beams=4).beams
    4
    """

    kind: Literal["greedy", "sampling", "beam", "beam-sampling"] = "greedy"
    """greedy: the likeliest token; sampling: a draw; beam: the likeliest texts; beam-sampling: texts drawn in beams."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Of draws: divide the logits by this (1.0 if not given)."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of draws: from the smallest set of tokens with this much probability (1.0 if not given)."""
    top_k: Annotated[int, Field(ge=1)] | None = None
    """Of draws: from so many of the likeliest tokens (all if not given)."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Sampling only: completions for each problem."""
    beams: Annotated[int, Field(ge=1, le=20)] | None = None
    """Of beams: how many texts are followed at once."""
    self_tests: Annotated[int, Field(ge=1)] | None = None
    """Sampling only: texts of tests that the model writes for each problem; the sample that fits them best answers."""
    length_penalty: float | None = None
    """Of beams: a text's log-probability is divided by its length in new tokens to this power (1.0 if not given)."""

    @model_validator(mode="after")
    def _no_idle_settings(self) -> "Decoding":
        for name, kinds in KINDS.items():
            if getattr(self, name) is not None and self.kind not in kinds:
                raise ValueError(
                    f"{name} has no effect with kind: {self.kind}; set kind: {' or '.join(kinds)}, or remove it"
                )
        if self.samples != 1 and self.kind != "sampling":
            raise ValueError(f"samples: {self.kind} gives one completion of a problem; set kind: sampling")
        if self.self_tests is not None and self.samples == 1:
            raise ValueError("self_tests has no effect on one sample; set kind: sampling and samples: 10, or remove it")
        if self.kind in BEAMS and self.beams is None:
            raise ValueError(f"beams is missing: kind: {self.kind} needs it, such as beams: 4")
        return self


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Generation:
    """How completions are made; the same for all decodings of a recipe."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest completion in tokens."""
    concurrency: Annotated[int, Field(ge=1)] = 64
    """Texts under way at the same time, each beam counted; where one ends, the next begins. It bounds the memory."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Texts that are asked for together: what a kill loses at most."""
    backend: Literal["transformers", "vllm", "openai"] = "transformers"
    """What runs the model: transformers, vLLM (the extra `vllm`), or a server with OpenAI's API (`openai`)."""
    server: str | None = None
    """With openai: the address, such as http://localhost:8000/v1; `model` is what the server calls it."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """With transformers: processes, each with the model; by default one for each GPU. Changes no completion."""
    chat: bool = False
    """Ask through the model's chat template, and take the code from its reply."""
    chain_of_thought: bool = False
    """Let the model plan in comments, or in its reply, before it writes code."""
    strip_prompt: bool = False
    """Ask without white space around the prompt, as MultiPL-E's own harness does."""

    @model_validator(mode="after")
    def _possible(self) -> "Generation":
        if (self.backend == "openai") != (self.server is not None):
            raise ValueError(
                f"server = {self.server!r} with backend: {self.backend}: a server's address goes with backend: openai, "
                "and only there"
            )
        if self.workers is not None and self.backend != "transformers":
            raise ValueError(f"workers has no effect with backend: {self.backend}; remove it")
        if self.chat and self.strip_prompt:
            raise ValueError("strip_prompt has no effect with chat: the prompt stands in a fenced block; remove it")
        return self
