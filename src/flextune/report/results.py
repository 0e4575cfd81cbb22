"""What a run directory says about results, in the shape that tables, figures and pages want."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flextune.errors import UsageError
from flextune.files import Row, read_json, read_jsonl
from flextune.rundir import Measurement, RunDirectory, folder_name

Program = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """One measurement that was scored."""

    benchmark: str
    variant: str
    decoding: str
    measurement: Measurement
    scores: dict[str, Any]

    @property
    def solved(self) -> str:
        """`25 of 48`; with several samples a problem, the mean."""
        passed = self.scores["verdicts"].get("passed", 0)
        each = "" if self.scores["samples"] == self.scores["problems"] else " samples"
        return f"{passed} of {self.scores['samples']}{each}"


@dataclass(frozen=True)
class Results:
    """All that a run directory holds."""

    path: Path
    recipe: dict[str, Any]
    provenance: dict[str, Any]
    results: list[Result]
    comparisons: list[dict[str, Any]]
    metrics: list[Row]


VARIANTS = ("base", "unmerged", "merged")


def read_results(path: str | Path) -> Results:
    """Read a run directory; what is not there yet is left out."""
    run = RunDirectory(path)
    if not run.recipe.exists():
        raise UsageError(f"{path} is not a run directory: it has no recipe.yaml")
    return Results(
        path=run.path,
        recipe=yaml.safe_load(run.recipe.read_text(encoding="utf-8")),
        provenance=read_json(run.provenance) if run.provenance.exists() else {},
        results=list(_results(run)),
        comparisons=read_json(run.comparison) if run.comparison.exists() else [],
        metrics=list(read_jsonl(run.metrics)) if run.metrics.exists() else [],
    )


def _results(run: RunDirectory) -> Iterator[Result]:
    found = []
    for scores in (run.path / "evaluation").glob("*/*/*/scores.json"):
        decoding = scores.parent
        benchmark, variant = decoding.parent.parent.name, decoding.parent.name
        found.append(Result(benchmark, variant, decoding.name, Measurement(decoding), read_json(scores)))
    order = {name: position for position, name in enumerate(_benchmark_order(run))}
    found.sort(key=lambda r: (order.get(r.benchmark, len(order)), r.benchmark, r.decoding, VARIANTS.index(r.variant)))
    yield from found


def _benchmark_order(run: RunDirectory) -> list[str]:
    recipe = yaml.safe_load(run.recipe.read_text(encoding="utf-8"))
    return [folder_name(name) for name in recipe["evaluation"]["benchmarks"]]


def programs(result: Result) -> Iterator[Program]:
    """Each sample with its prompt, completion and verdict, in the order of the verdicts."""
    problems = {row["task_id"]: row for row in read_jsonl(result.measurement.problems)}
    written = {(row["task_id"], row["sample"]): row for row in read_jsonl(result.measurement.completions)}
    for verdict in read_jsonl(result.measurement.verdicts):
        completion = written[verdict["task_id"], verdict["sample"]]
        yield {"prompt": problems[verdict["task_id"]]["prompt"], **completion, **verdict}


def form(results: Results, comparison: dict[str, Any]) -> str:
    """A clause on how many completions were no code on either side, so that form is not taken for skill."""
    counts = {
        result.variant: f"{result.scores['not_code']} of {result.scores['samples']}"
        for result in results.results
        if (result.benchmark, result.decoding) == (comparison["benchmark"], comparison["decoding"])
        and "not_code" in result.scores
    }
    if not {comparison["against"], comparison["variant"]} <= counts.keys():
        return ""
    return f"; no code: {counts[comparison['against']]} before, {counts[comparison['variant']]} after"


def percent(share: float) -> str:
    """`52.1 %`."""
    return f"{100 * share:.1f} %"


def points(share: float) -> str:
    """A difference in percentage points, with its sign: `+47.9`."""
    return f"{100 * share:+.1f}"


def judgement(comparison: Mapping[str, Any]) -> str:
    """What a comparison allows one to say, in words; as one of several, by its corrected p-value."""
    if comparison.get("p_adjusted", comparison["p_value"]) >= 0.05:
        return "no difference beyond noise"
    return "clearly more" if comparison["difference"]["value"] > 0 else "clearly fewer"
