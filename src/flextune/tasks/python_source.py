"""Python source that nobody vouches for, as a tree."""

import ast
import warnings


def parse(source: str) -> ast.Module | None:
    """The syntax tree; None if this Python cannot parse the source. Nothing of it is run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
