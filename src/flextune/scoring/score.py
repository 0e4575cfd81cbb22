"""The stage `score`: `verdicts.jsonl` becomes `scores.json`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError, UsageError
from flextune.files import Row, read_json, read_jsonl, write_json
from flextune.rundir import Measurement, is_checksum, version
from flextune.scoring.form import is_code
from flextune.scoring.intervals import Interval, across_seeds, as_row, bootstrap_mean, wilson
from flextune.scoring.pass_at_k import Count, count, estimates, usual
from flextune.tasks import Problem

KINDS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("task_id", (str, int), "a text"),
    ("sample", (int,), "a whole number"),
    ("verdict", (str,), "a text"),
    ("passed", (bool,), "true or false"),
)
"""What a line of verdicts has to have."""
VARIANTS = ("base", "unmerged", "merged")
"""The variants of a model, as the folders of a run are called."""


def score(measurement: Measurement, benchmark: str, ks: Sequence[int] = ()) -> dict[str, Any]:
    """Write `scores.json` beside the verdicts and return it.

    `pass@k` is the mean over problems of the unbiased estimate, every problem counted once however many samples it has.
    Its interval is Wilson's where each problem has one sample, and a bootstrap over problems otherwise. A problem with
    fewer than k samples has no pass@k: it is left out, and named in `too_few`. Where problems and completions are at
    hand, `not_code` counts the completions that are no code at all, in languages where that can be told (`is_code`).

    Args:
        measurement: The folder with `verdicts.jsonl`.
        benchmark: The benchmark's name, for the file.
        ks: Which pass@k beside those of 1, 10 and 100 that every problem has samples for.

    Raises:
        UsageError: No problem has k samples; there is no `verdicts.jsonl`.
        FlextuneError: The file holds no verdict.
    """
    verdicts = read_verdicts(measurement.verdicts)
    counts = count(verdicts)
    result: dict[str, Any] = {"benchmark": benchmark, "problems": len(counts), "samples": len(verdicts)}
    for k in sorted({*usual(counts), *ks}):
        values = _enough(counts, k, measurement.path)
        too_few = [task_id for task_id in counts if task_id not in values]
        result[f"pass@{k}"] = as_row(_interval(counts, values)) | {"problems": len(values), "too_few": too_few}
    result["verdicts"] = dict(Counter(row["verdict"] for row in verdicts).most_common())
    result["per_problem"] = {task_id: asdict(found) for task_id, found in counts.items()}
    not_code = _not_code(measurement, verdicts)
    if not_code is not None:
        result["not_code"] = not_code
    result["provenance"] = {"flextune": version()}
    if measurement.execution.exists():
        result["provenance"]["execution"] = read_json(measurement.execution)
    write_json(measurement.scores, result)
    return result


def is_scored(measurement: Measurement) -> bool:
    """Whether `scores.json` is there, and is of the verdicts that are there."""
    if not measurement.scores.exists():
        return False
    counts = count(read_verdicts(measurement.verdicts))
    there = {str(task_id): asdict(found) for task_id, found in counts.items()}
    return bool(read_json(measurement.scores).get("per_problem") == there)


def score_seeds(measurements: Sequence[Measurement], ks: Sequence[int] = ()) -> dict[str, Any]:
    """pass@k of several measurements that differ by the seed of their training; each gets its own `scores.json` too.

    Returns:
        `seeds`, `problems`, and for each k the mean with both intervals (`Crossed`).

    Raises:
        UsageError: They were not asked the same problems, or are of several variants; as for `score`.
    """
    folders = [measurement.path for measurement in measurements]
    refuse_repeated(folders)
    variant_of(folders)
    counts = []
    for measurement in measurements:
        counts.append(count(read_verdicts(measurement.verdicts)))
        if counts[-1].keys() != counts[0].keys():
            only = sorted(counts[-1].keys() ^ counts[0].keys())
            raise UsageError(
                f"{measurements[0].path} and {measurement.path} were not asked the same problems: {len(only)} are in "
                f"one of them only, such as {only[0]!r}"
            )
    result: dict[str, Any] = {"seeds": len(measurements), "problems": len(counts[0])}
    everywhere = usual({f"{s}/{i}": found for s, each in enumerate(counts) for i, found in each.items()})
    for k in sorted({*everywhere, *ks}):
        values = [_enough(found, k, measurement.path) for found, measurement in zip(counts, measurements, strict=True)]
        common = [task_id for task_id in counts[0] if all(task_id in found for found in values)]
        found = across_seeds([{task_id: each[task_id] for task_id in common} for each in values])
        too_few = [task_id for task_id in counts[0] if task_id not in common]
        result[f"pass@{k}"] = as_row(found) | {"problems": len(common), "too_few": too_few}
    return result


def read_verdicts(path: Path) -> list[Row]:
    """The rows of a verdicts file; an empty or a missing one is an error."""
    if not path.exists():
        raise UsageError(f"the verdicts file {path} does not exist; judge the completions with `flextune execute`")
    rows = list(read_jsonl(path, ("task_id", "sample", "verdict", "passed")))
    if not rows:
        raise FlextuneError(f"{path} holds no verdict")
    seen = set()
    for number, row in enumerate(rows, start=1):
        for key, kinds, expected in KINDS:
            if not isinstance(row[key], kinds):
                raise FlextuneError(f"{path}, row {number}: {key} = {row[key]!r}; expected {expected}")
        if row["passed"] != (row["verdict"] == "passed"):
            raise FlextuneError(
                f"{path}, row {number}: verdict = {row['verdict']!r} beside passed = {row['passed']}; true goes with "
                "the verdict `passed` alone"
            )
        if (row["task_id"], row["sample"]) in seen:
            raise FlextuneError(
                f"{path}, row {number}: sample {row['sample']} of {row['task_id']!r} stands there twice"
            )
        seen.add((row["task_id"], row["sample"]))
    return rows


def refuse_repeated(folders: Sequence[str | Path]) -> None:
    """An error if one folder stands for several seeds."""
    places = [Path(folder).resolve() for folder in folders]
    for place, folder in zip(places, folders, strict=True):
        if places.count(place) > 1:
            raise UsageError(f"{folder} is named twice: seeds are folders of different trainings")


def variant_of(folders: Sequence[str | Path]) -> str | None:
    """The variant that all folders of one side measure: base, unmerged or merged.

    A run has its measurements in `evaluation/<benchmark>/<variant>/<decoding>`, so that the folder's name says it.

    Returns:
        The variant, or None if one of the folders lies outside of a run.

    Raises:
        UsageError: Two of the folders measure different variants.
    """
    variants: dict[str | None, str | Path] = {}
    for folder in folders:
        variants.setdefault(_variant(Path(folder).resolve()), folder)
    known = [variant for variant in variants if variant]
    if len(known) > 1:
        first, second, *_ = known
        raise UsageError(
            f"{variants[first]} measures {first}, but {variants[second]} measures {second}: all folders of one side, "
            "or of one mean, have to measure the same variant"
        )
    return None if None in variants or not known else known[0]


def _variant(folder: Path) -> str | None:
    """The variant in the path of a run's measurement; None for another path."""
    inside = folder.parts[-4:-3] == ("evaluation",) and folder.parts[-2] in VARIANTS
    return folder.parts[-2] if inside else None


