"""What a sweep found, in the terminal."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flextune.errors import UsageError
from flextune.files import read_json
from flextune.report.results import percent

RECORD = "sweep.json"
WORDS = {"complete": "", "pruned": "ended early", "fail": "failed", "running": "under way"}


def read_sweep(path: str | Path) -> dict[str, Any]:
    """What `flextune sweep` has written so far."""
    file = Path(path) / RECORD
    if not file.exists():
        raise UsageError(f"{path} is not the folder of a sweep: it has no {RECORD}")
    content: dict[str, Any] = read_json(file)
    return content


def summary(sweep: Mapping[str, Any]) -> Group:
    """Every trial, the best first, then those without a value; and what the best one is."""
    keys = list(dict.fromkeys(key for trial in sweep["trials"] for key in trial["settings"]))
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("trial", justify="right")
    for key in keys:
        table.add_column(key.rpartition(".")[2], justify="right")
    table.add_column(sweep["objective"], justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("", overflow="fold")
    for trial in _ordered(sweep):
        table.add_row(
            str(trial["number"]),
            *(shown(trial["settings"].get(key, "")) for key in keys),
            "" if trial["value"] is None else _value(sweep, trial["value"]),
            "" if trial["seconds"] is None else f"{trial['seconds']:.0f}",
            Text(": ".join(filter(None, (WORDS[trial["state"]], trial["cause"])))),
        )
    return Group(table, *map(Text, _sentences(sweep)))


def _ordered(sweep: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    sign = 1 if sweep["objective"] == "validation_loss" else -1
    return sorted(sweep["trials"], key=lambda t: (t["value"] is None, sign * (t["value"] or 0), t["number"]))


def _sentences(sweep: Mapping[str, Any]) -> Iterator[str]:
    trials = sweep["trials"]
    states = [trial["state"] for trial in trials]
    yield (
        f"{len(trials)} trials: {states.count('complete')} complete, {states.count('pruned')} ended early, "
        f"{states.count('fail')} failed"
    )
    if sweep["best"] is None:
        yield "No trial has a value"
        return
    best = next(trial for trial in trials if trial["number"] == sweep["best"])
    settings = " ".join(f"{key}={shown(value)}" for key, value in best["settings"].items())
    yield f"Best: trial {best['number']}, {sweep['objective']} {_value(sweep, best['value'])}: {settings}"
    yield "The best of many looks better than it is: measure it anew, with other seeds, on what did not choose it"


def _value(sweep: Mapping[str, Any], value: float) -> str:
    return f"{value:.4f}" if sweep["objective"] == "validation_loss" else percent(value)


def shown(value: Any) -> str:
    """A setting in a table or a sentence."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
