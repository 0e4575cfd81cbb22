"""Shared problems between a training set and a benchmark.

Three kinds of evidence, from proof to hint:

- `upstream`: both were made from the same published problem (MultiPL-E's `mbpp-*` are MBPP problems);
- `prompt`, `solution`: the same text after normalising names and layout;
- `n-gram`: a run of `NGRAM` words occurs in both. This is a hint only: at 13 words it flags about 20 pairs between
  MBPP and HumanEval whose problems differ.
"""

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass

from flextune.tasks.problem import Example, Problem
from flextune.tasks.python_source import parse

NGRAM = 13
"""Words in a run; the length that GPT-3 and its successors used (Brown et al. 2020, appendix C)."""


@dataclass(frozen=True)
class Overlap:
    """One training example and one problem that share something."""

    example: str
    problem: str
    kind: str
    """`upstream`, `prompt`, `solution` or `n-gram`."""

    @property
    def certain(self) -> bool:
        """True when it is the same problem, not only similar words."""
        return self.kind != "n-gram"


def find_overlaps(examples: Sequence[Example], problems: Sequence[Problem], hints: bool = True) -> list[Overlap]:
    """All pairs that overlap, each with its strongest evidence, in the order of the examples.

    Without `hints` only those that are certain.
    """
    found: list[Overlap] = []
    by_upstream = {problem.upstream: problem for problem in problems if problem.upstream}
    by_prompt = {text: problem for problem in problems if (text := normal_text(problem.prompt))}
    by_solution = {normal_code(problem.prompt + problem.solution): problem for problem in problems if problem.solution}
    by_run: dict[tuple[str, ...], list[Problem]] = {}
    for problem in problems if hints else ():
        for run in _runs(problem.prompt + problem.solution):
            by_run.setdefault(run, []).append(problem)
    for example in examples:
        pairs: dict[str, Overlap] = {}
        matches: list[tuple[str, Problem | None]] = [
            ("upstream", by_upstream.get(example.upstream) if example.upstream else None),
            ("prompt", by_prompt.get(normal_text(example.prompt))),
            ("solution", by_solution.get(_normal_example(example))),
        ]
        for kind, match in matches:
            if match is not None:
                pairs.setdefault(match.task_id, Overlap(example.id, match.task_id, kind))
        for run in sorted(_runs(example.prompt + example.completion)) if hints else ():
            for problem in by_run.get(run, ()):
                pairs.setdefault(problem.task_id, Overlap(example.id, problem.task_id, "n-gram"))
        found += pairs.values()
    return found


def normal_text(prompt: str) -> str:
    r"""The words of a prompt's documentation, without its examples, its signature and its layout.

    >>> normal_text("def f(x):\n    '''Double  X.\n    >>> f(1)\n    2\n    '''")
    'double x'
    """
    documentation = re.findall(r'("""|\'\'\')(.*?)(\1|\Z)', prompt, flags=re.DOTALL)
    text = "\n".join(part[1] for part in documentation) if documentation else prompt
    text = re.split(r"\n\s*(?:>>>|assert\b|Examples?:|For example)", text)[0]
    return " ".join(re.findall(r"\w+", text.lower()))


def normal_code(source: str) -> str:
    r"""A Python program with its names numbered in order of appearance, its layout, docstrings and annotations dropped.

    Code that Python cannot parse is compared by its words.

    >>> normal_code("def f(a):\n    return a + 1") == normal_code("def g( b ):\n    '''doc'''\n    return b+1")
    True
    """
    tree = parse(source)
    if tree is None:
        return " ".join(re.findall(r"\w+", source))
    tree.body = [node for node in tree.body if not isinstance(node, (ast.Import, ast.ImportFrom))]
    names: dict[str, str] = {}
    bound = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    bound |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    bound |= {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in bound:
            node.id = names.setdefault(node.id, f"v{len(names)}")
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = names.setdefault(node.arg, f"v{len(names)}"), None
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            node.name = names.setdefault(node.name, f"v{len(names)}")
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)) and _has_docstring(node):
            node.body = node.body[1:]
    return ast.dump(tree)


def _has_docstring(node: ast.FunctionDef | ast.ClassDef | ast.Module) -> bool:
    first = node.body[0] if node.body else None
    return isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)


def _normal_example(example: Example) -> str:
    """The solution of an example: with its prompt where the two are one program, alone otherwise."""
    whole = example.prompt + example.completion
    return normal_code(example.completion if parse(whole) is None else whole)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"[a-z0-9]+", text.lower())
    return {tuple(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)}
