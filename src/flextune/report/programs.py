"""What models wrote, problem by problem: what a page lists, and the files that it reads when a problem is opened.

A program that several samples, seeds or models wrote is shown once, with all that wrote it.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from flextune.errors import FlextuneError
from flextune.files import Row, read_jsonl
from flextune.report.results import WORDS
from flextune.rundir import Measurement, is_checksum
from flextune.scoring.changes import KINDS, changes

CHUNK = 40
"""Problems in a file."""
NARROW = 4
"""Up to so many columns verdicts are written out."""


@dataclass(frozen=True)
class Column:
    """A model with a decoding: its measurements by benchmark and by the seed of the training.

    `against` is the label of the column that it is compared with.
    """

    label: str
    measured: Mapping[str, Mapping[int, Measurement]]
    against: str = ""


@dataclass(frozen=True)
class Cell:
    """What a column has of a problem."""

    label: str
    verdicts: Mapping[str, int]

    @property
    def passed(self) -> int:
        """Samples that passed."""
        return self.verdicts.get("passed", 0)

    @property
    def samples(self) -> int:
        """All of them."""
        return sum(self.verdicts.values())

    @property
    def side(self) -> str:
        """`all`, `some` or `none` passed; empty without samples."""
        if not self.samples:
            return ""
        return "all" if self.passed == self.samples else "some" if self.passed else "none"

    @property
    def words(self) -> str:
        """The verdict, or how many of the samples passed."""
        if not self.samples:
            return "–"
        return f"{self.passed} of {self.samples}" if self.samples > 1 else _words(next(iter(self.verdicts)))

    @property
    def mark(self) -> str:
        """The same where there is little room."""
        if self.samples > 1:
            return f"{self.passed}/{self.samples}"
        return {"all": "✓", "none": "✗"}.get(self.side, "–")

    @property
    def full(self) -> str:
        """All verdicts."""
        counts = ", ".join(f"{count} {_words(verdict)}" for verdict, count in self.verdicts.items())
        return f"{self.label}: {counts or 'not measured'}"


@dataclass(frozen=True)
class Problem:
    """A line of the list."""

    number: int
    benchmark: str
    task_id: str
    language: str
    cells: Sequence[Cell]
    kinds: Sequence[str]

    @property
    def chunk(self) -> int:
        """The number of the file with its programs."""
        return self.number // CHUNK

    @property
    def index(self) -> int:
        """Its place in that file."""
        return self.number % CHUNK

    @property
    def verdicts(self) -> list[str]:
        """Those of all its samples."""
        return list(dict.fromkeys(verdict for cell in self.cells for verdict in cell.verdicts))


@dataclass(frozen=True)
class Programs:
    """The programs of several columns."""

    columns: Sequence[Column]
    kind: ClassVar[str] = "programs"
    _found: dict[tuple[str, str], dict[str, Any]] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Read the files."""
        for column in self.columns:
            for benchmark, measurements in column.measured.items():
                for seed, measurement in measurements.items():
                    self._read(column, benchmark, measurement, f"seed {seed}" if len(measurements) > 1 else "")

    @cached_property
    def problems(self) -> list[Problem]:
        """The list, benchmark after benchmark."""
        kinds = self._kinds()
        return [
            Problem(
                number,
                benchmark,
                task_id,
                found["language"],
                [Cell(column.label, found["verdicts"].get(column.label, {})) for column in self.columns],
                kinds.get((benchmark, task_id), []),
            )
            for number, ((benchmark, task_id), found) in enumerate(self._found.items())
        ]

    @property
    def narrow(self) -> bool:
        """Whether there is room to write verdicts out."""
        return len(self.columns) <= NARROW

    @property
    def languages(self) -> list[str]:
        """Those of the problems."""
        return list(dict.fromkeys(problem.language for problem in self.problems))

    @property
    def benchmarks(self) -> list[str]:
        """Those of the problems."""
        return list(dict.fromkeys(problem.benchmark for problem in self.problems))

    @property
    def verdicts(self) -> list[tuple[str, str]]:
        """Those that occur, with words for them."""
        there = {verdict for problem in self.problems for verdict in problem.verdicts}
        return [(name, _words(name)) for name in (*(n for n in WORDS if n in there), *sorted(there - WORDS.keys()))]

    @property
    def kinds(self) -> list[str]:
        """Those of changes that occur."""
        return [kind for kind in KINDS if any(kind in problem.kinds for problem in self.problems)]

    def chunks(self) -> Iterator[tuple[str, str]]:
        """The files by name."""
        found = list(self._found.values())
        for start in range(0, len(found), CHUNK):
            number = start // CHUNK
            content = json.dumps([number, [_opened(each) for each in found[start : start + CHUNK]]])
            yield f"{number}.js", f"programs(...{content});\n"

    def _read(self, column: Column, benchmark: str, measurement: Measurement, note: str) -> None:
        written: dict[tuple[str, int], str] = {}
        if measurement.completions.exists():
            rows = read_jsonl(measurement.completions, ("task_id", "completion"))
            written = {(row["task_id"], row.get("sample", 0)): row["completion"] for row in rows}
        asked = read_jsonl(measurement.problems) if measurement.problems.exists() else ()
        texts: dict[str, Row] = {row["task_id"]: row for row in asked}
        verdicts = list(read_jsonl(measurement.verdicts, ("task_id", "sample", "verdict")))
        several = any(verdict["sample"] for verdict in verdicts)
        for verdict in verdicts:
            task_id, sample = verdict["task_id"], verdict["sample"]
            problem = texts.get(task_id, {})
            found = self._found.setdefault(
                (benchmark, task_id),
                {
                    "language": problem.get("language", ""),
                    "prompt": problem.get("prompt", ""),
                    "verdicts": {},
                    "programs": {},
                },
            )
            found["verdicts"].setdefault(column.label, Counter())[verdict["verdict"]] += 1
            text = written.get((task_id, sample))
            by = found["programs"].setdefault((text, verdict["verdict"], verdict.get("detail") or ""), {})
            by.setdefault(column.label, []).append(" ".join(filter(None, (note, f"sample {sample}" * several))))

    def _kinds(self) -> dict[tuple[str, str], list[str]]:
        """How each problem changed from what a column is compared with."""
        kinds: dict[tuple[str, str], list[str]] = {}
        by_label = {column.label: column for column in self.columns}
        for column in self.columns:
            before = by_label[column.against].measured if column.against else {}
            for benchmark, measurements in column.measured.items():
                for seed, measurement in measurements.items():
                    sides = before.get(benchmark, {})
                    if not sides:
                        continue
                    for change in _changes(sides.get(seed, next(iter(sides.values()))), measurement):
                        there = kinds.setdefault((benchmark, change.task_id), [])
                        if change.kind not in there:
                            there.append(change.kind)
        return kinds


def _words(verdict: str) -> str:
    return WORDS.get(verdict, verdict)


def _changes(first: Measurement, second: Measurement) -> Iterator[Any]:
    if all(path.exists() for side in (first, second) for path in (side.completions, side.problems)):
        try:
            yield from changes(first, second)
        except FlextuneError:
            return  # verdicts of other completions than those that are there


def _opened(found: Mapping[str, Any]) -> dict[str, Any]:
    """A problem with its programs, as the page's script reads it."""
    prompt = found["prompt"]
    return {
        "language": found["language"],
        "prompt": None if is_checksum(prompt) or not prompt else prompt,
        "programs": [
            {
                "text": text,
                "verdict": _words(verdict),
                "passed": verdict == "passed",
                "detail": detail,
                "by": [[label, _count(notes)] for label, notes in by.items()],
            }
            for (text, verdict, detail), by in found["programs"].items()
        ],
    }


def _count(notes: Sequence[str]) -> str:
    """Which samples or seeds wrote a program, or how many."""
    return f"{len(notes)} times" if len(notes) > 2 else " and ".join(filter(None, notes))
