"""Figures as SVG files, in colours that colour-blind readers can tell apart (Okabe and Ito 2008)."""

from pathlib import Path

from flextune.report.results import Result, Results

COLOURS = {"base": "#8c8c8c", "unmerged": "#0072b2", "merged": "#e69f00"}


def set_up() -> None:
    """Make matplotlib draw as all figures here look: without a display, text as text, the same bytes every time."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= {
        "svg.hashsalt": "flextune",
        "font.family": "sans-serif",
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.fonttype": "none",
    }


def draw(results: Results, folder: Path) -> None:
    """Write the figures that the run has data for."""
    set_up()
    folder.mkdir(parents=True, exist_ok=True)
    if results.results:
        _pass_bars(results.results, folder / "pass-at-1.svg")
    if results.metrics:
        _training(results, folder / "training.svg")


def _pass_bars(results: list[Result], path: Path) -> None:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 0.55 + 0.42 * len(results)), layout="constrained")
    for position, result in enumerate(results):
        score = result.scores["pass@1"]
        value, low, high = (100 * score[name] for name in ("value", "low", "high"))
        axes.barh(position, value, color=COLOURS[result.variant], height=0.62)
        axes.plot([low, high], [position, position], color="#222222", linewidth=1.4)
        axes.plot([low, high], [position, position], "|", color="#222222", markersize=9)
        axes.text(high + 1.5, position, result.solved, va="center", fontsize=9, color="#333333")
    axes.set_yticks(range(len(results)), [f"{r.benchmark}, {r.variant}" for r in results])
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("pass@1 in %, with its 95 % interval")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _training(results: Results, path: Path) -> None:
    import matplotlib.pyplot as plt

    trained = [row for row in results.metrics if "loss" in row]  # not the validation before the first step
    steps = [row["step"] for row in trained]
    has_penalty = "fourier_loss" in trained[-1]
    figure, axes = plt.subplots(1, 2 if has_penalty else 1, figsize=(7, 2.6), layout="constrained", squeeze=False)
    left = axes[0][0]
    left.plot(steps, [row["loss"] for row in trained], color=COLOURS["unmerged"], linewidth=1.4)
    left.set_ylim(bottom=0)
    left.set_xlabel("optimizer step")
    left.set_title("task loss per token", fontsize=10, loc="left")
    if has_penalty:
        right = axes[0][1]
        right.plot(steps, [row["fourier_loss"] for row in trained], color="#d55e00", linewidth=1.4)
        right.set_ylim(bottom=0)
        right.set_xlabel("optimizer step")
        right.set_title("Fourier penalty L_F (without λ)", fontsize=10, loc="left")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
