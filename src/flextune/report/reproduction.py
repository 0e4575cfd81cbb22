"""The paper's tables beside what was measured: what `flextune reproduce` prints, and what stands on the page."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group

from flextune.files import read_json, read_jsonl
from flextune.report.comparison import sentence
from flextune.report.page import NOTHING, Table, Text
from flextune.report.results import model_name, points
from flextune.report.terminal import shown
from flextune.rundir import RunDirectory
from flextune.scoring.compare import adjusted
from flextune.scoring.matrix import Arms, matrix, not_measured, transfer

PENALTY, CONTROL, LEARNED = "round-5", "plain", "python"
"""The row that the paper's claim is about, the one it is first compared with, and the language that was learned."""


@dataclass(frozen=True)
class Paper:
    """What the paper reports, by row; empty for runs that are not of the paper."""

    claims: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Of pass@1 (`flextune.studies.rows.PAPER`)."""
    optimizers: Sequence[Any] = ()
    """Of its Table 3."""
    abouts: Mapping[str, str] = field(default_factory=dict)
    """What each row is; all that are planned."""


NOT_OF_THE_PAPER = Paper()


def summary(arms: Arms, paper: Paper) -> Group:
    """What the paper says and what was found, row by row; all languages; and the penalty against each other row."""
    found = one_decoding(matrix(arms))
    of = ", ".join(models(arms)) or "nothing is kept yet"
    blocks = [*tables(found, arms, paper), languages(found, abouts(arms, paper))]
    notes = dict.fromkeys([*_penalty(arms), *conditions(found, arms)])
    return shown([Text(f"Models: {of}"), *blocks, *map(Text, notes)])


def tables(found: Sequence[Mapping[str, Any]], arms: Arms, paper: Paper) -> Iterator[Table | Text]:
    """The paper's Tables 2, 4 and 3, as far as it has rows here, and which rows learned from a few examples."""
    yield from _claimed(found, {row: paper.claims.get(row, ()) for row in paper.abouts})
    yield from _optimizers(arms, [claim for claim in paper.optimizers if claim.row in paper.abouts])
    parts = {row: part for row in paper.abouts if row in arms and (part := _learned_part(arms[row]))}
    if parts:
        each = ", ".join(f"{row}: {part}" for row, part in parts.items())
        yield Text(f"Trained on a part of a set, less what is longer than training.max_length: {each}.")


def conditions(found: Sequence[Mapping[str, Any]], arms: Arms) -> Iterator[str]:
    """What is not there, what was compared although it differs, and what could not be compared."""
    yield from not_measured(arms)
    unlike: dict[str, list[str]] = {}
    for row in found:
        where = f"{row['arm']}, {row['variant']}, {row['benchmark']}"
        for reason in (row["against_base"] or {}).get("unlike", ()):
            unlike.setdefault(reason, []).append(where)
        if row["not_compared"]:
            yield f"{where}: not compared with the model as it came: {row['not_compared']}."
    for reason, places in unlike.items():
        yield f"Not under the conditions of the model as it came, {reason}: {'; '.join(places)}."
    for row in transfer(arms, PENALTY, LEARNED) if PENALTY in arms else ():
        for reason in row["unlike"]:
            yield f"{PENALTY} against {row['reference']}: not the same conditions: {reason}."


