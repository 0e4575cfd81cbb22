import re
from dataclasses import replace

import pytest

from flextune.errors import FlextuneError
from flextune.execution import LANGUAGES, Execution, Program, execute
from flextune.execution.toolchain import find_tool
from flextune.tasks import Problem, load_benchmark, self_tests

PYTHON = ("humaneval", "humaneval-py", "humaneval-x-python", "basics-python")
BRACED = ("humaneval-java", "mbpp-java", "humaneval-js", "humaneval-cpp", "basics-java", "basics-javascript")
REFUSED = ("humaneval-x-java", "humaneval-x-js", "humaneval-x-cpp", "apps")
TWICE = {
    "python": Problem("t", "python", "def twice(x: int) -> int:\n", "def check(candidate):\n    pass\ncheck(twice)\n"),
    "java": Problem(
        "t",
        "java",
        "class Problem {\n    public static long twice(long x) {\n",
        "    }\n    public static void main(String[] args) {\n    assert(twice((4l)) == (8l));\n    }\n\n}\n",
    ),
    "javascript": Problem(
        "t",
        "javascript",
        "function twice(x){\n",
        "const assert = require('node:assert');\n\n\nfunction test() {\n  let candidate = twice;\n"
        "  assert.deepEqual(candidate(4),8);\n}\n\ntest();",
    ),
    "cpp": Problem(
        "t",
        "cpp",
        "#include<assert.h>\n#include<stdlib.h>\n#include<vector>\nlong twice(long x) {\n",
        "}\nint main() {\n    auto candidate = twice;\n    assert(candidate((4)) == (8));\n}\n",
    ),
}
TWICE["typescript"] = replace(
    TWICE["javascript"],
    language="typescript",
    prompt="function twice(x: number): number {\n",
    tests="declare var require: any;\n" + str(TWICE["javascript"].tests),
)


def mbpp(tests, prompt=None):
    return Problem("m", "python", prompt or f'"""\nDo it.\n{tests}\n"""\n', f"{tests}\n")


def test_a_prompt_in_python(data):
    problem = load_benchmark("humaneval", data).problems[0]
    head = "    pass\n\n# check that `has_close_elements` is right, with several different inputs\n"
    assert self_tests.test_prompt(problem) == problem.prompt + head + "assert has_close_elements("


def test_a_prompt_in_java(data):
    problem = load_benchmark("humaneval-java", data).problems[0]
    assert self_tests.test_prompt(problem) == problem.prompt + (
        "        // left out here\n    }\n    public static void main(String[] args) {\n"
        "    // check that `strlen` is right, with several different inputs\n    assert(strlen("
    )


def test_a_prompt_of_mbpp_has_lost_the_tests(data):
    problem = load_benchmark("mbpp", data).problems[0]
    assert self_tests.test_prompt(problem) == (
        '"""\nWrite a python function to remove first and last occurrence of a given character from the string.\n"""\n'
        "def remove_Occ(a, b):\n    pass\n\n"
        "# check that `remove_Occ` is right, with several different inputs\nassert remove_Occ("
    )


@pytest.mark.parametrize("name", PYTHON + BRACED)
def test_what_follows_the_problem_is_the_same_for_all_problems(data, name):
    assert_nothing_leaks(load_benchmark(name, data).problems)


@pytest.mark.parametrize(
    "name", ["humaneval-java", "mbpp-java", "humaneval-js", "mbpp-js", "humaneval-ts", "humaneval-cpp", "mbpp-cpp"]
)
def test_nothing_leaks_in_the_whole_benchmark(full_data, name):
    assert_nothing_leaks(load_benchmark(name, full_data).problems)


