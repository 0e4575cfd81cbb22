"""May two measurements be compared? What verdicts depend on besides the completions: problems, limits, toolchains."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flextune.files import Row, differences, read_json, read_jsonl
from flextune.rundir import Measurement, without_texts

WHAT_VERDICTS_DEPEND_ON = ("limits", "toolchains", "java_release", "compatible")
"""Keys of `execution.json`; the sandbox's layer is none of them, for all layers pass the same tests."""


@dataclass(frozen=True)
class Conditions:
    """Under what conditions a measurement was made, as far as its folder says."""

    folder: Path
    execution: dict[str, Any] | None
    """Limits, toolchains and rules of judging; None where there is no `execution.json`."""
    problems: dict[str, Row] | None
    """The problems by their ids; None where there is no `problems.jsonl`."""

    @property
    def upstream(self) -> dict[str, str]:
        """For each problem's id the problem that it was translated from, where that is known."""
        return {i: row["upstream"] for i, row in (self.problems or {}).items() if row.get("upstream")}


def read_conditions(measurement: Measurement) -> Conditions:
    """What the folder of a measurement says about its conditions."""
    execution = read_json(measurement.execution) if measurement.execution.exists() else None
    problems = None
    if measurement.problems.exists():
        problems = {
            str(row["task_id"]): row for row in read_jsonl(measurement.problems, ("task_id", "language", "prompt"))
        }
    return Conditions(measurement.path, execution, problems)


def unlike(first: Conditions, second: Conditions, shared: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each known difference that could change verdicts.

    Args:
        first: Of the one measurement.
        second: Of the other.
        shared: The ids of the problems that are compared, the first's to the second's. Where problems are compared
            with their translations, neither texts nor toolchains are expected to be the same.
    """
    ignored: tuple[str, ...] = ()
    if first.problems is not None and second.problems is not None:
        ours = [first.problems.get(one) for one in shared]
        theirs = [second.problems.get(two) for two in shared.values()]
        languages = [sorted({row["language"] for row in rows if row}) for rows in (ours, theirs)]
        if languages[0] != languages[1]:
            here, there = (", ".join(names) for names in languages)
            yield f"problems in {here} are compared with their translations into {there}"
            ignored = ("toolchains", "java_release")
        else:
            other = [i for i, one, two in zip(shared, ours, theirs, strict=True) if _asked(one) != _asked(two)]
            if other:
                yield (
                    f"{len(other)} of {len(shared)} problems do not have the same texts (another revision of the "
                    f"benchmark?), such as {other[0]!r}"
                )
    if first.execution is not None and second.execution is not None:
        keys = [key for key in WHAT_VERDICTS_DEPEND_ON if key not in ignored]
        limits = [{key: found.get(key) for key in keys} for found in (first.execution, second.execution)]
        yield from differences(*limits).values()


def unrecorded(*measurements: Conditions) -> list[str]:
    """A sentence for each measurement that does not say how it was judged, so that nothing could be checked."""
    return [f"{found.folder} does not say how it was judged" for found in measurements if found.execution is None]


def _asked(row: Row | None) -> Row:
    """What a problem asks, the same of a kept copy, which has checksums for texts."""
    return {key: value for key, value in without_texts(row or {}).items() if key != "upstream"}
