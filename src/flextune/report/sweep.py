"""What a sweep found, in the terminal and as a page."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group

from flextune.errors import UsageError
from flextune.files import read_json
from flextune.report import autotune, exploration
from flextune.report.page import Code, Page, Section, Table, Text, link
from flextune.report.results import model_name, percent, value_of
from flextune.report.terminal import shown

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
    return shown([_table(sweep, None), *map(Text, _sentences(sweep))])


def sweep_page(path: str | Path, under_way: bool = False) -> Page:
    """The page of a sweep: every trial, failed ones with their cause, and what can be seen between them."""
    sweep = read_sweep(path)
    states = [trial["state"] for trial in sweep["trials"]]
    drawn = exploration.figures(sweep["trials"], sweep["objective"])
    parts = [
        *_choice(Path(path)),
        Section("Trials", [*map(Text, _sentences(sweep)), _table(sweep, Path(path))]),
        Section("Exploration", drawn or [Text("No trial has a value yet.")]),
        Section("How this was made", [Code("Recipe", yaml.safe_dump(sweep["recipe"], sort_keys=False))]),
    ]
    return Page(
        f"{model_name(sweep['recipe'])}: a search for {sweep['objective'].replace('_', ' ')}",
        f"{len(states)} trials over {', '.join(sweep['recipe']['sweep']['space'])}.",
        parts,
        under_way,
    )


def _choice(path: Path) -> list[Section]:
    """What `flextune autotune` chose, if it was that which searched."""
    if not (path / autotune.RECORD).exists():
        return []
    return [Section("Choice", list(map(Text, autotune.sentences(autotune.read_autotune(path)))))]


def _table(sweep: Mapping[str, Any], path: Path | None) -> Table:
    """All trials; on a page, with a link to each that has a page: one that is kept has none."""
    linked = path if path and any(_page(path, trial).exists() for trial in sweep["trials"]) else None
    keys = list(dict.fromkeys(key for trial in sweep["trials"] for key in trial["settings"]))
    return Table(
        "",
        ["trial", *(key.rpartition(".")[2] for key in keys), "what became of it"],
        [sweep["objective"], "seconds", *(["run"] if linked else [])],
        [
            [
                str(trial["number"]),
                *(value_of(trial["settings"].get(key, "")) for key in keys),
                ": ".join(filter(None, (WORDS.get(trial["state"], trial["state"]), trial.get("cause")))),
                "" if trial["value"] is None else _value(sweep, trial["value"]),
                f"{trial['seconds']:.0f}" if trial.get("seconds") is not None else "",
                *([link("page", _page(linked, trial))] if linked else []),
            ]
            for trial in _ordered(sweep)
        ],
    )


def _page(path: Path, trial: Mapping[str, Any]) -> Path:
    return path / str(trial["run"]) / "report" / "index.html"


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
    settings = " ".join(f"{key}={value_of(value)}" for key, value in best["settings"].items())
    yield f"Best: trial {best['number']}, {sweep['objective']} {_value(sweep, best['value'])}: {settings}"
    yield "The best of many looks better than it is: measure it anew, with other seeds, on what did not choose it"


def _value(sweep: Mapping[str, Any], value: float) -> str:
    return f"{value:.4f}" if sweep["objective"] == "validation_loss" else percent(value)
