"""The verb `report`: a run directory becomes `report/index.html`, a page that opens from disk."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from flextune.files import write_atomic
from flextune.report.comparison import WORDS
from flextune.report.figures import draw
from flextune.report.results import Result, form, judgement, percent, points, programs, read_results
from flextune.rundir import RunDirectory


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the page and its figures; returns the path of the page.

    Everything that a model wrote is escaped: it is shown, never run.
    """
    results = read_results(run)
    folder = Path(output) if output else RunDirectory(run).report
    draw(results, folder / "figures")
    environment = Environment(loader=PackageLoader("flextune.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "points": points, "words": lambda verdict: WORDS[verdict]}
    page = environment.get_template("page.html.j2").render(
        results=results,
        form=form,
        judgement=judgement,
        benchmarks=[_benchmark(name, list(group)) for name, group in groupby(results.results, lambda r: r.benchmark)],
        recipe=yaml.safe_dump(results.recipe, sort_keys=False, allow_unicode=True),
    )
    path = folder / "index.html"
    write_atomic(path, page)
    return path


def _benchmark(name: str, results: list[Result]) -> dict[str, Any]:
    """The problems of one benchmark with what each variant wrote."""
    rows: dict[str, dict[str, Any]] = {}
    columns = [
        result.variant if result.decoding == "greedy" else f"{result.variant}, {result.decoding}" for result in results
    ]
    for column, result in zip(columns, results, strict=True):
        for program in programs(result):
            row = rows.setdefault(program["task_id"], {"task_id": program["task_id"], "cells": {}})
            row["prompt"] = program["prompt"]
            row["cells"].setdefault(column, []).append(program)
    for row in rows.values():
        row["change"] = " ".join(dict.fromkeys(_changes(row["cells"], results, columns)))
    return {"name": name, "columns": columns, "rows": list(rows.values())}


def _changes(cells: dict[str, list[Any]], results: list[Result], columns: list[str]) -> Iterator[str]:
    """`won` or `lost` for each tuned variant that does otherwise than the base model with the same decoding."""
    solved = {column: all(program["passed"] for program in written) for column, written in cells.items()}
    base = {
        result.decoding: column for column, result in zip(columns, results, strict=True) if result.variant == "base"
    }
    for column, result in zip(columns, results, strict=True):
        reference = base.get(result.decoding)
        if reference in solved and column in solved and solved[column] != solved[reference]:
            yield "won" if solved[column] else "lost"
