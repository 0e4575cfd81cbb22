"""What a trial is worth, by the files of its run: at its end, and so far."""

from collections.abc import Sequence
from pathlib import Path

from flextune.files import read_json, read_jsonl
from flextune.recipe import Recipe, Variant
from flextune.rundir import Measurement, RunDirectory
from flextune.scoring.pass_at_k import count, estimates
from flextune.studies.settings import Sweep


def so_far(folder: Path, recipe: Recipe, sweep: Sweep) -> dict[int, float]:
    """What a run that may be under way has found: losses by step, or problems solved by position."""
    return _losses(folder) if sweep.objective == "validation_loss" else _solved(folder, recipe)


def all_known(folder: Path, recipe: Recipe, sweep: Sweep) -> bool:
    """Whether all problems are judged, so that nothing is saved by ending the run."""
    if sweep.objective == "validation_loss":
        return False
    return all(measured_by(folder, recipe, name).verdicts.exists() for name in recipe.evaluation.benchmarks)


def _losses(folder: Path) -> dict[int, float]:
    """The validation losses so far, by step."""
    metrics = RunDirectory(folder).metrics
    rows = read_jsonl(metrics) if metrics.exists() else ()
    return {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}


def _solved(folder: Path, recipe: Recipe) -> dict[int, float]:
    """pass@1 of each problem of the benchmarks measured so far, by its position in all of them."""
    found: dict[int, float] = {}
    position = 0
    for benchmark in recipe.evaluation.benchmarks:
        snapshot = RunDirectory(folder).problems(benchmark)
        if not snapshot.exists():
            break
        problems = [row["task_id"] for row in read_jsonl(snapshot)]
        verdicts = measured_by(folder, recipe, benchmark).verdicts
        if verdicts.exists():
            values = estimates(count(list(read_jsonl(verdicts))), 1)
            found |= {position + i: values[task_id] for i, task_id in enumerate(problems)}
        position += len(problems)
    return found


def chosen_variant(recipe: Recipe) -> Variant:
    """The variant that a sweep goes by: the last with an adapter, or the base where nothing is tuned."""
    tuned = [name for name in recipe.variants if name != "base"]
    return tuned[-1] if tuned else "base"


def measured_by(folder: Path, recipe: Recipe, benchmark: str) -> Measurement:
    """The measurement that a sweep goes by, with the recipe's first decoding."""
    decoding = next(iter(recipe.evaluation.decodings))
    return RunDirectory(folder).measurement(benchmark, chosen_variant(recipe), decoding)


def objective(folder: Path, recipe: Recipe, sweep: Sweep) -> float:
    """What a run is worth: the least validation loss after a step, or the mean of pass@1 over the benchmarks."""
    if sweep.objective == "validation_loss":
        return min(loss for step, loss in _losses(folder).items() if step)
    scores = [read_json(measured_by(folder, recipe, name).scores) for name in recipe.evaluation.benchmarks]
    return mean_of([score["pass@1"]["value"] for score in scores])


def mean_of(shares: Sequence[float]) -> float:
    """The mean of shares of problems, rounded to 12 digits, so that as many problems are always the same number.

    >>> (11 / 39 + 19 / 39) / 2 == (12 / 39 + 18 / 39) / 2, mean_of([11 / 39, 19 / 39]) == mean_of([12 / 39, 18 / 39])
    (False, True)
    """
    return round(sum(shares) / len(shares), 12)
