"""Files that are either whole or not there: atomic writes, and JSON Lines whose errors name the line."""

import copy
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from flextune.errors import FlextuneError, UsageError

Row = dict[str, Any]


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a restart after a crash, sees the old file or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def make_durable(folder: Path) -> None:
    """Have all that lies below a folder on the disk, where a machine that stops hard finds it again."""
    for path in (*folder.rglob("*"), folder):
        file = os.open(path, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def publish(partial: Path, folder: Path) -> None:
    """Give a folder its name when all of it is on the disk: wherever the machine stops, it is whole or not there."""
    make_durable(partial)
    partial.replace(folder)


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, atomically; NaN and infinity, which JSON does not have, are an error."""
    write_atomic(path, _dumped(content, path, indent=2) + "\n")


def write_numbers(path: Path, content: object) -> None:
    """Write `content` as JSON on one line with six digits of each number, atomically: for files of many numbers."""
    write_atomic(path, _dumped(_rounded(content), path) + "\n")


def _dumped(content: Any, path: Path | None, **options: Any) -> str:
    """The content as JSON; a number that JSON cannot hold is an error with its key, and the file that it was for."""
    try:
        return json.dumps(content, ensure_ascii=False, allow_nan=False, **options)
    except ValueError:
        found = next(_not_finite(content), None)
        if found is None:
            raise
        key, value = found
        name = f"{path}: {key}" if path else key
        raise FlextuneError(f"{name} = {value}: JSON has only finite numbers, so the file was not written") from None


def _not_finite(content: Any, key: str = "") -> Iterator[tuple[str, float]]:
    """Numbers that JSON does not have, each with its key.

    >>> list(_not_finite({"rows": [{"loss": 0.5}, {"loss": math.inf}]}))
    [('rows[1].loss', inf)]
    """
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _not_finite(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for number, value in enumerate(content):
            yield from _not_finite(value, f"{key}[{number}]")
    elif isinstance(content, float) and not math.isfinite(content):
        yield key, content


def _rounded(content: Any) -> Any:
    """The same with six significant digits of each number.

    >>> _rounded({"a": [1 / 3, 12], "b": "x"})
    {'a': [0.333333, 12], 'b': 'x'}
    """
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


def without_places(content: Any) -> Any:
    """The same with each absolute path as it is from the working directory, or its last part where it lies elsewhere.

    For files that others will read: where something lay on this machine is nobody else's business. In a key the path
    may stand behind a word.

    >>> without_places({"model": {"folder": "/home/me/qwen"}, "adapter": str(Path.cwd() / "runs/first"), "rows": 3})
    {'model': {'folder': 'qwen'}, 'adapter': 'runs/first', 'rows': 3}
    >>> without_places({"training set /home/me/own.jsonl": {}})
    {'training set own.jsonl': {}}
    """
    if isinstance(content, dict):
        return {
            re.sub(r"(?<![^ ])/.+", lambda path: without_places(path[0]), key): without_places(value)
            for key, value in content.items()
        }
    if isinstance(content, list):
        return [without_places(value) for value in content]
    if isinstance(content, str) and content.startswith("/"):
        path, here = Path(content), Path.cwd()
        return str(path.relative_to(here)) if path.is_relative_to(here) else path.name
    return content


class RefusedError(json.JSONDecodeError):
    """Python's own parser takes it: a key that appears twice, whose first value would be lost, NaN or infinity."""


class _Refused(Exception):  # noqa: N818 (never leaves `parse_json`)
    """Somewhere in the text."""


def _object(pairs: list[tuple[str, Any]]) -> Row:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise _Refused
    return content


def _constant(name: str) -> None:
    raise _Refused(name)


_PARSER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


def parse_json(text: str) -> Any:
    """The value of a JSON text. What is not valid raises `json.JSONDecodeError`, of which `RefusedError` is one.

    >>> parse_json('{"a": 1, "a": 2}')
    Traceback (most recent call last):
    flextune.files.RefusedError: the key 'a' appears twice: line 1 column 10 (char 9)
    """
    try:
        return _PARSER.decode(text)
    except _Refused:
        raise _refused(text) from None


def _refused(text: str) -> RefusedError:
    """The error for a text of which the parser refused a part: what it is, and where."""
    objects: list[set[str]] = []
    for token in re.finditer(r'("(?:\\.|[^"\\])*")(\s*:)?|[{}]|NaN|-?Infinity', text):
        if token[0] == "{":
            objects.append(set())
        elif token[0] == "}":
            objects.pop()
        elif token[2]:
            key = json.loads(token[1])
            if key in objects[-1]:
                return RefusedError(f"the key {key!r} appears twice", text, token.start())
            objects[-1].add(key)
        elif not token[1]:
            return RefusedError(f"{token[0]} is not valid JSON; write a number or null", text, token.start())
    raise AssertionError(text)


def read_json(path: Path, of_model: bool = False) -> Any:
    """Read a JSON file; one that is broken, or missing, is an error that names the file and the line.

    Args:
        path: The file; a byte-order mark at its start is skipped.
        of_model: Accept all that transformers accepts in the `config.json` of a model: NaN and Infinity, which it
            writes itself, and keys that appear twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FlextuneError(f"{path} is not there") from None
    except UnicodeDecodeError as error:
        raise FlextuneError(f"{path}: not valid UTF-8 ({error.reason})") from None
    try:
        return json.loads(text) if of_model else parse_json(text)
    except RefusedError as error:
        raise FlextuneError(f"{path}, line {error.lineno}: {error.msg}") from None
    except json.JSONDecodeError as error:
        raise FlextuneError(f"{path}, line {error.lineno}: not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError) as error:  # brackets in brackets; an integer of thousands of digits
        raise FlextuneError(f"{path}: cannot be read ({error})") from None


class _Loader(yaml.SafeLoader):
    """YAML in which no key appears twice: the first would be dropped without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        for key, _ in reversed(node.value):
            if keys.count(key.value) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} appears twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


