"""Every language gives the same verdicts for the same behaviour, on every layer, and no program passes by other means."""

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import flextune
from flextune.execution import LANGUAGES, Execution, Limits, Program, execute, sandbox
from flextune.execution.sandbox import bubblewrap
from flextune.execution.toolchain import find_tool
from flextune.languages import End
from flextune.tasks import load_benchmark

from .languages import CASES, PARTS

LAYERS = ("bubblewrap", "native")
LIMITS = Limits(cpu_seconds=60, wall_seconds=300, compile_seconds=120, memory_mb=512, output_kb=256)
"""Far more time than a program that ends takes, however busy the machine is."""
ENDLESS = replace(LIMITS, cpu_seconds=2)
"""What an endless program gets."""


def judged(language, cases, **settings):
    """The verdict of each case, judged in one call."""
    if find_tool(language) is None:
        pytest.skip(f"{LANGUAGES[language].tool} is not installed ({LANGUAGES[language].install})")
    prompt, tests = PARTS[language]
    programs = [Program(case, 0, language, prompt, CASES[case][language], tests) for case in cases]
    found = execute(programs, Execution(**{"limits": LIMITS, **settings}))
    return {v.task_id: (v.verdict, v.detail if v.verdict != v.task_id else "") for v in found}


def expected(cases):
    return {case: (case, "") for case in cases}


def test_every_language_stands_in_the_table():
    assert all(set(completions) == set(LANGUAGES) for completions in CASES.values())


def test_nothing_else_lists_languages():
    """A list of three elsewhere would have to be changed with each new language."""
    source = Path(flextune.__file__).parent
    for path in source.rglob("*.py"):
        if source / "languages" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple | ast.Set | ast.Dict):
                parts = [*node.keys, *node.values] if isinstance(node, ast.Dict) else node.elts
                named = {part.value for part in parts if isinstance(part, ast.Constant)}
                assert len(named & set(LANGUAGES)) < 3, f"{path}, line {node.lineno}"


def test_packages_are_known_to_make():
    """By a Python that has nothing installed, as before there is a .venv."""
    root = Path(__file__).parent.parent.parent
    script = [sys.executable, "-I", "-S", root / "scripts" / "packages.py"]
    names = subprocess.run([*script, "--names"], capture_output=True, text=True, check=True).stdout.split()
    assert {"rustc", "node-typescript", "mono-mcs", "bc"} <= set(names)
    assert "default-jdk-headless" not in names  # the demo needs it
    rows = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    assert all(len(row.split("\t")) == 3 for row in rows)
    assert {row.split("\t")[0] for row in rows} == {p.name for known in LANGUAGES.values() for p in known.packages}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_cases_in_every_language(language, layer):
    cases = [case for case in CASES if case not in ("memory_limit", "timeout")]
    assert judged(language, cases, sandbox=layer) == expected(cases)
    assert judged(language, ["timeout"], sandbox=layer, limits=ENDLESS) == expected(["timeout"])


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_memory_is_limited_in_every_language(language, layer):
    limits = replace(LIMITS, memory_mb=128)
    assert judged(language, ["memory_limit"], sandbox=layer, limits=limits) == expected(["memory_limit"])


@pytest.mark.parametrize("language", ["python", "javascript", "cpp"])
def test_a_kernel_without_landlock(language, monkeypatch):
    """Then each command gets a bubblewrap of its own."""
    monkeypatch.setattr(sandbox, "_layer", lambda name, disk_mb: bubblewrap.Bubblewrap(None, disk_mb))
    cases = ["passed", "wrong_answer", "early_exit"]
    assert judged(language, cases, sandbox="bubblewrap") == expected(cases)
    assert judged(language, ["timeout"], sandbox="bubblewrap", limits=ENDLESS) == expected(["timeout"])


@pytest.mark.parametrize("short", ["py", "java", "js", "cpp", "ts", "rs", "go", "php", "rb", "lua", "sh", "cs"])
def test_all_tests_of_multipl_e_can_report(full_data, short):
    end = End("/dev/fd/9", 3, 5)
    for problem in load_benchmark(f"humaneval-{short}", full_data).problems:
        assert "/dev/fd/9" in LANGUAGES[problem.language].report(problem.tests, end)
