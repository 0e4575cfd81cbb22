"""Tables in the terminal leave nothing out where there is little room."""

from collections import Counter

from rich.console import Console

from flextune.report.page import Table
from flextune.report.terminal import shown


def letters(text):
    return Counter(letter for letter in text if letter.isalnum())


def test_a_narrow_table_is_folded_and_not_cut():
    row = ["table-4-comprehensive", "humaneval-java, unmerged", "38.4 %", "40.1 (32.5 to 47.5)"]
    console = Console(width=50)
    with console.capture() as text:
        console.print(shown([Table("", ["row", "measured"], ["paper", "here"], [row])]))
    assert "…" not in text.get()
    assert "table-4-comprehensive" in text.get()  # the name stays in one piece
    assert letters(text.get()) == letters("".join(["row", "measured", "paper", "here", *row]))
