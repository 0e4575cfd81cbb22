"""The compiler that stays warm says what a compiler of its own would say, and nothing breaks the next program."""

import pytest

from flextune.execution import Execution, Program, execute, javac
from flextune.execution.sandbox import choose
from flextune.execution.session import Session

PATIENCE = 120.0
"""Seconds for one compilation: far more than it takes, however busy the machine is."""
RIGHT = "class Problem { public static void main(String[] a) { System.out.println(List.of(1)); } }"
HEAD = "import java.util.*;\n"
WRONG = "class Problem { int f() { return x; } }"
DISTURBERS = {
    "Integer of its own": "class Integer { } class Problem { Integer i; }",
    "List of its own": "interface List { } class Problem { List l; }",
    "same class again": "class Problem { int other; }",
    "a package": "package java.util; class Problem { }",
    "an enum": "enum E { A, B } class Problem { E e = E.A; }",
    "an annotation": "@interface Override { } class Problem { @Override int x; }",
    "errors": "class Problem { int f( }",
    "no class": "",
    "not a text": "\0\x01\ufffe",
    "a long constant": 'class Problem { static final String a = "'
    + "x" * 60000
    + '"; static final String b = a + a + a; }',
    "deep nesting": "class Problem { int x = " + "(" * 20000 + "1" + ")" * 20000 + "; }",
}


@pytest.fixture(scope="module")
def session():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(javac, "PATIENCE", PATIENCE)
        session = Session(choose(), Execution(), 1, {"java": 10})
        yield session
        session.close()


def compiled(session, text):
    _, folder = session.new_folder()
    source = folder / "Problem.java"
    source.write_text(text)
    answer = session.compiler(0).compile(source)
    return answer, sorted(path.name for path in folder.iterdir())


def test_it_uses_the_pool(session):
    assert compiled(session, HEAD + RIGHT) == ("", ["Problem.class", "Problem.java"])
    assert session.compiler(0).kind == "pool"


def test_errors_are_told_as_javac_tells_them(session):
    answer, files = compiled(session, f"{HEAD}{WRONG}")
    assert "Problem.java:2: error: cannot find symbol\n" in answer
    assert "symbol:   variable x" in answer
    assert files == ["Problem.java"]


@pytest.mark.parametrize("name", DISTURBERS)
def test_no_program_disturbs_the_next(session, name):
    compiled(session, DISTURBERS[name])
    assert compiled(session, HEAD + RIGHT)[0] == ""
    assert "cannot find symbol" in compiled(session, WRONG)[0]


def test_without_the_pool_the_public_interface_does_it(monkeypatch):
    monkeypatch.setattr(javac, "OPENED", ())
    monkeypatch.setattr(javac, "PATIENCE", PATIENCE)
    session = Session(choose(), Execution(), 1, {"java": 10})
    try:
        assert compiled(session, HEAD + RIGHT) == ("", ["Problem.class", "Problem.java"])
        assert session.compiler(0).kind == "public"
    finally:
        session.close()


def test_without_any_of_it_a_compiler_of_its_own_does_it(monkeypatch):
    monkeypatch.setattr(javac.WarmJavac, "_start", lambda self: (_ for _ in ()).throw(OSError("no")))
    tests = "    }\n    public static void main(String[] a) {\n    assert f() == 1;\n    }\n}\n"
    for body, verdict in (("return 1;", "passed"), ("return 2;", "wrong_answer"), ("return x;", "compile_error")):
        program = Program("t", 0, "java", "class Problem {\n    static int f() {\n", body, tests)
        assert execute([program])[0].verdict == verdict
