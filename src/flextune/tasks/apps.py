"""APPS (Hendrycks et al. 2021, arXiv 2105.09938): competition problems, on standard input or as a named function.

Programs import what they use: nothing is imported for them, as APPS's own checker does.
"""

import json
import random
import re
import reprlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError, UsageError
from flextune.tasks.problem import Example, Problem, StandardInput
from flextune.tasks.source import Rows, Source, read

DIFFICULTIES = ("introductory", "interview", "competition")
STOP = ("\n```", "\nQUESTION:", "\n---")

LONG = 14_000
"""Bits of an integer, of which Python reads and writes no more than 4,300 decimal digits by default."""

REVISION = "21e74ddf8de1a21436da12e3e653065c5213e9d1"
KEYS = {
    "problem_id": int,
    "question": str,
    "solutions": str,
    "input_output": str,
    "difficulty": str,
    "starter_code": str,
}


def docstring(row: dict[str, Any]) -> str:
    """The question, and the starter code if there is any, in a docstring at the top of a file: Python to go on with."""
    starter = row["starter_code"].strip()
    text = row["question"].strip() + (f"\n\n{starter}" if starter else "")
    escaped = text.replace('"""', "'''")
    imports = "from typing import *\n\n" if starter else ""
    return f'r"""\n{escaped}\n"""\n{imports}'


def question(row: dict[str, Any]) -> str:
    """The prompt of the APPS paper (appendix): question, starter code, the kind of input, and a heading."""
    starter = f"\n{row['starter_code'].rstrip()}" if row["starter_code"].strip() else ""
    kind = "Use Call-Based format" if starter else "Use Standard Input format"
    return f"\nQUESTION:\n{row['question'].strip()}{starter}\n{kind}\n\nANSWER:\n"


TEMPLATES: dict[str, Callable[[dict[str, Any]], str]] = {"docstring": docstring, "question": question}


def load(difficulty: str | None, data: Path | None) -> tuple[list[Problem], dict[str, object]]:
    """The test problems that have tests, of all difficulties or of one."""
    rows = _rows(data, "test", difficulty)
    problems = [
        Problem(
            task_id=f"APPS/{row['problem_id']}",
            language="python",
            prompt=docstring(row),
            tests=tests,
            stop=STOP,
            upstream=f"apps-test/{row['problem_id']}",
            solution=next(iter(_solutions(row)), ""),
        )
        for row in rows.rows
        if (tests := tests_of(row)) is not None
    ]
    return problems, {**rows.provenance, "rows": len(problems)}


def examples(
    data: Path | None, template: str, difficulty: str | None = None, solutions: int = 1, seed: int = 0
) -> tuple[list[Example], dict[str, object]]:
    """The training problems that have a solution: each with its first, `APPS/<id>`, or with several, `APPS/<id>/<k>`.

    `k` is the solution's place among those of its problem, from 0.
    """
    rows = _rows(data, "train", difficulty)
    prompt = TEMPLATES[template]
    return [
        Example(
            f"APPS/{row['problem_id']}" + (f"/{k}" if solutions > 1 else ""),
            prompt(row),
            code,
            upstream=f"apps-train/{row['problem_id']}",
        )
        for row in rows.rows
        for k, code in _drawn(row, solutions, seed)
    ], {**rows.provenance, "solutions": solutions, "seed": seed}


def _drawn(row: dict[str, Any], solutions: int, seed: int) -> list[tuple[int, str]]:
    """The first solution, or several distinct ones, in the order they stand; all where there are no more.

    A problem's draw depends on the seed and on its id only, so that it is the same whatever else is learned.
    """
    distinct: dict[str, tuple[int, str]] = {}
    for k, code in enumerate(_solutions(row)):
        distinct.setdefault(" ".join(code.split()), (k, code))
    every = list(distinct.values())
    if solutions == 1:
        return every[:1]
    return sorted(random.Random(f"{seed}/{row['problem_id']}").sample(every, min(solutions, len(every))))


