"""The content of spectrum.json (`flextune.tuning.spectrum`) as a table in the terminal and as figures.

draw(content, folder)          # spectrum.svg, layers.svg, maps.svg
out.print(summary(content))
"""

import math
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from flextune.files import write_atomic
from flextune.report.figures import COLOURS, INK, label, line, panels
from flextune.report.page import Figure, Table
from flextune.report.page import Text as Paragraph
from flextune.report.results import percent

Content = dict[str, Any]

PARTS = {"A": "A", "B": "B", "delta": "ΔW"}
"""The parts of an adapter, and what they are called."""

ROUNDING = 1e-6
"""A share that differs from chance by less is chance."""

SHADE = "#8c8c8c"
"""Of what chance does, if there is one adapter."""


def summary(content: Content) -> Group:
    """One row for each adapter and A, B, ΔW, then ΔW by type of module; then what chance means, and what is missing."""
    table = RichTable(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)  # fits 80 columns
    table.add_column("factor", overflow="fold")
    for column in ("norm", "above T", "by chance"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("so it is", no_wrap=True)
    for adapter in content["adapters"]:
        table.add_row(Text(_short(adapter["label"]), style="bold"))
        for part, name in PARTS.items():
            table.add_row(f" {name}", *_cells(adapter["overall"][part]))
        for name, parts in adapter["types"].items():
            table.add_row(Text(f"  of {name}"), *_cells(parts["delta"]))
        table.add_section()
    return Group(table, *(Text(sentence) for sentence in _sentences(content)))


def judgement(measures: Content) -> str:
    """What the share above the threshold and its range by chance allow one to say, in words.

    >>> judgement({"share_above": 0.3, "null": {"share_above": {"low": 0.4, "high": 0.6}}})
    'more low-frequency than chance'
    """
    share, chance = measures["share_above"], measures["null"]["share_above"]
    if share is None:
        return "–"
    if chance["low"] - ROUNDING <= share <= chance["high"] + ROUNDING:
        return "as chance"
    return f"more {'low' if share < chance['low'] else 'high'}-frequency than chance"


def blocks(content: Content) -> Iterator[Paragraph | Table | Figure]:
    """The table, the sentences and the figures, for a page."""
    rows = []
    for adapter in content["adapters"]:
        for part, name in PARTS.items():
            rows.append([_short(adapter["label"]), name, *_cells(adapter["overall"][part])])
        for kind, parts in adapter["types"].items():
            rows.append([_short(adapter["label"]), f"ΔW of {kind}", *_cells(parts["delta"])])
    yield Table("Where its energy is", ["adapter", "factor"], ["norm", "above T", "by chance", "so it is"], rows)
    yield from (Paragraph(sentence, soft=True) for sentence in _sentences(content))
    yield from figures(content)


def figures(content: Content) -> list[Figure]:
    """The figures that there is content for, several adapters side by side.

    `spectrum` has the power per band in A, B and ΔW, relative to white noise; `layers` the share above the threshold
    per layer; `maps` the power of ΔW per band of outputs and of inputs. Shaded is what permutations do. What has no
    energy is left out.
    """
    return [figure for figure in (_spectrum(content), _layers(content), _maps(content)) if figure]


def draw(content: Content, folder: Path) -> None:
    """Write the figures as SVG; one without content is not written, and one of an earlier call removed."""
    drawn = {figure.name: figure.svg for figure in figures(content)}
    for name in ("spectrum", "layers", "maps"):
        (folder / f"{name}.svg").unlink(missing_ok=True)
        if name in drawn:
            write_atomic(folder / f"{name}.svg", drawn[name])


def _cells(measures: Content) -> tuple[str, str, str, str]:
    if measures["share_above"] is None:
        return f"{measures['norm']:.3g}", "–", "–", "–"
    chance = measures["null"]["share_above"]
    between = f"{100 * chance['low']:.1f} to {100 * chance['high']:.1f}"
    return f"{measures['norm']:.3g}", percent(measures["share_above"]), between, judgement(measures)


def _sentences(content: Content) -> Iterator[str]:
    yield f"Above T: the energy at relative frequencies of {content['threshold']:g} and more."
    yield f"By chance: {_chance(content)}."
    for adapter in content["adapters"]:
        zero = _zero(adapter)
        if zero:
            yield f"{adapter['label']}: {zero}, so there is no ΔW."
        if adapter["unpaired"]:
            count, names = len(adapter["unpaired"]), ", ".join(adapter["unpaired"][:2])
            yield f"{adapter['label']}: ΔW is without {count} whose A and B do not pair ({names}{' …' * (count > 2)})."


def _zero(adapter: Content) -> str:
    """`B is zero`, if it is, or A."""
    return "".join(f"{part} is zero" for part in ("A", "B") if not adapter["overall"][part]["norm"])


def _chance(content: Content) -> str:
    count = content["permutations"]
    plural, outside = "s" * (count > 1), f"{200 / (count + 1):.3g} %"
    return f"the range of {count} random permutation{plural} (chance alone leaves it in {outside} of values)"


def _spectrum(content: Content) -> Figure | None:
    middles = (np.arange(content["bands"]) + 0.5) / content["bands"]
    figure, three = panels(1, 3, _height(content), sharey=True)
    drawn, data = [], []
    for axes, (part, name) in zip(three, PARTS.items(), strict=True):
        axes.axhline(1, color=INK, linewidth=0.6)
        for number, adapter in enumerate(content["adapters"]):
            measures = adapter["overall"][part]
            if measures["norm"]:
                low, high = (_relative(measures["null"]["power"][end], measures["white"]) for end in ("low", "high"))
                power = _relative(measures["power"], measures["white"])
                axes.fill_between(middles, low, high, **_shade(content, number))
                axes.plot(middles, power, **line(number))
                drawn += [low, high, power]
                data += [
                    {
                        "adapter": adapter["label"],
                        "factor": name,
                        "frequency": frequency,
                        "power / white noise": own,
                        "chance low": least,
                        "chance high": most,
                    }
                    for frequency, own, least, most in zip(middles, power, low, high, strict=True)
                ]
        axes.axvline(content["threshold"], color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1)
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_title(name, fontsize=10, loc="left")
    if not data:
        return None
    three[0].set_ylabel("power / that of white noise")
    three[1].set_xlabel(f"relative frequency (of ΔW: the higher of its two); dotted: T = {content['threshold']:g}")
    values = np.concatenate(drawn) if drawn else np.ones(1)
    values = values[values > 0]
    if values.max() > 8 * values.min():
        three[0].set_yscale("log")
        _plain_ticks(three[0].yaxis, values.max() / values.min())
    else:
        three[0].set_ylim(bottom=0)
    _legend(figure, content)
    return Figure(
        "spectrum",
        "Power by frequency",
        "A line inside its shade is what a random order of the same numbers has: no preference for any frequency.",
        "Power relative to white noise by relative frequency, in A, B and ΔW, with what permutations do",
        figure,
        data,
    )


def _layers(content: Content) -> Figure | None:
    figure, three = panels(1, 3, _height(content))
    data = []
    for axes, (part, name) in zip(three, PARTS.items(), strict=True):
        for number, adapter in enumerate(content["adapters"]):
            found = [
                (entry["layer"], 100 * entry[part]["share_above"], entry[part]["null"]["share_above"])
                for entry in adapter["layers"]
                if entry["layer"] is not None and entry[part]["norm"]
            ]
            if found:
                layers, shares, chances = zip(*found, strict=True)
                low, high = ([100 * chance[end] for chance in chances] for end in ("low", "high"))
                axes.fill_between(layers, low, high, **_shade(content, number))
                axes.plot(layers, shares, **line(number), marker="o", markersize=2.5)
                data += [
                    {"adapter": adapter["label"], "factor": name, "layer": layer, "% above T": share}
                    for layer, share in zip(layers, shares, strict=True)
                ]
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_title(name, fontsize=10, loc="left")
    three[0].set_ylabel(f"power above T = {content['threshold']:g}, in %")
    three[1].set_xlabel("layer")
    if not data:
        return None
    _legend(figure, content)
    return Figure(
        "layers",
        "Energy above the threshold by layer",
        "Layers whose point is outside the shade have their energy elsewhere than chance would put it.",
        "The share of energy above the threshold by layer, in A, B and ΔW, with what permutations do",
        figure,
        data,
    )


def _maps(content: Content) -> Figure | None:
    from matplotlib.colors import LogNorm

    adapters = [adapter for adapter in content["adapters"] if adapter["map"]]
    if not adapters:
        return None
    maps = [_relative(adapter["map"]["power"], adapter["map"]["white"]) for adapter in adapters]
    values = np.concatenate([values.ravel() for values in maps])
    reach = np.clip(np.exp(np.abs(np.log(values[values > 0])).max()), 1.5, 100)
    columns = min(3, len(adapters))
    rows = math.ceil(len(adapters) / columns)
    figure, each = panels(rows, columns, 0.4 + 2.0 * rows, width=1.3 + 1.9 * columns, sharey=True)
    for axes in each[len(adapters) :]:
        axes.set_visible(False)
    for axes, adapter, relative in zip(each, adapters, maps, strict=False):
        image = axes.imshow(
            relative.clip(1 / reach, reach),
            norm=LogNorm(1 / reach, reach),
            cmap="PuOr_r",
            origin="lower",
            extent=(0, 1, 0, 1),
        )
        threshold = content["threshold"]
        axes.plot([threshold, threshold, 0], [0, threshold, threshold], color=INK, linewidth=0.8, linestyle=":")
        axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes.set_title("\n".join(wrap(_plain(adapter["label"]), 24)), fontsize=9, loc="left")
    each[(rows - 1) * columns].set_xlabel("frequency along inputs")
    each[(rows - 1) * columns].set_ylabel("frequency along outputs")
    clipped = bool(values.max() > reach or values.min() < 1 / reach)
    bar = figure.colorbar(image, ax=each, extend="both" if clipped else "neither")
    bar.set_label("power of ΔW / white noise", fontsize=9)
    if reach < 5:
        bar.set_ticks([1 / reach, 1, reach], labels=[f"{value:.2g}" for value in (1 / reach, 1, reach)])
        bar.ax.minorticks_off()
    else:
        _plain_ticks(bar.ax.yaxis, reach**2)
    data = [
        {"adapter": adapter["label"], "band of outputs": row, "band of inputs": column, "power / white noise": power}
        for adapter, relative in zip(adapters, maps, strict=True)
        for (row, column), power in np.ndenumerate(relative)
    ]
    return Figure(
        "maps",
        "Power of ΔW along inputs and outputs",
        "The colour of white noise is the middle of the scale; dotted, what counts as low.",
        "Maps of the power of ΔW by frequency along inputs and outputs, relative to white noise",
        figure,
        data,
    )


def _relative(power: list[Any], white: list[Any]) -> NDArray[np.float64]:
    """Power as a multiple of white noise's; NaN in a band without bins."""
    numerator, denominator = np.asarray(power), np.asarray(white)
    relative = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=relative, where=denominator > 0)
    return relative


