"""What recipes will need, in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text


def summary(estimates: Mapping[str, Any]) -> Group:
    """A row for each recipe.

    Args:
        estimates: By name, what `flextune.estimate.estimate` found.
    """
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("")
    for column in ("parameters", "trained", "share", "examples", "steps", "texts", "training", "writing", "disk"):
        table.add_column(column, justify="right")
    for name, found in estimates.items():
        share = "" if not (found.trainable and found.parameters) else f"{found.trainable / found.parameters:.4%}"
        table.add_row(
            Text(name),
            *(_count(value) for value in (found.parameters, found.trainable)),
            share,
            *(_count(value) for value in (found.examples, found.steps, found.texts)),
            *(_gib(value) for value in (found.training_gib, found.generation_gib, found.disk_gib)),
        )
    return Group(
        table,
        Text(
            "Memory: estimates from shapes, for one device and the longest texts. Disk: of the adapter and two "
            "checkpoints; weights that are not there yet come on top. Steps: at most"
        ),
    )


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _gib(value: float | None) -> str:
    return "" if value is None else f"{value:.1f} GiB"
