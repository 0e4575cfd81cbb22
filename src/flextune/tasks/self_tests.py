r"""Tests that a model writes itself, to choose among its own samples (CodeT, Chen et al. 2022, arXiv 2207.10397).

    prompt = test_prompt(problem)          # the model goes on after it, up to one of test_stop(problem)
    tests = written_tests(text, problem)   # the assertions in what it wrote
    program_tests(problem, tests[0])       # the `tests` of a `Program` that runs this one only

Of a benchmark's own tests, the model sees no more than what stands before the first of them: no assertion, no expected
value. Examples in the text of a problem are part of the problem and stay; MBPP's are its very tests and go. Which of
the samples the written tests speak for is the business of `flextune.scoring.agreement`.
"""

import ast
import builtins
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass

from flextune.errors import FlextuneError
from flextune.languages import LANGUAGES, Form
from flextune.tasks.problem import Problem, truncate
from flextune.tasks.python_source import parse

MOST = 5
"""How many assertions of one text count: the first ones, as in CodeT."""

LINES = 30
"""A Python assertion over more lines than this is given up."""


@dataclass(frozen=True)
class Frame:
    """What stands around written tests: in the prompt, and in the program."""

    prompt: str
    """Up to the first assertion."""
    opening: str
    """Its start."""
    asked: tuple[str, ...]
    """The names that the asked function is called by."""
    head: str
    tail: str


def test_prompt(problem: Problem) -> str | None:
    r"""The text after which a model writes tests, as a plain completion; None where this cannot be asked.

    It is the problem, a placeholder for the answer, and the start of the first assertion on the asked function. It can
    be had for Python that ends with the head of a function or is asked in MBPP's form, and for tests in MultiPL-E's
    form in Java, JavaScript, TypeScript and C++.

    >>> print(test_prompt(Problem("t", "python", "def twice(x):\n", "assert twice(2) == 4\n")))
    def twice(x):
        pass
    <BLANKLINE>
    # check that `twice` is right, with several different inputs
    assert twice(
    """
    frame = _frame(problem)
    return frame.prompt + frame.opening if frame else None


def test_stop(problem: Problem) -> tuple[str, ...]:
    """What ends the writing of tests."""
    return LANGUAGES[problem.language].self_test_stop if problem.language in LANGUAGES else ()


test_prompt.__test__ = test_stop.__test__ = False  # type: ignore[attr-defined]  # whatever pytest makes of their names


def written_tests(text: str, problem: Problem) -> list[str]:
    r"""The distinct assertions on the asked function in what a model wrote after `test_prompt`, the first `MOST`.

    An assertion counts if it is one whole statement, in Python one that parses. What may be cut by the limit does not
    count: a last line without its end. Where the text ended of itself, a line end may be added to it first.

    >>> twice = Problem("t", "python", "def twice(x):\n", "assert twice(2) == 4\n")
    >>> written_tests("3) == 6\nassert twice( 3 )==6\nassert twice(0) == 0\nassert twice(1) == 2", twice)
    ['assert twice(3) == 6', 'assert twice(0) == 0']

    Raises `FlextuneError` where tests cannot be asked for.
    """
    frame = _known_frame(problem)
    kept = truncate(text, test_stop(problem))
    source = frame.opening + kept + ("\n" if len(kept) < len(text) else "")
    if problem.language == "python":
        found = _python_assertions(source, frame.asked)
    else:
        form = _form(problem)
        found = _assertions(source, frame.asked, form is not None and form.ends_by_line)
    distinct: dict[str, str] = {}
    for test in found:
        distinct.setdefault(_without_space(test), test)
    return list(distinct.values())[:MOST]


