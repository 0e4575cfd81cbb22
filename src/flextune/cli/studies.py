"""The verbs of several runs: `reproduce`, `sweep`, `autotune`."""

import math
from pathlib import Path
from typing import Literal

from flextune.errors import FlextuneError, UsageError
from flextune.progress import out


def reproduce(
    *overrides: str,
    scale: Literal["paper", "small"] = "small",
    rounds: str = "",
    seeds: str = "0,1,2",
    output: str = "runs",
    results: str = "results",
    dry_run: bool = False,
) -> None:
    """Print the paper's tables beside what is kept here; with --rounds, run those rows first.

    Parameters
    ----------
    overrides
        Keys of every recipe to change, such as model=FOLDER or data=FOLDER. A row of another model than the others
        keeps it, unless it is asked for by itself.
    scale
        The paper's size, or one that runs on a laptop.
    rounds
        Rows to run, with commas between them: 0, 1, 2, 3, 3A, 3B, 3C, 4, 5, another row's name, or all. Those that are
        kept are not run again.
    seeds
        Of the trainings, with commas between them.
    output
        Where the runs are made.
    results
        Where what is small of them is kept, and read.
    dry_run
        Only say what the rows will need: parameters, steps, texts, memory, disk.
    """
    from flextune.report import estimates
    from flextune.report.reproduction import Paper, summary
    from flextune.studies import rows
    from flextune.studies.reproduce import kept_runs
    from flextune.studies.reproduce import reproduce as run_rows

    chosen = rows.names(scale) if rounds == "all" else [rows.find(scale, name) for name in _listed(rounds)]
    if dry_run:
        from flextune.estimate import estimate

        asked = chosen or rows.names(scale)
        found, refused = {}, []
        for row in asked:
            try:
                made = rows.recipe_of(scale, row, rows.overrides_of(scale, row, asked, overrides))
                found[row] = estimate(made)
            except FlextuneError as error:
                refused.append(f"{row}: {error}")
        out.print(estimates.summary(found))
        if refused:
            raise UsageError(f"{len(refused)} of {len(asked)} rows cannot be run so: {'; '.join(refused)}")
        return
    failures = []
    if chosen:
        numbers = [int(seed) for seed in _listed(seeds) if seed.isdecimal()]
        if not numbers or len(numbers) != len(_listed(seeds)):
            raise UsageError(f"seeds = {seeds!r}: expected whole numbers with commas between them, such as 0,1,2")
        failures = run_rows(scale, chosen, overrides, seeds=numbers, output=output, results=results)
    out.print(summary(kept_runs(results, scale), Paper(rows.PAPER, rows.TABLE_3, rows.abouts(scale))))
    if failures:
        raise FlextuneError(f"{len(failures)} rows failed: {'; '.join(failures)}")


def sweep(
    recipe: str,
    *overrides: str,
    output: str | None = None,
    workers: int = 1,
    storage: str | None = None,
    ray: str | None = None,
) -> None:
    """Search settings: the `sweep` of a recipe, each trial an ordinary run. Killed, it goes on where it was.

    Several machines work on one sweep: the same command on each, with an --output that all of them see, or with a
    folder each and one --storage.

    Parameters
    ----------
    recipe
        The YAML file, with a `sweep` (`flextune recipe` lists its keys).
    overrides
        Keys to change, such as sweep.trials=40.
    output
        The folder of the sweep; by default runs/ and the name of the recipe.
    workers
        Trials at the same time; with GPUs, one for each.
    storage
        grpc://host:port of Optuna's proxy server, or the address of a database; by default a file in the folder.
    ray
        The address of a Ray cluster that does the trials; all its machines have to see the folder.
    """
    from flextune.recipe import load_recipe
    from flextune.report.sweep import read_sweep, summary

    try:
        from flextune.studies.sweep import run_sweep
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: run `pip install 'flextune[sweep]'`") from None

    if workers < 1:
        raise UsageError(f"workers = {workers}: expected at least 1")
    folder = run_sweep(
        load_recipe(recipe, overrides),
        output or Path("runs") / Path(recipe).stem,
        workers=workers,
        storage=storage,
        ray=ray,
    )
    out.print(summary(read_sweep(folder)))
    out.print(f"Trials: {folder / 'trials'}", soft_wrap=True)


def autotune(
    model: str,
    *overrides: str,
    minutes: float,
    dataset: str = "mbpp",
    language: list[str] | None = None,
    output: str | None = None,
    workers: int = 1,
) -> None:
    """Find an adapter's settings: targets, rank, penalty and learning rate, by validation problems in all languages.

    Writes recipe.yaml, which `flextune run` then measures on HumanEval in the same languages, with another seed.

    Parameters
    ----------
    model
        A folder, a name on the Hub, or smollm2-135m.
    overrides
        Other keys of the recipe, such as data=FOLDER or training.epochs=1.
    minutes
        For all of it; no trial is begun that would take longer.
    dataset
        What is learned: mbpp or basics.
    language
        A language that must not suffer, beside that of the training set; may be given several times. By default java.
    output
        The folder; by default runs/autotune- and the model's name.
    workers
        Trials at the same time; with GPUs, one for each.
    """
    from flextune.recipe import overridden
    from flextune.report.autotune import read_autotune, summary

    try:
        from flextune.studies.autotune import autotune as tune
        from flextune.studies.autotune import recipe_for
    except ModuleNotFoundError as error:
        raise UsageError(f"{error.name} is missing: run `pip install 'flextune[sweep]'`") from None

    if workers < 1 or not 0 < minutes < math.inf:
        raise UsageError(f"workers = {workers}, minutes = {minutes:g}: expected at least 1 worker, and some minutes")
    recipe = overridden(recipe_for(model, dataset, language or ["java"]), overrides, "autotune")
    folder = tune(recipe, output or f"runs/autotune-{Path(model).name}", minutes=minutes, workers=workers)
    out.print(summary(read_autotune(folder)))
    if (folder / "recipe.yaml").exists():
        out.print(f"Recipe: {folder / 'recipe.yaml'}", soft_wrap=True)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