@lru_cache(1024)
def _parsed(text: str) -> Any:
    """What YAML says; parsing takes milliseconds, and a page of many rows asks for each recipe again and again."""
    return yaml.load(text, _Loader)  # noqa: S506 (a SafeLoader)


def parse_yaml(text: str) -> Any:
    """What a YAML text says; a key that appears twice is an error, as all that is no YAML (`yaml.YAMLError`)."""
    return copy.deepcopy(_parsed(text))


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file with a mapping, as a recipe is; anything else is an error that names the file and the line."""
    try:
        content = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    except (RecursionError, ValueError) as error:  # brackets in brackets; 2020-13-45, which looks like a date
        raise UsageError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise UsageError(f"{path}: a recipe is a mapping of keys such as `model: smollm2-135m`, found {content!r}")
    return content


def to_line(row: Mapping[str, Any], path: Path | None = None) -> str:
    """One row as a line of JSON Lines; half a surrogate pair, which UTF-8 does not have, stays an escape.

    NaN and infinity, which JSON does not have, are an error that names the key, and the file `path`.
    """
    line = _dumped(row, path)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as JSON Lines, atomically."""
    write_atomic(path, "".join(to_line(row, path) for row in rows))


def read_jsonl(path: Path, required: Iterable[str] = ()) -> Iterator[Row]:
    """Read JSON Lines row by row.

    Empty lines and a byte-order mark are skipped. A line that is not a JSON object, that has a key twice, or that lacks
    one of the `required` keys, raises a `FlextuneError` with the file and the line number.
    """
    required = tuple(required)
    with path.open(encoding="utf-8-sig") as lines:
        number = 0
        try:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row = parse_json(line)
                if not isinstance(row, dict):
                    raise FlextuneError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}")
                missing = [key for key in required if key not in row]
                if missing:
                    found = ", ".join(row) or "no keys"
                    raise FlextuneError(f"{path}, line {number}: the key {missing[0]!r} is missing (found {found})")
                yield row
        except RefusedError as error:
            raise FlextuneError(f"{path}, line {number}: {error.msg}") from None
        except json.JSONDecodeError as error:
            raise FlextuneError(f"{path}, line {number}: not valid JSON ({error.msg}, column {error.colno})") from None
        except UnicodeDecodeError as error:
            raise FlextuneError(f"{path}, after line {number}: not valid UTF-8 ({error.reason})") from None
        except (RecursionError, ValueError) as error:  # brackets in brackets; an integer of thousands of digits
            raise FlextuneError(f"{path}, line {number}: cannot be read ({error})") from None


class Journal:
    """Rows of a stage that is under way: `NAME.partial.jsonl`, which becomes `NAME.jsonl` when the stage is whole.

    Rows are appended in groups, one write and one fsync a group, so a killed process loses at most the group that it
    was writing. `rows` holds what an earlier, interrupted process left; a torn last line is dropped.
    """

    def __init__(self, path: Path):
        self.path = path
        self.partial = path.with_suffix(f".partial{path.suffix}")
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.partial.exists():
            cut_torn_line(self.partial)
            self.rows = list(read_jsonl(self.partial))

    @property
    def complete(self) -> bool:
        """True when the stage has been finished by this or an earlier process."""
        return self.path.exists()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add a group of rows and make them durable."""
        group = [dict(row) for row in rows]
        lines = "".join(to_line(row, self.partial) for row in group)
        before = self.partial.stat().st_size if self.partial.exists() else 0
        try:
            with self.partial.open("a", encoding="utf-8") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if self.partial.exists():
                os.truncate(self.partial, before)
            raise
        self.rows += group

    def finish(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the final rows, in their final order, under the final name."""
        write_jsonl(self.path, rows)
        self.partial.unlink(missing_ok=True)


def cut_torn_line(path: Path) -> None:
    """Take from the end of a file what is no whole line; nothing else of it is touched."""
    with path.open("rb+") as file:
        size = file.seek(0, os.SEEK_END)
        if size:
            file.seek(size - 1)
            if file.read() != b"\n":
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)


def sha256(path: Path) -> str:
    """The checksum of a file, or of all files below a folder (names and contents, in order).

    Of a folder its README.md and what is hidden do not count: a model card may be written anew, and the weights beside
    it are still the same.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    found = (p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".") and p != path / "README.md")
    for file_path in sorted(found):
        digest.update(f"{file_path.relative_to(path)}\0{sha256(file_path)}\n".encode())
    return digest.hexdigest()


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, str]:
    """The keys, dotted, in which two nested mappings differ, each with a sentence.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    {'a.c': 'a.c is 2 there, 3 here'}
    """
    first, second = dict(_flat(there)), dict(_flat(here))
    return {
        key: f"{key} is {first.get(key)!r} there, {second.get(key)!r} here"
        for key in {**first, **second}
        if first.get(key) != second.get(key)
    }


def claim(path: Path, about: Mapping[str, Any]) -> None:
    """Write down what a stage's output is made from, before it is made; refuse to mix it with another's.

    Raises `UsageError` with what differs if `path` is there and says something else.
    """
    if path.exists():
        changed = differences(read_json(path), json.loads(json.dumps(about)))
        if changed:
            raise UsageError(
                f"{path.parent} holds results made otherwise: {'; '.join(changed.values())}; name another --output"
            )
    else:
        write_json(path, about)


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(content, Mapping) and content:
        for key, value in content.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, content