def one_decoding(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """One decoding of each measurement: the greedy one if it is there, or else the first."""
    chosen: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for row in found:
        place = row["arm"], row["benchmark"], row["variant"]
        if place not in chosen or row["decoding"] == "greedy":
            chosen[place] = row
    return list(chosen.values())


def models(arms: Arms) -> list[str]:
    """What the rows were made of, by the name that their recipes give."""
    return list(dict.fromkeys(map(model_name, recipes(arms))))


def recipes(arms: Arms) -> Iterator[dict[str, Any]]:
    """The recipe of each run."""
    for runs in arms.values():
        for run in runs.values():
            yield RunDirectory(run).settings


def _claimed(found: Sequence[Mapping[str, Any]], claims: Mapping[str, Sequence[Any]]) -> Iterator[Table]:
    """Each number of the paper with ours, by its place there."""
    by_place = {(row["arm"], row["benchmark"], row["variant"]): row for row in found if row["decoding"] == "greedy"}
    for place in dict.fromkeys(claim.table for claimed in claims.values() for claim in claimed):
        rows = []
        for name, claimed in claims.items():
            for claim in claimed:
                row = by_place.get((name, claim.benchmark, claim.variant))
                if claim.table == place:
                    rows.append(
                        [
                            name,
                            f"{claim.benchmark}, {claim.variant}",
                            f"{100 * claim.value:.4g} %",
                            *(_found(row) if row else (NOTHING, NOTHING)),
                            points(row["value"]["value"] - claim.value) if row else NOTHING,
                            _against(row),
                        ]
                    )
        right = ("paper", "here (95 % interval)", "n", "here − paper", "against the base")
        if rows:
            yield Table(place, ["row", "measured"], right, rows)


def _learned_part(runs: Mapping[int, str | Path]) -> str:
    """How many examples a training was limited to, and of what; empty if it had all."""
    run = RunDirectory(next(iter(runs.values())))
    training = run.settings.get("training")
    if not training or not training.get("limit"):
        return ""
    rows = read_json(run.provenance)["inputs"][f"training set {training['dataset']}"]["rows"]
    return f"{training['limit']} examples or fewer from {rows} rows of {training['dataset']}"


def _found(row: Mapping[str, Any]) -> tuple[str, str]:
    seeds = len(row["seeds"])
    return _value(row), f"{row['problems']}" + (f" × {seeds} seeds" if seeds > 1 else "")


def _value(row: Mapping[str, Any]) -> str:
    value = row["value"]
    return f"{100 * value['value']:.1f} ({100 * value['low']:.1f} to {100 * value['high']:.1f})"


def _against(row: Mapping[str, Any] | None) -> str:
    comparison = row and row["against_base"]
    if not comparison:
        return NOTHING
    difference = comparison["difference"]
    return (
        f"{points(difference['value'])} ({points(difference['low'])} to {points(difference['high'])}; "
        f"p = {comparison['p_adjusted']:.2g})"
    )


def _optimizers(arms: Arms, claims: Sequence[Any]) -> Iterator[Table]:
    """Table 3: the last validation loss, minutes and memory of training."""
    if not claims:
        return
    rows = []
    for claim in claims:
        last = [last_metrics(RunDirectory(run)) for run in arms.get(claim.row, {}).values()]
        last = [row for row in last if row]
        whole = [row for row in last if "validation_loss" in row]
        rows.append(
            [
                claim.row,
                *(f"{claim.validation_loss:.4f}", mean([row["validation_loss"] for row in whole], "{:.4f}")),
                *(f"{claim.minutes:.1f}", mean([row["seconds"] / 60 for row in last], "{:.1f}")),
                *(f"{claim.memory_mb:.1f}", mean([row["peak_memory_mb"] for row in last], "{:.0f}")),
            ]
        )
    right = ("loss, paper", "here", "minutes, paper", "here", "MB, paper", "here")
    yield Table("Table 3", ["row"], right, rows)


def last_metrics(run: RunDirectory) -> dict[str, Any]:
    """The last row of a training's metrics; empty without any."""
    rows = list(read_jsonl(run.metrics)) if run.metrics.exists() else []
    return rows[-1] if rows else {}


def mean(values: Sequence[float], form: str) -> str:
    """The mean of what there is, in words."""
    return form.format(sum(values) / len(values)) if values else NOTHING


def languages(found: Sequence[Mapping[str, Any]], abouts: Mapping[str, str]) -> Table:
    """All rows by all benchmarks, with what differs from the model as it came."""
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in found))
    said = any(abouts.values())
    rows = []
    for name, about in abouts.items():
        for variant in dict.fromkeys(row["variant"] for row in found if row["arm"] == name):
            of_it = {r["benchmark"]: r for r in found if (r["arm"], r["variant"]) == (name, variant)}
            cells = [_cell(of_it[benchmark]) if benchmark in of_it else "" for benchmark in benchmarks]
            seeds = sorted({seed for row in of_it.values() for seed in row["seeds"]})
            rows.append([f"{name}, {variant}", *([about] if said else []), ", ".join(map(str, seeds)), *cells])
    return Table(
        "All languages",
        ["row", *(["what it is"] if said else []), "seeds"],
        benchmarks,
        rows,
        "pass@1 in %, and the difference from the model as it came; * beyond noise, corrected for the languages.",
    )


def _cell(row: Mapping[str, Any]) -> str:
    comparison = row["against_base"]
    change = f"\n{points(comparison['difference']['value'])}" if comparison else ""
    star = "*" if comparison and comparison["p_adjusted"] < 0.05 else ""
    return f"{100 * row['value']['value']:.1f}{change}{star}"


def abouts(arms: Arms, paper: Paper) -> dict[str, str]:
    """What each row is, by the plan or by its own recipe; those that are planned first, in their order."""
    own = {name: next(recipes({name: runs})).get("about") or "" for name, runs in arms.items()}
    return {**paper.abouts, **{name: about for name, about in own.items() if name not in paper.abouts}}


def _penalty(arms: Arms) -> Iterator[str]:
    """The row with the penalty against the one without: the first question; then against the others, corrected."""
    compared = transfer(arms, PENALTY, LEARNED) if PENALTY in arms else []
    first = [row for row in compared if row["reference"] == CONTROL]
    others = adjusted([row for row in compared if row["reference"] != CONTROL])
    if compared:
        yield (
            f"{PENALTY} against each row that was measured on {', '.join(compared[0]['benchmarks'])}, their mean "
            "(seeds paired, translations of a problem together):"
        )
    for row in [*first, *others]:
        yield f"  against {row['reference']}, seeds {', '.join(map(str, row['seeds']))}: {sentence(row)}"
