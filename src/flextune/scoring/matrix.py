"""Several trainings on several benchmarks: each against the model as it came, and against one another elsewhere.

arms = {"plain": {0: "results/plain/seed-0"}, "penalty": {0: "results/penalty/seed-0"}}
matrix(arms)                                          # a row for each arm, benchmark and variant
transfer(arms, "penalty", learned="python")           # the mean over the languages that were not learned
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError
from flextune.files import read_json, read_jsonl
from flextune.rundir import Measurement, RunDirectory
from flextune.scoring.compare import adjusted, compare, compare_together
from flextune.scoring.runs import Place, measurements, planned
from flextune.scoring.score import score_seeds

Arms = Mapping[str, Mapping[int, str | Path]]
"""Run directories by the name of the arm and the seed of the training."""


def matrix(arms: Arms) -> list[dict[str, Any]]:
    """pass@1 of each arm on each benchmark, and what it is against the model as it came.

    An arm's value is over the seeds that were measured there. The model as it came is the variant `base` of the arm, or
    of another arm of the same model, by what `run.json` says of it.

    Returns:
        For each arm, benchmark, decoding and variant a row with these names, `language`, `seeds`, `problems`, `value`
        (with its interval), and `against_base`, a comparison corrected for the benchmarks of the arm (None for the base
        itself, or where there is none).
    """
    base = bases(arms)
    rows = []
    for name, runs in arms.items():
        found = []
        for place, folders in _places(runs).items():
            measured = list(folders.values())
            reference = base.get((name, place.benchmark, place.decoding)) if place.variant != "base" else None
            found.append(
                {
                    "arm": name,
                    **vars(place),
                    "language": language(measured[0]),
                    "seeds": sorted(folders),
                    **_value(measured),
                    **_against(reference, measured),
                }
            )
        compared = [row for row in found if row["against_base"]]
        for row, comparison in zip(compared, adjusted([row["against_base"] for row in compared]), strict=True):
            row["against_base"] = comparison
        rows += found
    return rows


def _against(reference: Path | None, measured: list[Path]) -> dict[str, Any]:
    """The comparison with the base, or why there is none."""
    if not reference:
        return {"against_base": None, "not_compared": ""}
    try:
        found = compare(reference, measured, anyway=True)
    except FlextuneError as error:
        return {"against_base": None, "not_compared": str(error)}
    found["unlike"] += _computed_unlike(reference, measured[0])
    return {"against_base": found, "not_compared": ""}


def _computed_unlike(first: Path, second: Path) -> list[str]:
    """A sentence if two measurements were not computed in the same type of numbers, by the recipes of their runs."""
    types = [_loaded({0: folder.parents[3]}).get("dtype") for folder in (first, second)]
    return [f"dtype is {types[0]} there, {types[1]} here"] if types[0] != types[1] else []


def bases(arms: Arms) -> dict[tuple[str, str, str], Path]:
    """The measurement of the model as it came that each arm is compared with, by arm, benchmark and decoding.

    It is the arm's own variant `base`, or that of another arm of the same model in the same quantization, into which
    nothing was merged.
    """
    weights = {name: _weights(runs) for name, runs in arms.items()}
    own: dict[tuple[str, str, str], Path] = {}
    shared: dict[tuple[tuple[str, str], str, str], Path] = {}
    for name, runs in arms.items():
        for place, folders in _places(runs).items():
            if place.variant == "base":
                folder = next(iter(folders.values()))
                own[name, place.benchmark, place.decoding] = folder
                if not _loaded(runs).get("merge_first"):
                    shared.setdefault((weights[name], place.benchmark, place.decoding), folder)
    lent = {
        (name, benchmark, decoding): folder
        for name in arms
        for (of, benchmark, decoding), folder in shared.items()
        if of == weights[name]
    }
    return lent | own


def _weights(runs: Mapping[int, str | Path]) -> tuple[str, str]:
    """The weights of the model as it came: which model, and in which quantization."""
    return model_of(runs), str(_loaded(runs).get("quantization"))


def _loaded(runs: Mapping[int, str | Path]) -> dict[str, Any]:
    """The recipe of an arm, as far as it says how the model is loaded."""
    there = [run for path in runs.values() if (run := RunDirectory(path)).recipe.exists()]
    return there[0].settings if there else {}


def learned_and_kept(arms: Arms, language_learned: str, decoding: str = "greedy") -> list[dict[str, Any]]:
    """What each arm learned against what it kept, both against the model as it came.

    Returns:
        For each tuned variant of each arm that was measured in the learned language and in others, a row with `arm`,
        `variant`, `seeds`, and the comparisons `learned` and `kept` (`compare_together`: each benchmark counts once).
    """
    base, rows = bases(arms), []
    for name, runs in arms.items():
        places = _places(runs)
        for variant in dict.fromkeys(place.variant for place in places if place.variant != "base"):
            sides: dict[bool, dict[str, tuple[Path, list[Path]]]] = {True: {}, False: {}}
            for place, folders in places.items():
                reference = base.get((name, place.benchmark, place.decoding))
                if reference and (place.variant, place.decoding) == (variant, decoding) and len(folders) == len(runs):
                    side = sides[language(reference) == language_learned]
                    side[place.benchmark] = (reference, list(folders.values()))
            if all(sides.values()):
                learned, kept = (compare_together(sides[side], anyway=True) for side in (True, False))
                row = {"arm": name, "variant": variant, "decoding": decoding, "seeds": sorted(runs)}
                rows.append({**row, "learned": learned, "kept": kept})
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
        corrected for their number. All are over the benchmarks that any seed of `of` has; a seed that lacks one of them
        on either side is left out, and so are arms without a seed in common, or of another model.
    """
    rows = []
    asked = {
        place: folders
        for place, folders in _places(arms[of]).items()
        if (place.variant, place.decoding) == (variant, decoding) and language(next(iter(folders.values()))) != learned
    }
    for name, runs in arms.items():
        if name == of or not asked or model_of(runs) != model_of(arms[of]):
            continue
        theirs = _places(runs)
        seeds = [
            seed
            for seed in arms[of]
            if all(seed in folders and seed in theirs.get(place, ()) for place, folders in asked.items())
        ]
        if seeds:
            pairs = {
                place.benchmark: ([theirs[place][seed] for seed in seeds], [folders[seed] for seed in seeds])
                for place, folders in asked.items()
            }
            row = {"arm": of, "reference": name, **compare_together(pairs, anyway=True), "seeds": seeds}
            row["unlike"] += _computed_unlike(*(folders[0] for folders in next(iter(pairs.values()))))
            rows.append(row)
    return rows


def not_measured(arms: Arms) -> Iterator[str]:
    """A sentence for each run that lacks a benchmark of its recipe.

    It lacks a benchmark in a variant and decoding that it has on another benchmark, or in a tuned variant that its
    recipe asks for. A base model that the recipe asks for does not count, for another run may have it.
    """
    for name, runs in arms.items():
        for seed, run in runs.items():
            found, asked = measurements(run), planned(run)
            ways = {(place.decoding, place.variant) for place in (*found, *asked) if place in found or place.tuned}
            lacks = []
            for benchmark in dict.fromkeys(place.benchmark for place in asked):
                places = [Place(benchmark, *way) for way in sorted(ways)]
                missing = [place.way for place in places if place not in found]
                if missing or not found:
                    lacks.append(f"{benchmark} ({', '.join(missing)})" if missing else benchmark)
            if lacks:
                yield f"{name}, seed {seed}: not measured yet, or lost: {', '.join(lacks)}."


def model_of(runs: Mapping[int, str | Path]) -> str:
    """The model of an arm by what `run.json` says of it, but for where it lay."""
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
