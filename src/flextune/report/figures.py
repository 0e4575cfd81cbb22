"""How figures look: one palette that colour-blind readers can tell apart, ink that follows the page's theme, SVG.

figure, axes = panels(1, 2)
axes[0].plot([0, 1], [0, 1], color=COLOURS[0])
svg = as_svg(figure, "name")
"""

import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

INK, SOFT, FAINT = "#222222", "#767676", "#cfcfcf"
"""Of what is drawn and written, of what is beside it, and of lines behind it."""
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
"""Of what is told apart (Okabe and Ito 2008); a seventh starts over, dashed."""
VARIANTS = {"base": "#8c8c8c", "unmerged": COLOURS[0], "merged": COLOURS[1]}
WIDTH = 7.2
"""Of a figure, in inches."""

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}


def set_up() -> None:
    """Make matplotlib draw as all figures here look: without a display, text as text."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams |= STYLE


def panels(rows: int, columns: int, height: float, width: float = WIDTH, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of `rows` × `columns` panels and the list of them; sizes in inches."""
    from matplotlib.figure import Figure

    set_up()
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def line(number: int) -> dict[str, Any]:
    """How the line of the number looks."""
    dashed = number % (2 * len(COLOURS)) >= len(COLOURS)
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": "--" if dashed else "-", "linewidth": 1.4}


def label(text: str) -> str:
    r"""A text that matplotlib writes as it is; what no file may hold is left out.

    >>> label("a$b$\x1b")
    'a\\$b\\$'
    """
    return re.sub(r"[\x00-\x1f\x7f]", "", text).replace("$", r"\$")


def legend_columns(names: Iterable[str]) -> int:
    """How many entries of a legend fit side by side."""
    return max(1, min(4, 100 // (max(map(len, names), default=0) + 8)))


def paper_figures(numbers: Sequence[str]) -> str:
    """Which figures of the paper something stands for.

    >>> paper_figures(["7"]), paper_figures(["7", "12"]), paper_figures([])
    ('Figure 7', 'Figures 7, 12', '')
    """
    return f"Figure{'s' * (len(numbers) > 1)} {', '.join(numbers)}" if numbers else ""


def as_svg(figure: Any, name: str) -> str:
    """The figure as a file, the same bytes every time; `name` keeps its ids apart from those of others."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(text, format="svg", dpi=200, metadata={"Date": None})
    return text.getvalue()


def themed(svg: str) -> str:
    """An SVG file as an element of a page: ink and paper are the page's, and it is as wide as there is room.

    >>> themed('<?xml?><svg width="72pt" height="36pt" id="f_1"><g id="axes_1" style="stroke: #222222"/></svg>')
    '<svg width="96" height="48" ><g  style="stroke: currentColor"/></svg>'
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'id="[\w.]+_\d+"', "", svg)  # unused, and the same in every figure
    svg = re.sub(
        r'<svg(.*?)width="([\d.]+)pt" height="([\d.]+)pt"',
        lambda found: f'<svg{found[1]}width="{_pixels(found[2])}" height="{_pixels(found[3])}"',
        svg,
        count=1,
        flags=re.DOTALL,
    )
    svg = svg.replace("fill: #ffffff", "fill: none").replace("stroke: #ffffff", "stroke: var(--paper)")
    return svg.replace(INK, "currentColor").replace(SOFT, "var(--soft)").replace(FAINT, "var(--line)").strip()


def _pixels(points: str) -> str:
    return f"{float(points) * 96 / 72:.0f}"
