"""Replies of every shape become completions that pass where the code in them does."""

import json
import re
import shutil
import textwrap

import pytest

from flextune.execution import Program, execute
from flextune.tasks import Problem, StandardInput, load_benchmark
from flextune.tasks.reply import THOUGHTS, completion_of, message

PYTHON = Problem(
    "twice",
    "python",
    'def one():\n    return 1\n\n\ndef twice(x):\n    """Twice x."""\n',
    "def check(candidate):\n    assert candidate(2) == 4\n\ncheck(twice)\n",
    ("\ndef", "\nprint"),
)
BODY = "    y = x\n    return x + y"
WHOLE = PYTHON.prompt + BODY
EXAMPLES = '\n\n# Examples\nprint(unknown)\nif __name__ == "__main__":\n    raise SystemExit(3)'
HELPED = (
    "from math import prod as p\n\nTWO = 2\n\ndef times(x):\n    return p([TWO, x])\n\ndef twice(x):\n    return {}(x)"
)
FIRST = "def twice(x):\n    return 0"
USE = "print(twice(1), twice(2), twice(3))\n" * 9


def fenced(code, language="python"):
    return f"```{language}\n{code}\n```"


PYTHON_REPLIES = {
    "body": fenced(BODY),
    "body at the left margin": fenced(textwrap.dedent(BODY)),
    "first line at the left margin": fenced(BODY.lstrip()),
    "body with a helper and examples": fenced(f"    return two(x)\n\n\ndef two(x):\n{BODY}{EXAMPLES}"),
    "body that defines check": fenced("def check(x):\n    return 2 * x\nreturn check(x)"),
    "whole": fenced(WHOLE),
    "without a language": fenced(WHOLE, ""),
    "whole with examples": fenced(WHOLE + EXAMPLES),
    "imports, constants, helpers above": fenced(HELPED.format("times") + EXAMPLES),
    "a class below": fenced("def twice(x):\n    return Two().of(x)\n\nclass Two:\n    of = lambda self, x: x + x\n\nx"),
    "helpers below": fenced(f"{HELPED.format('later')}\n\ndef later(x):\n{BODY}{EXAMPLES}"),
    "a first attempt, the answer, its use": "\n".join(
        [fenced(FIRST), "No:", fenced(WHOLE), "Use:", fenced(USE), "Bye"]
    ),
    "body and a short example": f"{fenced(BODY)}\nIt prints:\n{fenced('4', '')}",
    "a short example and the body": f"It shall print:\n{fenced('4', '')}\n{fenced(BODY)}",
    "prose": f"Let me think, `twice` is\n\n1. a def\n2. simple\n\n{fenced(WHOLE)}\n\nThat's it.",
    "reasoning": f"<think>\n{fenced(FIRST)}\nWait.\n</think>\n{fenced(BODY)}",
    "in a list": "1. Code:\n\n" + textwrap.indent(fenced(WHOLE), "   "),
    "unclosed": f"Sure.\n```python\n{WHOLE}",
    "cut in an example": f"```python\n{WHOLE}\n\nprint(twice(",
    "no fence, body": BODY,
    "no fence, whole": f"Here is the code:\n\n{WHOLE}\n\nIt doubles, doesn't it?",
    "Windows' line ends": fenced(WHOLE).replace("\n", "\r\n"),
}


def judged(problem, reply):
    return Program(problem.task_id, 0, problem.language, problem.prompt, completion_of(reply, problem), problem.tests)


@pytest.mark.parametrize("shape", PYTHON_REPLIES)
def test_python(shape):
    program = PYTHON.prompt + completion_of(PYTHON_REPLIES[shape], PYTHON) + "\n" + PYTHON.tests
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("reply", ["", "I cannot do that.", fenced("def twice(x):\n    return (\n"), "```python\n"])
def test_what_is_no_code_does_not_pass(reply):
    program = PYTHON.prompt + completion_of(reply, PYTHON) + "\n" + PYTHON.tests
    with pytest.raises((SyntaxError, AssertionError)):
        exec(program, {})


DRAFT = f"I try\n{fenced(FIRST)}\nand `</think>` ends it. Wait.\n"
TAGGED = "    # </think> [/THINK] assistantfinal\n    x += len('</think>') - 8\n    return x + x"


