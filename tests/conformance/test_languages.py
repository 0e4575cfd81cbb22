"""Every language gives the same verdicts for the same behaviour, on every layer, and no program passes by other means."""

from dataclasses import replace

import pytest

from flextune.execution import LANGUAGES, Execution, Limits, Program, execute, sandbox
from flextune.execution.languages import End
from flextune.execution.sandbox import bubblewrap
from flextune.execution.toolchain import find_tool
from flextune.tasks import load_benchmark

from .languages import CASES, PARTS

LAYERS = ("bubblewrap", "native")
LIMITS = Limits(cpu_seconds=2, wall_seconds=6, memory_mb=512, output_kb=256)


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
    assert set(PARTS) == set(LANGUAGES)
    assert all(set(completions) == set(LANGUAGES) for completions in CASES.values())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_cases_in_every_language(language, layer):
    cases = [case for case in CASES if case != "memory_limit"]
    assert judged(language, cases, sandbox=layer) == expected(cases)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_memory_is_limited_in_every_language(language, layer):
    limits = replace(LIMITS, memory_mb=128)
    assert judged(language, ["memory_limit"], sandbox=layer, limits=limits) == expected(["memory_limit"])


@pytest.mark.parametrize("language", ["python", "javascript", "cpp"])
def test_a_kernel_without_landlock(language, monkeypatch):
    """Then each command gets a bubblewrap of its own."""
    monkeypatch.setattr(sandbox, "_layer", lambda name, disk_mb: bubblewrap.Bubblewrap(None, disk_mb))
    cases = ["passed", "wrong_answer", "early_exit", "timeout"]
    assert judged(language, cases, sandbox="bubblewrap") == expected(cases)


@pytest.mark.parametrize("short", ["py", "java", "js", "cpp", "ts", "rs", "go", "php", "rb", "lua", "sh", "cs"])
def test_all_tests_of_multipl_e_can_report(full_data, short):
    end = End("/dev/fd/9", 3, 5)
    for problem in load_benchmark(f"humaneval-{short}", full_data).problems:
        assert "/dev/fd/9" in LANGUAGES[problem.language].report(problem.tests, end)
