"""Backend: what turns prompts into texts. One file for each: transformers, vLLM, a server with OpenAI's API."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flextune.errors import FlextuneError
from flextune.generation.settings import Decoding
from flextune.tokens import Tokens


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
    name: str = "a prompt"
    """The problem that it asks, for messages."""


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


def prompt_tokens(tokens: Tokens, request: Request) -> list[int]:
    """A request's prompt as the model reads it; a chat's up to where the reply begins."""
    return tokens.chat(request.prompt, request.name) if request.chat else tokens.prompt(request.prompt, request.name)


def written_text(tokens: Tokens, request: Request, prompt: Sequence[int], written: Sequence[int]) -> str:
    """The text of a request's new tokens."""
    return tokens.reply(prompt, written) if request.chat else tokens.new_text(prompt, written, request.stop)


def end_tokens(*configs: Any) -> set[int]:
    """The tokens that a model names as ends of a text, out of the first configuration that names any.

    Raises `FlextuneError` if an end is not the number of a token.
    """
    for config in configs:
        found = getattr(config, "eos_token_id", None)
        if found is not None and found != []:
            ends = found if isinstance(found, list) else [found]
            if not all(isinstance(end, int) for end in ends):
                raise FlextuneError(
                    f"the model's eos_token_id is {found!r}: expected a token's number, or a list of them"
                )
            return set(ends)
    return set()


def check_windows(
    requests: Sequence[Request], prompts: Sequence[Sequence[int]], limit: int, window: int | None
) -> None:
    """Refuse the longest of several prompts if it does not fit; see `check_window`."""
    size, name = max((len(prompt), request.name) for request, prompt in zip(requests, prompts, strict=True))
    check_window(size, limit, window, name)


def check_window(prompt: int, limit: int, window: int | None, name: str = "a prompt") -> None:
    """Refuse a prompt of so many tokens that, with the new ones, does not fit into the model's context."""
    if window is not None and prompt >= window:
        raise FlextuneError(
            f"{name}: its {prompt} tokens do not fit into the model's context of {window}; leave the problem out "
            "(evaluation.without), or take a model with a longer context"
        )
    if window is not None and prompt + limit > window:
        raise FlextuneError(
            f"{name}: its {prompt} tokens and generation.max_new_tokens = {limit} exceed the model's context of "
            f"{window}; lower generation.max_new_tokens"
        )