def _enough(counts: Mapping[str, Count], k: int, folder: Path) -> dict[str, float]:
    """pass@k of the problems that have it; an error if none has."""
    if k < 1:
        raise UsageError(f"k = {k}: pass@k is of at least 1 sample")
    values = estimates(counts, k)
    if not values:
        most = max(found.samples for found in counts.values())
        raise UsageError(f"pass@{k} needs {k} samples of a problem; {folder} has at most {most}")
    return values


def _interval(counts: Mapping[str, Count], values: Mapping[str, float]) -> Interval:
    """The mean with Wilson's interval, or with a bootstrap over problems."""
    if all(counts[task_id].samples == 1 for task_id in values):
        return wilson(sum(counts[task_id].passed for task_id in values), len(values))
    return bootstrap_mean(list(values.values()))


def _not_code(measurement: Measurement, verdicts: Sequence[Row]) -> int | None:
    """How many completions are no code; what was found before where the prompts were not kept, None if nothing was.

    What passed is code, whatever it looks like.
    """
    if not measurement.completions.exists() or not measurement.problems.exists():
        return None
    problems = {row["task_id"]: Problem.from_snapshot(row) for row in read_jsonl(measurement.problems)}
    if any(is_checksum(problem.prompt) for problem in problems.values()):
        return read_json(measurement.scores).get("not_code") if measurement.scores.exists() else None
    rows = list(read_jsonl(measurement.completions))
    if not all(row.get("task_id") in problems and "completion" in row for row in rows):
        return None  # a peer's file, with other keys
    passed = {(str(row["task_id"]), row["sample"]) for row in verdicts if row["passed"]}
    found = [
        (row["task_id"], row.get("sample", 0)) in passed
        or is_code(problems[row["task_id"]].language, problems[row["task_id"]].prompt, row["completion"])
        for row in rows
    ]
    return None if None in found else found.count(False)