def program_tests(problem: Problem, test: str) -> str:
    r"""The `tests` of a program that runs one written test only, in the form of the benchmark's own.

    >>> program_tests(Problem("t", "python", "def twice(x):\n", "assert twice(2) == 4\n"), "assert twice(3) == 6")
    'assert twice(3) == 6\n'

    Raises `FlextuneError` where tests cannot be asked for.
    """
    frame = _known_frame(problem)
    form = _form(problem)
    return frame.head + (_one_argument(test) if form and form.assertion_is_macro else test) + "\n" + frame.tail


def _form(problem: Problem) -> Form | None:
    return LANGUAGES[problem.language].self_test_form if problem.language in LANGUAGES else None


def _known_frame(problem: Problem) -> Frame:
    frame = _frame(problem)
    if frame is None:
        raise FlextuneError(f"{problem.task_id}: a model cannot be asked for tests of this problem")
    return frame


def _frame(problem: Problem) -> Frame | None:
    if not isinstance(problem.tests, str):
        return None
    if form := _form(problem):
        return _braced_frame(problem.prompt, problem.tests, form)
    return _python_frame(problem.prompt, problem.tests) if problem.language == "python" else None


def _shows(prompt: str, tests: str) -> bool:
    """True if a prompt holds an assertion of the tests."""
    lines = (line.strip() for line in tests.splitlines())
    return any(line.startswith("assert") and line in prompt for line in lines)


def _check(asked: str) -> str:
    return f"check that `{asked}` is right, with several different inputs\n"


# Python


def _python_frame(prompt: str, tests: str) -> Frame | None:
    first = re.search(r"^assert\b", tests, re.MULTILINE)
    setup = tests[: first.start()].lstrip("\n") if first else ""
    if prompt.startswith('"""\n') and prompt.endswith('\n"""\n') and prompt.count('"""') == 2:
        found = _without_tests(prompt, tests, setup)
    else:
        found = _with_placeholder(prompt)
    if found is None or _shows(found[0], tests):
        return None
    shown, asked = found
    return Frame(f"{shown}\n# {_check(asked)}", f"assert {asked}(", (asked,), setup, "")


def _with_placeholder(prompt: str) -> tuple[str, str] | None:
    """A prompt that ends with the head of a function, with `pass` as its body, and the name of the function."""
    for indent in ("    ", "\t", "  ", "   ", " "):
        shown = f"{prompt.rstrip()}\n{indent}pass\n"
        tree = parse(shown)
        if tree is not None:
            last = tree.body[-1]
            return (shown, last.name) if isinstance(last, ast.FunctionDef) else None
    return None


def _without_tests(prompt: str, tests: str, setup: str) -> tuple[str, str] | None:
    """MBPP's prompt up to the tests in it, with a head that has the name and the number of arguments from them."""
    lines = prompt.split("\n")
    own = {line.strip() for line in tests.splitlines() if line.strip()}
    shown = next((n for n, line in enumerate(lines) if re.match(r"\s*assert\b", line) or line.strip() in own), None)
    calls = _asked_calls(tests, setup)
    if shown is None or not calls:
        return None
    counts = {len(call.args) for call in calls}
    arguments = ", ".join(string.ascii_lowercase[: counts.pop()]) if len(counts) == 1 else "*arguments"
    asked = ast.unparse(calls[0].func)
    text = "\n".join(lines[:shown])
    return f'{text}\n"""\ndef {asked}({arguments}):\n    pass\n', asked


def _asked_calls(tests: str, setup: str) -> list[ast.Call]:
    """The calls of the one function that all assertions call, beside built-in names and those that the setup has."""
    tree, known = parse(tests), parse(setup)
    if tree is None or known is None:
        return []
    made = {node.name for node in known.body if isinstance(node, ast.ClassDef | ast.FunctionDef)} | set(dir(builtins))
    asserts = [node for node in tree.body if isinstance(node, ast.Assert)]
    calls = [[call for call in _calls(node.test) if ast.unparse(call.func) not in made] for node in asserts]
    names = [{ast.unparse(call.func) for call in found} for found in calls]
    common = set.intersection(*names) if names else set()
    return [call for found in calls for call in found if ast.unparse(call.func) in common] if len(common) == 1 else []


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """The calls of plain names."""
    return (call for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Name))


