"""What the sections of a recipe have in common.

Each module owns the section that it reads (`tuning.settings.Training`, `generation.settings.Decoding`, …) as a frozen
pydantic dataclass with this configuration, so that YAML, Python and the command line meet the same checks.
"""

import difflib
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_type_hints

import pydantic
from pydantic import ConfigDict, TypeAdapter

from flextune.errors import UsageError

SECTION = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
"""Unknown keys and numbers without end are errors, and a docstring under a field is its help."""

Section = TypeVar("Section")
MEMBERS = ("list", "str", "int", "float", "bool", "dict", "Range")


def parse(section: type[Section], content: dict[str, Any], where: str) -> Section:
    """Check a mapping against a section of the schema; `where` stands at the front of error messages."""
    try:
        return TypeAdapter(section).validate_python(content)
    except pydantic.ValidationError as error:
        raise UsageError("; ".join(_explain(problem, section, where) for problem in _problems(error))) from None


def _problems(error: pydantic.ValidationError) -> list[dict[str, Any]]:
    """One problem for each key: a union reports each of its members."""
    by_key: dict[tuple[str, ...], dict[str, Any]] = {}
    for problem in error.errors():
        key = tuple(str(part) for part in problem["loc"] if _is_key(part))
        by_key.setdefault(key, {**problem, "loc": key})
    return list(by_key.values())


def _is_key(part: str | int) -> bool:
    """False for the names that pydantic gives to the members of a union."""
    return isinstance(part, int) or not ("[" in part or part.startswith("constrained-") or part in MEMBERS)


def _explain(problem: dict[str, Any], root: Any, where: str) -> str:
    key = ".".join(problem["loc"])
    kind, found, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        section, _, last = key.rpartition(".")
        names = _names(root, section)
        close = difflib.get_close_matches(last, names, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{where}: {key} is not a key of a recipe; {hint}{section or 'the top level'} has {', '.join(names)}"
    if kind in ("missing", "missing_argument"):
        return f"{where}: the key {key} is missing"
    if kind == "value_error":
        return f"{where}: {key}{'.' if key else ''}{context['error']}"
    allowed = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {key} = {found!r}: {allowed.replace('input should be', 'expected')}"


def _names(root: Any, section: str) -> list[str]:
    kind = root
    for part in section.split(".") if section else ():
        hint = get_type_hints(kind).get(part)  # none for a name of the user's choice
        kind = next((c for c in (hint, *get_args(hint)) if is_dataclass(c)), kind)
    return [field.name for field in fields(kind)]
