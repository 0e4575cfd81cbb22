"""Results in a file or a pipe, and text that is shown as it is."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table

import flextune
from flextune import progress

TEXT = "x[lora] [/lora] [bold]y[/bold] :smile:"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "nothere.yaml"], ""),  # used wrongly, which the first process says for all
        (["merge", "nothere"], "flextune, process 1: nothere is neither"),
    ],
)
def test_a_process_that_follows_says_why_it_failed(arguments, expected):
    environment = os.environ | {"RANK": "1", "WORLD_SIZE": "2"}
    found = subprocess.run(
        [sys.executable, "-m", "flextune", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert found.stderr.startswith(expected) if expected else not found.stderr


@pytest.mark.parametrize(("columns", "width"), [(None, "120"), ("90", "90")])
def test_a_pipe_is_as_wide_as_tables_need(columns, width):
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    environment |= {"COLUMNS": columns} if columns else {}
    command = [sys.executable, "-c", "from flextune.progress import out; print(out.width)"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == width


@pytest.mark.parametrize("name", ["out", "console"])
def test_what_is_printed_is_no_markup(name, capsys):
    console = getattr(progress, name)
    table = Table(title=f"{TEXT} 1", caption=f"{TEXT} 2")
    table.add_column(f"{TEXT} 3")
    table.add_row(f"{TEXT} 4")
    console.print(table, f"{TEXT} 5")
    captured = capsys.readouterr()
    printed = captured.out if name == "out" else captured.err
    assert all(f"{TEXT} {number}" in printed for number in range(1, 6))


def test_what_moves_on_a_terminal_is_no_markup():
    show = (
        "from flextune.progress import out, progress, say, waiting\n"
        f"with waiting({TEXT!r} + ' 1'): pass\n"
        f"with progress({TEXT!r} + ' 2', 1) as step: step()\n"
        f"say({TEXT!r} + ' 3')\n"
    )
    terminal = os.environ | {"FORCE_COLOR": "1", "COLUMNS": "120", "TERM": "xterm"}
    found = subprocess.run([sys.executable, "-c", show], env=terminal, capture_output=True, text=True, check=True)
    assert all(f"{TEXT} {number}" in found.stderr for number in range(1, 4)), found.stderr


TAG = re.compile(r"\[/?(?:bold|dim|italic|underline|red|green|yellow|blue|magenta|cyan|white)\]")


def markup(node):
    """Whether a part of a program is rich's markup, or has text read as such."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and TAG.search(node.value)
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    options = {option.arg: option.value for option in node.keywords}
    off = "markup" in options and ast.unparse(options["markup"]) == "False"
    if name in ("Console", "TextColumn") or "markup" in options:
        return not off
    if ast.unparse(node.func) == "console.status":  # it and a panel read a string as markup, whatever the console says
        return not ast.unparse(node.args[0]).startswith("Text(")
    return name == "from_markup" or (name == "Panel" and isinstance(options.get("title"), ast.Constant | ast.JoinedStr))


def test_no_source_has_markup():
    sources = list(Path(flextune.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    found = [
        (path.name, node.lineno) for path in sources for node in ast.walk(ast.parse(path.read_text())) if markup(node)
    ]
    assert found == []
