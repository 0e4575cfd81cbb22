"""Run a study: every trial an ordinary run directory, then `study.json`, and the report on it.

    <output>/trials/<arm>/learning_rate-0.001-seed-100/     a run
    <output>/study.json                                     every trial, what was chosen, how the arms compare
    <output>/report/                                        the page

`run_study(load_recipe("recipes/small/optimizers.yaml", ["data=FOLDER"]), "runs/optimizers")`
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError, cause, is_the_machines
from flextune.files import Row, read_jsonl, write_json
from flextune.progress import say
from flextune.recipe import Recipe, change, dump_recipe, setting_of
from flextune.report.study import STUDY, setting_names, write_study_report
from flextune.rundir import RunDirectory, version
from flextune.scoring.seeds import NO_OUTCOME, compare_arms, outcome
from flextune.studies.process import alone
from flextune.studies.settings import Study


@dataclass(frozen=True)
class Trial:
    """One training of a study."""

    arm: str
    role: Literal["tune", "seed"]
    """Whether it helps to choose settings, or is reported."""
    settings: dict[str, Any]
    """The values of the arm's tuned keys."""
    recipe: Recipe
    run: Path
    """Its run directory, from that of the study."""


def run_study(recipe: Recipe, output: str | Path) -> Path:
    """Do all trainings of `recipe.study`, compare the arms, and write the report.

    Each trial is an ordinary run, in a process of its own, so that its peak memory is its own. What is complete is not
    done again: a study that was killed goes on, and seeds, values and arms can be added. A trial that fails, or whose
    memory does not suffice, is recorded with its cause, and the others go on: settings with which it failed are not
    chosen, a seed with which it failed is in no mean. Where the disk is full the study stops. Benchmarks, if the recipe
    has any, are measured in each trial, the base model every time anew. In a script, call it under
    `if __name__ == "__main__"`, as Python wants where processes are started.

    Args:
        recipe: A recipe with a `study`.
        output: The folder of the study.

    Returns:
        `output`.

    Raises:
        UsageError: The recipe has no study; a folder of a trial holds a run with another recipe, model or data.
        FlextuneError: All trials that were to choose an arm's settings failed, or all that were to be compared.
    """
    study = recipe.study
    if study is None:
        raise UsageError("the recipe has no `study`; pipeline.run does one without")
    output = Path(output)
    with RunDirectory(output).lock():
        _run_all(recipe, study, output)
    write_study_report(output)
    return output


def _run_all(recipe: Recipe, study: Study, output: Path) -> None:
    """Run the trials that are left, one after the other, and write `study.json`."""
    grids = {arm: study.grid(arm) for arm in study.compare}
    total = study.trainings
    done: list[dict[str, Any]] = []

    def run(trial: Trial) -> list[Row] | None:
        name = ", ".join([trial.arm, *setting_names(trial.settings), f"seed {trial.recipe.seed}"])
        say(f"Trial {len(done) + 1} of {total}: {name}")
        try:
            alone(pipeline.run, trial.recipe, output / trial.run)
        except Exception as error:  # whatever else it is, the others go on
            if is_the_machines(error) or isinstance(error, UsageError):  # that of the recipe
                raise
            say(f"Trial {len(done) + 1} failed: {cause(error)}")
            done.append(_record(trial, {**NO_OUTCOME, "cause": cause(error)}))
            return None
        metrics = RunDirectory(output / trial.run).metrics
        rows = list(read_jsonl(metrics))
        done.append(_record(trial, outcome(rows, str(metrics))))
        return rows

    chosen: dict[str, dict[str, Any]] = {}
    for arm, grid in grids.items():
        for values in grid:
            run(_trial(recipe, arm, "tune", values, study.tune_seed))
        tried = [record for record in done if record["arm"] == arm]
        whole = [record for record in tried if record["validation_loss"] is not None]
        if tried and not whole:
            raise FlextuneError(_all_failed(f"study.tune.{arm}", tried) + "; name other values")
        chosen[arm] = min(whole, key=lambda record: record["validation_loss"])["settings"] if whole else {}
    found: dict[str, dict[int, list[Row]]] = {arm: {} for arm in grids}
    for seed in study.seeds:  # arms in turn, so that a slow hour of the machine does not fall on one of them
        for arm in grids:
            rows = run(_trial(recipe, arm, "seed", chosen[arm], seed))
            if rows is not None:
                found[arm][seed] = rows
    if not any(found.values()):
        raise FlextuneError(_all_failed("study.seeds", [record for record in done if record["role"] == "seed"]))
    content = {
        "flextune": version(),
        "reference": study.reference,
        "chosen": chosen,
        "comparison": compare_arms(found),
        "trials": done,
        "recipe": yaml.safe_load(dump_recipe(recipe)),
    }
    write_json(output / STUDY, content)


def _trial(recipe: Recipe, arm: str, role: Literal["tune", "seed"], values: Mapping[str, Any], seed: int) -> Trial:
    """The training of an arm with values of its tuned keys and a seed."""
    assert recipe.study is not None
    keys = {**recipe.study.compare[arm], **values, "seed": seed, "study": None}
    made = change(recipe, keys, f"study, {arm}")
    settings = {key: setting_of(made, key) for key in values}
    return Trial(arm, role, settings, made, Path("trials") / arm / _folder(settings, seed))


def _folder(settings: Mapping[str, Any], seed: int) -> str:
    """The name of a trial's folder.

    >>> _folder({"training.learning_rate": 0.001, "adapter.targets": ["q_proj", "v_proj"]}, 0)
    'learning_rate-0.001-targets-q_proj_v_proj-seed-0'
    """
    return re.sub(r"[^\w.-]+", "_", "-".join([*setting_names(settings, "-"), f"seed-{seed}"]))


def _all_failed(key: str, records: Sequence[Mapping[str, Any]]) -> str:
    return f"{key}: all {len(records)} trainings failed: {'; '.join(dict.fromkeys(row['cause'] for row in records))}"


def _record(trial: Trial, result: Mapping[str, Any]) -> dict[str, Any]:
    """The row of `study.json` on a trial."""
    return {
        "arm": trial.arm,
        "role": trial.role,
        "settings": trial.settings,
        "seed": trial.recipe.seed,
        **result,
        "run": trial.run.as_posix(),
    }
