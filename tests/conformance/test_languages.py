"""Every language gives the same verdicts for the same behaviour, on every layer, and no program passes by other means."""

from dataclasses import replace

import pytest

from flextune.execution import LANGUAGES, Execution, Limits, Program, execute
from flextune.execution.languages import End
from flextune.execution.toolchain import find_tool
from flextune.tasks import load_benchmark

from .languages import CASES, PARTS

LAYERS = ("bubblewrap", "native")
LIMITS = Limits(cpu_seconds=2, wall_seconds=6, memory_mb=512, output_kb=256)


def judged(language, completion, **settings):
    if find_tool(language) is None:
        pytest.skip(f"{LANGUAGES[language].tool} is not installed ({LANGUAGES[language].install})")
    prompt, tests = PARTS[language]
    return execute([Program("t", 0, language, prompt, completion, tests)], Execution(**{"limits": LIMITS, **settings}))[
        0
    ]


def test_every_language_stands_in_the_table():
    assert set(PARTS) == set(LANGUAGES)
    assert all(set(completions) == set(LANGUAGES) for completions in CASES.values())


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("case", CASES)
def test_the_same_cases_in_every_language(case, language, layer):
    limits = replace(LIMITS, memory_mb=128) if case == "memory_limit" else LIMITS
    found = judged(language, CASES[case][language], limits=limits, sandbox=layer)
    assert found.verdict == case, found.detail


@pytest.mark.parametrize("short", ["py", "java", "js", "cpp", "ts", "rs", "go", "php", "rb", "lua", "sh", "cs"])
def test_all_tests_of_multipl_e_can_report(full_data, short):
    end = End("/dev/fd/9", 3, 5)
    for problem in load_benchmark(f"humaneval-{short}", full_data).problems:
        assert "/dev/fd/9" in LANGUAGES[problem.language].report(problem.tests, end)
