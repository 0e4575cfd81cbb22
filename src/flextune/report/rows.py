"""The page of several runs side by side: rows of the paper that were kept, or any that are named together."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flextune.files import Row, read_json, read_jsonl
from flextune.report import spectra
from flextune.report.benchmarks import bars, learning, verdicts, wins
from flextune.report.comparison import sentence
from flextune.report.figures import COLOURS, VARIANTS
from flextune.report.page import Card, Cards, Link, Page, Section, Table, Text
from flextune.report.programs import Column, Programs
from flextune.report.reproduction import (
    CONTROL,
    LEARNED,
    NOT_OF_THE_PAPER,
    PENALTY,
    Paper,
    abouts,
    conditions,
    languages,
    last_metrics,
    mean,
    models,
    one_decoding,
    recipes,
    tables,
)
from flextune.report.results import broken_form, percent, shares, side
from flextune.report.training import curves
from flextune.rundir import Measurement, RunDirectory
from flextune.scoring.compare import adjusted
from flextune.scoring.matrix import Arms, bases, learned_and_kept, matrix, model_of, transfer
from flextune.scoring.runs import measurements

MANY = 9
"""Cards; of more only the first one, and those that are beyond noise, are on the page."""


def rows_page(arms: Arms, title: str = "", paper: Paper = NOT_OF_THE_PAPER) -> Page:
    """The page of several runs."""
    found = one_decoding(matrix(arms))
    planned = abouts(arms, paper)
    parts = [
        Section("Results", list(_results(found, arms, paper))),
        Section("The paper", list(tables(found, arms, paper))),
        Section("Programs", list(_programs(found, arms))),
        Section("Training", curves({name: metrics for name, runs in arms.items() if (metrics := _metrics(runs))})),
        Section("Adapters", list(_spectra(arms))),
        Section("Cost", list(_cost(arms))),
        Section("Runs", list(_runs(arms, planned))),
    ]
    count = sum(map(len, arms.values()))
    return Page(
        title or ", ".join(arms),
        f"{', '.join(models(arms))}: {count} run{'s' * (count != 1)} of {len(arms)} kinds"
        + (f", of {len(planned)} kinds that are planned." if len(planned) > len(arms) else "."),
        [section for section in parts if section.blocks],
    )


def _results(found: Sequence[Mapping[str, Any]], arms: Arms, paper: Paper) -> Iterator[Any]:
    if not found:
        yield Text("Nothing has been measured yet.")
        return
    learned = _learned(arms)
    cards = list(_cards(arms, learned))
    shown = cards if len(cards) <= MANY else [card for n, card in enumerate(cards) if n == 0 or card.side]
    if shown:
        yield Cards(shown)
    if len(shown) < len(cards):
        yield Text(f"{len(cards) - len(shown)} more are within noise; the figure of learned against kept has them.")
    yield from map(Text, dict.fromkeys(conditions(found, arms)))
    yield from map(Text, _broken(found, arms))
    if PENALTY in paper.abouts and PENALTY not in arms:
        yield Text("The row with the penalty is not measured yet: nothing can be said about it.")
    yield languages(found, abouts(arms, paper))
    names = list(dict.fromkeys(_name(row) for row in found if row["variant"] != "base"))
    # where the paper has two numbers for one thing the last stands, which is that of its Figure 4
    said = {(_name(row), row["benchmark"]): claim.value for row in found for claim in _claims(paper, row)}
    yield bars(
        [
            {
                "benchmark": row["benchmark"],
                "name": _name(row),
                "colour": _colour(row, names),
                "solved": f"{percent(row['value']['value'])}" + _seeds(row),
                "value": row["value"],
            }
            for row in found
        ],
        said,
    )
    yield from learning(learned)
    yield verdicts([{"name": f"{row['benchmark']}, {_name(row)}", "verdicts": _verdicts(arms, row)} for row in found])
    yield from wins(list(_won(found, arms)))


def _cards(arms: Arms, learned: Sequence[Mapping[str, Any]]) -> Iterator[Card]:
    """The penalty against the control where both are there; then what each training learned, and kept elsewhere."""
    for row in transfer(arms, PENALTY, LEARNED) if PENALTY in arms else ():
        if row["reference"] == CONTROL:
            yield _card(f"{PENALTY} against {CONTROL}, in {', '.join(row['benchmarks'])}", row)
    for each in learned:
        for what in ("learned", "kept"):
            yield _card(f"{_name(each)}: {what}, {', '.join(each[what]['benchmarks'])}", each[what])


def _learned(arms: Arms) -> list[dict[str, Any]]:
    """What each training learned and kept, corrected for their number; nothing where another language was learned."""
    datasets = {recipe["training"]["dataset"] for recipe in recipes(arms) if recipe.get("training")}
    if any(name.endswith(".jsonl") for name in datasets):  # those with a name are all in Python
        return []
    rows = learned_and_kept(arms, LEARNED)
    comparisons = iter(adjusted([row[what] for row in rows for what in ("learned", "kept")]))
    return [
        {**row, "learned": next(comparisons), "kept": next(comparisons), **_strength(arms, row["arm"])} for row in rows
    ]


def _strength(arms: Arms, name: str) -> dict[str, Any]:
    """Whose adapter an arm measures, an arm's if it is one of these, and at which part of its strength."""
    evaluation = next(recipes({name: arms[name]}))["evaluation"]
    used = evaluation.get("adapter")
    of = next((part for part in reversed(Path(used).parts) if part in arms), used) if used else name
    return {"adapter_of": of, "scale": evaluation.get("scale", 1)}


