"""MBPP (Austin et al. 2021, arXiv 2108.07732): 974 short Python problems, as a benchmark and as a training set.

The splits are those of the paper, by task_id: prompt 1–10, test 11–510, validation 511–600, train 601–974.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flextune.tasks.problem import Example, Problem
from flextune.tasks.source import Rows, Source, read

SPLITS = {"prompt": (1, 10), "test": (11, 510), "validation": (511, 600), "train": (601, 974)}
STOP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n```")
"""As in bigcode-evaluation-harness, with the fence."""

REVISION = "4bb6404fdc6cacfda99d4ac4205087b89d32030c"
KEYS = {"task_id": int, "text": str, "code": str, "test_list": list, "test_setup_code": str}


def docstring(row: dict[str, Any]) -> str:
    """The text and the tests in one docstring (InCoder's prompt, which the field has kept)."""
    tests = "\n".join(row["test_list"])
    return f'"""\n{row["text"]}\n{tests}\n"""\n'


def instruction(row: dict[str, Any]) -> str:
    """An instruction and a heading for the answer."""
    tests = "\n".join(row["test_list"])
    return f"### Instruction:\n{row['text']}\nYour code should pass these tests:\n{tests}\n\n### Response:\n"


TEMPLATES: dict[str, Callable[[dict[str, Any]], str]] = {"docstring": docstring, "instruction": instruction}


def load(data: Path | None, split: str = "test") -> tuple[list[Problem], dict[str, object]]:
    """The problems of a split, with the docstring prompt."""
    rows = _rows(data, split)
    problems = [
        Problem(
            task_id=f"MBPP/{row['task_id']}",
            language="python",
            prompt=docstring(row),
            tests="\n".join([row["test_setup_code"], *row["test_list"]]) + "\n",
            stop=STOP,
            upstream=f"mbpp/{row['task_id']}",
            solution=_code(row),
        )
        for row in rows.rows
    ]
    return problems, rows.provenance


def examples(data: Path | None, template: str, split: str = "train") -> tuple[list[Example], dict[str, object]]:
    """The problems of a split with their reference solutions."""
    rows = _rows(data, split)
    prompt = TEMPLATES[template]
    return [
        Example(f"MBPP/{row['task_id']}", prompt(row), _code(row), upstream=f"mbpp/{row['task_id']}")
        for row in rows.rows
    ], rows.provenance


def _code(row: dict[str, Any]) -> str:
    """The reference solution; upstream has Windows line ends and tabs."""
    code: str = row["code"]
    return code.replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ").rstrip() + "\n"


def _rows(data: Path | None, split: str) -> Rows:
    source = Source(
        file="mbpp.jsonl", repo="google-research-datasets/mbpp", revision=REVISION, config="full", split=split
    )
    rows = read(source, data, KEYS)
    first, last = SPLITS[split]
    kept = [row for row in rows.rows if first <= row["task_id"] <= last]
    return Rows(kept, {**rows.provenance, "split": split, "rows": len(kept)})
