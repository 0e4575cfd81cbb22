"""Did the model write code at all? So that a gain in form is not sold as a gain in skill."""

import ast

from flextune.tasks.python_source import parse


def is_code(language: str, prompt: str, completion: str) -> bool:
    r"""True if the completion begins with code of the language.

    Python: prompt and completion together parse, up to some line that adds a statement. Elsewhere: the first line that
    is neither blank nor a comment ends as a statement, a block or a call does. Prose, a chat reply, a fence or nothing
    is no code.

    >>> is_code("python", "def f(x):\n", "    return x\n"), is_code("python", "def f(x):\n", "Sure! Here it is:")
    (True, False)
    >>> is_code("java", "", "        return x;"), is_code("java", "", "The function returns x.")
    (True, False)
    """
    return _begins_python(prompt, completion) if language == "python" else _begins_statement(completion)


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
        return text.endswith((";", "{", "}", ")", ",", "(", "+", "&&", "||", "?", ":", "="))
    return False
