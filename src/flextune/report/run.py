"""The page of a run: what was trained, what that did to each language, how sure that is, and every program.

write_report("runs/quickstart")                          # runs/quickstart/report/index.html
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text as RichText

from flextune.files import read_json, read_jsonl
from flextune.report import merging, spectra
from flextune.report.benchmarks import bars, decodings, samples, verdicts, wins
from flextune.report.comparison import sentence
from flextune.report.figures import VARIANTS
from flextune.report.page import Card, Cards, Code, Link, Page, Section, Table, Text, write_page
from flextune.report.programs import Column, Programs
from flextune.report.results import (
    WORDS,
    Result,
    Results,
    form,
    judgement,
    model_name,
    percent,
    points,
    read_results,
    shares,
    side,
)
from flextune.report.training import curves
from flextune.rundir import Measurement, RunDirectory
from flextune.scoring.runs import planned


def write_report(run: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run directory and all that belongs to it; returns the path of `index.html`.

    What is not there yet is said to be missing. Everything that a model wrote is shown as text, and never run.

    Args:
        run: The run directory, whole, under way, or kept without its weights.
        output: The folder to write; by default `report/` in the run.
    """
    return write_page(run_page(run), output or RunDirectory(run).report)


def run_page(run: str | Path, under_way: bool = False) -> Page:
    """The page of a run directory."""
    results = read_results(run)
    directory = RunDirectory(run)
    training = results.recipe.get("training")
    parts = [
        Section("Results", list(_results(results))),
        Section("Programs", list(_programs(results))),
        Section("Training", list(_training(results))),
        Section("Adapter", list(adapter(directory))),
        Section("Cost", list(_cost(results))),
        Section("How this was made", list(_made(results))),
    ]
    return Page(
        f"{model_name(results.recipe)}, tuned on {training['dataset']}" if training else model_name(results.recipe),
        " ".join(filter(None, [_settings(results.recipe), results.recipe.get("about") or ""])),
        [section for section in parts if section.blocks],
        under_way,
    )


def _settings(recipe: Mapping[str, Any]) -> str:
    training, adapter, penalty = recipe.get("training"), recipe["adapter"], recipe["penalty"]
    if not training:
        return "Measured without training."
    targets = adapter["targets"] if isinstance(adapter["targets"], str) else ", ".join(adapter["targets"])
    kind = "" if penalty["form"] == "factors" else f" ({penalty['form']})"
    against = f"Fourier penalty λ = {penalty['strength']}{kind}" if penalty["strength"] else "no Fourier penalty"
    return (
        f"LoRA of rank {adapter['rank']} on {targets}, {against}, {training['epochs']:g} epochs, seed {recipe['seed']}."
    )


def _results(results: Results) -> Iterator[Any]:
    if results.comparisons:
        yield Cards([_card(results, row) for row in results.comparisons])
    if not results.results:
        yield Text("Nothing has been measured yet.")
        return
    there = {(result.benchmark, result.decoding, result.variant) for result in results.results}
    missing = [
        place for place in planned(results.path) if (place.benchmark, place.decoding, place.variant) not in there
    ]
    if missing:
        names = dict.fromkeys(f"{place.benchmark} ({place.variant})" for place in missing)
        yield Text(f"Not measured yet: {', '.join(names)}.")
    yield bars([_bar(result) for result in results.results])
    yield _table(results)
    yield verdicts([{"name": f"{r.benchmark}, {r.name}", "verdicts": r.scores["verdicts"]} for r in results.results])
    if any("not_code" in result.scores for result in results.results):
        yield Text(
            "“No code” counts completions that are prose, a chat reply, a fence or nothing where code was asked for. A "
            "tuned model that writes fewer of them has learned the form; how far the rest is skill, its programs show.",
            soft=True,
        )
    yield from samples(
        [
            {
                "name": f"{r.benchmark}, {r.name}",
                "colour": VARIANTS[r.variant],
                "shares": list(shares(r.measurement).values()),
            }
            for r in results.results
        ]
    )
    yield from wins(list(_compared(results)))
    settings = results.recipe["evaluation"].get("decodings") or {}
    yield from decodings(
        [
            {
                "benchmark": result.benchmark,
                "variant": result.variant,
                "settings": settings.get(result.decoding) or {},
                "value": result.scores["pass@1"],
            }
            for result in results.results
            if "pass@1" in result.scores
        ]
    )


