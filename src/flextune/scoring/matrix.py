"""Several trainings on several benchmarks: each against the model as it came, and against one another elsewhere.

arms = {"plain": {0: "results/plain/seed-0"}, "penalty": {0: "results/penalty/seed-0"}}
matrix(arms)                                          # a row for each arm, benchmark and variant
transfer(arms, "penalty", learned="python")           # the mean over the languages that were not learned
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flextune.files import read_json, read_jsonl
from flextune.rundir import Measurement, RunDirectory
from flextune.scoring.compare import adjusted, compare, compare_together
from flextune.scoring.runs import Place, measurements
from flextune.scoring.score import score_seeds

Arms = Mapping[str, Mapping[int, str | Path]]
"""Run directories by the name of the arm and the seed of the training."""


def matrix(arms: Arms) -> list[dict[str, Any]]:
    """pass@1 of each arm on each benchmark, and what it is against the model as it came.

    An arm's value is over the seeds that were measured there. The model as it came is the variant `base` of any arm of
    the same model, by what `run.json` says of it.

    Returns:
        For each arm, benchmark, decoding and variant a row with these names, `language`, `seeds`, `problems`, `value`
        (with its interval), and `against_base`, a comparison corrected for the benchmarks of the arm (None for the base
        itself, or where there is none).
    """
    base: dict[tuple[str, str, str], Path] = {}
    for runs in arms.values():
        for place, folders in _places(runs).items():
            if place.variant == "base":
                base.setdefault((_model(runs), place.benchmark, place.decoding), next(iter(folders.values())))
    rows = []
    for name, runs in arms.items():
        found = []
        for place, folders in _places(runs).items():
            measured = list(folders.values())
            reference = base.get((_model(runs), place.benchmark, place.decoding)) if place.variant != "base" else None
            found.append(
                {
                    "arm": name,
                    **vars(place),
                    "language": language(measured[0]),
                    "seeds": sorted(folders),
                    **_value(measured),
                    "against_base": reference and compare(reference, measured, anyway=True),
                }
            )
        compared = [row for row in found if row["against_base"]]
        for row, comparison in zip(compared, adjusted([row["against_base"] for row in compared]), strict=True):
            row["against_base"] = comparison
        rows += found
    return rows


def transfer(
    arms: Arms, of: str, learned: str, variant: str = "unmerged", decoding: str = "greedy"
) -> list[dict[str, Any]]:
    """One arm against each other, by the mean of pass@1 over the benchmarks in languages that were not learned.

    Each benchmark counts once, translations of a problem are kept together, and seeds are paired (`compare_together`).

    Args:
        arms: All of them.
        of: The name of the one that is compared.
        learned: The language of the training, such as `python`.
        variant: What is compared of each.
        decoding: The same.

    Returns:
        For each other arm a row of `compare_together` with its name as `reference`, and the seeds that both have; not
        corrected for their number. Arms of another model, and those that lack one of the benchmarks for one of these
        seeds, are left out.
    """
    rows = []
    for name, runs in arms.items():
        seeds = [seed for seed in arms[of] if seed in runs]
        if name == of or not seeds or _model(runs) != _model(arms[of]):
            continue
        ours, theirs = (_places({seed: side[seed] for seed in seeds}) for side in (arms[of], runs))
        asked = {
            place: list(folders.values())
            for place, folders in ours.items()
            if (place.variant, place.decoding) == (variant, decoding)
            and len(folders) == len(seeds)
            and language(next(iter(folders.values()))) != learned
        }
        if asked and all(len(theirs.get(place, ())) == len(seeds) for place in asked):
            pairs = {place.benchmark: (list(theirs[place].values()), found) for place, found in asked.items()}
            rows.append({"arm": of, "reference": name, **compare_together(pairs, anyway=True), "seeds": seeds})
    return rows


def _model(runs: Mapping[int, str | Path]) -> str:
    """What `run.json` says of the model of an arm, but for where it lay."""
    for run in runs.values():
        provenance = RunDirectory(run).provenance
        if provenance.exists():
            return model_id(read_json(provenance))
    return ""


def model_id(provenance: Mapping[str, Any]) -> str:
    """The model of a run by its checksums, or by its commit on the Hub.

    >>> model_id({"inputs": {"model": {"folder": "/a", "sha256": {"m": "1f"}}}})
    '{"sha256": {"m": "1f"}}'
    """
    model = provenance.get("inputs", {}).get("model", {})
    return json.dumps({key: value for key, value in model.items() if key != "folder"}, sort_keys=True)


def language(folder: Path) -> str:
    """The language of a measurement's problems."""
    problems = Measurement(folder).problems
    first = next(read_jsonl(problems, ("language",)), None) if problems.exists() else None
    return first["language"] if first else ""


def _places(runs: Mapping[int, str | Path]) -> dict[Place, dict[int, Path]]:
    """Each measurement with the seeds that have it."""
    found: dict[Place, dict[int, Path]] = {}
    for seed, run in runs.items():
        for place, folder in measurements(run).items():
            found.setdefault(place, {})[seed] = folder
    return found


def _value(folders: list[Path]) -> dict[str, Any]:
    if len(folders) > 1:
        value = score_seeds([Measurement(folder) for folder in folders], (1,))["pass@1"]
    else:
        value = read_json(Measurement(folders[0]).scores)["pass@1"]
    return {"problems": value["problems"], "value": value}