def assert_nothing_leaks(problems):
    """The text after the problem is the same for all, but for the name: so it has no value of any one's tests."""
    added = set()
    for problem in problems:
        prompt = self_tests.test_prompt(problem)
        assert prompt.startswith(problem.prompt.rstrip())
        asked = re.search(r"check that `(\w+)`", prompt)[1]
        assert re.search(rf"\b{asked}\b", problem.prompt)
        rest = prompt.removeprefix(problem.prompt.rstrip()).lstrip()
        added.add(re.sub(rf"\b{asked}\b", "F", rest))
    assert len(added) == 1
    assert len(re.findall(r"\d", added.pop())) == 0


@pytest.mark.parametrize("name", ["mbpp", "mbpp-validation"])
def test_no_line_of_mbpps_tests_is_shown(data, name):
    for problem in load_benchmark(name, data).problems:
        prompt = self_tests.test_prompt(problem)
        lines = [line.strip() for line in problem.tests.splitlines() if line.strip()]
        assert lines
        assert not [line for line in lines if line in prompt]
        assert not [value for line in lines for value in re.findall(r'"\w+"|\d+', line) if value in prompt]


@pytest.mark.parametrize(
    ("tests", "head"),
    [
        ("assert set(f((1, 2), [3])) == set([12])\nassert set(f(3, 4)) == {34}", "def f(a, b):"),
        ("assert math.isclose(f(1.5), 2.5)", "def f(a):"),
        ("assert not f(17)\nassert f(18, 19)", "def f(*arguments):"),
        ("assert f([\n    17,\n    18,\n]) == 19", "def f(a):"),
        ("class Pair:\n    n = 17\nassert f(Pair(), 18) == 19\nassert f(Pair(), 20) == 21", "def f(a, b):"),
    ],
)
def test_mbpps_forms(tests, head):
    prompt = self_tests.test_prompt(mbpp(tests))
    assert prompt.startswith(f'"""\nDo it.\n"""\n{head}\n    pass\n\n# check')
    assert not re.search(r"\d", prompt)


@pytest.mark.parametrize(
    "problem",
    [
        mbpp("assert f(1) == g(1)\nassert g(2) == f(3)"),  # which of the two is asked?
        mbpp("assert f(1) == 2", '"""\nDo it, with no tests.\n"""\n'),
        Problem("t", "python", 'def f(x):\n    """assert f(1) == 2"""\n', "assert f(1) == 2\n"),
        Problem("t", "python", "class A:\n    def f(self):\n", "assert A().f() == 2\n"),
        Problem("t", "python", "def f(x:\n", ""),
        replace(TWICE["java"], tests=TWICE["java"].tests.replace("{\n", "{\n    long known = 8l;\n")),
        replace(TWICE["cpp"], prompt="long thrice(long x) {\n"),
        replace(TWICE["cpp"], tests=TWICE["cpp"].tests + "int known = 8;\n"),
        replace(TWICE["java"], language="ruby"),
    ],
)
def test_what_cannot_be_asked_is_refused(problem):
    assert self_tests.test_prompt(problem) is None
    with pytest.raises(FlextuneError, match="cannot be asked for tests"):
        self_tests.written_tests("1) == 2\n", problem)
    with pytest.raises(FlextuneError, match="cannot be asked for tests"):
        self_tests.program_tests(problem, "assert f(1) == 2")


@pytest.mark.parametrize("name", REFUSED)
def test_benchmarks_that_are_refused(data, name):
    assert {self_tests.test_prompt(problem) for problem in load_benchmark(name, data).problems} == {None}


