"""Progress bars and messages: on a terminal they move, elsewhere they are silent or one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from flextune import processes

console = Console(stderr=True, highlight=False, markup=False, emoji=False)
"""Where progress and messages go: standard error. Text is shown as it is, since a path may contain `[lora]`."""

out = Console(highlight=False, markup=False, emoji=False)
"""Where results go: standard output, without markup too: for bold text print a `rich.text.Text`, or set `style`."""
if not out.is_terminal and "COLUMNS" not in os.environ:
    out.width = 120  # a file or a pipe has no width of its own, and tables need more than 80


class Step(Protocol):
    """Call it as work is done: `step(3)` moves the bar on by three."""

    def __call__(self, done: int = 1) -> None:
        """Move on."""


@contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Step]:
    """Show a bar over a piece of work of `total` steps, of which `done` were finished earlier."""
    columns = (
        TextColumn("{task.description:<44}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not (console.is_terminal and processes.leads())) as bar:
        task = bar.add_task(what, total=total, completed=done)

        def step(done: int = 1) -> None:
            bar.advance(task, done)

        yield step


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner over work whose length is unknown."""
    if not console.is_terminal:
        yield
        return
    with console.status(Text(what)):  # a string would be read as markup, whatever the console says
        yield


@cache
def say_once(message: str) -> None:
    """`say`, but only the first time that this process has the message."""
    say(message)


def say(message: str) -> None:
    """Print one line of information on standard error; of several processes only the first speaks."""
    if processes.leads():
        console.print(message, soft_wrap=True)
