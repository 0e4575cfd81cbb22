"""Did the model write code at all? So that a gain in form is not sold as a gain in skill."""

import ast
import re

from flextune.languages import LANGUAGES
from flextune.tasks.python_source import parse

BEGINS = re.compile(
    r"(return|if|else|for|foreach|while|do|switch|case|default|try|throw|const|let|var|function|break|await)\b(?! to\b)"
    r"|[\w.$>\[\]-]+\(|[^.!?'\"]*=[^=>]"
)
"""A keyword, a call or an assignment, at the beginning of a line."""


def is_code(language: str, prompt: str, completion: str) -> bool | None:
    r"""True if the completion begins with code of the language.

    Python: prompt and completion together parse, up to some line that adds a statement. In languages with braces: the
    first line that is neither blank nor a comment begins with a keyword, a call or an assignment, or ends as a
    statement or a block does. Prose, a chat reply, a fence or nothing is no code. Of other languages nothing is said:
    None.

    >>> is_code("python", "def f(x):\n", "    return x\n"), is_code("python", "def f(x):\n", "Sure! Here it is:")
    (True, False)
    >>> is_code("java", "", "        return x;"), is_code("java", "", "The function returns x.")
    (True, False)
    >>> is_code("javascript", "", "  return a + b\n}"), is_code("javascript", "", "I'm happy to help, here it is:")
    (True, False)
    >>> is_code("bash", "", "    echo $1") is None
    True
    """
    if language == "python":
        return _begins_python(prompt, completion)
    known = LANGUAGES.get(language)
    return _begins_statement(completion) if known and known.ends_in_semicolons else None


def _begins_python(prompt: str, completion: str) -> bool:
    alone = _statements(prompt) or 0
    lines = completion.splitlines()
    starts = (prompt + "\n".join(lines[:end]) + "\n" for end in range(1, len(lines) + 1))
    return any((_statements(start) or 0) > alone for start in starts)


def _statements(source: str) -> int | None:
    """How many statements a program has, not counting words and texts that stand alone; None if it does not parse."""
    tree = parse(source)
    if tree is None:
        return None
    statements = (node for node in ast.walk(tree) if isinstance(node, ast.stmt))
    return sum(
        not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant | ast.Name)) for node in statements
    )


def _begins_statement(completion: str) -> bool:
    for line in completion.splitlines():
        text = line.split("//")[0].strip()
        if not text or text.startswith(("*", "/*", "#")):
            continue
        return bool(BEGINS.match(text)) or text.endswith((";", "{", "}", "(", "&&", "||", "="))
    return False
