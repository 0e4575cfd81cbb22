"""CodeSearchNet (Husain et al. 2019, arXiv 1909.09436): functions with their documentation, as a training set."""

import ast
from collections.abc import Callable
from pathlib import Path

from flextune.tasks.problem import Example
from flextune.tasks.python_source import parse
from flextune.tasks.source import Source, read

REVISION = "bd0cf261e357a3eb5c8fba490d23ec1a1cd59555"
KEYS = dict.fromkeys(("func_name", "func_code_string", "func_documentation_string"), str)


def function(head: str, documentation: str) -> str:
    """Signature and docstring; the body is to be written (HumanEval's form)."""
    lines = "\n    ".join(line.strip() for line in documentation.strip().splitlines())
    return f'{head}\n    """{lines}\n    """\n'


def comment(head: str, documentation: str) -> str:
    """The documentation as a comment above the signature."""
    lines = "\n".join(f"# {line.strip()}".rstrip() for line in documentation.strip().splitlines())
    return f"{lines}\n{head}\n"


TEMPLATES: dict[str, Callable[[str, str], str]] = {"function": function, "comment": comment}


def examples(
    data: Path | None, template: str, limit: int | None = None, split: str = "train"
) -> tuple[list[Example], dict[str, object]]:
    """The first `limit` Python functions of a split that Python 3 can parse."""
    source = Source(
        file=f"code_search_net/python-{split}.jsonl",
        repo="code-search-net/code_search_net",
        revision=REVISION,
        config="python",
        split=split,
    )
    rows = read(source, data, KEYS)
    name = "CodeSearchNet" if split == "train" else f"CodeSearchNet-{split}"
    found: list[Example] = []
    unparsed = 0
    for number, row in enumerate(rows.rows):
        parts = _split(row["func_code_string"])
        if parts is None:
            unparsed += 1
        else:
            prompt = TEMPLATES[template](parts[0], row["func_documentation_string"])
            found.append(Example(f"{name}/{number}", prompt, parts[1]))
        if len(found) == limit:
            break
    return found, {**rows.provenance, "split": split, "rows": len(found), "unparsed": unparsed}


def _split(code: str) -> tuple[str, str] | None:
    """Signature, and body without its docstring, at an indentation of four; None if Python 3 cannot parse it."""
    tree = parse(code.strip())
    if tree is None or not tree.body or not isinstance(tree.body[0], ast.FunctionDef):
        return None
    definition = tree.body[0]
    body = definition.body[1:] if ast.get_docstring(definition) is not None else definition.body
    if not body:
        return None
    lines = [f"    {line}" for statement in body for line in ast.unparse(statement).splitlines()]
    definition.body, definition.decorator_list = [], []
    return ast.unparse(definition).strip(), "\n".join(lines) + "\n"
