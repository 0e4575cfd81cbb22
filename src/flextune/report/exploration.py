"""Figures of a search: how its trials scored, what each setting did, and what lies between the trials.

The surface between trials is a Gaussian process (scikit-learn), a guess that is shown with how far it is off.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flextune.report.figures import COLOURS, FAINT, INK, SOFT, label, panels
from flextune.report.page import Figure

Trials = Sequence[Mapping[str, Any]]
"""Trials with a `number`, `settings` by key, and a `value`."""
ENOUGH = 8
"""Trials that a surface needs."""
USEFUL = 0.75
"""A surface whose error is this share of the mean's says something; through noise one in thirty-six was below 0.9."""
MARKS = 12
"""Values of a setting that are marked one by one."""
SHADES = "cividis"
"""From low to high, for colour-blind readers too."""
Numbers = NDArray[np.float64]


def figures(trials: Trials, objective: str) -> list[Figure]:
    """All that the trials are enough for; those without a value are left out."""
    trials = [trial for trial in trials if trial["value"] is not None and math.isfinite(trial["value"])]
    if not trials:
        return []
    per_cent = 100.0 if objective == "pass@1" else 1.0
    shown = [{**trial, "value": per_cent * trial["value"]} for trial in trials]
    words = f"{objective} in %" if objective == "pass@1" else objective.replace("_", " ")
    keys = [key for key in _keys(shown) if len({_plain(t["settings"].get(key)) for t in shown}) > 1]
    numeric = [key for key in keys if _is_numeric(shown, key)]
    lower = objective != "pass@1"
    return [
        *_distribution(shown, words),
        *_effects(shown, keys, words),
        *_cloud(shown, numeric, words),
        *_surface(shown, numeric, words, lower),
    ]


def _distribution(trials: Trials, words: str) -> list[Figure]:
    """The paper's Figure 5."""
    values = [trial["value"] for trial in trials]
    if len(values) < 2:
        return []
    figure, (axes,) = panels(1, 1, 2.2)
    counts, edges = np.histogram(values, bins=min(20, max(5, round(math.sqrt(len(values))) * 2)))
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=COLOURS[0], edgecolor="none", linewidth=0)
    axes.plot(values, np.full(len(values), -0.04 * max(counts)), "|", color=INK, markersize=6, clip_on=False)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(words)
    axes.set_ylabel("trials")
    return [
        Figure(
            "trials",
            "How the trials scored",
            "The best of many looks better than it is: how far it stands from the others says how much to believe.",
            f"A histogram of {len(values)} trials from {min(values):.4g} to {max(values):.4g}",
            figure,
            [{"trial": trial["number"], words: trial["value"]} for trial in trials],
            "Figure 5",
        )
    ]


