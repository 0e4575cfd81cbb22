"""Are two programs the same but for names and layout?"""

import ast
import contextlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Name, String, Token, is_token_subtype

from flextune.tasks.python_source import parse


@lru_cache(1 << 16)
def normal_form(language: str, source: str) -> str:
    r"""A program with its own names numbered in the order in which they appear, and without comments and layout.

    Two programs with one normal form differ in names, comments and layout only. Python is compared by its syntax tree,
    without docstrings. Other languages, and Python that does not parse, are compared token by token as Pygments finds
    them; there a name counts as the program's own, and is numbered, only where it stands like a variable: not after
    `.`, `::` or `->`, and not before `(`, `::`, a `<` that touches it, or another name, where functions, fields and
    types stand.

    >>> normal_form("python", "def f(x):\n    y = x + 1  # one more\n    return y\n")
    'def n0(n1):\n    n2 = n1 + 1\n    return n2'
    >>> normal_form("java", "int a = g(b); return a;") == normal_form("java", "int  x = g(y);\nreturn x;")
    True
    >>> normal_form("java", "return a.f(b);") == normal_form("java", "return a.g(b);")
    False
    """
    tree = parse(source) if language == "python" else None
    if tree is not None:
        with contextlib.suppress(RecursionError, ValueError):  # too deeply nested, or too long a number, to be written
            return _of_tree(tree)
    return " ".join(_tokens(language, source))


def _of_tree(tree: ast.Module) -> str:
    """Python source of a tree, with the names that the program binds numbered."""
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        for name in _bound_by(node):
            bound.setdefault(name, f"n{len(bound)}")
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [line for line in node.body if not _is_text(line)] or [ast.Pass()]
    for node in ast.walk(tree):
        match node:
            case ast.Name():
                node.id = bound.get(node.id, node.id)
            case ast.arg():
                node.arg = bound[node.arg]
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                node.name = bound[node.name]
            case ast.ExceptHandler(name=str(name)):
                node.name = bound[name]
            case ast.Global() | ast.Nonlocal():
                node.names = [bound.get(name, name) for name in node.names]
    return ast.unparse(ast.fix_missing_locations(tree))


def _bound_by(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.arg():
            yield node.arg
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
        case ast.ExceptHandler(name=str(name)):
            yield name


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant)


def _tokens(language: str, source: str) -> Iterator[str]:
    tokens: list[tuple[Any, str, bool]] = []  # kind, text, and whether it touches the one before
    touches = False
    for kind, text in get_lexer_by_name(language).get_tokens(source):
        if text.strip() and not is_token_subtype(kind, Comment) and not is_token_subtype(kind, String.Doc):
            tokens.append((kind, text.strip(), touches))
            touches = True
        else:
            touches = False
    before = ""
    own: dict[str, str] = {}
    for (kind, text, _), (next_kind, following, near) in zip(tokens, [*tokens[1:], (Token, "", False)], strict=True):
        marked = is_token_subtype(kind, Name.Variable)  # as `$x` is
        variable = marked or (is_token_subtype(kind, Name) and re.fullmatch(r"\w+", text) is not None)
        of_type = (following == "<" and near) or (is_token_subtype(next_kind, Name) and not marked)
        if variable and not of_type and following not in ("(", "::") and before not in (".", "::", "->"):
            text = own.setdefault(text, f"n{len(own)}")
        before = text
        yield text
