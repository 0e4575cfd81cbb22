"""What a recipe says about generation: the decodings and the batches."""

from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from flextune.section import SECTION


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Decoding:
    """How the next token is chosen."""

    kind: Literal["greedy", "sampling"] = "greedy"
    """greedy: the likeliest token; sampling: a draw from the model's distribution."""
    temperature: Annotated[float, Field(gt=0)] | None = None
    """Sampling only: divide the logits by this (1.0 if not given)."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Sampling only: draw from the smallest set of tokens with this much probability (1.0 if not given)."""
    samples: Annotated[int, Field(ge=1)] = 1
    """Sampling only: completions for each problem."""

    @model_validator(mode="after")
    def _no_idle_settings(self) -> "Decoding":
        if self.kind == "greedy":
            for name in ("temperature", "top_p"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} has no effect with kind: greedy; set kind: sampling or remove it")
            if self.samples != 1:
                raise ValueError("samples: greedy decoding gives the same completion each time; use kind: sampling")
        return self


@dataclass(frozen=True, kw_only=True, config=SECTION)
class Generation:
    """How completions are made; the same for all decodings of a recipe."""

    max_new_tokens: Annotated[int, Field(ge=1)] = 512
    """Longest completion in tokens."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Completions made at once."""