def _card(results: Results, row: Mapping[str, Any]) -> Card:
    decoding = "" if row["decoding"] == "greedy" else f", {row['decoding']}"
    difference = row["difference"]
    if "first" in row:
        values = f"{percent(row['first']['value'])} → {percent(row['second']['value'])}"
    else:
        values = f"mean over {len(row['benchmarks'])} benchmarks"
    p = f"p = {row['p_value']:.2g}"
    if row["comparisons"] > 1:
        p += f" ({row['p_adjusted']:.2g} as one of {row['comparisons']} comparisons)"
    counts = f" {len(row['won'])} won, {len(row['lost'])} lost{form(results, row)}." if "won" in row else ""
    unlike = "".join(f" Not the same conditions: {each}." for each in row["unlike"])
    name = "all benchmarks together" if row["benchmark"] == "together" else row["benchmark"]
    return Card(
        f"{name}, {row['variant']} against {row['against']}{decoding}",
        f"{points(difference['value'])} points",
        f"{judgement(row).capitalize()}. {values}; 95 % interval of the difference {points(difference['low'])} to "
        f"{points(difference['high'])}, {p}, n = {row['problems']}.{counts}{unlike}",
        side(row),
    )


def _bar(result: Result) -> dict[str, Any]:
    return {
        "benchmark": result.benchmark,
        "name": result.name,
        "colour": VARIANTS[result.variant],
        "solved": result.solved,
        "value": result.scores["pass@1"],
    }


def _table(results: Results) -> Table:
    more = sorted(
        {name for r in results.results for name in r.scores if name.startswith("pass@") and name != "pass@1"},
        key=lambda name: int(name[5:]),
    )
    no_code = any("not_code" in result.scores for result in results.results)
    rows: list[list[str | Link]] = []
    for result in results.results:
        verdicts = ", ".join(f"{count} {WORDS.get(name, name)}" for name, count in result.scores["verdicts"].items())
        rows.append(
            [
                result.benchmark,
                result.variant,
                result.decoding,
                verdicts,
                result.solved,
                *(_value(result.scores.get(name)) for name in ("pass@1", *more)),
                *([str(result.scores.get("not_code", ""))] if no_code else []),
                Link("scores", result.measurement.scores),
            ]
        )
    return Table(
        "The numbers",
        ["benchmark", "variant", "decoding", "verdicts"],
        [
            "solved",
            *(f"{name} (95 % interval)" for name in ("pass@1", *more)),
            *(["no code"] if no_code else []),
            "file",
        ],
        rows,
    )


def _value(value: Mapping[str, Any] | None) -> str:
    return f"{percent(value['value'])}\n{100 * value['low']:.1f} to {100 * value['high']:.1f}" if value else "–"


def _compared(results: Results) -> Iterator[dict[str, Any]]:
    """The shares of samples that pass, by problem, of each comparison with the model as it came."""
    found = {(r.benchmark, r.variant, r.decoding): r for r in results.results}
    for result in results.results:
        base = found.get((result.benchmark, "base", result.decoding))
        if base and result.variant != "base":
            yield {
                "name": f"{result.benchmark}, {result.name}",
                "first": shares(base.measurement),
                "second": shares(result.measurement),
            }


def _programs(results: Results) -> Iterator[Any]:
    columns: dict[str, dict[str, dict[int, Measurement]]] = {}
    against: dict[str, str] = {}
    for result in results.results:
        if result.measurement.verdicts.exists():
            columns.setdefault(result.name, {})[result.benchmark] = {results.recipe["seed"]: result.measurement}
    for result in results.results:
        base = Result(result.benchmark, "base", result.decoding, result.measurement, {}).name
        if result.variant != "base" and base in columns:
            against[result.name] = base
    if columns:
        yield Text(
            "Each problem with what each model wrote. + marks lines that the first program does not have. A correction "
            "was failed before and is solved now, a regression the reverse; an alternative is solved both times, by "
            "programs that differ in more than names and layout."
        )
        yield Programs([Column(name, measured, against.get(name, "")) for name, measured in columns.items()])


def _training(results: Results) -> Iterator[Any]:
    if results.recipe.get("training"):
        trained = [row for row in results.metrics if "loss" in row]
        if trained:
            yield from curves({"run": {results.recipe["seed"]: results.metrics}})
        run = RunDirectory(results.path)
        if not run.adapter.exists() and (run.checkpoints.exists() or not trained):
            yield Text("Not finished yet.")


