"""A page that opens from disk: sections of figures, tables and programs, written as one folder.

    index.html             the page
    figures/<name>.svg     each figure, and <name>.csv with its data
    programs/<n>.js        what models wrote; read when a problem is opened
    lib/                   page.js, highlight.js; plotly.js where something can be turned

Whatever is shown is data: the template escapes it, scripts put it into the page as text, and the page's
Content-Security-Policy allows no script but those in the folder and no request to anywhere.
"""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flextune.files import write_atomic
from flextune.report.figures import as_svg, themed
from flextune.report.programs import Programs
from flextune.report.results import slug

NOTHING = "–"
LIBRARIES = ("page.js", "highlight.min.js", "highlight.LICENSE")


@dataclass(frozen=True)
class Link:
    """A cell that leads to a file."""

    text: str
    path: Path


def link(text: str, path: Path) -> Link | str:
    """A cell that leads to a file if it is there."""
    return Link(text, path) if path.exists() else NOTHING


@dataclass(frozen=True)
class Card:
    """One finding: where, how much, how sure; `side` is `more`, `fewer` or empty."""

    place: str
    value: str
    says: str
    side: str = ""


@dataclass(frozen=True)
class Cards:
    """Findings side by side."""

    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Text:
    """A paragraph; `soft` for what is beside the point."""

    text: str
    soft: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells: first those of `left`, then the numbers of `right`."""

    title: str
    left: Sequence[str]
    right: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    says: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Figure:
    """A drawing with its data.

    Args:
        name: Of its files.
        title: What is drawn.
        says: A sentence on what to see.
        alt: What it shows, for who cannot see it.
        drawing: A `matplotlib.figure.Figure`.
        rows: Its data; the keys of the first row are the columns.
        paper: Which figure of the paper it stands for, such as `Figure 7`.
        turned: The same in three dimensions, as data and layout of Plotly.
    """

    name: str
    title: str
    says: str
    alt: str
    drawing: Any
    rows: Sequence[Mapping[str, Any]]
    paper: str = ""
    turned: Mapping[str, Any] | None = None
    kind: ClassVar[str] = "figure"

    @cached_property
    def svg(self) -> str:
        """The file."""
        return as_svg(self.drawing, self.name)

    @property
    def inline(self) -> Markup:
        """The drawing in the page, in the colours of its theme; what stands in it was escaped when it was drawn."""
        return Markup(themed(self.svg))  # noqa: S704

    @property
    def csv(self) -> str:
        """The data."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        return text.getvalue()


@dataclass(frozen=True)
class Code:
    """A file to look at on demand."""

    title: str
    text: str
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Section:
    """A tab of the page."""

    title: str
    blocks: Sequence[Cards | Text | Table | Figure | Code | Programs] = ()

    @property
    def slug(self) -> str:
        """Its name in an address."""
        return slug(self.title)


@dataclass(frozen=True)
class Page:
    """All of it."""

    title: str
    subtitle: str
    sections: Sequence[Section]
    under_way: bool = False
    """More is to come: a page that is open reads itself again."""
    figures: Sequence[Figure] = field(init=False)
    programs: Sequence[Programs] = field(init=False)

    def __post_init__(self) -> None:
        """Sort the blocks."""
        blocks = [block for section in self.sections for block in section.blocks]
        object.__setattr__(self, "figures", [block for block in blocks if isinstance(block, Figure)])
        object.__setattr__(self, "programs", [block for block in blocks if isinstance(block, Programs)])


def write_page(page: Page, folder: str | Path) -> Path:
    """Write the page with all that belongs to it; returns the path of `index.html`.

    Files are named relative to the folder, so that a run can be moved with its page.
    """
    folder = Path(folder)
    for figure in page.figures:
        write_atomic(folder / "figures" / f"{figure.name}.svg", figure.svg)
        write_atomic(folder / "figures" / f"{figure.name}.csv", figure.csv)
    turned = [figure for figure in page.figures if figure.turned]
    plotly = bool(turned) and _copy_plotly(folder / "lib")
    for figure in turned if plotly else ():
        content = json.dumps([figure.name, figure.turned], allow_nan=False)
        write_atomic(folder / "figures" / f"{figure.name}.js", f"turn(...{content});\n")
    for programs in page.programs:
        for name, content in programs.chunks():
            write_atomic(folder / "programs" / name, content)
    with as_file(files("flextune") / "report" / "lib") as libraries:
        for name in LIBRARIES:
            write_atomic(folder / "lib" / name, (libraries / name).read_bytes())
    environment = Environment(
        loader=PackageLoader("flextune.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["pair"] = lambda value: (value, value)
    environment.globals["relative"] = lambda path: Path(os.path.relpath(path, folder)).as_posix()
    path = folder / "index.html"
    write_atomic(path, environment.get_template("page.html.j2").render(page=page, plotly=plotly))
    return path


def write_figures(page: Page, folder: str | Path, form: str) -> list[Path]:
    """Write only the figures, as `png` (200 dots per inch) or `pdf`; returns their paths."""
    paths = []
    for figure in page.figures:
        content = io.BytesIO()
        figure.drawing.savefig(content, format=form, dpi=200, metadata={} if form == "png" else {"CreationDate": None})
        paths.append(Path(folder) / f"{figure.name}.{form}")
        write_atomic(paths[-1], content.getvalue())
    return paths


def _copy_plotly(folder: Path) -> bool:
    """Put Plotly's script beside the page; false if it is not installed."""
    try:
        script = files("plotly") / "package_data" / "plotly.min.js"
    except ModuleNotFoundError:
        return False
    write_atomic(folder / "plotly.min.js", script.read_bytes())
    return True
