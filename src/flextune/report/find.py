"""Which page belongs to what a user names: a run, a study, a search, several runs, or a folder of kept rows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flextune.errors import UsageError
from flextune.report.page import Page
from flextune.report.reproduction import NOT_OF_THE_PAPER, Paper
from flextune.report.rows import rows_page
from flextune.report.run import run_page
from flextune.report.study import STUDY, study_page
from flextune.report.sweep import RECORD, sweep_page
from flextune.rundir import RunDirectory, is_held
from flextune.scoring.matrix import Arms


def find_page(paths: Sequence[str | Path], papers: Mapping[str, Paper], *, watched: bool = False) -> Page:
    """The page of what lies at the paths.

    Args:
        paths: One folder of a run, a study, a search or of rows (`results/small`, or `results` if it has one scale), or
            several runs, with commas between those that differ by the seed of their training.
        papers: What the paper reports, by scale.
        watched: The page is read while its run is under way.

    Raises:
        UsageError: There is no such folder, or it is none of these; several paths that are not all runs.
    """
    if len(paths) > 1 or is_several(str(paths[0])):
        return rows_page(_arms(paths))
    path = Path(paths[0])
    if (path / STUDY).exists():
        return study_page(path)
    if (path / RECORD).exists():
        return sweep_page(path, watched and is_under_way(path))
    if RunDirectory(path).recipe.exists():
        return run_page(path, watched and is_under_way(path))
    rows, folder = _rows(path)
    paper = papers.get(folder.name, NOT_OF_THE_PAPER)
    known = {name: rows[name] for name in paper.abouts if name in rows}
    return rows_page(known | rows, f"The rows in {folder.name}", paper)


def is_under_way(path: Path) -> bool:
    """Whether a process is making what lies there: the run itself, or a trial of a search."""
    return RunDirectory(path).busy or any(map(is_held, (path / "trials").glob(".*.lock")))


def is_several(path: str) -> bool:
    """Whether commas join several runs; a folder may have one in its name."""
    return "," in path and not Path(path).exists()


def _arms(paths: Sequence[str | Path]) -> Arms:
    arms: dict[str, dict[int, Path]] = {}
    for path in paths:
        runs = [Path(part) for part in str(path).split(",") if part] if is_several(str(path)) else [Path(path)]
        if not runs:
            raise UsageError(f"{path!r} names no run")
        for run in runs:
            if not RunDirectory(run).recipe.exists():
                raise UsageError(
                    f"{run} is not a run directory: it has no recipe.yaml; of several, all have to be runs"
                )
        name = runs[0].resolve().name
        if name in arms or re.fullmatch(r"seed-\d+", name):
            name = str(runs[0])
        arms[name] = _by_seed(runs)
    return arms


def _by_seed(runs: Sequence[Path]) -> dict[int, Path]:
    """Runs by the seed in their recipes."""
    found: dict[int, Path] = {}
    for run in runs:
        seed = RunDirectory(run).settings.get("seed", 0)
        if seed in found:
            raise UsageError(f"{found[seed]} and {run} have the same seed, {seed}: commas join runs that differ by it")
        found[seed] = run
    return found


def _rows(path: Path) -> tuple[dict[str, dict[int, Path]], Path]:
    """The runs of each row in a folder, or in the only folder there that has rows."""
    if not path.is_dir():
        raise UsageError(f"{path} is no folder; name a run, a study, a search, or a folder of results")
    folders = [folder for folder in (path, *sorted(path.iterdir())) if any(folder.glob("*/seed-*/recipe.yaml"))]
    if len(folders) > 1:
        raise UsageError(f"{path} has several sets of rows; name one: {', '.join(map(str, folders))}")
    if not folders:
        raise UsageError(
            f"{path} holds nothing to report: no recipe.yaml of a run, no {STUDY}, no {RECORD}, and no rows "
            "(ROW/seed-0/recipe.yaml); a study or a search writes its file when it is done or has a trial"
        )
    rows: dict[str, dict[int, Path]] = {}
    for recipe in sorted(folders[0].glob("*/seed-*/recipe.yaml")):
        seed = recipe.parent.name.removeprefix("seed-")
        if seed.isdecimal():
            rows.setdefault(recipe.parent.parent.name, {})[int(seed)] = recipe.parent
    return rows, folders[0]