def tests_of(row: dict[str, Any]) -> str | StandardInput | None:
    """Standard input and output pairs, or assertions over the named function; None where the problem has no tests."""
    with _long_integers():
        cases = _decoded(row, "input_output", {})
        if not isinstance(cases, dict):
            raise _unexpected(row, "input_output", cases, "an object")
        if not cases.get("inputs"):
            return None
        for key in ("inputs", "outputs"):
            if not isinstance(cases.get(key), list):
                raise _unexpected(row, key, cases.get(key), "a list")
        if len(cases["inputs"]) != len(cases["outputs"]):
            raise FlextuneError(
                f"APPS/{row['problem_id']}: {len(cases['inputs'])} inputs and {len(cases['outputs'])} outputs; "
                "expected as many of both"
            )
        if not cases.get("fn_name"):
            return StandardInput(tuple(map(_text, cases["inputs"])), tuple(map(_text, cases["outputs"])))
    name = cases["fn_name"]
    function = f"Solution().{name}" if "class Solution" in row["starter_code"] else name
    # upstream wraps some expected values in a list of one
    lines = [
        f"_found = {function}(*{arguments})\nassert _plain(_found) in (_plain({expected}), _plain({expected}[0])"
        f" if isinstance({expected}, list) and len({expected}) == 1 else _plain({expected}))"
        for arguments, expected in zip(map(_literal, cases["inputs"]), map(_literal, cases["outputs"]), strict=True)
    ]
    plain = "def _plain(value):\n    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value\n"
    return plain + "\n".join(lines) + "\n"


@contextmanager
def _long_integers() -> Iterator[None]:
    """APPS has integers of more digits than Python reads or writes by default."""
    before = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        yield
    finally:
        sys.set_int_max_str_digits(before)


def _literal(value: Any) -> str:
    """A value of JSON as Python; integers that it would not read in decimal digits in hexadecimal ones.

    Keys of an object are texts in JSON: where all are integers, integers are meant, as in APPS's own checker.

    >>> _literal({"1": 2}), _literal({"1": 2, "b": 3})
    ('{1: 2}', "{'1': 2, 'b': 3}")
    >>> _literal([1, {"a": True}, "b"]), _literal([16**4000])[:4]
    ("[1, {'a': True}, 'b']", '[0x1')
    """
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        numbered = all(re.fullmatch(r"-?\d+", key) for key in value)
        keys = (str(int(key)) if numbered else repr(key) for key in value)
        return f"{{{', '.join(f'{key}: {_literal(each)}' for key, each in zip(keys, value.values(), strict=True))}}}"
    return hex(value) if isinstance(value, int) and value.bit_length() > LONG else repr(value)


def _text(case: Any) -> str:
    return "\n".join(case) if isinstance(case, list) else str(case)


def _solutions(row: dict[str, Any]) -> list[str]:
    codes = _decoded(row, "solutions", [])
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise _unexpected(row, "solutions", codes, "a list of texts")
    return [code.strip() + "\n" for code in codes]


def _decoded(row: dict[str, Any], key: str, empty: Any) -> Any:
    """What a text of JSON holds; `empty` where the text is."""
    try:
        return json.loads(row[key]) if row[key] else empty
    except json.JSONDecodeError as error:
        raise FlextuneError(
            f"APPS/{row['problem_id']}: {key} is not valid JSON ({error.msg}, character {error.pos})"
        ) from None


def _unexpected(row: dict[str, Any], key: str, found: Any, expected: str) -> FlextuneError:
    return FlextuneError(f"APPS/{row['problem_id']}: {key} holds {reprlib.repr(found)}; expected {expected}")


def _rows(data: Path | None, split: str, difficulty: str | None) -> Rows:
    if difficulty is not None and difficulty not in DIFFICULTIES:
        raise UsageError(f"apps: the difficulty {difficulty!r} is not known; there are {', '.join(DIFFICULTIES)}")
    source = Source(file=f"apps/{split}.jsonl", repo="codeparrot/apps", revision=REVISION, hub_file=f"{split}.jsonl")
    rows = read(source, data, KEYS)
    kept = [row for row in rows.rows if difficulty in (None, row["difficulty"])]
    return Rows(kept, {**rows.provenance, "split": split, "difficulty": difficulty, "rows": len(kept)})