def _shade(content: Content, number: int) -> dict[str, Any]:
    alone = len(content["adapters"]) == 1
    return {"color": SHADE if alone else COLOURS[number % len(COLOURS)], "alpha": 0.35, "linewidth": 0}


def _height(content: Content) -> float:
    """In inches, of three panels over a legend."""
    return 2.7 + 0.2 * len(content["adapters"])


def _plain_ticks(axis: Any, ratio: float) -> None:
    """Label a logarithmic axis 0.5, 1, 2 …, not as powers of ten; `ratio` is that of its ends."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if ratio < 1000 else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _legend(figure: Any, content: Content) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [
        Line2D(
            [], [], **line(number), label=_plain(adapter["label"]) + (f" ({zero})" if (zero := _zero(adapter)) else "")
        )
        for number, adapter in enumerate(content["adapters"])
    ]
    handles.append(Patch(color=SHADE, alpha=0.35, linewidth=0, label=f"shaded: {_chance(content)}"))
    figure.legend(handles=handles, loc="outside lower left", ncols=1, frameon=False, fontsize=9)


def _short(text: str) -> str:
    """A label that fits beside others: its start and its end.

    >>> _short("runs/a-very-long-name-that-tells-everything/adapter")
    'runs/a-very-long-na…lls-everything/adapter'
    """
    return text if len(text) <= 42 else f"{text[:19]}…{text[-22:]}"


def _plain(text: str) -> str:
    """A short label that matplotlib takes as it is."""
    return label(_short(text))
