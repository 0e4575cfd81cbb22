"""The paper's tables beside what was measured, in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flextune.files import read_jsonl
from flextune.report.comparison import sentence
from flextune.report.results import points
from flextune.rundir import RunDirectory
from flextune.scoring.compare import adjusted
from flextune.scoring.matrix import Arms, matrix, transfer

PENALTY, CONTROL, LEARNED = "round-5", "plain", "python"
"""The row that the paper's claim is about, the one it is first compared with, and the language that was learned."""
NOTHING = "–"


def summary(
    arms: Arms,
    claims: Mapping[str, Sequence[Any]],
    optimizers: Sequence[Any],
    abouts: Mapping[str, str],
) -> Group:
    """What the paper says and what was found, row by row; all languages; and the penalty against each other row.

    Args:
        arms: What is kept (`flextune.studies.reproduce.kept_runs`).
        claims: The paper's numbers (`flextune.studies.rows.PAPER`).
        optimizers: Those of its Table 3.
        abouts: What each row is; all rows of the scale.
    """
    found = matrix(arms)
    parts: list[RenderableType] = [
        *_rows(found, {row: claims.get(row, ()) for row in abouts}),
        *_optimizers(arms, [claim for claim in optimizers if claim.row in abouts]),
        _languages(found, abouts),
    ]
    if PENALTY in arms:
        parts.append(Text("\n".join(_penalty(transfer(arms, PENALTY, LEARNED)))))
    apart = [each for part in parts for each in (part, Text())]
    return Group(Text(f"Models: {', '.join(_models(arms)) or 'nothing is kept yet'}\n"), *apart[:-1])


def _penalty(compared: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The row with the penalty against the one without: the first question; then against the others, corrected."""
    first = [row for row in compared if row["reference"] == CONTROL]
    others = adjusted([row for row in compared if row["reference"] != CONTROL])
    if compared:
        yield (
            f"{PENALTY} against each row that was measured on {', '.join(compared[0]['benchmarks'])}, their mean "
            "(seeds paired, translations of a problem together):"
        )
    for row in [*first, *others]:
        yield f"  against {row['reference']}, seeds {', '.join(map(str, row['seeds']))}: {sentence(row)}"


def _models(arms: Arms) -> list[str]:
    """What the kept rows were made of, by the name that their recipes give."""
    recipes = [RunDirectory(run).recipe for runs in arms.values() for run in runs.values()]
    return list(dict.fromkeys(str(yaml.safe_load(path.read_text(encoding="utf-8"))["model"]) for path in recipes))


def _rows(found: Sequence[Mapping[str, Any]], claims: Mapping[str, Sequence[Any]]) -> Iterator[Table]:
    """Each number of the paper with ours, by its place there."""
    by_place = {(row["arm"], row["benchmark"], row["variant"]): row for row in found if row["decoding"] == "greedy"}
    for place in dict.fromkeys(claim.table for claimed in claims.values() for claim in claimed):
        table = _table(
            place, "measured", right=("paper", "here (95 % interval)", "n", "here − paper", "against the base")
        )
        for name, claimed in claims.items():
            for claim in claimed:
                row = by_place.get((name, claim.benchmark, claim.variant))
                if claim.table == place:
                    table.add_row(
                        name,
                        f"{claim.benchmark}, {claim.variant}",
                        f"{100 * claim.value:.4g} %",
                        *(_found(row) if row else (NOTHING, NOTHING)),
                        points(row["value"]["value"] - claim.value) if row else NOTHING,
                        _against(row),
                    )
        yield table


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


def _optimizers(arms: Arms, claims: Sequence[Any]) -> Iterator[RenderableType]:
    """Table 3: the last validation loss, minutes and memory of training."""
    if not claims:
        return
    table = _table("Table 3", right=("loss, paper", "here", "minutes, paper", "here", "MB, paper", "here"))
    for claim in claims:
        last = [_last(RunDirectory(run)) for run in arms.get(claim.row, {}).values()]
        last = [row for row in last if row]
        whole = [row for row in last if "validation_loss" in row]
        table.add_row(
            claim.row,
            *(f"{claim.validation_loss:.4f}", _mean([row["validation_loss"] for row in whole], "{:.4f}")),
            *(f"{claim.minutes:.1f}", _mean([row["seconds"] / 60 for row in last], "{:.1f}")),
            *(f"{claim.memory_mb:.1f}", _mean([row["peak_memory_mb"] for row in last], "{:.0f}")),
        )
    yield table


def _last(run: RunDirectory) -> dict[str, Any]:
    rows = list(read_jsonl(run.metrics)) if run.metrics.exists() else []
    return rows[-1] if rows else {}


def _mean(values: Sequence[float], form: str) -> str:
    return form.format(sum(values) / len(values)) if values else NOTHING


def _languages(found: Sequence[Mapping[str, Any]], abouts: Mapping[str, str]) -> Table:
    """All rows by all benchmarks, with what differs from the model as it came."""
    benchmarks = list(dict.fromkeys(row["benchmark"] for row in found))
    table = _table("row", "what it is", right=benchmarks)
    for name, about in abouts.items():
        for variant in dict.fromkeys(row["variant"] for row in found if row["arm"] == name):
            cells = []
            for benchmark in benchmarks:
                here = [r for r in found if (r["arm"], r["variant"], r["benchmark"]) == (name, variant, benchmark)]
                cells.append(_cell(here[0]) if here else "")
            table.add_row(f"{name}, {variant}", about, *cells)
    return table


def _cell(row: Mapping[str, Any]) -> str:
    comparison = row["against_base"]
    change = f"\n{points(comparison['difference']['value'])}" if comparison else ""
    star = "*" if comparison and comparison["p_adjusted"] < 0.05 else ""
    return f"{100 * row['value']['value']:.1f}{change}{star}"


def _table(*left: str, right: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right")
    return table
