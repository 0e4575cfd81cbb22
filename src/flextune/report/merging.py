"""What a check of a merge found, in the terminal."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from flextune.report.page import Table
from flextune.report.page import Text as Paragraph

COLUMNS = ("max Δ logit", "KL", "flipped", "ΔW kept", "error / ΔW")


def summary(check: Mapping[str, Any]) -> Group:
    """A row for each way to run the tuned model, what could not be measured, and the verdict.

    Args:
        check: `flextune.tuning.merging.Check` as a mapping, as it stands in `merge.json`.
    """
    tables = []
    for reference, rows in groupby(check["rows"], lambda row: row["against"]):
        table = RichTable(title=f"against {reference}", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
        table.add_column("", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(row["name"], *_numbers(row))
        tables.append(table)
    return Group(*tables, *map(Text, _sentences(check)))


def blocks(check: Mapping[str, Any]) -> Iterator[Paragraph | Table]:
    """The same, for a page."""
    for reference, rows in groupby(check["rows"], lambda row: row["against"]):
        yield Table(f"Merging it, against {reference}", [""], COLUMNS, [[row["name"], *_numbers(row)] for row in rows])
    yield from map(Paragraph, _sentences(check))


def _numbers(row: Mapping[str, Any]) -> Iterator[str]:
    if row["kl"] is None:
        yield from ("overflow", "", "")
    else:
        yield from (f"{row['largest_logit']:.2g}", f"{row['kl']:.1e}", f"{100 * row['flipped']:.1f} %")
    yield "" if row["kept"] is None else f"{100 * row['kept']:.1f} %"
    yield "" if row["error"] is None else f"{row['error']:.2g}"


def _sentences(check: Mapping[str, Any]) -> Iterator[str]:
    yield f"{check['positions']} positions at the ends of {check['prompts']} prompts"
    yield from (f"Not measured: {reason}" for reason in check["skipped"])
    if any(row["kept"] is None and row["kl"] is not None for row in check["rows"]):
        yield "The adapter is zero: there is nothing to keep"
    if check["fault"]:
        yield f"The merge is broken: {check['fault']}"
    else:
        yield "Merged and unmerged are equal in float32, up to round-off"