def adapter(run: RunDirectory) -> Iterator[Any]:
    """Where an adapter has its energy, and what merging it changes; nothing where neither was measured."""
    if run.spectrum.exists():
        yield from spectra.blocks(read_json(run.spectrum))
    if run.merge_check.exists() and "check" in read_json(run.merge_check):
        yield from merging.blocks(read_json(run.merge_check)["check"])


def _cost(results: Results) -> Iterator[Any]:
    rows: list[list[str | Link]] = []
    trained = [row for row in results.metrics if "loss" in row]
    if trained:
        tokens = sum(row.get("tokens", 0) for row in trained)
        last = trained[-1]
        rows.append(
            ["training", f"{last['step']} steps", f"{tokens:,} learned", f"{last['seconds']:,.0f}",
             f"{last.get('peak_memory_mb', 0):,}", Link("metrics", RunDirectory(results.path).metrics)]
        )  # fmt: skip
    for result in results.results:
        written = list(read_jsonl(result.measurement.completions)) if result.measurement.completions.exists() else []
        verdicts = read_jsonl(result.measurement.verdicts) if result.measurement.verdicts.exists() else ()
        judged = sum(row.get("seconds") or 0 for row in verdicts)
        rows.append(
            [
                f"{result.benchmark}, {result.name}",
                f"{result.scores['samples']} samples",
                f"{sum(row.get('tokens') or 0 for row in written):,} written",
                f"{judged:,.1f}",
                "",
                Link("verdicts", result.measurement.verdicts),
            ]
        )
    if rows:
        yield Table(
            "",
            ["what", "how much", "tokens"],
            ["seconds", "MB at most", "file"],
            rows,
            "Seconds are those of training, and those that programs ran for, one after the other.",
        )


def _made(results: Results) -> Iterator[Any]:
    starts = results.provenance.get("starts") or []
    if starts:
        last = starts[-1]
        versions = ", ".join(f"{name} {version}" for name, version in last.get("versions", {}).items())
        machine = last.get("machine", {})
        yield Text(f"{machine.get('cpu', '')}, {machine.get('cores', '')} cores; {versions}.")
    sandbox = [r.scores.get("provenance", {}).get("execution", {}).get("sandbox") for r in results.results]
    if any(sandbox):
        yield Text(f"Programs were judged in the sandbox layer {', '.join(sorted({s for s in sandbox if s}))}.")
    yield Code("Recipe", yaml.safe_dump(results.recipe, sort_keys=False, allow_unicode=True))
    yield Code("Provenance", yaml.safe_dump(results.provenance, sort_keys=False, allow_unicode=True))
    if results.comparisons:
        yield Code(
            "Comparisons",
            "\n".join(
                f"{r['benchmark']}, {r['decoding']}, {r['variant']} against {r['against']}: {sentence(r)}"
                for r in results.comparisons
            ),
        )


def summary(results: Results) -> Group:
    """In the terminal: one row for each measurement, then what changed against the base model and how sure that is."""
    return Group(_measured(results), *(RichText(sentence) for sentence in _sentences(results)))


def _measured(results: Results) -> RichTable:
    several = len({result.decoding for result in results.results}) > 1
    table = RichTable()
    for column in ("benchmark", "variant", *(["decoding"] if several else [])):
        table.add_column(column, no_wrap=True)
    for column in ("solved", "pass@1 (95 % interval)", "no code"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results.results:
        score = result.scores["pass@1"]
        table.add_row(
            result.benchmark,
            result.variant,
            *([result.decoding] if several else []),
            result.solved,
            f"{percent(score['value'])} ({100 * score['low']:.1f} to {100 * score['high']:.1f})",
            str(result.scores.get("not_code", "")),
        )
    return table


def _sentences(results: Results) -> Iterator[str]:
    for row in results.comparisons:
        decoding = "" if row["decoding"] == "greedy" else f" ({row['decoding']})"
        solved = f", {len(row['won'])} won, {len(row['lost'])} lost" if "won" in row else ""
        yield (
            f"{row['benchmark']}, {row['variant']} against {row['against']}{decoding}: {sentence(row)}{solved}"
            f"{form(results, row)}"
        )
