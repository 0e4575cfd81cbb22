"""The stage `execute`: completions become `verdicts.jsonl`, with `execution.json` beside it."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

from flextune.errors import FlextuneError, UsageError
from flextune.execution.judge import Program, judge
from flextune.execution.languages import check_languages, missing_parts, tool_version
from flextune.execution.sandbox import Layer, choose
from flextune.execution.settings import Execution
from flextune.execution.verdict import Verdict
from flextune.files import Journal, claim, read_jsonl, sha256, to_line
from flextune.progress import progress
from flextune.tasks import Problem


def execute(programs: Sequence[Program], settings: Execution | None = None) -> list[Verdict]:
    """Judge programs and return their verdicts in the same order.

    Raises `FlextuneError` if a toolchain or the sandbox is missing or fails.
    """
    settings = settings or Execution()
    layer = prepare(programs, settings)
    found = dict(_judge_all(programs, layer, settings))
    return [found[position] for position in range(len(programs))]


def prepare(programs: Sequence[Program], settings: Execution) -> Layer:
    """Check toolchains and sandbox before anything runs; returns the sandbox layer."""
    languages = {program.language for program in programs}
    check_languages(languages)
    missing = missing_parts(languages, [program.prompt for program in programs])
    if missing:
        raise FlextuneError(missing)
    return choose(settings.sandbox, settings.allow_unsandboxed)


def judge_completions(
    completions: Path, problems: Sequence[Problem], output: Path, settings: Execution, label: str = "verdicts"
) -> None:
    """Judge a file of completions into `output`/verdicts.jsonl; does nothing if they are judged there already.

    Args:
        completions: JSON Lines with `task_id` (or MultiPL-E's `name`), `completion`, and `sample` if there are several.
        problems: The benchmark; part of it may be missing among the completions.
        output: The folder for `verdicts.jsonl` and `execution.json`.
        settings: Sandbox, workers and limits.
        label: What the progress bar says.
    """
    programs = read_programs(completions, problems)
    layer = prepare(programs, settings)
    languages = sorted({program.language for program in programs})
    about = {
        "completions": sha256(completions),
        "problems": hashlib.sha256("".join(to_line(problem.snapshot()) for problem in problems).encode()).hexdigest(),
        "sandbox": layer.name,
        "limits": asdict(settings.limits),
        "toolchains": {name: tool_version(name) for name in languages},
    }
    claim(output / "execution.json", about)
    journal = Journal(output / "verdicts.jsonl")
    if journal.complete:
        return
    rows = {(row["task_id"], row["sample"]): row for row in journal.rows}
    todo = [program for program in programs if (program.task_id, program.sample) not in rows]
    with progress(label, len(programs), len(rows)) as step:
        for _, verdict in _judge_all(todo, layer, settings):
            journal.append([verdict.row()])
            rows[verdict.task_id, verdict.sample] = verdict.row()
            step()
    journal.finish(rows[program.task_id, program.sample] for program in programs)


def read_programs(path: Path, problems: Sequence[Problem]) -> list[Program]:
    """Completions with their problems; an unknown problem or a second row for one sample is an error with its line."""
    if not path.exists():
        raise UsageError(f"the completions file {path} does not exist")
    by_id = {problem.task_id: problem for problem in problems}
    programs: list[Program] = []
    seen: dict[tuple[str, int], int] = {}
    counts: dict[str, int] = {}
    for number, row in enumerate(read_jsonl(path, ("completion",)), start=1):
        task_id = str(row.get("task_id", row.get("name", "")))
        if task_id not in by_id:
            known = next(iter(by_id), "none")
            raise FlextuneError(
                f"{path}, row {number}: {task_id!r} is not a problem of the benchmark (such as {known!r})"
            )
        sample = int(row.get("sample", counts.get(task_id, 0)))
        counts[task_id] = counts.get(task_id, 0) + 1
        if (task_id, sample) in seen:
            raise FlextuneError(
                f"{path}, row {number}: sample {sample} of {task_id} stands in row {seen[task_id, sample]}"
            )
        if not isinstance(row["completion"], str):
            raise FlextuneError(f"{path}, row {number}: completion = {row['completion']!r}; expected a text")
        seen[task_id, sample] = number
        problem = by_id[task_id]
        programs.append(Program(task_id, sample, problem.language, problem.prompt, row["completion"], problem.tests))
    if not programs:
        raise FlextuneError(f"{path} holds no completion")
    return programs


def _judge_all(programs: Sequence[Program], layer: Layer, settings: Execution) -> Iterator[tuple[int, Verdict]]:
    """Positions and verdicts as they are found; identical programs run once."""
    same: dict[Program, list[int]] = {}
    for position, program in enumerate(programs):
        same.setdefault(replace(program, task_id="", sample=0), []).append(position)
    with ThreadPoolExecutor(settings.workers or os.cpu_count() or 1) as pool:
        jobs: dict[Future[Verdict], list[int]] = {
            pool.submit(judge, programs[positions[0]], layer, settings.limits): positions for positions in same.values()
        }
        try:
            for job in as_completed(jobs):
                verdict = job.result()
                for position in jobs[job]:
                    program = programs[position]
                    yield position, replace(verdict, task_id=program.task_id, sample=program.sample)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
