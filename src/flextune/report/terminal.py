"""The blocks of a page in the terminal: tables and sentences."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text as RichText

from flextune.report.comparison import printable
from flextune.report.page import Table, Text


def shown(blocks: Sequence[Table | Text]) -> Group:
    """Tables with a line between them, and sentences one below the other."""
    return Group(*_shown(blocks))


def _shown(blocks: Sequence[Table | Text]) -> Iterator[RenderableType]:
    for number, block in enumerate(blocks):
        if number and isinstance(block, Table) | isinstance(blocks[number - 1], Table):
            yield RichText()
        yield _table(block) if isinstance(block, Table) else RichText(printable(block.text))


def _table(block: Table) -> RichTable:
    table = RichTable(title=block.title or None, title_justify="left", box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for number, name in enumerate(block.left):
        table.add_column(name, overflow="fold", no_wrap=not number)  # where there is little room, nothing is left out
    for name in block.right:
        table.add_column(name, justify="right", overflow="fold")
    for row in block.rows:
        table.add_row(*(RichText(printable(cell if isinstance(cell, str) else cell.text)) for cell in row))
    return table
