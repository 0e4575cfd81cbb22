"""Run the rows of the paper's tables, keep what is small of each, and read back what there is.

    runs/small/round-5/seed-0/          a run, with its adapter
    results/small/round-5/seed-0/       what is kept of it: recipe, metrics, completions, verdicts, scores

`reproduce("small", ["round-5", "plain"], ["model=FOLDER", "data=FOLDER"], seeds=[0, 1, 2])`
"""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from flextune import pipeline
from flextune.errors import UsageError, cause
from flextune.files import differences, read_json, without_places, write_numbers
from flextune.models import find_model
from flextune.progress import say
from flextune.recipe import Recipe, change, dump_recipe, load_recipe
from flextune.rundir import FREE, RunDirectory
from flextune.scoring.matrix import Arms, model_id
from flextune.studies.process import alone
from flextune.studies.rows import names, overrides_of, recipe_of, used_by

SEEDS = (0, 1, 2)
UNTUNED = 0
"""The seed under which a model as it came is kept."""
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
    measured first, and once, whatever the seeds. Each run has a process of its own. A row that fails does not stop the
    others.

    Args:
        scale: `paper` or `small`.
        rows: Names of rows (`flextune.studies.rows.names`).
        overrides: Keys of every recipe to change, such as `model=FOLDER`, which is not for rows of another model.
        seeds: Of the trainings.
        output: Where the runs are made, each in `<scale>/<row>/seed-<seed>`.
        results: Where they are kept, likewise.

    Returns:
        A sentence for each row that failed.

    Raises:
        UsageError: What is kept of a row was made with another recipe, or of another model.
    """
    runs, kept = Path(output) / scale, Path(results) / scale
    failures = []
    given = {row: overrides_of(scale, row, rows, overrides) for row in rows}
    tuned = [row for row in rows if _tuned(recipe_of(scale, row))]
    todo = [(row, UNTUNED) for row in rows if row not in tuned] + [(row, seed) for seed in seeds for row in tuned]
    for row, seed in todo:  # a recipe that was changed is said before hours of work
        _is_kept(_folder(kept, row, seed), recipe_of(scale, row, (*given[row], f"seed={seed}")))
    for number, (row, seed) in enumerate(todo, start=1):
        recipe = recipe_of(scale, row, (*given[row], f"seed={seed}"))
        name = f"{row}, seed {seed}" if _tuned(recipe) else row
        if _is_kept(_folder(kept, row, seed), recipe):
            continue
        say(f"Row {number} of {len(todo)}: {name}")
        try:
            whole = _with_what_it_uses(scale, row, recipe, given[row], seed, runs)
            alone(pipeline.run, whole, _folder(runs, row, seed))
        except Exception as error:  # whatever it is, the other rows go on
            failures.append(f"{name}: {cause(error)}")
            say(f"{failures[-1]} (going on with the other rows)")
            continue
        try:
            alone(measure_spectrum, _folder(runs, row, seed))
        except Exception as error:
            say(f"{name}: kept without its spectrum: {type(error).__name__}: {error}")
        RunDirectory(_folder(runs, row, seed)).keep(_folder(kept, row, seed))
    return failures


def measure_spectrum(path: Path) -> None:
    """Measure where the adapter of a run has its energy, if it trained one: what is kept has no weights."""
    run = RunDirectory(path)
    if run.adapter.exists() and not run.spectrum.exists():
        from flextune.tuning.spectrum import spectrum  # imports torch

        write_numbers(run.spectrum, spectrum([run.adapter]))


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
        # also where there is an adapter: it may have been trained with other settings, which is an error
        alone(pipeline.train_only, _with_what_it_uses(scale, other, needed, overrides, seed, runs), folder)
        keys[key] = str(folder)
    return change(recipe, keys, row) if keys else recipe


@cache
def _provenance(model: str, revision: str | None) -> dict[str, Any]:
    """What `run.json` would say of a model."""
    return find_model(model, revision).provenance


def _is_kept(folder: Path, recipe: Recipe) -> bool:
    """Whether a row is kept whole; an error if it was made with another recipe."""
    run = RunDirectory(folder)
    if not run.recipe.exists():
        return False
    there, here = (without_places(yaml.safe_load(dump_recipe(made))) for made in (load_recipe(run.recipe), recipe))
    changed = differences({"recipe": there}, {"recipe": here})
    reasons = [sentence for key, sentence in changed.items() if not key.startswith((*FREE, *ELSEWHERE))]
    if reasons:
        raise UsageError(f"{folder} was made with another recipe: {'; '.join(reasons)}; name another --results")
    made_of, named = read_json(run.provenance), {"inputs": {"model": _provenance(recipe.model, recipe.revision)}}
    if model_id(made_of) != model_id(named):
        raise UsageError(
            f"{folder} was made of another model than {recipe.model} ({made_of['inputs']['model']} there); name "
            "another --results"
        )
    return all(
        run.measurement(benchmark, variant, decoding).scores.exists()
        for benchmark in recipe.evaluation.benchmarks
        for variant in recipe.variants
        for decoding in recipe.evaluation.decodings
    )
