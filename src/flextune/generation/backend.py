"""Backend: what turns prompts into texts. One file for each: transformers, vLLM, a server with OpenAI's API."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flextune.errors import FlextuneError, UsageError
from flextune.generation.settings import Decoding


@dataclass(frozen=True)
class Request:
    """One text to write."""

    prompt: str
    stop: tuple[str, ...] = ()
    """The text ends where one of these has been written."""
    seed: int = 0
    """Of its draws; the same seed gives the same text, whatever else is asked at the same time."""
    chat: bool = False
    """The prompt is a user's message, to be put into the model's chat template."""


@dataclass(frozen=True)
class Text:
    """What a model wrote after one prompt: raw, with the stop string and what its last token brought after it."""

    text: str
    finish_reason: str
    """`stop` for a stop string or the end of text, `length` for the limit."""
    tokens: int
    """Tokens written, without that which ends the text."""


class Backend(Protocol):
    """What a backend has to be able to do; `tests/conformance/generation.py` is the suite each of them passes."""

    def use(self, adapter: Path | None, merged: bool = False) -> None:
        """Write with this PEFT adapter from now on, beside the base's weights or added into them, or with the base."""
        ...

    def count(self, request: Request) -> int:
        """How many tokens the request's prompt has, as the model reads it."""
        ...

    def generate(self, requests: Sequence[Request], decoding: Decoding, limit: int) -> list[Text]:
        """Write one text for each request, of `limit` new tokens at most.

        Raises `FlextuneError` if a prompt and `limit` together exceed the model's context.
        """
        ...

    def close(self) -> None:
        """Let go of the model and its memory."""
        ...


def prompt_tokens(tokenizer: Any, request: Request) -> list[int]:
    """A request's prompt as the model reads it; a chat's up to where the reply begins."""
    tokens: list[int]
    if not request.chat:
        tokens = tokenizer(request.prompt)["input_ids"]
    elif getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": request.prompt}]
        tokens = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)
    else:
        raise UsageError("generation.chat: the model's tokenizer has no chat template; leave it out")
    if not tokens:
        raise UsageError("a prompt has no token: the model has nothing to go on from")
    return tokens


def new_text(tokenizer: Any, prompt: list[int], written: list[int]) -> str:
    """The new text alone; decoded with its prompt, since some tokenizers drop a leading space."""
    before = str(tokenizer.decode(prompt, skip_special_tokens=True))
    return str(tokenizer.decode(prompt + written, skip_special_tokens=True))[len(before) :]


def check_window(prompt: int, limit: int, window: int | None) -> None:
    """Refuse a prompt of so many tokens that, with the new ones, does not fit into the model's context."""
    if window is not None and prompt >= window:
        raise FlextuneError(
            f"a prompt of {prompt} tokens does not fit into the model's context of {window}: leave its problem out "
            "(evaluation.without), or take a model with a longer context"
        )
    if window is not None and prompt + limit > window:
        raise FlextuneError(
            f"a prompt of {prompt} tokens and generation.max_new_tokens = {limit} exceed the model's context of "
            f"{window}; lower generation.max_new_tokens"
        )