def _broken(found: Sequence[Mapping[str, Any]], arms: Arms) -> Iterator[str]:
    """Where programs have stopped to compile, in one sentence."""
    base = bases(arms)
    broken = []
    for row in found:
        reference = base.get((row["arm"], row["benchmark"], row["decoding"]))
        if reference and row["variant"] != "base":
            before = read_json(Measurement(reference).scores)["verdicts"]
            said = broken_form(f"{_name(row)}, {row['benchmark']}", before, _verdicts(arms, row))
            if said:
                broken.append(said)
    if broken:
        yield f"Programs that do not compile, which may be a lost form and no lost skill: {'; '.join(broken)}."


def _verdicts(arms: Arms, row: Mapping[str, Any]) -> Counter[str]:
    """How often each verdict was found, over all seeds."""
    found: Counter[str] = Counter()
    for measurement in _measured(arms, row).values():
        found.update(read_json(measurement.scores)["verdicts"])
    return found


def _card(place: str, row: Mapping[str, Any]) -> Card:
    value, _, rest = sentence(row).partition(" points ")
    return Card(place, f"{value} points", rest, side(row))


def _name(row: Mapping[str, Any]) -> str:
    decoding = "" if row["decoding"] == "greedy" else f", {row['decoding']}"
    return f"{row['arm']}, {row['variant']}{decoding}"


def _seeds(row: Mapping[str, Any]) -> str:
    return f", {len(row['seeds'])} seeds" if len(row["seeds"]) > 1 else ""


def _colour(row: Mapping[str, Any], names: Sequence[str]) -> str:
    return VARIANTS["base"] if row["variant"] == "base" else COLOURS[names.index(_name(row)) % len(COLOURS)]


def _claims(paper: Paper, row: Mapping[str, Any]) -> Iterator[Any]:
    for claim in paper.claims.get(row["arm"], ()):
        if (claim.benchmark, claim.variant) == (row["benchmark"], row["variant"]):
            yield claim


def _measured(arms: Arms, row: Mapping[str, Any]) -> dict[int, Measurement]:
    """The measurement of a row by seed."""
    return {
        seed: Measurement(folder)
        for seed, run in arms[row["arm"]].items()
        for place, folder in measurements(run).items()
        if all(row[key] == value for key, value in vars(place).items())
    }


def _won(rows: Sequence[Mapping[str, Any]], arms: Arms) -> Iterator[dict[str, Any]]:
    """Of each training and benchmark, the shares of samples that pass before and after, by problem."""
    base = bases(arms)
    for row in rows:
        reference = base.get((row["arm"], row["benchmark"], row["decoding"]))
        if reference and row["variant"] != "base":
            each = [shares(measurement) for measurement in _measured(arms, row).values()]
            asked = [task for task in each[0] if all(task in one for one in each)]
            after = {task: sum(one[task] for one in each) / len(each) for task in asked}
            yield {
                "name": f"{row['benchmark']}, {_name(row)}",
                "first": shares(Measurement(reference)),
                "second": after,
            }