def _python_assertions(source: str, asked: tuple[str, ...]) -> Iterator[str]:
    lines = source.split("\n")
    last = len(lines) - 1  # what stands there has no line end
    for start in range(last):
        if not lines[start].lstrip().startswith("assert"):
            continue
        for end in range(start + 1, min(last, start + LINES) + 1):
            text = "\n".join(lines[start:end]).lstrip()
            tree = parse(text)
            if tree is None:
                continue
            node = tree.body[0]
            named = isinstance(node, ast.Assert) and any(ast.unparse(c.func) in asked for c in _calls(node.test))
            if len(tree.body) == 1 and named:
                yield ast.get_source_segment(text, node) or text
            break


# Languages with braces


def _braced_frame(prompt: str, tests: str, form: Form) -> Frame | None:
    head = re.match(f"({form.head})[ \t]*assert\\b", tests)
    tail = re.search(f"(?<=\n)(?:{form.tail})\\Z", tests)
    function = re.search(r"(\w+)\s*\([^()]*\)[^()]*\{\s*\Z", prompt)
    if head is None or tail is None or function is None or _shows(prompt, tests):
        return None
    asked = function[1]
    if head.groupdict().get("asked", asked) != asked:
        return None
    names = (asked, "candidate") if "asked" in head.groupdict() else (asked,)
    before = f"{prompt}{form.body}{head[1]}{form.indent}// {_check(asked)}{form.indent}"
    return Frame(before, form.opening.format(asked=asked), names, head[1] + form.indent, tail[0])


TOKEN = re.compile(
    r""" "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | `(?:\\.|[^`\\])*` | //[^\n]* | /\*.*?\*/ | . """,
    re.DOTALL | re.VERBOSE,
)
"""Texts and comments whole, anything else by characters."""


def _without_space(test: str) -> str:
    """A test without white space outside its texts, to tell whether two are the same."""
    return "".join(token for token in TOKEN.findall(test) if not token.isspace()).rstrip(";")


ASSERTION = re.compile(r"^[ \t]*(?=assert\b)", re.MULTILINE)


def _assertions(source: str, asked: tuple[str, ...], ends_by_line: bool) -> Iterator[str]:
    position = 0
    while start := ASSERTION.search(source, position):
        position = start.end() + 1
        end = _statement_end(source, start.end(), ends_by_line)
        if end is None or ASSERTION.search(source, position, end):  # no end, or that of the next one
            continue
        position = end
        test = source[start.end() : end].rstrip()
        if re.search(rf"\b(?:{'|'.join(asked)})\s*\(", test):
            yield test


def _statement_end(source: str, start: int, ends_by_line: bool) -> int | None:
    """Where a statement ends, after its semicolon; None if it does not end, or if brackets or quotes do not match."""
    depth = 0
    for token in TOKEN.finditer(source, start):
        match token[0]:
            case "(" | "[" | "{":
                depth += 1
            case ")" | "]" | "}":
                depth -= 1
            case ";" if depth == 0:
                return token.end()
            case "\n" if depth == 0 and ends_by_line:
                return token.end()
            case '"' | "'" | "`":
                return None
        if depth < 0:
            return None
    return None


def _one_argument(test: str) -> str:
    """A C++ assertion in one more pair of parentheses, so that commas between braces do not part a macro's arguments.

    One with another comma, `assert(x, "why")`, stays as it is and does not compile: in parentheses it always held.
    """
    found = re.fullmatch(r"assert\s*\((.*)\)\s*;", test, re.DOTALL)
    if found is None:
        return test
    depth = 0
    for token in TOKEN.findall(found[1]):
        depth += (token in "([{") - (token in ")]}")
        if depth < 0 or (depth == 0 and token == ","):
            return test
    return f"assert(({found[1]}));"
