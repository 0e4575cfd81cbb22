r"""The boundary between prompt and completion, for any tokenizer.

    tokens = Tokens(tokenizer)
    prompt = tokens.prompt("def f(x):\n    ")
    learned = tokens.completion("def f(x):\n    ", prompt, "return x + 1\n")
    tokens.new_text(prompt, learned[:-1])                    # 'return x + 1\n'

Training and generation both go through here, so a model is asked with exactly the tokens that it was taught with.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Any

from flextune.errors import FlextuneError, UsageError, reason
from flextune.tasks.reply import THOUGHTS

ANCHORS = ("\n", "¦", "0")
"""Texts that a completion can follow without growing together with them; tried in this order."""
HALF = re.compile("[\ud800-\udfff]")


class Tokens:
    """What a tokenizer makes of prompts and completions, and the text in what a model wrote.

    Args:
        tokenizer: The model's, of transformers.
        rows: Rows of the model's embedding; a token beyond them is refused. None checks nothing.
        ends: Tokens that end a text for the model, next to the tokenizer's own end of text.
    """

    def __init__(self, tokenizer: Any, rows: int | None = None, ends: Iterable[int] = ()):
        self.tokenizer, self.rows = tokenizer, rows
        own = tokenizer.eos_token_id
        self.ends = frozenset(ends) | (frozenset() if own is None else {own})
        self.shown = lru_cache(64)(self._shown)

    def prompt(self, text: str, name: str = "a prompt") -> list[int]:
        """A prompt as the model reads it, and as it is trained to continue it.

        It begins as the tokenizer begins a text (with its beginning-of-text token, once) and ends with the prompt's own
        last token: an end-of-text token that some tokenizers append would tell the model that all is written.

        Raises `UsageError` if there is no token; `FlextuneError` for half of a surrogate pair, or a token for which the
        model has no row. `name` stands in the message.
        """
        own = self._encode(text, name)
        start = self._start if own[: len(self._start)] != self._start else []
        found = [*start, *own]
        if not found:
            raise UsageError(f"{name} has no token: the model needs at least one to continue from")
        return self._known(found, name)

    def chat(self, message: str, name: str = "a prompt") -> list[int]:
        """A user's message in the model's chat template, up to where the reply begins.

        Raises `UsageError` if the tokenizer has no template, several without a default, or one that fails.
        """
        template = getattr(self.tokenizer, "chat_template", None)
        if not template:
            raise UsageError("generation.chat: the model's tokenizer has no chat template; leave it out")
        if isinstance(template, dict) and "default" not in template:
            raise UsageError(
                f"generation.chat: the model's tokenizer has several chat templates ({', '.join(sorted(template))}) "
                "and none named default; save the one to use as chat_template.jinja in the model's folder"
            )
        try:
            found = self.tokenizer.apply_chat_template(
                [{"role": "user", "content": message}], add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # a template is a program, and may raise anything
            raise UsageError(
                f"generation.chat: the model's chat template fails for {name} ({type(error).__name__}: "
                f"{reason(error)}); mend chat_template.jinja in the model's folder, or leave generation.chat out"
            ) from None
        if not found:
            raise UsageError(f"generation.chat: the model's chat template gives no token for {name}")
        return self._known(list(found), name)

    def completion(self, prompt: str, tokens: Sequence[int], text: str, name: str = "a completion") -> list[int] | None:
        """The tokens that write `text` after the tokens of the prompt, with the end of text; None if none do.

        They are those of the whole text where it begins with the prompt's tokens. Elsewhere a token would span the
        boundary, which no model that is given the prompt can write: then the completion is tokenized by itself, and,
        where a tokenizer would put a space in front, behind a text with which it does not grow together. In each case
        they decode, after the prompt, to the completion, up to Unicode's canonical form (NFC), which some tokenizers
        apply. An end-of-text token at the end of `text` counts once.
        """
        end = self.tokenizer.eos_token_id
        if end is None:
            raise FlextuneError(
                "the tokenizer has no end-of-text token, so a model cannot learn where to stop: set eos_token in the "
                "model's tokenizer_config.json"
            )
        text = text.removesuffix(str(self.tokenizer.eos_token))
        for found in self._ways(prompt, tokens, text, name):
            if _same(self._written(tokens, found), text):
                return self._known([*found, end], name)
        return None

    def shown_as(self, prompt: str, text: str) -> str:
        """What the tokenizer would make of a completion that it cannot write; for messages."""
        tokens = self.prompt(prompt)
        return self._written(tokens, self._encode(text, "a completion"))

    def new_text(self, prompt: Sequence[int], written: Sequence[int], stop: tuple[str, ...] = ()) -> str:
        """The text that a model wrote after a prompt.

        It is decoded with its prompt, since some tokenizers drop a leading space. Special tokens are left out, but for
        those that are part of a stop string.
        """
        shown = self.shown(stop)
        parts: list[str] = []
        end = len(self.decode(prompt)) if prompt else 0
        for at, token in enumerate(written):
            if token in shown:
                before = self.decode([*prompt, *written[:at]])
                parts += [before[end:], self._special[token]]
                end = len(before)
        return "".join(parts) + self.decode([*prompt, *written])[end:]

    def reply(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        """A chat's reply, with the tag of a thought that the template has opened at the end of the prompt."""
        end = self.decode(prompt[-16:], special=True).rstrip()
        opened = next((tag for tag in THOUGHTS if end.endswith(tag)), "")
        return f"{opened}\n{self.new_text(prompt, written)}" if opened else self.new_text(prompt, written)

    def stops(self, written: Sequence[int], stop: tuple[str, ...]) -> bool:
        """Whether the last token brought a stop string to its end."""
        if not stop:
            return False
        # a token has at least one byte, and a character at most four
        tail = written[-4 * max(map(len, stop)) - 4 :]
        text = self.new_text([], tail, stop)
        return any(string in text for string in stop)

    def decode(self, tokens: Sequence[int], special: bool = False) -> str:
        """The text of tokens as it is: nothing is cleaned up, which would change code such as `a != b`."""
        return str(
            self.tokenizer.decode(list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False)
        )

    def _shown(self, stop: tuple[str, ...]) -> frozenset[int]:
        """The special tokens whose text is part of one of these stop strings."""
        return frozenset(token for token, text in self._special.items() if any(text in string for string in stop))

    @cached_property
    def _special(self) -> dict[int, str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        found = {token: str(text) for token, text in added.items() if text.special}
        return found | dict(zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=True))

    @cached_property
    def _start(self) -> list[int]:
        """What the tokenizer puts in front of every text: nothing, or a beginning-of-text token."""
        probe = "a"
        alone = self.tokenizer(probe, add_special_tokens=False)["input_ids"]
        framed = self.tokenizer(probe)["input_ids"]
        places = range(len(framed) - len(alone) + 1)
        return list(framed[: next((at for at in places if framed[at : at + len(alone)] == alone), 0)])

    def _encode(self, text: str, name: str) -> list[int]:
        if not text.isascii() and (half := HALF.search(text)):
            raise FlextuneError(
                f"{name}: character {half.start() + 1} is {half[0]!a}, half of a surrogate pair, which no tokenizer "
                "reads; remove it, or write the whole character"
            )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _known(self, tokens: list[int], name: str) -> list[int]:
        """The tokens, all of which the model has a row for."""
        if self.rows is not None and max(tokens) >= self.rows:
            token = max(tokens)
            raise FlextuneError(
                f"{name}: the tokenizer gives {self.tokenizer.convert_ids_to_tokens(token)!r} the id {token}, and the "
                f"model's embedding has {self.rows} rows; use the tokenizer that the model was trained with"
            )
        return tokens

    def _ways(self, prompt: str, tokens: Sequence[int], text: str, name: str) -> Iterator[list[int]]:
        alone = self._encode(text, name)
        whole = self.prompt(prompt + text, name)
        if whole[: len(tokens)] == list(tokens):
            yield whole[len(tokens) :]
        yield alone
        for anchor in ANCHORS:
            head, both = self._encode(anchor, name), self._encode(anchor + text, name)
            if both[: len(head)] == head:
                yield both[len(head) :]

    def _written(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """What tokens say after a prompt, special ones too; nothing where they change the prompt's own text."""
        before, both = self.decode(prompt, special=True), self.decode([*prompt, *tokens], special=True)
        return both[len(before) :] if both.startswith(before) else ""


def _same(found: str, text: str) -> bool:
    return found == text or unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", text)