def _programs(found: Sequence[Mapping[str, Any]], arms: Arms) -> Iterator[Any]:
    """A column for each model as it came, then one for each training."""
    models = list(dict.fromkeys(model_of(runs) for runs in arms.values()))
    base: dict[str, dict[str, dict[int, Measurement]]] = {}
    tuned: dict[str, dict[str, dict[int, Measurement]]] = {}
    against: dict[str, str] = {}
    for row in found:
        model = models.index(model_of(arms[row["arm"]]))
        as_it_came = f"model {model + 1} as it came" if len(models) > 1 else "as it came"
        if row["variant"] == "base":
            base.setdefault(as_it_came, {}).setdefault(row["benchmark"], _measured(arms, row))
        else:
            tuned.setdefault(_name(row), {})[row["benchmark"]] = _measured(arms, row)
            against[_name(row)] = as_it_came
    if base or tuned:
        yield Text(
            "Each problem with what each model wrote. + marks lines that the first program does not have. A correction "
            "was failed by the model as it came and is solved by a tuned one, a regression the reverse; an alternative "
            "is solved by both, with programs that differ in more than names and layout."
        )
        yield Programs(
            [
                *(Column(name, measured) for name, measured in base.items()),
                *(
                    Column(name, measured, against[name] if against[name] in base else "")
                    for name, measured in tuned.items()
                ),
            ]
        )


def _metrics(runs: Mapping[int, str | Path]) -> dict[int, list[Row]]:
    """The metrics of the trainings that have some, by seed."""
    paths = {seed: RunDirectory(run).metrics for seed, run in runs.items()}
    found = {seed: list(read_jsonl(path)) for seed, path in paths.items() if path.exists()}
    return {seed: rows for seed, rows in found.items() if rows}


def _spectra(arms: Arms) -> Iterator[Any]:
    """The spectra of the first seed of each training, side by side where they were measured alike."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for name, runs in arms.items():
        path = RunDirectory(next(iter(runs.values()))).spectrum
        if path.exists():
            content = read_json(path)
            key = tuple(content[part] for part in ("threshold", "permutations", "bands"))
            found.setdefault(key, []).extend({**adapter, "label": name} for adapter in content["adapters"])
    for number, ((threshold, permutations, bands), adapters) in enumerate(found.items()):
        if number:
            names = ", ".join(adapter["label"] for adapter in adapters)
            yield Text(f"Not shown, since they were measured with another threshold or other permutations: {names}.")
            continue
        measured = {"threshold": threshold, "permutations": permutations, "bands": bands, "adapters": adapters}
        yield from spectra.blocks(measured)


def _cost(arms: Arms) -> Iterator[Table]:
    rows = []
    for name, runs in arms.items():
        last = [row for row in (last_metrics(RunDirectory(run)) for run in runs.values()) if row]
        tokens = [sum(row.get("tokens", 0) for row in rows) for rows in _metrics(runs).values()]
        if last:
            rows.append(
                [
                    name,
                    f"{len(last)}",
                    mean([row["step"] for row in last], "{:.0f}"),
                    mean(tokens, "{:,.0f}"),
                    mean([row["seconds"] / 60 for row in last], "{:.1f}"),
                    mean([row.get("peak_memory_mb", 0) for row in last], "{:,.0f}"),
                ]
            )
    if rows:
        yield Table(
            "",
            ["training"],
            ["runs", "steps", "tokens learned", "minutes", "MB at most"],
            rows,
            "Means over seeds. Minutes depend on what else the machine did.",
        )


def _runs(arms: Arms, planned: Mapping[str, str]) -> Iterator[Any]:
    said = any(planned.values())
    rows: list[list[str | Link]] = []
    for name, about in planned.items():
        names = [name, about] if said else [name]
        for seed, run in sorted(arms.get(name, {}).items()):
            benchmarks = ", ".join(dict.fromkeys(place.benchmark for place in measurements(run)))
            rows.append([*names, benchmarks, str(seed), Link("recipe", RunDirectory(run).recipe)])
        if name not in arms:
            rows.append([*names, "not run yet", "", ""])
    yield Table("", ["row", *(["what it is"] if said else []), "measured on"], ["seed", "file"], rows)
    yield Table(
        "Where each number is from", ["row", "seed", "benchmark", "variant", "decoding"], ["file"], _files(arms)
    )


def _files(arms: Arms) -> list[list[str | Link]]:
    return [
        [name, str(seed), place.benchmark, place.variant, place.decoding, Link("scores", Measurement(folder).scores)]
        for name, runs in arms.items()
        for seed, run in sorted(runs.items())
        for place, folder in measurements(run).items()
    ]
