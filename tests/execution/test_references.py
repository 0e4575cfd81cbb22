"""Reference solutions pass, and stop passing when what they return is changed."""

import ast
import re

import pytest

from flextune.execution import Execution, Program, execute
from flextune.tasks import StandardInput, apps, load_benchmark


def programs(problems, change=lambda problem: problem.solution):
    return [Program(p.task_id, 0, p.language, p.prompt, change(p), p.tests) for p in problems]


class Changed(ast.NodeTransformer):
    """Returns of one function become something that equals nothing; functions inside it keep theirs."""

    def visit_FunctionDef(self, node):
        return node

    def visit_Return(self, node):
        changed = ast.Tuple([ast.Constant("changed"), node.value or ast.Constant(None)], ast.Load())
        return ast.copy_location(ast.Return(changed), node)


def changed_python(problem):
    tree = ast.parse(problem.prompt + problem.solution)
    name = re.findall(r"check\((\w+)\)", problem.tests)[-1]
    function = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name][-1]
    function.body = [Changed().visit(statement) for statement in function.body]
    function.body.append(ast.parse("return 'changed'").body[0])  # for one that returns nothing
    return "\n\n" + ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def changed_java(problem):
    kind = re.findall(r"public (?:static )?([\w<>\[\], ]+?) \w+\(", problem.prompt)[-1]
    change = {"boolean": r"return !(\1);", "int": r"return 1 + (\1);", "long": r"return 1 + (\1);"}
    change |= {"double": r"return 1 + (\1);", "String": r'return "changed" + (\1);'}
    return re.sub(r"return ([^;{}]*);", change.get(kind, "return null;"), problem.solution)


def test_python_references(full_data):
    problems = load_benchmark("humaneval", full_data).problems
    found = execute(programs(problems))
    assert [v.verdict for v in found] == ["passed"] * 164
    changed = [Program(p.task_id, 1, p.language, "", changed_python(p), p.tests) for p in problems]
    assert {v.task_id: v.detail for v in execute(changed) if v.verdict not in ("wrong_answer", "runtime_error")} == {}


@pytest.mark.slow
def test_java_references(full_data):
    problems = load_benchmark("humaneval-x-java", full_data).problems
    assert [v.verdict for v in execute(programs(problems))] == ["passed"] * 164
    problems = problems[::2]
    found = execute(programs(problems, changed_java), Execution(limits={"cpu_seconds": 2}))
    assert {v.task_id: (v.verdict, v.detail) for v in found if v.verdict == "passed"} == {}
    judged = [v for v in found if v.verdict in ("wrong_answer", "runtime_error")]
    assert len(judged) > 70  # the others do not compile: a lambda inside returns something else


def test_apps_references(full_data):
    """The training rows have solutions and tests: on standard input, and as functions.

    Three of the 101 solutions are no programs: they return outside of a function, and APPS runs them inside one.
    """
    rows = apps._rows(full_data, "train", None).rows
    judged = []
    for row in rows:
        tests = apps.tests_of(row)
        for number, solution in enumerate(apps._solutions(row)):
            judged.append(Program(str(row["problem_id"]), number, "python", apps.docstring(row), solution, tests))
    assert {type(program.tests) for program in judged} == {str, StandardInput}
    failed = [v for v in execute(judged) if v.verdict != "passed"]
    assert len(failed) == 3
    assert all("'return' outside function" in v.detail for v in failed)
