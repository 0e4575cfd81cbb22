"""Run the rows of the paper's tables, keep what is small of each, and read back what there is.

    runs/small/round-5/seed-0/          a run, with its adapter
    results/small/round-5/seed-0/       what is kept of it: recipe, metrics, completions, verdicts, scores

`reproduce("small", ["round-5", "plain"], ["model=FOLDER", "data=FOLDER"], seeds=[0, 1, 2])`
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from flextune import pipeline
from flextune.errors import FlextuneError, UsageError
from flextune.files import differences
from flextune.progress import say
from flextune.recipe import Recipe, change, dump_recipe, load_recipe
from flextune.rundir import FREE, RunDirectory
from flextune.scoring.matrix import Arms
from flextune.studies.process import alone
from flextune.studies.rows import names, recipe_of, used_by

SEEDS = (0, 1, 2)
ELSEWHERE = ("recipe.model", "recipe.data", "recipe.merge_first", "recipe.adapter.start", "recipe.evaluation.adapter")
"""Keys of a recipe that say where something is; `run.json` has the checksums."""


def reproduce(
    scale: str,
    rows: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    seeds: Sequence[int] = SEEDS,
    output: str | Path = "runs",
    results: str | Path = "results",
) -> list[str]:
    """Run rows that are not kept yet, all of a seed before the next seed, and keep each as soon as it is whole.

    A row that goes on from another one's adapter has that trained first if it is not there. A model as it came is
    measured once, whatever the seeds. Each run has a process of its own. A row that fails does not stop the others.

    Args:
        scale: `paper` or `small`.
        rows: Names of rows (`flextune.studies.rows.names`).
        overrides: Keys of every recipe to change, such as `model=FOLDER`.
        seeds: Of the trainings.
        output: Where the runs are made, each in `<scale>/<row>/seed-<seed>`.
        results: Where they are kept, likewise.

    Returns:
        A sentence for each row that failed.

    Raises:
        UsageError: What is kept of a row was made with another recipe.
    """
    runs, kept = Path(output) / scale, Path(results) / scale
    failures = []
    todo = [(row, seed) for seed in seeds for row in rows if seed == seeds[0] or _tuned(recipe_of(scale, row))]
    for row, seed in todo:  # a recipe that was changed is said before hours of work
        _is_kept(_folder(kept, row, seed), recipe_of(scale, row, (*overrides, f"seed={seed}")))
    for number, (row, seed) in enumerate(todo, start=1):
        recipe = recipe_of(scale, row, (*overrides, f"seed={seed}"))
        name = f"{row}, seed {seed}" if _tuned(recipe) else row
        if _is_kept(_folder(kept, row, seed), recipe):
            continue
        say(f"Row {number} of {len(todo)}: {name}")
        try:
            whole = _with_what_it_uses(scale, row, recipe, overrides, seed, runs)
            alone(pipeline.run, whole, _folder(runs, row, seed))
        except FlextuneError as error:
            failures.append(f"{name}: {error}")
            say(f"{failures[-1]} (going on with the other rows)")
            continue
        RunDirectory(_folder(runs, row, seed)).keep(_folder(kept, row, seed))
    return failures


def kept_runs(results: str | Path, scale: str) -> Arms:
    """What is kept: for each row that is there, the folders of its seeds."""
    found = {}
    for row in names(scale):
        folders = [path.parent for path in (Path(results) / scale / row).glob("seed-*/recipe.yaml")]
        if folders:
            found[row] = {int(folder.name.removeprefix("seed-")): folder for folder in _by_seed(folders)}
    return found


def _by_seed(folders: Iterable[Path]) -> list[Path]:
    return sorted(
        (folder for folder in folders if re.fullmatch(r"seed-\d+", folder.name)), key=lambda f: int(f.name[5:])
    )


def _folder(root: Path, row: str, seed: int) -> Path:
    return root / row / f"seed-{seed}"


def _tuned(recipe: Recipe) -> bool:
    """Whether the seed of a training makes a difference to it."""
    return bool(recipe.training or recipe.evaluation.adapter)


def _with_what_it_uses(scale: str, row: str, recipe: Recipe, overrides: Sequence[str], seed: int, runs: Path) -> Recipe:
    """The recipe with the folders of the rows that it goes on from, which are trained if they are not there."""
    keys = {}
    for key, other in used_by(recipe).items():
        folder = _folder(runs, other, seed)
        if not RunDirectory(folder).adapter.exists():
            say(f"{row} goes on from {other}, which is trained first")
            needed = recipe_of(scale, other, (*overrides, f"seed={seed}"))
            alone(pipeline.train_only, _with_what_it_uses(scale, other, needed, overrides, seed, runs), folder)
        keys[key] = str(folder)
    return change(recipe, keys, row) if keys else recipe


def _is_kept(folder: Path, recipe: Recipe) -> bool:
    """Whether a row is kept whole; an error if it was made with another recipe."""
    run = RunDirectory(folder)
    if not run.recipe.exists():
        return False
    there, here = (yaml.safe_load(dump_recipe(made)) for made in (load_recipe(run.recipe), recipe))
    changed = differences({"recipe": there}, {"recipe": here})
    reasons = [sentence for key, sentence in changed.items() if not key.startswith((*FREE, *ELSEWHERE))]
    if reasons:
        raise UsageError(f"{folder} was made with another recipe: {'; '.join(reasons)}; name another --results")
    return all(
        run.measurement(benchmark, variant, decoding).scores.exists()
        for benchmark in recipe.evaluation.benchmarks
        for variant in recipe.variants
        for decoding in recipe.evaluation.decodings
    )
