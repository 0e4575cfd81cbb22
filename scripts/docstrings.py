"""For the site: examples in docstrings as blocks of code. mkdocstrings knows them only in a section `Examples:`."""

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)(>>> (?:.+\n?)+)", re.MULTILINE)
"""From a prompt to the next empty line."""


class Examples(Extension):
    """Puts a fence around each example."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    indent, example = found.groups()
    return f"{indent}```pycon\n{indent}{example.rstrip()}\n{indent}```\n"