@pytest.mark.parametrize(
    ("begin", "end"),
    [*THOUGHTS.items(), ("analysisThe user asks", "assistantfinal"), ("", "</think>"), ("", "[/THINK]")],
)
@pytest.mark.parametrize(
    "answer", [fenced(BODY), f"\n\n{fenced(TAGGED)}\nNo `</think>` here.", WHOLE, fenced(TAGGED)[:-4]]
)
def test_what_a_model_thinks_is_no_answer(begin, end, answer):
    for draft in (DRAFT, f"{DRAFT}```python\n{FIRST}\n", f"{DRAFT}```\n{FIRST}\n", f"{DRAFT}{end}\nNo:\n{DRAFT}"):
        program = PYTHON.prompt + completion_of(f"{begin}\n{draft}{end}\n{answer}", PYTHON) + "\n" + PYTHON.tests
        exec(program, {})


@pytest.mark.parametrize("begin", [*THOUGHTS, "\n <think>", "analysisThe user asks", "<think>One.</think>\n<think>"])
@pytest.mark.parametrize("problem", [PYTHON, Problem("twice", "javascript", "function twice(x){\n", "")])
def test_a_thought_that_the_limit_cut_holds_no_answer(begin, problem):
    for draft in (DRAFT, DRAFT + "```python\n" + WHOLE, WHOLE, fenced(TAGGED)):
        assert completion_of(f"{begin}\n{draft}", problem) == ""


def test_an_answer_before_a_second_thought_counts():
    reply = f"<think>Easy.</think>\n{fenced(BODY)}\n<think>\nIs it?\n{fenced(FIRST)}"
    assert completion_of(reply, PYTHON) == BODY


def test_tags_in_an_answer_without_thoughts_do_not_cut_it():
    assert completion_of(f"{fenced(TAGGED)}\nIt leaves `</think>` and `<think>` out.", PYTHON) == TAGGED


def test_python_prompts_that_open_no_function():
    described = Problem("a", "python", '"""\nTwice x.\nassert twice(2) == 4\n"""\n', "assert twice(2) == 4\n")
    reply = f"{fenced(WHOLE + EXAMPLES)}\nTry\n{fenced('print(twice(1))')}"
    assert completion_of(reply, described) == WHOLE
    assert completion_of(fenced("twice = lambda x: 2 * x"), described) == "twice = lambda x: 2 * x"
    reads = Problem("b", "python", '"""\nTwice the input.\n"""\n', StandardInput(("2\n",), ("4\n",)))
    program = "def main():\n    print(2 * int(input()))\n\nmain()\n"
    assert completion_of(fenced(program.rstrip("\n")), reads) == program


JAVA = Problem(
    "twice",
    "java",
    "import java.util.*;\nclass Problem {\n    // Twice x. {\n    public static long twice(long x) {\n",
    "    }\n    public static void main(String[] args) {\n    assert(twice(2L) == 4L);\n    }\n\n}\n",
    ("\n    }\n",),
)
JAVA_BODY = "        if (x < 0) { // }\n    }\n        return x + x;"
MAIN = '\n    public static void main(String[] args) {\n        System.out.println("{" + twice(1));\n    }'
HELPER = "    static final long ONE = 1;\n    /** } */\n    static char help() {\n        return '}';\n    }\n"


@pytest.mark.parametrize(
    "code",
    [
        JAVA_BODY,
        f"{JAVA_BODY}\n    }}\n}}",
        f"{JAVA_BODY}\n    }}\n{MAIN}\n}}",
        f"{JAVA.prompt}{JAVA_BODY}\n    }}\n}}",
        f"import java.time.*;\n\npublic {JAVA.prompt[JAVA.prompt.index('class') :]}{JAVA_BODY}\n    }}\n{MAIN}\n}}",
        f"public static long twice( long x )\n{{\n{JAVA_BODY}\n}}",
    ],
)
def test_the_body_of_a_java_method(code):
    for end in ("\n```\nDone {", ""):
        assert completion_of(f"So:\n```java\n{code}{end}", JAVA) == JAVA_BODY


