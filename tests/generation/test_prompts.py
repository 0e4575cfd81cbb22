"""What a model is asked for a problem, and what becomes of its text."""

import pytest

from flextune.generation.prompts import question
from flextune.generation.settings import Generation
from flextune.tasks import Problem, load_benchmark, message

PLAN = Generation(chain_of_thought=True)
PYTHON = Problem("p", "python", 'def f(x):\n    """Double it."""\n', "assert f(1) == 2\n", ("\ndef", "\n#"))
JAVA = Problem("j", "java", "class Problem {\n    public static long f(long x) {\n", "    }\n}\n", ("\n    }\n",))
LUA = Problem("l", "lua", "-- Double it.\nlocal function f(x)\n", "", ("\nlocal", "\nfunction", "\n--", "\n\n"))
RUBY = Problem("r", "ruby", "# Double it.\ndef f(x)\n", "", ("\nclass", "\ndef", "\n#", "\n\n"))
MBPP = Problem("m", "python", '"""\nDouble it.\nassert f(1) == 2\n"""\n', "assert f(1) == 2\n", ("\nassert",))


def test_a_prompt_is_asked_as_it_is():
    asked = question(PYTHON, Generation())
    assert (asked.text, asked.stop, asked.chat, asked.lead) == (PYTHON.prompt, PYTHON.stop, False, "")
    assert asked.completion("    return 2 * x\n\ndef g():") == "    return 2 * x\n"


def test_a_prompt_is_asked_without_white_space_around_it():
    problem = Problem("t", "python", f"\n\n{PYTHON.prompt}  \n", "")
    asked = question(problem, Generation(strip_prompt=True))
    assert asked.text == PYTHON.prompt.rstrip()
    assert asked.completion("\n    return 2 * x") == "\n    return 2 * x"


@pytest.mark.parametrize(
    ("problem", "lead"),
    [
        (PYTHON, "    # Plan, step by step:\n    # 1."),
        (Problem("p", "python", "def f(x):\n", ""), "    # Plan, step by step:\n    # 1."),
        (MBPP, "# Plan, step by step:\n# 1."),
        (JAVA, "        // Plan, step by step:\n        // 1."),
        (LUA, "    -- Plan, step by step:\n    -- 1."),
        (RUBY, "    # Plan, step by step:\n    # 1."),
        (Problem("b", "bash", "f() {\n", "", ("\n}",)), "    # Plan, step by step:\n    # 1."),
    ],
    ids=lambda value: getattr(value, "language", ""),
)
def test_a_plan_begins_in_comments_where_the_code_will(problem, lead):
    asked = question(problem, PLAN)
    assert asked.text == problem.prompt + lead
    assert asked.lead == lead


@pytest.mark.parametrize("problem", [PYTHON, JAVA, LUA, RUBY], ids=lambda problem: problem.language)
def test_a_plan_of_two_steps_stops_at_no_stop_string(problem):
    asked = question(problem, PLAN)
    indented = asked.lead.rpartition("\n")[2].removesuffix(" 1.")
    text = f" Take it.\n{indented} 2. Double it.\n"
    assert asked.completion(text) == asked.lead + text


def test_the_lead_is_part_of_the_completion():
    asked = question(PYTHON, PLAN)
    completion = asked.completion(" Double.\n    return 2 * x\n\ndef g():")
    assert completion == "    # Plan, step by step:\n    # 1. Double.\n    return 2 * x\n"
    program = PYTHON.prompt + completion
    found = {}
    exec(program, found)
    assert found["f"](4) == 8


@pytest.mark.parametrize("strip", [False, True])
def test_a_plan_begins_on_a_line_of_its_own(strip):
    problem = PYTHON if strip else Problem("p", "python", PYTHON.prompt.rstrip(), "")
    asked = question(problem, Generation(chain_of_thought=True, strip_prompt=strip))
    assert asked.text == f"{PYTHON.prompt.rstrip()}\n    # Plan, step by step:\n    # 1."
    assert asked.text.endswith(asked.lead)
    found = {}
    exec(problem.prompt + asked.completion(" Double.\n    return 2 * x\n"), found)
    assert found["f"](4) == 8


def test_a_chat_is_asked_for_the_whole_function():
    asked = question(PYTHON, Generation(chat=True))
    assert (asked.text, asked.stop, asked.chat, asked.lead) == (message(PYTHON), (), True, "")
    reply = "Sure:\n```python\ndef f(x):\n    return 2 * x\n```\nThat was it."
    found = {}
    exec(PYTHON.prompt + asked.completion(reply), found)
    assert found["f"](4) == 8


def test_a_chat_plans_in_words():
    asked = question(PYTHON, Generation(chat=True, chain_of_thought=True))
    assert asked.text == message(PYTHON, plan=True) != message(PYTHON)
    assert asked.lead == ""


@pytest.mark.parametrize("name", ["humaneval", "humaneval-java", "humaneval-js", "humaneval-cpp", "mbpp"])
def test_no_plan_of_a_benchmark_is_cut_at_its_second_step(data, name):
    for problem in load_benchmark(name, data).problems:
        asked = question(problem, PLAN)
        text = " a\n" + asked.lead.lstrip("\n").rpartition("\n")[2].replace("1.", "2. b")
        assert asked.completion(text) == asked.lead + text
