"""Find an adapter's settings for a model, a training set and the languages that matter, within a budget of minutes.

    <output>/base/                   the model as it came, on the validation problems
    <output>/trials/, sweep.json     the search (`flextune.studies.sweep`)
    <output>/autotune.json           the choice, and what speaks for it
    <output>/recipe.yaml             the chosen settings, with another seed and HumanEval in the same languages

Nothing is measured but validation problems: MBPP's, and their translations. What is chosen is not yet shown to be good:
that takes other seeds, and the benchmarks that did not choose, which `flextune run recipe.yaml` begins with.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError
from flextune.files import read_json, write_atomic, write_json
from flextune.progress import say
from flextune.recipe import Recipe, change, dump_recipe, parse_recipe
from flextune.report.autotune import RECORD
from flextune.report.sweep import read_sweep
from flextune.rundir import version
from flextune.scoring.compare import adjusted, compare, compare_together
from flextune.studies.objective import mean_of, measured_by
from flextune.studies.process import alone
from flextune.studies.sweep import at_work, run_sweep
from flextune.tasks.multipl_e import short_name

SPACE: dict[str, Any] = {
    "adapter.targets": ["mlp", "comprehensive", "attention"],
    "adapter.rank": [4, 8, 16, 32],
    "penalty.strength": [0.0, 0.001, 0.005, 0.02, 0.05],
    "penalty.threshold": [0.25, 0.5, 1.0],
    "training.learning_rate": {"low": 2e-5, "high": 1e-3, "log": True},
}
"""What is searched; the paper's settings are the first trial."""
ONLY = {"penalty.threshold": {"penalty.strength": [0.001, 0.005, 0.02, 0.05]}}
"""Without a penalty there is no threshold."""
SIGNIFICANCE = 0.05


def recipe_for(model: str, dataset: str = "mbpp", languages: Sequence[str] = ("java",)) -> Recipe:
    """The recipe that is searched, with validation problems in the language of the training set and in the others.

    Args:
        model: As in a recipe.
        dataset: The training set: mbpp, or basics.
        languages: The other languages, by our names or MultiPL-E's: java, javascript or js, cpp, ….

    >>> recipe_for("m", languages=["java", "javascript"]).evaluation.benchmarks
    ['mbpp-validation', 'mbpp-java-validation', 'mbpp-js-validation']
    """
    if dataset not in ("mbpp", "basics"):
        raise UsageError(f"dataset = {dataset!r}: only mbpp and basics have validation problems in several languages")
    if dataset == "mbpp":
        benchmarks = ["mbpp-validation", *(f"mbpp-{short_name(name)}-validation" for name in languages)]
    else:
        benchmarks = ["basics-python", *(f"basics-{name}" for name in languages)]
    content = {
        "model": model,
        "training": {"dataset": dataset, "overlap": "drop"},
        "adapter": {"alpha": "2r"},  # the strength of ΔW stays where the rank changes
        "evaluation": {"benchmarks": benchmarks, "variants": ["unmerged"]},
        "generation": {"max_new_tokens": 256},
        "sweep": {
            "space": SPACE,
            "only": ONLY,
            "objective": "pass@1",
            "sampler": "tpe",
            "trials": 1000,
            "prune": False,  # by the best so far, which may be one that is not chosen for what it loses
        },
    }
    return parse_recipe(content, "autotune")


@dataclass(frozen=True)
class Candidate:
    """A trial, and what it does to each language."""

    number: int
    run: str
    settings: dict[str, Any]
    value: float
    """The mean of pass@1 over the languages."""
    languages: list[dict[str, Any]]
    """For each benchmark a comparison with the model as it came, corrected for their number."""

    @property
    def loses(self) -> list[str]:
        """The benchmarks on which it is worse than the model as it came, beyond noise."""
        return [
            row["benchmark"]
            for row in self.languages
            if row["difference"]["value"] < 0 and row["p_adjusted"] < SIGNIFICANCE
        ]


def autotune(recipe: Recipe, output: str | Path, *, minutes: float, workers: int = 1) -> Path:
    """Search within the budget, choose, and write the recipe of the choice and what speaks for it.

    What reports is HumanEval in the languages that chose; a benchmark of one's own reports only where `only` names the
    problems of it that chose.

    The choice is the trial with the highest mean of pass@1 over all languages among those that are worse than the model
    as it came in none of them beyond noise, and of equals the first; where no such trial exceeds the model as it came,
    that is said.

    Args:
        recipe: As of `recipe_for`, or any with a `sweep` by pass@1.
        output: The folder; called again on it, the search goes on.
        minutes: For all of it, the model as it came included: no trial is begun that would take longer, by the median
            of those before it, so that the first alone can.
        workers: Trials at the same time.

    Returns:
        `output`.

    Raises:
        UsageError: The recipe's sweep does not go by pass@1.
        FlextuneError: No trial could be measured; the causes are in `sweep.json`.
    """
    output = Path(output)
    if recipe.sweep is None or recipe.sweep.objective != "pass@1":
        raise UsageError("autotune needs a recipe with a sweep whose objective is pass@1")
    with at_work(output):
        _search_and_choose(recipe, output, minutes, workers)
    return output


