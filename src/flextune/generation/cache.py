"""What was written before: texts by the hash of everything that they depend on, for all runs of a user.

So the base model's completions are written once for many runs, and `samples` can be raised without writing the first
ones anew. Each combination of model, adapter and settings has a file of JSON Lines below `completions/` in the cache
folder; its first line says what it holds. Files may be deleted at any time.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from filelock import FileLock

from flextune.files import cut_torn_line, to_line
from flextune.generation.backend import Request, Text
from flextune.models import cache_folder


class TextCache:
    """The texts of one combination; `about` says what it is, and its hash names the file."""

    def __init__(self, about: Mapping[str, Any]):
        line = to_line(json.loads(json.dumps(about, sort_keys=True)))
        self.path = cache_folder() / "completions" / f"{_hash(line)}.jsonl"
        self._first = line
        self._texts: dict[str, Text] = {}
        if self.path.exists():
            # a torn last line is dropped; what is damaged is written anew
            for written in self.path.read_bytes().split(b"\n")[1:-1]:
                with suppress(ValueError, KeyError, TypeError):
                    row = json.loads(written)
                    self._texts[row["key"]] = Text(row["text"], row["finish_reason"], row["tokens"])

    def get(self, request: Request) -> Text | None:
        """The text of this request, if it was written before."""
        return self._texts.get(_key(request))

    def put(self, written: Iterable[tuple[Request, Text]]) -> None:
        """Keep texts, for this process and others."""
        rows = [
            {"key": _key(request), "text": text.text, "finish_reason": text.finish_reason, "tokens": text.tokens}
            for request, text in written
        ]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_suffix(".lock")), self.path.open("ab") as file:
            cut_torn_line(self.path)  # what a killed process left half written
            first = "" if self.path.stat().st_size else self._first
            file.write((first + "".join(map(to_line, rows))).encode())


def _key(request: Request) -> str:
    return _hash(json.dumps([request.prompt, request.stop, request.seed, request.chat]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
