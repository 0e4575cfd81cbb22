"""What a run directory says about results, in the shape that tables, figures and pages want."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flextune.errors import UsageError
from flextune.files import Row, read_json, read_jsonl
from flextune.rundir import Measurement, RunDirectory, folder_name
from flextune.scoring.pass_at_k import count

WORDS = {
    "passed": "passed",
    "wrong_answer": "wrong answer",
    "runtime_error": "error while running",
    "compile_error": "does not compile",
    "compile_timeout": "compiler too slow",
    "timeout": "too slow",
    "memory_limit": "too much memory",
    "output_limit": "too much output",
    "early_exit": "ended before its tests",
}
"""Verdicts in words."""


@dataclass(frozen=True)
class Result:
    """One measurement that was scored."""

    benchmark: str
    variant: str
    decoding: str
    measurement: Measurement
    scores: dict[str, Any]

    @property
    def name(self) -> str:
        """The variant, with its decoding if that is not greedy."""
        return self.variant if self.decoding == "greedy" else f"{self.variant}, {self.decoding}"

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

    @property
    def benchmarks(self) -> list[str]:
        """Those of the recipe, as their folders are called."""
        return [folder_name(name) for name in self.recipe["evaluation"]["benchmarks"]]


LATER: dict[str, Any] = {
    "about": None,
    "merge_first": None,
    "quantization": None,
    "penalty": {"form": "factors"},
    "evaluation": {"scale": 1.0, "adapter": None, "decodings": {"greedy": {}}},
}
"""Keys that recipes did not always have."""
BROKEN = 0.1
"""A rise in the share of programs that do not compile that is worth a sentence."""
VARIANTS = ("base", "unmerged", "merged")


def read_results(path: str | Path) -> Results:
    """Read a run directory; what is not there yet is left out."""
    run = RunDirectory(path)
    if not run.recipe.exists():
        raise UsageError(f"{path} is not a run directory: it has no recipe.yaml")
    return Results(
        path=run.path,
        recipe=_filled(run.settings, LATER),
        provenance=read_json(run.provenance) if run.provenance.exists() else {},
        results=list(_results(run)),
        comparisons=[
            {"comparisons": 1, "unlike": [], "decoding": "greedy", **row}
            for row in (read_json(run.comparison) if run.comparison.exists() else [])
        ],
        metrics=list(read_jsonl(run.metrics)) if run.metrics.exists() else [],
    )


def _filled(recipe: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with keys that runs from before they were there lack.

    >>> _filled({"seed": 1, "penalty": {"strength": 0}}, {"about": None, "penalty": {"form": "factors"}})
    {'seed': 1, 'penalty': {'strength': 0, 'form': 'factors'}, 'about': None}
    """
    filled = dict(recipe)
    for key, default in defaults.items():
        if isinstance(default, dict):
            filled[key] = _filled(recipe.get(key) or {}, default)
        else:
            filled.setdefault(key, default)
    return filled


def _results(run: RunDirectory) -> Iterator[Result]:
    found = []
    for path in (run.path / "evaluation").glob("*/*/*/scores.json"):
        decoding = path.parent
        benchmark, variant = decoding.parent.parent.name, decoding.parent.name
        scores = read_json(path)
        scores = {"problems": len(scores.get("per_problem", ())), **scores}
        if variant in VARIANTS:
            found.append(Result(benchmark, variant, decoding.name, Measurement(decoding), scores))
    order = {name: position for position, name in enumerate(_benchmark_order(run))}
    found.sort(key=lambda r: (order.get(r.benchmark, len(order)), r.benchmark, r.decoding, VARIANTS.index(r.variant)))
    yield from found


def _benchmark_order(run: RunDirectory) -> list[str]:
    return [folder_name(name) for name in run.settings["evaluation"]["benchmarks"]]


def form(results: Results, comparison: Mapping[str, Any]) -> str:
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


def side(comparison: Mapping[str, Any]) -> str:
    """`more` or `fewer` if that is certain enough to be said."""
    return judgement(comparison).rpartition("clearly ")[2] if "clearly" in judgement(comparison) else ""


def slug(title: str) -> str:
    """A title as a name in an address.

    >>> slug("How this was made")
    'how-this-was-made'
    """
    return "-".join(re.findall(r"[a-z0-9]+", title.lower()))


def shares(measurement: Measurement) -> dict[str, float]:
    """The share of samples that pass, by problem; translations of a problem have its name."""
    names = {}
    if measurement.problems.exists():
        names = {row["task_id"]: row.get("upstream") or row["task_id"] for row in read_jsonl(measurement.problems)}
    counts = count(list(read_jsonl(measurement.verdicts))) if measurement.verdicts.exists() else {}
    return {names.get(task_id, task_id): found.passed / found.samples for task_id, found in counts.items()}


def model_name(recipe: Mapping[str, Any]) -> str:
    """The model of a recipe; a folder by its last part.

    >>> model_name({"model": "/data/models/qwen"}), model_name({"model": "codellama/CodeLlama-7b-hf"})
    ('qwen', 'codellama/CodeLlama-7b-hf')
    """
    model = Path(str(recipe["model"]))
    return model.name if model.is_absolute() else str(recipe["model"])


def value_of(value: Any) -> str:
    """A setting in a table or a sentence."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def broken_form(name: str, before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """How many do not compile, if many more than before, so that a lost form is not taken for a lost skill.

    >>> broken_form("js", {"passed": 50, "compile_error": 4}, {"passed": 30, "compile_error": 24})
    'js: 24 of 54, 4 of 54 before'
    >>> broken_form("js", {"passed": 50, "compile_error": 4}, {"passed": 50, "compile_error": 4})
    ''
    """
    counts = [side.get("compile_error", 0) for side in (before, after)]
    totals = [sum(side.values()) or 1 for side in (before, after)]
    if counts[1] / totals[1] - counts[0] / totals[0] < BROKEN:
        return ""
    return f"{name}: {counts[1]} of {totals[1]}, {counts[0]} of {totals[0]} before"