def _search_and_choose(recipe: Recipe, output: Path, minutes: float, workers: int) -> None:
    base = change(recipe, {"sweep": None, "training": None, "evaluation.variants": ["base"]}, "autotune")
    say("Measuring the model as it came")
    started = time.monotonic()
    alone(pipeline.run, base, output / "base")
    run_sweep(recipe, output, workers=workers, minutes=minutes - (time.monotonic() - started) / 60)
    trials = [trial for trial in read_sweep(output)["trials"] if trial["state"] == "complete"]
    if not trials:
        raise FlextuneError(f"no trial was whole; {output / 'sweep.json'} has the causes")
    candidates = [_candidate(trial, recipe, base, output) for trial in trials]
    states = Counter(trial["state"] for trial in read_sweep(output)["trials"])
    write_json(output / RECORD, {"states": dict(states), **_judged(candidates, recipe, base, output)})
    found = read_json(output / RECORD)
    if found["chosen"] is not None:
        chosen = next(candidate for candidate in candidates if candidate.number == found["chosen"])
        asked = recipe.evaluation
        reported = [_reported(name) for name in asked.benchmarks]
        own = [name for name in reported if name in asked.benchmarks]  # of which only a part may have chosen
        keys = {
            **chosen.settings,
            "sweep": None,
            "seed": recipe.seed + 1,
            "evaluation.benchmarks": [name for name in reported if asked.only or name not in own],
            "evaluation.only": None,
            "evaluation.without": [*asked.without, *asked.only] if asked.only and own else [],
            "evaluation.variants": ["base", "unmerged"],
        }
        write_atomic(output / "recipe.yaml", dump_recipe(change(recipe, keys, "autotune")))


def _reported(benchmark: str) -> str:
    """The benchmark that reports in the language of one that chooses.

    >>> _reported("mbpp-validation"), _reported("mbpp-java-validation"), _reported("basics-javascript")
    ('humaneval', 'humaneval-java', 'humaneval-js')
    >>> _reported("basics-python"), _reported("own.jsonl")
    ('humaneval', 'own.jsonl')
    """
    if benchmark.startswith("basics-"):
        name = benchmark.removeprefix("basics-")
        return "humaneval" if name == "python" else f"humaneval-{short_name(name)}"
    if benchmark.startswith("mbpp") and benchmark.endswith("-validation"):
        return benchmark.removesuffix("-validation").replace("mbpp", "humaneval")
    return benchmark


def _candidate(trial: Mapping[str, Any], recipe: Recipe, base: Recipe, output: Path) -> Candidate:
    made = change(recipe, {"sweep": None}, "autotune")
    rows = []
    for benchmark in recipe.evaluation.benchmarks:
        before = measured_by(output / "base", base, benchmark).path
        after = measured_by(output / trial["run"], made, benchmark).path
        rows.append({"benchmark": benchmark, **compare(before, after, anyway=True)})
    return Candidate(trial["number"], trial["run"], trial["settings"], trial["value"], adjusted(rows))


def _judged(candidates: Sequence[Candidate], recipe: Recipe, base: Recipe, output: Path) -> dict[str, Any]:
    """The choice with its evidence."""
    as_it_came = mean_of([row["first"]["value"] for row in candidates[0].languages])
    allowed = [candidate for candidate in candidates if not candidate.loses]
    best = max(allowed, key=lambda candidate: (candidate.value, -candidate.number), default=None)
    first = next((candidate for candidate in candidates if candidate.number == 0), None)  # None if it failed
    return {
        "flextune": version(),
        "as_it_came": as_it_came,
        "chosen": best and best.number,
        "gains": best is not None and best.value > as_it_came,
        "against_base": best and _together(output / "base", base, output / best.run, recipe),
        "first": first and first.number,
        "against_first": _together(output / first.run, recipe, output / best.run, recipe)
        if best and first and best is not first
        else None,
        "candidates": [{**asdict(candidate), "loses": candidate.loses} for candidate in candidates],
    }


def _together(one: Path, before: Recipe, two: Path, after: Recipe) -> dict[str, Any]:
    return compare_together(
        {
            benchmark: (measured_by(one, before, benchmark).path, measured_by(two, after, benchmark).path)
            for benchmark in after.evaluation.benchmarks
        },
        anyway=True,
    )