@pytest.mark.parametrize("indent", ["    ", "  ", "\t"])
def test_the_placeholder_stands_where_the_body_does(indent):
    problem = Problem("t", "python", f'def f(x):\n{indent}"""Doc."""', "")
    assert self_tests.test_prompt(problem).startswith(f'def f(x):\n{indent}"""Doc."""\n{indent}pass\n')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1) == 2\n", ["assert twice(1) == 2"]),
        ("1) == 2", []),  # may have been cut
        ("1) == 2\nassert twice(2) == 4\nassert twice(3) ==", ["assert twice(1) == 2", "assert twice(2) == 4"]),
        ("1) == 2\nassert twice(2) == 4\ndef twice(x):\n", ["assert twice(1) == 2", "assert twice(2) == 4"]),
        ("1) == 2  # small\n\n# large\nassert twice(9) == 18\n", ["assert twice(1) == 2", "assert twice(9) == 18"]),
        ("\n    1,\n) == 2\nassert twice(2) == 4\n", ["assert twice(\n    1,\n) == 2", "assert twice(2) == 4"]),
        ("1) == == 2\nassert twice(2) == 4\n", ["assert twice(2) == 4"]),
        ("1) == 2\nassert thrice(1) == 3\nassert twice\nassert 2, twice(1)\n", ["assert twice(1) == 2"]),
        ("1) == 2; import os\nassert isinstance(twice(1), int)\n", ["assert isinstance(twice(1), int)"]),
        ("1)==2\nassert twice( 1 ) == 2\n", ["assert twice(1)==2"]),
        ("'a b') == 2\nassert twice('ab') == 2\n", ["assert twice('a b') == 2", "assert twice('ab') == 2"]),
        ("1) == 2\n    assert twice(2) == 4\n", ["assert twice(1) == 2", "assert twice(2) == 4"]),
        ("", []),
        ("(" * 500 + "\n", []),
    ],
)
def test_assertions_in_python(text, expected):
    assert self_tests.written_tests(text, TWICE["python"]) == expected


def test_the_first_few_assertions_count():
    text = "0) == 0\n" + "".join(f"assert twice({n // 2}) == {n // 2 * 2}\n" for n in range(20))
    expected = [f"assert twice({n}) == {2 * n}" for n in range(self_tests.MOST)]
    assert self_tests.written_tests(text, TWICE["python"]) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("java", "1l) == 2l);\n    assert(twice(2l) ==", ["assert(twice(1l) == 2l);"]),
        ("java", '1l) == 2l);\n    assert twice(2l) == 4l : ";";\n    }\n}\n', [None, 'assert twice(2l) == 4l : ";";']),
        ("java", "1l) == 2l)\n    assert(twice(2l) == 4l);\n", ["assert(twice(2l) == 4l);"]),
        ("java", "1l) == 2l));\n    assert(twice(2l) == 4l);\n", ["assert(twice(2l) == 4l);"]),
        ("java", "1l) == '\"');  // ;\n    assert(thrice(2l) == 4l);\n", ["assert(twice(1l) == '\"');"]),
        ("java", "1l)==2l);\n    assert(twice(1l) == 2l);\n", ["assert(twice(1l)==2l);"]),
        ("java", "1l) == 2l);\n    }\n    assert(twice(2l) == 4l);\n", [None]),  # after main
        ("javascript", "1), 2);\n  assert.equal(twice(2), 4)\n  assert.ok(1);\n", [None, "assert.equal(twice(2), 4)"]),
        ("javascript", "1), [\n    2\n  ]);\n}\n", ["assert.deepEqual(candidate(1), [\n    2\n  ]);"]),
        ("javascript", "1), 2);\n  assert.deepEqual(candidate(1), 2)\n}", ["assert.deepEqual(candidate(1), 2);"]),
        ("javascript", "`;)`), 2);\n", ["assert.deepEqual(candidate(`;)`), 2);"]),
        (
            "cpp",
            "{1, 2}) == 2);\n    assert(candidate(2) /* ; */ == 4);\n}",
            [None, "assert(candidate(2) /* ; */ == 4);"],
        ),
        ("cpp", '"a\n") == 2);\n', []),
    ],
)
def test_assertions_in_other_languages(language, text, expected):
    first = self_tests.test_prompt(TWICE[language]).rpartition("\n")[2].strip() + text.split("\n")[0]
    expected = [first if test is None else test for test in expected]
    assert self_tests.written_tests(text, TWICE[language]) == expected


