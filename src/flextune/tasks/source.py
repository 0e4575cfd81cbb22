"""Where the rows of a data set come from: a local folder in the Hub's schema, or the Hub at a pinned revision."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flextune import hub
from flextune.errors import FlextuneError
from flextune.files import Row, read_jsonl, sha256


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


def read(source: Source, data: Path | None, required: tuple[str, ...]) -> Rows:
    """Read from the folder `data` if it has the file, from the Hub otherwise.

    Raises `FlextuneError` with what to fetch and where to put it when neither has it.
    """
    if data is not None:
        if not data.is_dir():
            raise FlextuneError(f"the data folder {data} does not exist")
        path = data / source.file
        if path.exists():
            return read_file(path, required)
    return _read_hub(source, data)


def read_file(path: Path, required: tuple[str, ...]) -> Rows:
    """Read a local JSON Lines file."""
    rows = list(read_jsonl(path, required))
    if not rows:
        raise FlextuneError(f"{path} is empty: it needs at least one row with the keys {', '.join(required)}")
    return Rows(rows, {"file": str(path), "rows": len(rows), "sha256": sha256(path)})


def _read_hub(source: Source, data: Path | None) -> Rows:
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
    digest = hashlib.sha256("\n".join(json.dumps(row, sort_keys=True, default=str) for row in rows).encode())
    provenance = {"hub": source.repo, "revision": source.revision, "rows": len(rows), "sha256": digest.hexdigest()}
    return Rows(rows, provenance)
