"""What happened while training, of one run or of several side by side."""

from collections.abc import Mapping, Sequence

from flextune.files import Row
from flextune.report.figures import label, legend_columns, line, panels, paper_figures
from flextune.report.page import Figure

PANELS = {
    "loss": ("task loss per token", "Figure 7"),
    "validation_loss": ("validation loss per token", "Figure 12"),
    "perplexity": ("perplexity of the validation examples", "Figure 13"),
    "task_grad_norm": ("gradient norm of the task loss", "Figure 14"),
    "fourier_loss": ("Fourier penalty, without λ", ""),
    "kl": ("divergence from the model as it came", ""),
    "sophia_unclipped": ("share that Sophia does not clip", ""),
}
"""What is drawn of `metrics.jsonl`, and as which figure of the paper."""
Trainings = Mapping[str, Mapping[int, Sequence[Row]]]
"""The metrics of trainings by what they are called, and by seed."""


def curves(trainings: Trainings) -> list[Figure]:
    """One figure with a panel for each measure that some training has; none if there are none."""
    measured = {key: names for key, names in PANELS.items() if _has(trainings, key)}
    if not measured:
        return []
    columns = min(2, len(measured))
    lines = -(-len(measured) // columns)
    legend = len(trainings) > 1
    figure, axes = panels(lines, columns, 0.4 + 1.9 * lines + 0.25 * legend * (len(trainings) // 4 + 1))
    for place, (key, (title, _)) in zip(axes, measured.items(), strict=False):
        place.set_title(title)
        for number, runs in enumerate(trainings.values()):
            for rows in runs.values():
                there = [row for row in rows if row.get(key) is not None]
                few = {"marker": "o", "markersize": 2.5} if len(there) < 15 else {}
                place.plot(
                    [row["step"] for row in there],
                    [row[key] for row in there],
                    **line(number),
                    **few,
                    alpha=1 if len(runs) == 1 else 0.75,
                )
        if key in ("loss", "fourier_loss", "task_grad_norm"):
            place.set_ylim(bottom=0)
    for place in axes[len(measured) :]:
        place.set_visible(False)
    for place in axes[max(0, len(measured) - columns) : len(measured)]:
        place.set_xlabel("optimizer step")
        place.xaxis.get_major_locator().set_params(integer=True)
    if legend:
        handles = [axes[0].plot([], [], **line(number), label=label(name))[0] for number, name in enumerate(trainings)]
        figure.legend(
            handles=handles, loc="outside upper left", ncols=legend_columns(trainings), frameon=False, fontsize=9
        )
    numbers = [names[1].removeprefix("Figure ") for names in measured.values() if names[1]]
    return [
        Figure(
            "training",
            "While training",
            "Losses are means over learned tokens. " + _says(trainings),
            "Lines over optimizer steps: " + "; ".join(names[0] for names in measured.values()),
            figure,
            [
                {"training": name, "seed": seed, "step": row["step"], **{key: row.get(key, "") for key in measured}}
                for name, runs in trainings.items()
                for seed, rows in runs.items()
                for row in rows
            ],
            paper_figures(numbers),
        )
    ]


def _has(trainings: Trainings, key: str) -> bool:
    return any(row.get(key) is not None for runs in trainings.values() for rows in runs.values() for row in rows)


def _says(trainings: Trainings) -> str:
    if len(trainings) > 1:
        return "A colour for each training, a line for each seed."
    (runs,) = trainings.values()
    last = next(iter(runs.values()))[-1]
    return (
        f"{last['step']} optimizer steps in {last['seconds']:.0f} seconds, {last.get('peak_memory_mb', 0)} MB at most."
    )
