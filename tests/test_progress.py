"""Results in a file or a pipe."""

import os
import subprocess
import sys

import pytest


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