def test_program_tests_are_the_benchmarks_own_with_one_assertion(data):
    problem = load_benchmark("humaneval-java", data).problems[0]
    assertions = re.findall(r"assert\(.*\);", problem.tests)
    alone = self_tests.program_tests(problem, assertions[0])
    assert [alone.count(test) for test in assertions] == [1] + [0] * (len(assertions) - 1)
    lines = problem.tests.splitlines(keepends=True)
    assert alone == "".join(line for line in lines if not any(test in line for test in assertions[1:]))


def test_program_tests_keep_what_the_tests_set_up():
    problem = mbpp("class Pair:\n    n = 1\nassert f(Pair()) == 2")
    assert self_tests.program_tests(problem, "assert f(Pair()) == 3") == (
        "class Pair:\n    n = 1\nassert f(Pair()) == 3\n"
    )


def judged(cases):
    """For each problem, completion and test, whether the program with this one test passes."""
    programs = [
        Program("t", n, problem.language, problem.prompt, completion, self_tests.program_tests(problem, test))
        for n, (problem, completion, test) in enumerate(cases)
    ]
    language = programs[0].language
    if find_tool(language) is None:
        pytest.skip(f"{LANGUAGES[language].tool} is not installed")
    found = execute(programs, Execution())
    return [verdict.verdict for verdict in sorted(found, key=lambda verdict: verdict.sample)]


RIGHT = {
    "python": "    return 2 * x\n",
    "java": "        return 2 * x;\n",
    "javascript": "  return 2 * x;\n}\n",
    "typescript": "  return 2 * x;\n}\n",
    "cpp": "    return 2 * x;\n",
}
WRITTEN = {
    "python": "3) == 6\nassert twice(3) == 7\n",
    "java": "3) == 6);\n    assert(twice(3) == 7);\n",
    "javascript": "3), 6);\n  assert.deepEqual(twice(3), 7);\n",
    "typescript": "3), 6);\n  assert.deepEqual(candidate(3), 7);\n",
    "cpp": "3) == 6);\n    assert(candidate(3) == 7);\n",
}
LEAVING = {
    "python": "    raise SystemExit\n",
    "java": "        System.exit(0);\n        return 0;\n",
    "javascript": "  process.exit(0);\n}\n",
    "cpp": "    exit(0);\n",
}


@pytest.mark.parametrize("language", LEAVING)
def test_a_right_program_passes_a_right_test_only(language):
    problem = TWICE[language]
    right, wrong = self_tests.written_tests(WRITTEN[language], problem)
    completion = RIGHT[language]
    cases = [
        (problem, completion, right),
        (problem, completion, wrong),
        (problem, completion.replace("2", "3"), right),
        (problem, LEAVING[language], right),
    ]
    # in two, because for four programs in C++ a header would be compiled first
    assert judged(cases[:3]) + judged(cases[3:]) == ["passed", "wrong_answer", "wrong_answer", "early_exit"]


@pytest.mark.slow  # its compiler takes seconds
def test_typescript():
    problem = TWICE["typescript"]
    tests = self_tests.written_tests(WRITTEN["typescript"], problem)
    assert judged([(problem, RIGHT["typescript"], test) for test in tests]) == ["passed", "wrong_answer"]


def test_mbpps_reference_passes_its_own_assertions(data):
    problem = load_benchmark("mbpp", data).problems[0]
    tests = re.findall(r"assert .*", problem.tests)
    cases = [(problem, problem.solution, test) for test in (*tests, tests[0].replace("heo", "hello"))]
    assert judged(cases) == ["passed"] * 3 + ["wrong_answer"]


def test_commas_in_an_assertion_in_cpp():
    tests = [
        "assert(std::vector<long>{1, candidate(3)} == std::vector<long>{1, 6});",
        "assert(std::vector<long>{1, candidate(3)} == std::vector<long>{1, 7});",
        'assert(candidate(3) == 7, "why");',
    ]
    found = judged([(TWICE["cpp"], RIGHT["cpp"], test) for test in tests])
    assert found[:2] == ["passed", "wrong_answer"]
    assert found[2] != "passed"  # after a comma operator, the text would always hold