def test_java_helpers_follow_the_method():
    whole = JAVA.prompt.replace("    //", f"{MAIN}\n{HELPER}    //") + f"{JAVA_BODY}\n    }}\n    static int n;\n}}"
    completion = completion_of(fenced(whole, "java"), JAVA)
    assert completion.startswith(f"{JAVA_BODY}\n}}\n")
    assert completion.endswith("static void reply() {\n")
    assert "main" not in completion
    assert "static final long ONE = 1;" in completion
    assert "static int n;" in completion
    program = JAVA.prompt + completion + "\n" + JAVA.tests
    # the comment of the prompt opens one, two comments and a character close one each
    assert program.count("{") + 1 == program.count("}")


JAVASCRIPT = Problem("twice", "javascript", "// Twice x\nfunction twice(x){\n", "if (twice(2) !== 4) throw 1;\n")
TYPESCRIPT = Problem("twice", "typescript", "function twice(x: number): {[key: string]: number} {\n", "")
CPP = Problem(
    "twice", "cpp", "#include<assert.h>\nlong twice(long x) {\n", "}\nint main() {\n    assert(twice(2) == 4);\n}\n"
)
GO = Problem("twice", "go", "package twice_test\n\nfunc twice(x int) int {\n", "func TestTwice() {}\n")
RUST = Problem("twice", "rust", "use std::io;\nfn twice(x: i64) -> i64 {\n", "}\n\nfn main() {}\n")
LUA = Problem("twice", "lua", "-- Twice x\nlocal function twice(x)\n", "lu = 1\n", ("\nlocal", "\n\n"))
BASH = Problem("twice", "bash", "# Twice\ntwice() {\n", "}\n\ncandidate() {\n", ("\n}",))
CASES = [
    (JAVASCRIPT, "  return 2 * x;\n}", "  return 2 * x;\n}\n"),
    (JAVASCRIPT, "  return 2 * x;", "  return 2 * x;\n}\n"),
    (JAVASCRIPT, "const twice = (x) => {\n  return `}` * x;\n};\nconsole.log(1);", "  return `}` * x;\n}\n"),
    (
        JAVASCRIPT,
        "const k = 2;\nfunction twice(x) {\n  return f(x);\n}\n"
        "console.log(0);\nconst f = (x) => {\n  return k * x;\n};\ng({});",
        "  return f(x);\n}\nconst k = 2;\nconst f = (x) => {\n  return k * x;\n}\n",
    ),
    (CPP, "long twice(long x) {\n    return 2 * x;\n}\n", "    return 2 * x;"),
    (
        CPP,
        "#include <map>\nusing namespace std;\nlong twice(long y) {\n    return 2 * y;\n}",
        "    throw 0;\n}\n#include <map>\nnamespace reply {\nusing namespace std;\nlong twice(long y) {\n"
        "    return 2 * y;\n}\n#define twice reply::twice\n",
    ),
    (
        CPP,
        "long twice(long y) {\n    return 2 * y;\n}",
        "    throw 0;\n}\nnamespace reply {\nlong twice(long y) {\n    return 2 * y;\n}\n#define twice reply::twice\n",
    ),
    (TYPESCRIPT, f"{TYPESCRIPT.prompt}  return {{a: 2 * x}};\n}}", "  return {a: 2 * x};\n}\n"),
    (LUA, "  local y = x\n\n  return x + y", "  local y = x\n\n  return x + y\n"),
    (
        GO,
        'package main\n\nimport (\n\t"fmt"\n)\n\nfunc twice(x int) int {\n\treturn h(x)\n}\n\n'
        "func h(x int) int {\n\treturn x\n}\n\n"
        "func main() {\n\tfmt.Println()\n}",
        "\treturn h(x)\n}\nfunc h(x int) int {\n\treturn x\n}\n",
    ),
    (
        RUST,
        "use std::io;\nuse std::fmt;\nfn h<'a>(x: &'a i64) -> i64 { 2 * x }\n"
        "fn twice(x: i64) -> i64 {\n    let s: &'static str = { let _ = '}'; s };\n    h(&x)\n}",
        "    let s: &'static str = { let _ = '}'; s };\n    h(&x)\n}\n"
        "use std::fmt;\nfn h<'a>(x: &'a i64) -> i64 { 2 * x }\nfn reply() {\n",
    ),
    (
        LUA,
        "function twice(x)\n  local y = x\n\n  return x + y\nend\n\nprint(twice(1))",
        "  local y = x\n\n  return x + y\nend",
    ),
    (LUA, "  return 2 * x\nend\nprint(1)", "  return 2 * x\nend"),
    (
        BASH,
        "#!/bin/bash\n\ntwice() {\n    x=$1\n\n    echo $((2 * x))\n}\n\ntwice 1",
        "    x=$1\n\n    echo $((2 * x))",
    ),
]


