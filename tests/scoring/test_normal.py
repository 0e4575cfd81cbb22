import pytest

from flextune.languages import LANGUAGES
from flextune.scoring.normal import normal_form


def same(language, one, two):
    return normal_form(language, one) == normal_form(language, two)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ("def f(x):\n    y = x + 1\n    return y", "def f(x):\n  # add\n  z = (x+1)\n  return z\n", True),
        ("def f(x):\n    '''One.'''\n    return x", "def f(x):\n    return x", True),
        ("def f(x):\n    return x + 1", "def f(x):\n    return 1 + x", False),
        ("def f(x):\n    x.append(1)", "def f(x):\n    x.extend(1)", False),
        ("def f(x):\n    return len(x)", "def f(x):\n    return sum(x)", False),
        ("def f(a, b):\n    return a - b", "def f(b, a):\n    return b - a", True),
        ("def f(a, b):\n    return a - b", "def f(a, b):\n    return b - a", False),
        ("for i in x:\n    if i:\n        a()\n    b()", "for i in x:\n    if i:\n        a()\n        b()", False),
        (
            "def f():\n    n = 1\n    def g():\n        nonlocal n",
            "def h():\n    m = 1\n    def k():\n        nonlocal m",
            True,
        ),
        ("try:\n    f()\nexcept E as e:\n    g(e)", "try:\n    f()\nexcept E as x:\n    g(x)", True),
        ("def f(:", "def  f(:", True),
        ("def f(:", "def f(::", False),
    ],
)
def test_python(one, two, expected):
    assert same("python", one, two) is expected


@pytest.mark.parametrize(
    ("language", "one", "two", "expected"),
    [
        ("java", "int a = 1; // one\nreturn a;", "int count = 1;\n\n  return count;", True),
        ("java", "List<String> a;", "Set<String> a;", False),
        ("java", "a.add(b);", "a.remove(b);", False),
        ("java", "return a - b;", "return b - a;", True),  # names of a fragment say nothing
        ("java", "int a, b; return a - b;", "int a, b; return b - a;", False),
        ("cpp", "vector<int> v;", "set<int> v;", False),
        ("cpp", "for (int i = 0; i < n; i++) s += i;", "for (int j = 0; j < m; j++) t += j;", True),
        ("cpp", "std::sort(v);", "std::reverse(v);", False),
        ("javascript", "let a = x => x * 2", "let b = y => y * 2", True),
        ("javascript", "return 'a';", "return 'b';", False),
        ("php", "<?php\n$a = 1; return $a;", "<?php\n$b = 1; return $b;", True),
        ("bash", 'echo "$a"', 'echo "$b"', True),
    ],
)
def test_other_languages(language, one, two, expected):
    assert same(language, one, two) is expected


def test_every_language_has_tokens():
    for language in LANGUAGES:
        assert normal_form(language, "x = 1")


def test_depth_is_no_crash():
    source = "x = " + "-" * 5000 + "1"
    assert normal_form("python", source)


def test_a_number_that_is_too_long_to_be_written():
    source = f"def f():\n    return 0x{'f' * 5000}\n"
    assert normal_form("python", source) == normal_form("python", source.replace("\n    ", "\n        "))
