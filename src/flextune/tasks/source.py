"""Where the rows of a data set come from: a local folder in the Hub's schema, or the Hub at a pinned revision."""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from flextune import hub
from flextune.errors import FlextuneError
from flextune.files import Row, read_jsonl, sha256

Keys = Mapping[str, type | UnionType]
"""What a row has, and of which kind: a list is one of texts that are not empty."""

KINDS: dict[type | UnionType, str] = {
    str: "a text",
    int: "an integer",
    str | int: "a text or an integer",
    list: "a list of texts that are not empty",
    str | dict: "a text, or an object with inputs and outputs",
}


@dataclass(frozen=True)
class Source:
    """One file of rows, with its two homes."""

    file: str
    """Below the `--data` folder, for example `multipl-e/humaneval-java.jsonl`."""
    repo: str
    """On the Hub."""
    revision: str
    config: str | None = None
    split: str = "test"
    hub_file: str | None = None
    """A JSON Lines file of the Hub's repository, where that repository has no Parquet."""


@dataclass(frozen=True)
class Rows:
    """Rows and where they came from (goes into `run.json`)."""

    rows: list[Row]
    provenance: dict[str, Any]


def read(source: Source, data: Path | None, keys: Keys) -> Rows:
    """Read from the folder `data` if it has the file, from the Hub otherwise.

    Raises `FlextuneError` with what to fetch and where to put it when neither has it, and with the row and the key
    where a value is of another kind than `keys` says.
    """
    if data is not None:
        if not data.is_dir():
            raise FlextuneError(f"the data folder {data} does not exist")
        path = data / source.file
        if path.exists():
            return read_file(path, keys)
    return _read_hub(source, data, keys)


def read_file(path: Path, keys: Keys) -> Rows:
    """Read a local JSON Lines file."""
    rows = list(read_jsonl(path, keys))
    if not rows:
        raise FlextuneError(f"{path} is empty: it needs at least one row with the keys {', '.join(keys)}")
    check(rows, keys, path)
    return Rows(rows, {"file": str(path), "rows": len(rows), "sha256": sha256(path)})


def check(rows: list[Row], keys: Keys, name: str | Path) -> None:
    """Refuse a value of another kind than it must be."""
    for number, row in enumerate(rows, start=1):
        for key, kind in keys.items():
            found: Any = row.get(key)
            texts = found if kind is list and isinstance(found, list) else ()
            if not isinstance(found, kind) or not all(isinstance(text, str) and text for text in texts):
                raise FlextuneError(f"{name}, row {number}: {key} = {reprlib.repr(found)}; expected {KINDS[kind]}")


def _read_hub(source: Source, data: Path | None, keys: Keys) -> Rows:
    online = hub.online()
    import datasets

    try:
        if source.hub_file:
            file = f"hf://datasets/{source.repo}@{source.revision}/{source.hub_file}"
            table = datasets.load_dataset("json", data_files=file, split="train")
        else:
            table = datasets.load_dataset(source.repo, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # datasets raises a dozen unrelated types; each means "not to be had"
        why = hub.reason(error) if online else "the Hub cannot be reached and nothing is cached"
        where = f"in {data}" if data else "in a folder named with --data (or `data:` in the recipe)"
        raise FlextuneError(
            f"cannot load {source.repo} ({source.config or source.split}): {why}; "
            f"put its rows as JSON Lines at {source.file} {where}"
        ) from None
    rows = [dict(row) for row in table]
    check(rows, keys, f"{source.repo} ({source.config or source.split})")
    digest = hashlib.sha256("\n".join(json.dumps(row, sort_keys=True, default=str) for row in rows).encode())
    provenance = {"hub": source.repo, "revision": source.revision, "rows": len(rows), "sha256": digest.hexdigest()}
    return Rows(rows, provenance)
