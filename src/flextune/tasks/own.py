"""Your own files: a training set of `prompt` and `completion`, a benchmark of problems as in `problems.jsonl`."""

from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError
from flextune.tasks.problem import Example, Problem
from flextune.tasks.source import check, read_file

KEYS = {"task_id": str | int, "language": str, "prompt": str, "tests": str | dict}
OPTIONAL = {"stop": list, "upstream": str}


def load(path: Path) -> tuple[list[Problem], dict[str, object]]:
    """A benchmark file with the keys `task_id`, `language`, `prompt`, `tests`, and `stop` if there are stop strings."""
    rows = read_file(path, KEYS)
    check([{"stop": [], "upstream": "", **row} for row in rows.rows], OPTIONAL, path)
    for number, row in enumerate(rows.rows, start=1):
        if isinstance(row["tests"], dict) and (wrong := _wrong_pairs(row["tests"])):
            raise FlextuneError(f"{path}, row {number}: tests: {wrong}")
    return [Problem.from_snapshot(row) for row in rows.rows], rows.provenance


def _wrong_pairs(tests: dict[str, Any]) -> str | None:
    """What is wrong with pairs of standard input and expected output."""
    for key in ("inputs", "outputs"):
        found = tests.get(key)
        if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
            return f"{key} = {found!r}; expected a list of texts"
    inputs, outputs = len(tests["inputs"]), len(tests["outputs"])
    if not inputs or inputs != outputs:
        return f"{inputs} inputs and {outputs} outputs; expected at least one, and as many of both"
    return None


def examples(path: Path) -> tuple[list[Example], dict[str, object]]:
    """A training file with the keys `prompt` and `completion`, and `upstream` if the problem came from a benchmark."""
    rows = read_file(path, {"prompt": str, "completion": str})
    check([{"upstream": "", **row} for row in rows.rows], {"upstream": str}, path)
    found = []
    for number, row in enumerate(rows.rows, start=1):
        for key in ("prompt", "completion"):
            if not row[key]:
                raise FlextuneError(f"{path}, row {number}: {key} = ''; expected a text that is not empty")
        found.append(Example(f"{path.name}/{number}", row["prompt"], row["completion"], row.get("upstream", "")))
    return found, rows.provenance
