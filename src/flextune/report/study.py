"""What `study.json` says (`flextune.studies.compare`) as a table in the terminal and as a page.

write_study_report("runs/optimizers")               # runs/optimizers/report/index.html
out.print(summary(read_study("runs/optimizers")))
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from rich.console import Group

from flextune.errors import UsageError
from flextune.files import Row, read_json, read_jsonl
from flextune.report.figures import COLOURS, FAINT, label, panels
from flextune.report.page import Card, Cards, Code, Figure, Page, Section, Table, Text, link, write_page
from flextune.report.results import model_name
from flextune.report.terminal import shown
from flextune.report.training import curves
from flextune.rundir import RunDirectory

STUDY = "study.json"
"""The file in the folder of a study that says what it found."""

Content = dict[str, Any]


Cell = tuple[str, ...]
"""A value, and the lines that stand small below it."""


def read_study(path: str | Path) -> Content:
    """The content of `study.json`; `UsageError` if the folder is not that of a finished study."""
    file = Path(path) / STUDY
    if not file.exists():
        raise UsageError(f"{path} holds no finished study: it has no {STUDY}; `flextune run` with its recipe writes it")
    return dict(read_json(file))


def write_study_report(path: str | Path) -> Path:
    """Write the page on a study from `study.json` and the trials' metrics; returns the page's path."""
    return write_page(study_page(path), Path(path) / "report")


def study_page(path: str | Path) -> Page:
    """The page of a study: its arms, how they trained, and every trial."""
    study, folder = read_study(path), Path(path)
    arms, training = study["comparison"], study["recipe"]["training"]
    seeds = len(study["recipe"]["study"]["seeds"])
    held_out = training["validation"]
    if not isinstance(held_out, str):
        held_out = f"{held_out} examples held out of it"
    return Page(
        f"{', '.join(arm['arm'] for arm in arms)}, compared over {seeds} seed{'s' * (seeds > 1)}",
        f"{model_name(study['recipe'])}, tuned on {training['dataset']}; losses are those on {held_out}.",
        [
            Section("Results", list(_results(study))),
            Section("Training", [*draw(study, folder), *_ratios(study), *curves(_trainings(study, folder))]),
            Section("Trials", list(_trials(study, folder))),
            Section(
                "How this was made",
                [
                    Text(
                        f"flextune {study['flextune']}; each trial's page says on which machine and with which "
                        "versions it ran."
                    ),
                    Code("Recipe", yaml.safe_dump(study["recipe"], sort_keys=False, allow_unicode=True)),
                ],
            ),
        ],
    )


def _results(study: Content) -> Iterator[Any]:
    yield Cards([_card(study, arm) for arm in _compared(study)])
    yield Table(
        "The arms",
        ["mean over seeds, 95 % interval"],
        [arm["arm"] for arm in study["comparison"]],
        [[name, *("\n".join(cell) for cell in cells)] for name, cells in table(study)],
    )
    for sentence in _failures(study):
        yield Text(f"{sentence}.")
    reference = study["reference"]
    yield Text(
        "Intervals are Student's t over seeds: they say how far a mean over more seeds may be from this one, on the "
        "same validation examples. Differences are taken seed by seed. "
        f"“To {reference}'s final loss”: until the loss was first no higher than what {reference} with the same seed "
        "ended with, seen at validated steps only; means are over the seeds that got there. Seconds are of training, "
        "without validation.",
        soft=True,
    )


def _card(study: Content, arm: Mapping[str, Any]) -> Card:
    difference, found = arm["difference"], judgement(arm["difference"])
    between = ""
    if difference["low"] is not None:
        between = f"95 % interval {_interval(difference, _signed)}, n = {difference['n']} seeds: "
    side = {"lower": "more", "higher": "fewer"}.get(found.split()[0], "")
    return Card(
        f"{arm['arm']} against {study['reference']}, validation loss",
        _signed(difference["value"]),
        f"{between}{found}.",
        side,
    )


def _trials(study: Content, path: Path) -> Iterator[Any]:
    rows = []
    for trial in study["trials"]:
        if trial["validation_loss"] is None:
            numbers = [f"failed: {trial['cause']}", *[""] * 5]
        else:
            numbers = [
                _loss(trial["validation_loss"]),
                _loss(trial["best_validation_loss"]),
                f"{trial['perplexity']:.3f}",
                str(trial["steps"]),
                f"{trial['seconds']:.1f}",
                str(trial["peak_memory_mb"]),
            ]
        page = link("page", path / trial["run"] / "report" / "index.html")
        purpose = "choosing" if trial["role"] == "tune" else "the result"
        settings = ", ".join(setting_names(trial["settings"]))
        rows.append([trial["arm"], purpose, settings, str(trial["seed"]), *numbers, page])
    yield Table(
        "",
        ["arm", "for", "settings"],
        ["seed", "validation loss", "lowest", "perplexity", "steps", "seconds", "MB", "run"],
        rows,
    )
    edges = "".join(f" {sentence}." for sentence in at_the_edge(study))
    yield Text(
        "Trials for choosing have a seed that is not among those of the result; what had the lowest loss after the "
        f"last step was chosen.{edges}",
        soft=True,
    )


def _trainings(study: Content, path: Path) -> dict[str, dict[int, list[Row]]]:
    """The metrics of the reported trainings that are there, by arm and seed."""
    found: dict[str, dict[int, list[Row]]] = {arm["arm"]: {} for arm in study["comparison"]}
    for trial in study["trials"]:
        metrics = RunDirectory(path / trial["run"]).metrics
        if trial["role"] == "seed" and metrics.exists():
            found[trial["arm"]][trial["seed"]] = list(read_jsonl(metrics))
    return {arm: runs for arm, runs in found.items() if runs}


def _ratios(study: Content) -> list[Figure]:
    """The paper's Figure 15: what each arm takes, as a share of what the reference takes."""
    measures = {
        "validation loss": "validation_loss",
        f"steps to {study['reference']}'s final loss": "steps_to_reference",
        f"seconds to {study['reference']}'s final loss": "seconds_to_reference",
        "seconds of training": "seconds",
        "peak memory": "peak_memory_mb",
    }
    reference = next(arm for arm in study["comparison"] if arm["arm"] == study["reference"])
    others = [arm for arm in study["comparison"] if arm is not reference]
    figure, (axes,) = panels(1, 1, 0.9 + 0.34 * len(measures) + 0.15 * len(others))
    axes.axvline(1, color=FAINT, linewidth=1)
    data = []
    for number, arm in enumerate(others):
        for place, (name, key) in enumerate(measures.items()):
            own, its = arm[key]["value"], reference[key]["value"]
            same = arm["seeds"] == reference["seeds"] and arm[key]["n"] == reference[key]["n"]
            if own and its and same:  # means over the same seeds
                at = place + 0.16 * (number - (len(others) - 1) / 2)
                axes.plot([own / its], [at], "o", color=COLOURS[(number + 1) % len(COLOURS)], markersize=6)
                data.append({"arm": arm["arm"], "measure": name, f"/ {study['reference']}": own / its})
    if not data:
        return []
    axes.set_yticks(range(len(measures)), [label(name) for name in measures], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel(f"as a multiple of {label(study['reference'])}; left of 1 is less")
    handles = [
        axes.plot([], [], "o", color=COLOURS[(number + 1) % len(COLOURS)], label=label(arm["arm"]))[0]
        for number, arm in enumerate(others)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    return [
        Figure(
            "ratios",
            f"What each takes, beside {study['reference']}",
            "Means over seeds, without their noise: whether the losses differ by more than that, the table says.",
            "; ".join(f"{row['arm']}, {row['measure']}: {list(row.values())[2]:.3g}" for row in data),
            figure,
            data,
            "Figure 15",
        )
    ]


def summary(study: Content) -> Group:
    """The table of the page, a column for each arm, and a sentence for each arm but the reference."""
    arms = [arm["arm"] for arm in study["comparison"]]
    rows = [[name, *("\n".join(cell) for cell in cells)] for name, cells in table(study)]
    return shown([Table("", [""], arms, rows), *map(Text, _sentences(study))])


def table(study: Content) -> list[tuple[str, list[Cell]]]:
    """Each measure by name, with a cell for each arm: means over seeds with their 95 % intervals."""
    arms, reference = study["comparison"], study["reference"]
    return [
        ("settings", [_of_the_arm(study, arm["arm"]) for arm in arms]),
        ("seeds", [(", ".join(map(str, arm["seeds"])) or "none",) for arm in arms]),
        ("validation loss", [_mean(arm["validation_loss"], _loss) for arm in arms]),
        (
            f"difference from {reference}",
            [_mean(arm["difference"], _signed) if arm["difference"] else ("reference",) for arm in arms],
        ),
        (f"steps to {reference}'s final loss", [_reaching(arm, "steps_to_reference") for arm in arms]),
        (f"seconds to {reference}'s final loss", [_reaching(arm, "seconds_to_reference") for arm in arms]),
        ("steps of training", [_mean(arm["steps"], _plain) for arm in arms]),
        ("seconds of training", [_mean(arm["seconds"], _plain) for arm in arms]),
        ("peak memory in MB", [_mean(arm["peak_memory_mb"], _plain) for arm in arms]),
    ]


def judgement(difference: Mapping[str, Any]) -> str:
    """What a difference of validation losses over seeds allows one to say, in words.

    >>> judgement({"value": -0.2, "low": -0.3, "high": -0.1, "n": 3})
    'lower beyond the noise of seeds'
    """
    if difference["low"] is None:
        return "one seed, so that noise cannot be told from effect"
    if difference["low"] <= 0 <= difference["high"]:
        return "no difference beyond the noise of seeds"
    return f"{'lower' if difference['value'] < 0 else 'higher'} beyond the noise of seeds"


def at_the_edge(study: Content) -> Iterator[str]:
    """A sentence for each chosen number that is the least or the greatest of those tried: the best may lie beyond."""
    for arm, keys in study["recipe"]["study"]["tune"].items():
        for key, values in keys.items():
            with suppress(TypeError, ValueError):  # not numbers: no order, no edge
                chosen, tried = float(study["chosen"][arm][key]), sorted(map(float, values))
                if len(tried) > 1 and chosen in (tried[0], tried[-1]):
                    end = "least" if chosen == tried[0] else "greatest"
                    yield f"{arm}: {key} = {chosen:g} is the {end} that was tried; the best may lie beyond"


def setting_names(settings: Mapping[str, Any], between: str = " = ") -> list[str]:
    """Settings in words; each key by its last part, if that says which it is.

    >>> setting_names({"training.learning_rate": 0.001, "adapter.rank": 8})
    ['learning_rate = 0.001', 'rank = 8']
    """
    last = [key.rpartition(".")[2] for key in settings]
    names = [name if last.count(name) == 1 else key for key, name in zip(settings, last, strict=True)]
    texts = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in settings.values()]
    return [f"{name}{between}{text}" for name, text in zip(names, texts, strict=True)]


def draw(study: Content, path: Path) -> list[Figure]:
    """Validation loss by step and by second, a line for each reported training."""
    from matplotlib.lines import Line2D

    drawn = _trainings(study, path)
    colours = {arm["arm"]: COLOURS[number % len(COLOURS)] for number, arm in enumerate(study["comparison"])}
    figure, two = panels(1, 2, 3.1, sharey=True)
    data = []
    for arm, runs in drawn.items():
        for seed, rows in runs.items():
            validated = [row for row in rows if "validation_loss" in row]
            data += [
                {"arm": arm, "seed": seed, **{k: row[k] for k in ("step", "seconds", "validation_loss")}}
                for row in validated
            ]
            for axes, by in zip(two, ("step", "seconds"), strict=True):
                axes.plot(
                    [row[by] for row in validated],
                    [row["validation_loss"] for row in validated],
                    color=colours[arm],
                    linewidth=1.1,
                    alpha=0.8,
                    marker="o",
                    markersize=2,
                )
    if not data:
        return []
    two[0].set_ylabel("validation loss per token")
    two[0].set_xlabel("optimizer step")
    two[1].set_xlabel("seconds of training")
    handles = [Line2D([], [], color=colour, label=label(arm)) for arm, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
    return [
        Figure(
            "validation",
            "Validation loss while training",
            "A line for each seed, a colour for each arm: arms whose lines lie among each other do not differ.",
            "Validation loss by optimizer step and by second, a line for each seed of each arm",
            figure,
            data,
            "Figure 12",
        )
    ]


def _sentences(study: Content) -> Iterator[str]:
    for arm in _compared(study):
        difference = arm["difference"]
        between = f" ({_interval(difference, _signed)})" if difference["low"] is not None else ""
        yield (
            f"{arm['arm']} against {study['reference']}: validation loss {_signed(difference['value'])}{between}: "
            f"{judgement(difference)}"
        )
    yield from _failures(study)
    yield from at_the_edge(study)
    yield "Intervals: 95 %, Student's t over seeds; the examples that the loss is measured on are the same throughout."


def _compared(study: Content) -> list[Mapping[str, Any]]:
    """The arms that have a seed in common with the reference."""
    return [arm for arm in study["comparison"] if arm["difference"] and arm["difference"]["n"]]


def _failures(study: Content) -> Iterator[str]:
    """A sentence for each training that is missing in the means."""
    for trial in study["trials"]:
        if trial["role"] == "seed" and trial["validation_loss"] is None:
            yield f"{trial['arm']}, seed {trial['seed']}, is in no mean: it failed: {trial['cause']}"


def _mean(mean: Mapping[str, Any], number: Any) -> Cell:
    if not mean["n"]:
        return ("no seed",)
    return (number(mean["value"]), _interval(mean, number))


def _interval(mean: Mapping[str, Any], number: Any) -> str:
    if mean["low"] is None:
        return "one seed, no interval"
    return "all the same" if mean["low"] == mean["high"] else f"{number(mean['low'])} to {number(mean['high'])}"


def _reaching(arm: Mapping[str, Any], key: str) -> Cell:
    """When the reference's final loss was reached, and by how many seeds."""
    mean, seeds = arm[key], len(arm["reached"])
    if not seeds:
        return ("no seed",)
    count = f"{mean['n']} of {seeds} seeds"
    if not mean["n"]:
        return ("never", count)
    interval = () if mean["low"] is None else (_interval(mean, _plain),)
    return (_plain(mean["value"]), *interval, count)


def _of_the_arm(study: Content, arm: str) -> Cell:
    """What an arm sets, then what was chosen for it."""
    return tuple(setting_names(study["recipe"]["study"]["compare"][arm] | study["chosen"][arm])) or (
        "as in the recipe",
    )


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _plain(value: float) -> str:
    """A count or a time: with one decimal below a hundred unless it is whole."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"
