"""The stage `score`: `verdicts.jsonl` becomes `scores.json`."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError, UsageError
from flextune.files import Row, read_json, read_jsonl, write_json
from flextune.rundir import Measurement, version
from flextune.scoring.form import is_code
from flextune.scoring.intervals import Interval, bootstrap_mean, wilson
from flextune.tasks import Problem


def score(measurement: Measurement, benchmark: str) -> dict[str, Any]:
    """Write `scores.json` beside the verdicts and return it.

    pass@1 is the mean over problems of the share of samples that pass, with Wilson's interval for one sample a problem
    and a bootstrap over problems otherwise. Where problems and completions are at hand, `not_code` counts the
    completions that are no code at all.
    """
    verdicts = read_verdicts(measurement.verdicts)
    by_problem = pass_rates(verdicts)
    interval = pass_at_1(verdicts)
    result: dict[str, Any] = {
        "benchmark": benchmark,
        "problems": len(by_problem),
        "samples": len(verdicts),
        "pass@1": asdict(interval),
        "verdicts": dict(Counter(row["verdict"] for row in verdicts).most_common()),
        "provenance": {"flextune": version()},
    }
    if measurement.completions.exists() and measurement.problems.exists():
        result["not_code"] = _not_code(measurement)
    if measurement.execution.exists():
        result["provenance"]["execution"] = read_json(measurement.execution)
    write_json(measurement.scores, result)
    return result


def read_verdicts(path: Path) -> list[Row]:
    """The rows of a verdicts file; an empty or a missing one is an error."""
    if not path.exists():
        raise UsageError(f"the verdicts file {path} does not exist; judge the completions with `flextune execute`")
    rows = list(read_jsonl(path, ("task_id", "sample", "verdict", "passed")))
    if not rows:
        raise FlextuneError(f"{path} holds no verdict")
    return rows


def pass_rates(verdicts: list[Row]) -> dict[str, float]:
    """For each problem, the share of its samples that pass."""
    passed: dict[str, list[bool]] = {}
    for row in verdicts:
        passed.setdefault(row["task_id"], []).append(bool(row["passed"]))
    return {task_id: sum(found) / len(found) for task_id, found in passed.items()}


def pass_at_1(verdicts: list[Row]) -> Interval:
    """pass@1 with its interval."""
    rates = pass_rates(verdicts)
    if len(rates) == len(verdicts):
        return wilson(sum(row["passed"] for row in verdicts), len(verdicts))
    return bootstrap_mean(list(rates.values()))


def _not_code(measurement: Measurement) -> int:
    problems = {row["task_id"]: Problem.from_snapshot(row) for row in read_jsonl(measurement.problems)}
    return sum(
        not is_code(problems[row["task_id"]].language, problems[row["task_id"]].prompt, row["completion"])
        for row in read_jsonl(measurement.completions)
    )
