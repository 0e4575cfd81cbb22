"""Figures of pass@1: bars with intervals, problems won and lost across languages, and decodings."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from flextune.report.figures import COLOURS, FAINT, INK, SOFT, label, line, panels
from flextune.report.page import Figure

WON, LOST, BOTH, NEITHER = "won", "lost", "solved by both", "solved by neither"
COLOUR = {WON: COLOURS[0], LOST: COLOURS[4], BOTH: "#b9b9b9", NEITHER: None}
Point = tuple[float, Mapping[str, float]]
"""A setting with pass@1 and its interval."""
ENDINGS = {
    "passed": (("passed",), COLOURS[0]),
    "wrong answer": (("wrong_answer",), COLOURS[1]),
    "error while running": (("runtime_error",), COLOURS[3]),
    "does not compile": (("compile_error",), COLOURS[4]),
    "too slow or too much": (("timeout", "compile_timeout", "memory_limit", "output_limit"), "#8c8c8c"),
    "ended before its tests": (("early_exit",), COLOURS[2]),
}
"""Verdicts that are drawn as one."""
ENDS = ("value", "low", "high")
MARKERS = "osD^v"
KNOBS = {
    "temperature": ("temperature", "Figure 9"),
    "top_p": ("top-p", "Figure 11"),
    "top_k": ("top-k", ""),
    "beams": ("beams", "Figures 10, 16, 18"),
}
"""Settings of decodings that pass@1 is drawn over, and as which figure of the paper."""


def bars(found: Sequence[Mapping[str, Any]], paper: Mapping[tuple[str, str], float] | None = None) -> Figure:
    """pass@1 of each model on each benchmark, with its interval; a diamond where the paper reports a number.

    Args:
        found: Rows with `benchmark`, `name`, `colour`, `solved` (as words) and `value` (with `low` and `high`).
        paper: What the paper reports, by name and benchmark.
    """
    groups = list(dict.fromkeys(row["benchmark"] for row in found))
    rows = sorted(found, key=lambda row: groups.index(row["benchmark"]))
    places, labels, position = [], [], 0.0
    for number, row in enumerate(rows):
        position += 1.9 if number and row["benchmark"] != rows[number - 1]["benchmark"] else 1.0 if number else 0.0
        places.append(position)
        labels.append(row["name"])
    figure, (axes,) = panels(1, 1, 0.8 + 0.23 * (position + 1))
    highest = 0.0
    for place, row in zip(places, rows, strict=True):
        value, low, high = (100 * row["value"][name] for name in ("value", "low", "high"))
        axes.barh(place, value, color=row["colour"], height=0.72)
        axes.plot([low, high], [place, place], color=INK, linewidth=1.2, marker="|", markersize=5)
        said = (paper or {}).get((row["name"], row["benchmark"]))
        if said is not None:
            axes.plot([100 * said], [place], marker="D", markersize=5, color=INK, markerfacecolor="none")
        axes.text(max(high, 100 * (said or 0)) + 1.2, place, row["solved"], va="center", fontsize=8, color=SOFT)
        highest = max(highest, high, 100 * (said or 0))
    for group in groups if len(groups) > 1 else ():
        first = next(place for place, row in zip(places, rows, strict=True) if row["benchmark"] == group)
        axes.text(0, first - 0.52, label(group), fontsize=9, fontweight="bold", va="bottom")
    axes.set_yticks(places, [label(name) for name in labels], fontsize=9)
    axes.set_ylim(position + 0.7, -1.3 if len(groups) > 1 else -0.7)
    axes.set_xlim(0, min(118.0, highest * 1.25 + 4))
    axes.set_xlabel("pass@1 in %, with its 95 % interval" + ("; ◇ the paper's, on its own model" if paper else ""))
    return Figure(
        "pass-at-1",
        "Problems solved",
        "Intervals that overlap may still differ: models are compared problem by problem, not bar by bar.",
        "Bars: " + "; ".join(f"{r['benchmark']}, {r['name']}: {100 * r['value']['value']:.1f} %" for r in rows),
        figure,
        [
            {
                "benchmark": row["benchmark"],
                "model": row["name"],
                **{f"pass@1 {name}": row["value"][name] for name in ("value", "low", "high")},
                "solved": row["solved"],
            }
            for row in rows
        ],
        "Figures 1, 4",
    )


def verdicts(found: Sequence[Mapping[str, Any]]) -> Figure:
    """How programs end, of each model on each benchmark.

    Args:
        found: Rows with `name` and `verdicts`, how often each was found.
    """
    from matplotlib.patches import Patch

    figure, (axes,) = panels(1, 1, 1.0 + 0.27 * len(found))
    data = []
    for place, row in enumerate(found):
        total, left = sum(row["verdicts"].values()), 0.0
        for words, (names, colour) in ENDINGS.items():
            count = sum(row["verdicts"].get(name, 0) for name in names)
            axes.barh(place, 100 * count / total, left=left, color=colour, height=0.72)
            left += 100 * count / total
            data.append({"model": row["name"], "programs": words, "count": count, "of": total})
    axes.set_yticks(range(len(found)), [label(row["name"]) for row in found], fontsize=9)
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("programs in %")

    handles = [Patch(facecolor=colour, label=words) for words, (_, colour) in ENDINGS.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return Figure(
        "verdicts",
        "How programs end",
        "A model that loses to programs that do not compile may have lost a form, not a skill: look at how they end.",
        "; ".join(f"{row['model']}: {row['count']} of {row['of']} {row['programs']}" for row in data),
        figure,
        data,
    )


def wins(compared: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """Each problem across languages: solved by whom; none if nothing is compared.

    Args:
        compared: Rows with `name` and, by problem, `first` and `second`: the shares of samples that pass. Translations
            of a problem have one name.
    """
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    if not compared:
        return []
    sums: dict[str, float] = {}
    for row in compared:
        for task_id in row["second"].keys() & row["first"].keys():
            sums[task_id] = sums.get(task_id, 0) + row["first"][task_id] + row["second"][task_id]
    tasks = sorted(sums, key=lambda task_id: (-sums[task_id], task_id))
    if not tasks:
        return []
    image = np.zeros((len(compared), len(tasks), 4))
    data = []
    for number, row in enumerate(compared):
        for place, task_id in enumerate(tasks):
            if task_id in row["first"] and task_id in row["second"]:
                kind = _kind(row["first"][task_id], row["second"][task_id])
                colour = COLOUR[kind]
                image[number, place] = to_rgba(colour) if colour else (0, 0, 0, 0)
                data.append({"comparison": row["name"], "problem": task_id, "outcome": kind})
    figure, (axes,) = panels(1, 1, 1.15 + 0.27 * len(compared))
    axes.imshow(image, aspect="auto", interpolation="none")
    axes.set_yticks(range(len(compared)), [label(row["name"]) for row in compared], fontsize=9)
    axes.set_yticks(np.arange(len(compared) + 1) - 0.5, minor=True)
    axes.grid(which="minor", axis="y", color=FAINT, linewidth=0.8)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel(f"{len(tasks)} problems, those that are solved most often first")
    axes.spines[["left", "bottom"]].set_visible(False)
    handles = [
        Patch(facecolor=colour or "none", edgecolor=SOFT, linewidth=0.5, label=kind) for kind, colour in COLOUR.items()
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False, fontsize=9)
    counts = "; ".join(
        f"{row['name']}: " + ", ".join(f"{_count(data, row['name'], kind)} {kind}" for kind in (WON, LOST))
        for row in compared
    )
    return [
        Figure(
            "problems",
            "Won and lost, problem by problem",
            "A column is a problem with its translations: a stripe of one colour is a change that all languages share. "
            "Won means that more of its samples pass than before.",
            f"A map of problems. {counts}",
            figure,
            data,
        )
    ]


def _all_of(found: Sequence[Mapping[str, Any]], side: str) -> str:
    """The benchmarks behind a side, if all have the same."""
    sets = {", ".join(row[side]["benchmarks"]) for row in found}
    return sets.pop() if len(sets) == 1 else "the benchmarks that the data names, not the same for all"


def _kind(first: float, second: float) -> str:
    if first == second:
        return BOTH if first > 0 else NEITHER
    return WON if second > first else LOST


def _count(data: Sequence[Mapping[str, str]], name: str, kind: str) -> int:
    return sum((row["comparison"], row["outcome"]) == (name, kind) for row in data)


def decodings(found: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """pass@1 over each setting of the decodings that takes several values.

    Args:
        found: Rows with `benchmark`, `variant`, `settings` (of the decoding) and `value`.
    """
    figures = []
    for knob, (title, paper) in KNOBS.items():
        lines: dict[str, list[Point]] = {}
        for row in found:
            if row["settings"].get(knob) is not None:
                rest = {k: v for k, v in row["settings"].items() if k not in (knob, "samples") and v is not None}
                name = ", ".join([row["benchmark"], row["variant"], *(f"{k} {v}" for k, v in rest.items())])
                lines.setdefault(name, []).append((float(row["settings"][knob]), row["value"]))
        lines = {name: sorted(points, key=lambda p: p[0]) for name, points in lines.items()}
        lines = {name: points for name, points in lines.items() if points[0][0] < points[-1][0]}
        if lines:
            figures.append(_over(knob, title, paper, lines))
    return figures


def _over(
    knob: str, title: str, paper: str, lines: Mapping[str, Sequence[tuple[float, Mapping[str, float]]]]
) -> Figure:

    figure, (axes,) = panels(1, 1, 2.7 + 0.2 * len(lines))
    ends = sorted({value for points in lines.values() for value, _ in points})
    apart = 0.008 * (ends[-1] - ends[0])
    for number, (name, points) in enumerate(lines.items()):
        shift = apart * (number - (len(lines) - 1) / 2)
        values, scores = [value + shift for value, _ in points], [score for _, score in points]
        axes.plot(
            values, [100 * s["value"] for s in scores], **line(number), marker="o", markersize=4, label=label(name)
        )
        for value, score in zip(values, scores, strict=True):
            axes.plot(
                [value, value], [100 * score["low"], 100 * score["high"]], color=line(number)["color"], linewidth=1
            )
    axes.set_xticks(ends)
    axes.set_xlabel(title)
    axes.set_ylabel("pass@1 in %")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside lower left", ncols=1, frameon=False, fontsize=9)
    return Figure(
        f"by-{knob.replace('_', '-')}",
        f"pass@1 by {title}",
        "Bars are 95 % intervals: a line that wanders within them is no trend.",
        "; ".join(f"{n}: " + ", ".join(f"{v:g}: {100 * s['value']:.1f} %" for v, s in p) for n, p in lines.items()),
        figure,
        [
            {"line": name, title: value, **{f"pass@1 {end}": score[end] for end in ("value", "low", "high")}}
            for name, points in lines.items()
            for value, score in points
        ],
        paper,
    )


def samples(found: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """How problems are distributed by the share of their samples that pass; none with one sample a problem.

    Args:
        found: Rows with `name`, `colour` and `shares`, one for each problem.
    """
    found = [row for row in found if any(0 < share < 1 for share in row["shares"])]
    if not found:
        return []
    columns = min(3, len(found))
    figure, axes = panels(-(-len(found) // columns), columns, 0.4 + 1.8 * -(-len(found) // columns), sharey=True)
    edges = np.linspace(0, 1, 11)
    data = []
    for place, row in zip(axes, found, strict=False):
        counts, _ = np.histogram(row["shares"], edges)
        place.bar(100 * edges[:-1] + 5, counts, width=9, color=row["colour"])
        place.set_title(label(row["name"]), fontsize=9)
        data += [
            {"model": row["name"], "from": low, "to": high, "problems": int(count)}
            for low, high, count in zip(edges[:-1].round(1), edges[1:].round(1), counts, strict=True)
        ]
    for place in axes[len(found) :]:
        place.set_visible(False)
    axes[0].set_ylabel("problems")
    axes[0].set_xlabel("samples that pass, in %")
    return [
        Figure(
            "samples",
            "How often each problem is solved",
            "At the ends stand problems that are never and always solved; what is between, more samples may solve.",
            "Histograms of the share of samples that pass",
            figure,
            data,
        )
    ]


def learning(found: Sequence[Mapping[str, Any]]) -> list[Figure]:
    """What was learned against what was kept elsewhere, a point for each training; none without both.

    A dotted line joins the points of one adapter at parts of its strength.

    Args:
        found: Rows of `flextune.scoring.matrix.learned_and_kept`, each with `adapter_of`, whose adapter it measures,
            and `scale`, at which part of its strength.
    """
    if not found:
        return []
    figure, (axes,) = panels(1, 1, 3.6 + 0.2 * len(found))
    axes.axhline(0, color=FAINT, linewidth=1)
    axes.axvline(0, color=FAINT, linewidth=1)
    data = []
    for number, row in enumerate(found):
        x, y = ({end: 100 * row[side]["difference"][end] for end in ENDS} for side in ("learned", "kept"))
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        axes.plot([x["low"], x["high"]], [y["value"]] * 2, color=colour, linewidth=1, alpha=0.6)
        axes.plot([x["value"]] * 2, [y["low"], y["high"]], color=colour, linewidth=1, alpha=0.6)
        name, seeds = f"{row['arm']}, {row['variant']}", len(row["seeds"])
        said = label(name) + (f", {seeds} seeds" if seeds > 1 else "")
        axes.plot([x["value"]], [y["value"]], marker, color=colour, markersize=7, label=said)
        data.append(
            {
                "training": name,
                "adapter of": row["adapter_of"],
                "strength": row["scale"],
                "seeds": seeds,
                "learned in": ", ".join(row["learned"]["benchmarks"]),
                "kept in": ", ".join(row["kept"]["benchmarks"]),
                **{f"learned {end}": row["learned"]["difference"][end] for end in ENDS},
                **{f"kept {end}": row["kept"]["difference"][end] for end in ENDS},
            }
        )
    weakened = list(_by_strength(found))
    for points in weakened:
        axes.plot(*zip((0, 0), *points, strict=True), ":", color=INK, linewidth=1.2, zorder=1)
    learned, kept = (_all_of(found, side) for side in ("learned", "kept"))
    axes.set_xlabel(f"learned: points of pass@1 gained in {learned}")
    axes.set_ylabel("kept: points gained elsewhere")
    figure.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return [
        Figure(
            "learned-and-kept",
            "What was learned against what was kept",
            f"Against the model as it came, with 95 % intervals; elsewhere is the mean of {kept}. What lies higher at "
            "the same place has kept more for what it learned; a point further left may have kept more only because it "
            "learned less."
            + (
                " A dotted line joins one adapter at parts of its strength, from none to all, whatever their seeds."
                if weakened
                else ""
            ),
            "; ".join(
                f"{row['training']}: learned {100 * row['learned value']:+.1f}, kept {100 * row['kept value']:+.1f}"
                for row in data
            ),
            figure,
            data,
        )
    ]


def _by_strength(found: Sequence[Mapping[str, Any]]) -> Iterator[list[tuple[float, float]]]:
    """For each adapter that was also measured at a part of its strength: what was learned and kept, weakest first."""
    adapters: dict[tuple[str, str], dict[float, Mapping[str, Any]]] = {}
    for row in sorted(found, key=lambda row: row["arm"] != row["adapter_of"]):  # at all of it: the training's own row
        adapters.setdefault((row["adapter_of"], row["variant"]), {}).setdefault(row["scale"], row)
    for rows in adapters.values():
        if len(rows) > 1:
            yield [
                (100 * row["learned"]["difference"]["value"], 100 * row["kept"]["difference"]["value"])
                for _, row in sorted(rows.items())
            ]