@pytest.mark.parametrize(("problem", "code", "completion"), CASES)
def test_other_languages(problem, code, completion):
    reply = f"Sure {{:\n{fenced(code, problem.language)}\nDone }}."
    found = completion_of(reply, problem)
    if "\n\n" not in completion:
        found = re.sub(r"\n\n+", "\n", found)
    assert found == completion


def test_what_follows_the_function_without_a_fence_is_no_code():
    assert completion_of(f"Sure:\n\n{GO.prompt}\treturn 2 * x\n}}\n\nIt doubles.", GO) == "\treturn 2 * x\n}\n"


def test_a_prompt_without_a_signature_takes_the_block_as_it_is():
    problem = Problem("a", "java", "// Read a number.\n", StandardInput(("1",), ("2",)))
    assert completion_of(f"Look:\n{fenced('class A {}', 'java')}\n", problem) == "class A {}\n"
    asked = Problem("a", "java", "// A class A\n", "class B {}\n")
    assert completion_of(f"Look:\n{fenced('class A {}', 'java')}\n", asked) == "class A {}\n"


def test_the_message_has_the_prompt_and_asks_for_one_block():
    asked, planned = message(JAVA), message(JAVA, plan=True)
    for text in (asked, planned):
        assert f"```java\n{JAVA.prompt.rstrip()}\n```" in text
        assert "one fenced code block" in text
    assert "step by step" in planned
    assert "step by step" not in asked


# No verdicts of these replies are published. Replayed by the rules of the repository that they come from (evaluate.py
# of Qwen2.5-Coder), 71 pass, with our judge as with plain javac and java. By ours 95 do: those 71, and these 24, all
# for one reason: each is the body and after it a `main` with ` name(…)`, which those rules, looking for
# `public static .*? name(…)` across lines, take for the signature; they leave the prompt out, and nothing compiles.
ONLY_OURS = {
    *("HumanEval_0_has_close_elements", "HumanEval_5_intersperse", "HumanEval_7_filter_by_substring"),
    *("HumanEval_8_sum_product", "HumanEval_9_rolling_max", "HumanEval_14_all_prefixes", "HumanEval_17_parse_music"),
    *("HumanEval_18_how_many_times", "HumanEval_21_rescale_to_unit", "HumanEval_26_remove_duplicates"),
    *("HumanEval_29_filter_by_prefix", "HumanEval_30_get_positive", "HumanEval_34_unique"),
    *("HumanEval_41_car_race_collision", "HumanEval_42_incr_list", "HumanEval_47_median"),
    *("HumanEval_52_below_threshold", "HumanEval_58_common", "HumanEval_62_derivative"),
    *("HumanEval_81_numerical_letter_grade", "HumanEval_100_make_a_pile", "HumanEval_113_odd_count"),
    *("HumanEval_149_sorted_list_sum", "HumanEval_152_compare"),
}


@pytest.mark.skipif(shutil.which("javac") is None, reason="no javac")
def test_published_java_replies(full_data):
    problems = {problem.task_id: problem for problem in load_benchmark("humaneval-java", full_data).problems}
    file = full_data / "completions" / "multipl-e" / "qwen2-instruct-chat.java.jsonl"
    replies = {row["name"]: row["generation"] for row in map(json.loads, file.read_text().splitlines())}
    verdicts = execute([judged(problems[name], reply) for name, reply in replies.items()])
    passed = {verdict.task_id for verdict in verdicts if verdict.verdict == "passed"}
    assert len(verdicts) == 158
    assert len(passed) == 95
    mistaken = {
        name
        for name, reply in replies.items()
        if (asked := re.search(r"assert\((\w+)\(", problems[name].tests))
        and re.search(rf"public static void main\(.*? {asked[1]}\(", reply, flags=re.S)
        and "class Problem" not in reply
    }
    assert passed & mistaken == ONLY_OURS