def _effects(trials: Trials, keys: Sequence[str], words: str) -> list[Figure]:
    """The paper's Figures 8 and 19: the value over each setting."""
    if not keys:
        return []
    columns = min(3, len(keys))
    lines = -(-len(keys) // columns)
    figure, axes = panels(lines, columns, 2.3 * lines, sharey=True)
    for place, key in zip(axes, keys, strict=False):
        there = [trial for trial in trials if key in trial["settings"]]
        values = [trial["value"] for trial in there]
        if _is_numeric(trials, key):
            at = [float(trial["settings"][key]) for trial in there]
            if min(at) > 0 and max(at) / min(at) > 20:
                place.set_xscale("log")
        else:
            names = sorted({_plain(trial["settings"][key]) for trial in there})
            at = [float(names.index(_plain(trial["settings"][key]))) for trial in there]
            place.set_xticks(range(len(names)), [label(name) for name in names], rotation=20, ha="right", fontsize=8)
            place.set_xlim(-0.5, len(names) - 0.5)
        place.plot(at, values, "o", color=COLOURS[0], markersize=4, alpha=0.7)
        marks = sorted(set(at))
        if len(marks) <= MARKS and len(marks) < len(at):
            means = [np.mean([value for x, value in zip(at, values, strict=True) if x == mark]) for mark in marks]
            place.plot(marks, means, "_", color=INK, markersize=14, markeredgewidth=1.6)
        place.set_title(label(_short(key)), fontsize=9)
    for place in axes[len(keys) :]:
        place.set_visible(False)
    for place in axes[::columns]:
        place.set_ylabel(words, fontsize=9)
    return [
        Figure(
            "settings",
            "What each setting did",
            "A point is a trial, a bar the mean of those with one value; the other settings differ too, so that a "
            "trend may be theirs.",
            f"{words} over {', '.join(keys)}, a point for each trial",
            figure,
            [
                {"trial": t["number"], **{key: _plain(t["settings"].get(key)) for key in keys}, words: t["value"]}
                for t in trials
            ],
            "Figures 8, 19",
        )
    ]


def _cloud(trials: Trials, keys: Sequence[str], words: str) -> list[Figure]:
    """The paper's Figures 17 and 20: trials by three settings; flat, each pair of them."""
    if len(keys) < 3:
        return []
    x, y, z = keys = keys[:3]
    there = [trial for trial in trials if all(key in trial["settings"] for key in keys)]
    if len(there) < ENOUGH:
        return []
    values = [trial["value"] for trial in there]
    at = {key: [float(trial["settings"][key]) for trial in there] for key in keys}
    figure, axes = panels(1, 3, 2.6)
    for place, (one, two) in zip(axes, ((x, y), (x, z), (y, z)), strict=True):
        points = place.scatter(at[one], at[two], c=values, cmap=SHADES, s=26, edgecolors=SOFT, linewidths=0.4)
        for key, scale in ((one, place.set_xscale), (two, place.set_yscale)):
            if _is_log(at[key]):
                scale("log")
        place.set_xlabel(label(_short(one)), fontsize=9)
        place.set_ylabel(label(_short(two)), fontsize=9)
    figure.colorbar(points, ax=axes, label=words)
    hover = [f"trial {trial['number']}: {trial['value']:.4g}" for trial in there]
    marker = {"color": values, "colorscale": "Cividis", "size": 5, "colorbar": {"title": {"text": words}}}
    return [
        Figure(
            "three-settings",
            "Trials by three settings",
            "The first three settings that are numbers; colour is the value. Where colours are mixed, they do "
            "not decide.",
            f"Three scatter plots of trials by {', '.join(keys)}",
            figure,
            [{"trial": t["number"], **{key: t["settings"][key] for key in keys}, words: t["value"]} for t in there],
            "Figures 17, 20",
            {
                "data": [
                    {"type": "scatter3d", "mode": "markers", "x": at[x], "y": at[y], "z": at[z], "text": hover,
                     "hoverinfo": "text+x+y+z", "marker": marker}
                ],
                "layout": {"scene": {f"{a}axis": _axis(key, at[key]) for a, key in zip("xyz", keys, strict=True)}},
            },
        )
    ]  # fmt: skip


def _surface(trials: Trials, keys: Sequence[str], words: str, lower: bool) -> list[Figure]:
    """The paper's Figure 21: what a Gaussian process expects between the trials, and how unsure it is."""
    try:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
        from sklearn.model_selection import KFold, cross_val_predict
    except ModuleNotFoundError:
        return []
    there = [trial for trial in trials if all(key in trial["settings"] for key in keys)]
    if len(keys) < 2 or len(there) < ENOUGH:
        return []
    values = np.asarray([trial["value"] for trial in there])
    raw = {key: np.asarray([float(trial["settings"][key]) for trial in there]) for key in keys}
    at = np.stack([_scaled(raw[key], raw[key]) for key in keys], axis=1)
    kernel = ConstantKernel() * RBF(np.full(len(keys), 0.5), (0.05, 10.0)) + WhiteKernel(0.1, (1e-6, 10.0))
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
    folds = list(KFold(5, shuffle=True, random_state=0).split(at))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a length at its bound is a setting that does nothing
        held_out = cross_val_predict(process, at, values, cv=folds)
        process.fit(at, values)
    error = float(np.sqrt(np.mean((held_out - values) ** 2)))
    plain = float(np.sqrt(sum(((values[out] - values[seen].mean()) ** 2).sum() for seen, out in folds) / len(values)))
    lengths = process.kernel_.k1.k2.length_scale  # the shorter, the more a setting matters
    first, second = sorted(np.argsort(lengths)[:2])
    x, y = keys[first], keys[second]
    best = int(np.argmin(values) if lower else np.argmax(values))
    steps = [_steps(raw[key]) for key in (x, y)]
    grid = np.tile(at[best], (len(steps[0]) * len(steps[1]), 1))
    grid[:, first] = np.repeat(_scaled(steps[0], raw[x]), len(steps[1]))
    grid[:, second] = np.tile(_scaled(steps[1], raw[y]), len(steps[0]))
    mean, deviation = (part.reshape(len(steps[0]), -1).T for part in process.predict(grid, return_std=True))
    figure, axes = panels(1, 2, 2.9)
    for place, part, title in zip(axes, (mean, deviation), ("expected", "its standard deviation"), strict=True):
        shade = place.pcolormesh(steps[0], steps[1], part, cmap=SHADES, shading="gouraud", rasterized=True)
        place.plot(raw[x], raw[y], "o", color=INK, markerfacecolor=FAINT, markersize=4)
        for key, scale in ((x, place.set_xscale), (y, place.set_yscale)):
            if _is_log(raw[key]):
                scale("log")
        place.set_xlabel(label(_short(x)), fontsize=9)
        place.set_title(title)
        figure.colorbar(shade, ax=place)
    axes[0].set_ylabel(label(_short(y)), fontsize=9)
    worth = (
        "so the surface says something"
        if error < USEFUL * plain
        else "so the surface says nothing that the mean does not"
    )
    fixed = ", ".join(f"{_short(key)} = {raw[key][best]:.3g}" for key in keys if key not in (x, y))
    return [
        Figure(
            "surface",
            "What lies between the trials",
            f"A Gaussian process through {len(there)} trials{f' ({fixed})' if fixed else ''}. Trials that it has not "
            f"seen it misses by {error:.3g} (root mean square, five-fold cross-validation); the mean of the others "
            f"misses them by {plain:.3g}, {worth}. Its deviation includes the noise of a trial. Points are all trials, "
            "wherever their other settings lie.",
            f"Two maps over {x} and {y}: the value that is expected, and its standard deviation",
            figure,
            [
                {x: a, y: b, f"expected {words}": mean[j, i], "standard deviation": deviation[j, i]}
                for i, a in enumerate(steps[0])
                for j, b in enumerate(steps[1])
            ],
            "Figure 21",
            {
                "data": [
                    {"type": "surface", "x": steps[0].tolist(), "y": steps[1].tolist(), "z": part.tolist(),
                     "colorscale": "Cividis", "showscale": number == 0, "opacity": 1 if number == 0 else 0.3,
                     "name": name, "hovertemplate": "%{x:.4g}, %{y:.4g}: %{z:.4g}"}
                    for number, (name, part) in enumerate(
                        (("expected", mean), ("+1 σ", mean + deviation), ("−1 σ", mean - deviation))
                    )
                ] + [
                    {"type": "scatter3d", "mode": "markers", "x": raw[x].tolist(), "y": raw[y].tolist(),
                     "z": values.tolist(), "marker": {"size": 4, "color": COLOURS[4]}, "name": "trials"}
                ],
                "layout": {
                    "showlegend": False,
                    "scene": {
                        "xaxis": _axis(x, raw[x]), "yaxis": _axis(y, raw[y]), "zaxis": {"title": {"text": words}}
                    },
                },
            },
        )
    ]  # fmt: skip


def _keys(trials: Trials) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial["settings"]))


def _is_numeric(trials: Trials, key: str) -> bool:
    found = [trial["settings"][key] for trial in trials if key in trial["settings"]]
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)


def _is_log(values: Sequence[float] | Numbers) -> bool:
    return min(values) > 0 and max(values) / min(values) > 20


def _scaled(values: Numbers, like: Numbers) -> Numbers:
    """From 0 to 1 over what was tried; by its logarithm where that spans more than a power of ten."""
    if _is_log(like):
        values, like = np.log(values), np.log(like)
    result: Numbers = (values - like.min()) / (np.ptp(like) or 1.0)
    return result


def _steps(values: Numbers) -> Numbers:
    if _is_log(values):
        return np.geomspace(values.min(), values.max(), 31)
    return np.linspace(values.min(), values.max(), 31)


def _axis(key: str, values: Sequence[float] | Numbers) -> dict[str, Any]:
    return {"title": {"text": _short(key)}, "type": "log" if _is_log(values) else "linear"}


def _short(key: str) -> str:
    return ".".join(key.split(".")[-2:])


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
