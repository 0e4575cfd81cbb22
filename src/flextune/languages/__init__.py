"""The programming languages that flextune asks, reads and judges: each is one file of this folder.

A file that defines `LANGUAGE` is a language; nothing else has to be told of it.

>>> LANGUAGES["rust"].short, by_short_name("rs").name
('rs', 'rust')
"""

import importlib
import pkgutil

from flextune.languages.language import End, Form, HumanEvalX, KnownRight, Language, Library, Package, Warm

__all__ = [
    "LANGUAGES",
    "UNJUDGED",
    "End",
    "Form",
    "HumanEvalX",
    "KnownRight",
    "Language",
    "Library",
    "Package",
    "Warm",
    "by_short_name",
    "comment_marker",
]

_modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
LANGUAGES: dict[str, Language] = {
    module.LANGUAGE.name: module.LANGUAGE for module in _modules if hasattr(module, "LANGUAGE")
}
"""By name."""

UNJUDGED = ("adb", "clj", "d", "dart", "elixir", "hs", "jl", "ml", "pl", "r", "rkt", "scala", "swift")
"""MultiPL-E's names of languages that can be asked and not judged yet."""
HASH = ("perl", "r", "julia", "elixir")
"""Those of them with comments that `#` begins, by their names."""


def by_short_name(short: str) -> Language | None:
    """The language that MultiPL-E calls so."""
    return next((language for language in LANGUAGES.values() if language.short == short), None)


def comment_marker(name: str) -> str:
    """What begins a comment, also in languages that cannot be judged yet."""
    if name in LANGUAGES:
        return LANGUAGES[name].comment
    return "#" if name in HASH else "//"
