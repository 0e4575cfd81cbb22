r"""The openai backend: a server that speaks OpenAI's API, such as `vllm serve` or llama.cpp's, does the writing.

backend = OpenAIBackend("Qwen/Qwen2.5-Coder-7B-Instruct", "http://localhost:8000/v1")
texts = backend.generate([Request("def add(a, b):\n", stop=("\ndef",))], Decoding(), limit=64)

A plain request goes to `/completions`, one with `chat` to `/chat/completions`. The key is OPENAI_API_KEY's, where that
is set. What the server does not tell stays unknown: it cuts the text before the stop string, and its tokens are counted
as it counts them.
"""

import os
import queue
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flextune.errors import FlextuneError, UsageError
from flextune.generation.backend import Request, Text, check_window
from flextune.generation.settings import BEAMS, Decoding

if TYPE_CHECKING:
    from openai import OpenAI, OpenAIError

TIMEOUT = 600.0
"""Seconds that one completion may take."""
SPECIAL = re.compile(r"<\|[^|>]+\|>|</?s>")
"""What special tokens look like; which of them a model has, its server does not tell."""
RETRIES = 4
"""Of a request that met a lost connection or a busy server; they take 8 seconds together."""


class OpenAIBackend:
    """A model on a server, asked for many texts at once.

    Args:
        model: What the server calls the model.
        server: The address, up to `/v1`.
        concurrency: Requests under way at once.

    Raises `FlextuneError` if the package `openai` is missing.
    """

    def __init__(self, model: str, server: str, concurrency: int = 64):
        try:
            import openai
        except ImportError:
            raise FlextuneError(
                "backend = 'openai' needs the package openai: run `pip install 'flextune[openai]'`"
            ) from None
        self.model = model
        self.server = server
        self.concurrency = concurrency
        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.client: OpenAI = openai.OpenAI(base_url=server, api_key=key, timeout=TIMEOUT, max_retries=RETRIES)
        self._is_vllm: bool | None = None
        self._window: int | None = None

    def use(self, adapter: Path | None, merged: bool = False) -> None:
        """Refuse an adapter: the server has its weights, and serves an adapter under a name of its own."""
        if adapter is not None:
            raise UsageError(
                f"the adapter {adapter} cannot be sent to {self.server}: serve it there "
                f"(`vllm serve MODEL --enable-lora --lora-modules NAME={adapter}`) and give its name as the model"
            )

    def count(self, request: Request) -> int:
        """About how many tokens the prompt has; the tokenizer is the server's, so this only serves to sort prompts."""
        return len(request.prompt) // 3

    def generate(self, requests: Sequence[Request], decoding: Decoding, limit: int) -> list[Text]:
        """Write one text for each request, of `limit` new tokens at most.

        Texts end before the stop string. Their `tokens` are what the server says it has written, with the token that
        ended the text if it counts that, and 0 if it does not say.

        Raises `UsageError` for beams; `FlextuneError` if the server does not answer, or says that a prompt and `limit`
        exceed the model's context, that it has no such model, or anything else but a text. The first error ends all
        requests.
        """
        if decoding.kind in BEAMS:
            raise UsageError(f"kind: {decoding.kind} needs backend: transformers: OpenAI's API has no beams")
        if not requests:
            return []
        self._look()
        settings = self._settings(decoding, limit)
        return _side_by_side([partial(self._ask, request, settings) for request in requests], self.concurrency)

    def is_vllm(self) -> bool:
        """Whether the server is vLLM's."""
        self._look()
        return bool(self._is_vllm)

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def _settings(self, decoding: Decoding, limit: int) -> dict[str, Any]:
        """What all requests have in common, in the words of the API."""
        settings: dict[str, Any] = {"model": self.model, "max_tokens": limit, "temperature": 0.0}
        further: dict[str, Any] = {}
        if self._is_vllm:
            # where a request is silent vLLM takes what the model's generation_config.json says, also when greedy
            further = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
        if decoding.kind == "sampling":
            settings |= {"temperature": decoding.temperature or 1.0, "top_p": decoding.top_p or 1.0}
            if decoding.top_k is not None:
                further["top_k"] = decoding.top_k
        return {**settings, "extra_body": further}

    def _ask(self, request: Request, settings: dict[str, Any]) -> Text:
        import openai

        if request.stop:
            settings = {**settings, "stop": list(request.stop)}
            if self._is_vllm and any(SPECIAL.search(text) for text in request.stop):
                # it would look for stop strings in texts without special tokens
                settings["extra_body"] = {**settings["extra_body"], "skip_special_tokens": False}
        if settings["temperature"]:
            # 31 bits are what all servers take
            settings = {**settings, "seed": request.seed % 2**31}
        reply: Any
        try:
            if request.chat:
                messages: Any = [{"role": "user", "content": request.prompt}]
                reply = self.client.chat.completions.create(messages=messages, **settings)
            else:
                reply = self.client.completions.create(prompt=request.prompt, **settings)
        except openai.OpenAIError as error:
            raise self._explained(error) from None
        try:
            choice = reply.choices[0]
            text = (choice.message.content if request.chat else choice.text) or ""
        except (AttributeError, IndexError, TypeError):
            raise FlextuneError(
                f"the server {self.server} does not reply as OpenAI's API does; its address ends in /v1 as a rule"
            ) from None
        if reply.usage and self._window:
            # vLLM's server does not refuse such a request, but writes less
            check_window(reply.usage.prompt_tokens, settings["max_tokens"], self._window, request.name)
        tokens = reply.usage.completion_tokens if reply.usage else 0
        return Text(text, "length" if choice.finish_reason == "length" else "stop", tokens)

    def _look(self) -> None:
        """Ask the server once whether it is vLLM, and how long the model's context is (vLLM tells)."""
        import openai

        if self._is_vllm is not None:
            return
        self._is_vllm = False
        try:
            for model in self.client.models.list().data or ():
                self._is_vllm |= model.owned_by == "vllm"
                if model.id == self.model:
                    self._window = getattr(model, "max_model_len", None)
        except openai.APIConnectionError as error:
            self._is_vllm = None
            raise self._explained(error) from None
        except (openai.OpenAIError, AttributeError):
            pass  # one that does not list its models

    def _explained(self, error: "OpenAIError") -> FlextuneError:
        """One sentence for what the client raised, with the server's words."""
        import openai

        if isinstance(error, openai.APIConnectionError):
            reason = str(error.__cause__ or error).strip().rstrip(".") or type(error.__cause__).__name__
            return FlextuneError(
                f"the server {self.server} does not answer ({reason}): start it, or mend generation.server; finished "
                "completions are kept, the same command goes on"
            )
        if not isinstance(error, openai.APIStatusError):
            return FlextuneError(f"the server {self.server} cannot be understood: {error}")
        words = _words(error)
        if isinstance(error, openai.NotFoundError) and (models := self._models()):
            return FlextuneError(f"the server {self.server} has no model {self.model!r}; it has {', '.join(models)}")
        if isinstance(error, openai.NotFoundError):
            return FlextuneError(
                f"the server {self.server} has no such page ({words}); generation.server ends in /v1 as a rule"
            )
        if isinstance(error, openai.AuthenticationError):
            return FlextuneError(f"the server {self.server} wants another key ({words}): set OPENAI_API_KEY")
        if isinstance(error, (openai.InternalServerError, openai.RateLimitError)):
            return FlextuneError(
                f"the server {self.server} fails ({words}); finished completions are kept, the same command goes on"
            )
        return FlextuneError(f"the server {self.server} refuses a request ({error.status_code}): {words}")

    def _models(self) -> list[str]:
        import openai

        try:
            return [model.id for model in self.client.models.list().data or ()]
        except (openai.OpenAIError, AttributeError):
            return []


def _words(error: Any) -> str:
    """What the server said, on one line."""
    said = error.body.get("message") if isinstance(error.body, dict) else None
    return " ".join(str(said or error.message).split())


def _side_by_side(calls: Sequence[Callable[[], Text]], most: int) -> list[Text]:
    """The results of all calls, `most` of them under way at once; the first error is raised without waiting for others.

    The threads are daemons: after an error, or Ctrl-C, nobody waits for what a server may be writing for minutes.
    """
    waiting: queue.SimpleQueue[tuple[int, Callable[[], Text]]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Text | BaseException]] = queue.SimpleQueue()
    over = threading.Event()
    for numbered in enumerate(calls):
        waiting.put(numbered)

    def work() -> None:
        while not over.is_set():
            try:
                number, call = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                done.put((number, call()))
            except BaseException as error:
                done.put((number, error))

    texts: dict[int, Text] = {}
    try:
        for _ in range(min(most, len(calls))):
            threading.Thread(target=work, daemon=True).start()
        while len(texts) < len(calls):
            number, result = done.get()
            if isinstance(result, BaseException):
                raise result
            texts[number] = result
    finally:
        over.set()
    return [texts[number] for number in range(len(calls))]
