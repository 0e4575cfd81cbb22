"""The stage `execute`: completions become `verdicts.jsonl`, with `execution.json` beside it."""

import contextlib
import hashlib
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from flextune.errors import UsageError
from flextune.execution.cluster import judge_on_ray
from flextune.execution.engine import judge_all, prepare
from flextune.execution.formats import read_programs
from flextune.execution.program import Program
from flextune.execution.results import MULTIPL_E_STATUS, write_human_eval, write_multipl_e
from flextune.execution.settings import Execution
from flextune.execution.toolchain import tool_version
from flextune.execution.verdict import Verdict
from flextune.files import Journal, Row, claim, read_json, read_jsonl, to_line, write_jsonl
from flextune.progress import progress, say
from flextune.rundir import Measurement, RunDirectory, without_texts
from flextune.tasks import Problem, load_benchmark

WRITE_SECONDS = 0.5
"""A verdict that comes so much after the last writing is written, with those before it."""


def judge_file(
    completions: Path,
    benchmark: str,
    data: str | None,
    output: Path,
    settings: Execution,
    write: Literal["human-eval", "multipl-e"] | None = None,
) -> dict[str, int]:
    """Judge completions, ours or a peer's; returns how often each verdict was found.

    Where the folder has none yet, what was judged is put beside the verdicts as `problems.jsonl` and
    `completions.jsonl`, so that scores, comparisons and pages need nothing else. `write` adds the verdicts in a peer's
    format: human-eval's beside ours, MultiPL-E's in the same folder.
    """
    problems = load_benchmark(benchmark, data).problems
    programs = read_programs(completions, problems)  # what is wrong there is said before anything is made
    with RunDirectory(output).lock():
        _check_kept(Measurement(output), completions, problems, programs)
        judge_completions(completions, problems, output, settings, f"judging {benchmark}")
        _keep(Measurement(output), problems, programs)
    say(f"sandbox: {read_json(output / 'execution.json')['sandbox']}")
    rows = list(read_jsonl(output / "verdicts.jsonl", ("task_id", "sample", "verdict")))
    if write:
        verdicts = [Verdict(r["task_id"], r["sample"], r["verdict"], r["seconds"], r["detail"]) for r in rows]
        if write == "human-eval":
            write_human_eval(output / f"{completions.name}_results.jsonl", programs, verdicts)
        else:
            write_multipl_e(output, problems, programs, verdicts)
    return dict(Counter(row["verdict"] for row in rows).most_common())


def _check_kept(
    measurement: Measurement, completions: Path, problems: Sequence[Problem], programs: Sequence[Program]
) -> None:
    """Refuse a folder in which verdicts would stand beside other programs or problems than they are about."""
    if measurement.completions.exists() and not measurement.completions.samefile(completions):
        there = read_programs(measurement.completions, problems)
        if _completions(there) != _completions(programs):
            raise UsageError(
                f"{measurement.completions} holds other completions than those to be judged; name another --output"
            )
    if measurement.problems.exists():
        asked = {problem.task_id: without_texts(problem.snapshot()) for problem in problems}
        for row in read_jsonl(measurement.problems, ("task_id",)):
            now = asked.get(str(row["task_id"]), {})
            if any(without_texts(row).get(key, value) != value for key, value in now.items()):
                raise UsageError(
                    f"{measurement.problems} has {row['task_id']!r} with other texts than the benchmark; name another "
                    "--output"
                )


def _completions(programs: Sequence[Program]) -> dict[tuple[str, int], str]:
    return {(program.task_id, program.sample): program.completion for program in programs}


def _keep(measurement: Measurement, problems: Sequence[Problem], programs: Sequence[Program]) -> None:
    """Write down what was judged, unless it is there."""
    if not measurement.problems.exists():
        write_jsonl(measurement.path / "problems.jsonl", (problem.snapshot() for problem in problems))
    if not measurement.completions.exists():
        rows = ({"task_id": p.task_id, "sample": p.sample, "completion": p.completion} for p in programs)
        write_jsonl(measurement.completions, rows)


def judge_completions(
    completions: Path, problems: Sequence[Problem], output: Path, settings: Execution, label: str = "verdicts"
) -> None:
    """Judge a file of completions into `output`/verdicts.jsonl; does nothing if they are judged there already.

    Verdicts that are whole stay whatever sandbox or toolchains this machine has now; others go on only with the same.

    Args:
        completions: JSON Lines with `task_id` (or MultiPL-E's `name`), `completion`, and `sample` if there are several.
        problems: The benchmark; part of it may be missing among the completions.
        output: The folder for `verdicts.jsonl` and `execution.json`.
        settings: Sandbox, workers and limits.
        label: What the progress bar says.
    """
    programs = read_programs(completions, problems)
    journal, record = Journal(output / "verdicts.jsonl"), output / "execution.json"
    about: dict[str, Any] = {
        "completions": _digest(to_line(asdict(replace(program, tests=""))) for program in programs),
        "problems": _digest(to_line(problem.snapshot()) for problem in problems),
        "limits": asdict(settings.limits),
        "java_release": settings.java_release,
        "compatible": settings.compatible,
    }
    if journal.complete:
        there = read_json(record)
        claim(record, about | {key: there.get(key) for key in ("sandbox", "toolchains")})
        return
    layer = prepare(programs, settings)
    languages = sorted({program.language for program in programs})
    about |= {"sandbox": layer.name, "toolchains": {name: tool_version(name) for name in languages}}
    claim(record, about)
    judged: Callable[[Sequence[Program]], Generator[tuple[int, Verdict]]]
    if settings.ray is not None:
        expected = {"sandbox": layer.name, **{name: tool_version(name) for name in languages}}
        judged = partial(judge_on_ray, settings=settings, expected=expected)
    else:
        judged = partial(judge_all, layer=layer, settings=settings)
    rows = {(row["task_id"], row["sample"]): row for row in journal.rows}
    todo = [program for program in programs if (program.task_id, program.sample) not in rows]
    with progress(label, len(programs), len(rows)) as step:
        group: list[Row] = []
        written = time.monotonic()
        with contextlib.closing(judged(todo)) as verdicts:
            try:
                for _, verdict in verdicts:
                    group.append(_row(verdict, settings.compatible))
                    rows[verdict.task_id, verdict.sample] = group[-1]
                    step()
                    if time.monotonic() > written + WRITE_SECONDS:
                        journal.append(group)
                        group, written = [], time.monotonic()
            finally:
                journal.append(group)
    journal.finish(rows[program.task_id, program.sample] for program in programs)


def _digest(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode("utf-8", "surrogatepass"))
    return found.hexdigest()


def _row(verdict: Verdict, compatible: bool) -> Row:
    return {**verdict.row(), "status": MULTIPL_E_STATUS[verdict.verdict]} if compatible else verdict.row()
