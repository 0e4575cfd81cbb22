"""What `study.json` says (`flextune.studies.compare`) as a table in the terminal, figures, and a page.

write_study_report("runs/optimizers")               # report/index.html and report/figures/validation.svg
out.print(summary(read_study("runs/optimizers")))
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from flextune.errors import UsageError
from flextune.files import Row, read_json, read_jsonl, write_atomic
from flextune.report.figures import set_up
from flextune.report.spectra import COLOURS
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
    """Write the page on a study and its figure from `study.json` and the trials' metrics; returns the page's path."""
    study = read_study(path)
    report = Path(path) / "report"
    draw(study, Path(path), report / "figures")
    environment = Environment(loader=PackageLoader("flextune.report", "."), autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"signed": _signed, "loss": _loss, "settings": _settings}
    page = environment.get_template("study.html.j2").render(
        study=study,
        others=[arm for arm in study["comparison"] if arm["difference"]],
        rows=table(study),
        judgement=judgement,
        at_the_edge=list(at_the_edge(study)),
        recipe=yaml.safe_dump(study["recipe"], sort_keys=False, allow_unicode=True),
    )
    write_atomic(report / "index.html", page)
    return report / "index.html"


def summary(study: Content) -> Group:
    """The table of the page, a column for each arm, and a sentence for each arm but the reference."""
    shown = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    shown.add_column("", no_wrap=True)
    for arm in study["comparison"]:
        shown.add_column(Text(arm["arm"]), justify="right")
    for name, cells in table(study):
        shown.add_row(Text(name), *(Text("\n".join(cell)) for cell in cells))
    return Group(shown, *(Text(sentence) for sentence in _sentences(study)))


def table(study: Content) -> list[tuple[str, list[Cell]]]:
    """Each measure by name, with a cell for each arm: means over seeds with their 95 % intervals."""
    arms, reference = study["comparison"], study["reference"]
    return [
        ("settings", [_of_the_arm(study, arm["arm"]) for arm in arms]),
        ("seeds", [(", ".join(map(str, arm["seeds"])),) for arm in arms]),
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


def draw(study: Content, path: Path, folder: Path) -> None:
    """Write `validation.svg`: validation loss by step and by second, a line for each reported training."""
    set_up()
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    folder.mkdir(parents=True, exist_ok=True)
    colours = {arm["arm"]: COLOURS[number % len(COLOURS)] for number, arm in enumerate(study["comparison"])}
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.1), layout="constrained", sharey=True)
    for trial in study["trials"]:
        if trial["role"] == "seed":
            rows = _validated(path / trial["run"])
            for axes, by in zip(panels, ("step", "seconds"), strict=True):
                axes.plot(
                    [row[by] for row in rows],
                    [row["validation_loss"] for row in rows],
                    color=colours[trial["arm"]],
                    linewidth=1.1,
                    alpha=0.8,
                    marker="o",
                    markersize=2,
                )
    panels[0].set_ylabel("validation loss per token")
    panels[0].set_xlabel("optimizer step")
    panels[1].set_xlabel("seconds of training")
    handles = [Line2D([], [], color=colour, label=arm.replace("$", r"\$")) for arm, colour in colours.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
    figure.savefig(folder / "validation.svg", metadata={"Date": None})
    plt.close(figure)


def _validated(run: Path) -> list[Row]:
    return [row for row in read_jsonl(RunDirectory(run).metrics) if "validation_loss" in row]


def _sentences(study: Content) -> Iterator[str]:
    for arm in study["comparison"]:
        if arm["difference"]:
            difference = arm["difference"]
            between = f" ({_interval(difference, _signed)})" if difference["low"] is not None else ""
            yield (
                f"{arm['arm']} against {study['reference']}: validation loss {_signed(difference['value'])}{between}: "
                f"{judgement(difference)}"
            )
    yield from at_the_edge(study)
    yield "Intervals: 95 %, Student's t over seeds; the examples that the loss is measured on are the same throughout."


def _mean(mean: Mapping[str, Any], number: Any) -> Cell:
    return (number(mean["value"]), _interval(mean, number))


def _interval(mean: Mapping[str, Any], number: Any) -> str:
    if mean["low"] is None:
        return "one seed, no interval"
    return "all the same" if mean["low"] == mean["high"] else f"{number(mean['low'])} to {number(mean['high'])}"


def _reaching(arm: Mapping[str, Any], key: str) -> Cell:
    """When the reference's final loss was reached, and by how many seeds."""
    mean, seeds = arm[key], len(arm["seeds"])
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


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(setting_names(settings))


def _loss(value: float) -> str:
    return f"{value:.4f}"


def _signed(value: float) -> str:
    return f"{value:+.4f}"


def _plain(value: float) -> str:
    """A count or a time: with one decimal below a hundred unless it is whole."""
    return f"{value:.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.1f}"
