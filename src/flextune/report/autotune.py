"""What was chosen, and what speaks for it, in the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from flextune.errors import UsageError
from flextune.files import read_json
from flextune.report.comparison import sentence
from flextune.report.results import percent, value_of

RECORD = "autotune.json"
FEW = 6
"""Values of a setting that are told one by one."""


def read_autotune(path: str | Path) -> dict[str, Any]:
    """What `flextune autotune` found."""
    file = Path(path) / RECORD
    if not file.exists():
        raise UsageError(f"{path} has no {RECORD}: autotune has not come to its end there")
    content: dict[str, Any] = read_json(file)
    return content


def summary(found: Mapping[str, Any]) -> Group:
    """The choice, each language, the model as it came, the first settings, and what each setting was worth."""
    return Group(*map(Text, sentences(found)))


def sentences(found: Mapping[str, Any]) -> Iterator[str]:
    """The same, line by line."""
    candidates = found["candidates"]
    losing = [candidate for candidate in candidates if candidate["loses"]]
    yield (
        f"{len(candidates)} trials were measured, {found['states'].get('fail', 0)} failed, "
        f"{found['states'].get('pruned', 0)} ended early; {len(losing)} are worse than the model as it came in some "
        "language, beyond noise, and were left out"
    )
    chosen = next((candidate for candidate in candidates if candidate["number"] == found["chosen"]), None)
    if chosen is None:
        yield "No setting is left: the model as it came is the best of them"
        return
    settings = " ".join(f"{key}={value_of(value)}" for key, value in chosen["settings"].items())
    yield f"Chosen: trial {chosen['number']}: {settings}"
    yield (
        f"  all languages: {percent(chosen['value'])}, the model as it came {percent(found['as_it_came'])}: "
        f"{sentence(found['against_base'])}"
    )
    for row in chosen["languages"]:
        yield f"  {row['benchmark']}: {sentence(row)}"
    if found["against_first"]:
        yield f"  against the settings that the search began with (trial {found['first']}): " + sentence(
            found["against_first"]
        )
    elif found["first"] is None:
        yield "  the trial with the settings that the search began with was not whole: nothing is compared with it"
    else:
        yield "  these are the settings that the search began with"
    for line in found["against_base"]["unlike"]:
        yield f"  compared with the model as it came all the same: {line}"
    if chosen["value"] <= found["as_it_came"]:
        yield "Nothing was gained: the model as it came is as good on these problems"
    yield "What each value was worth, mean over its trials:"
    for key in chosen["settings"]:
        yield f"  {key}: {', '.join(_worth(key, candidates))}"
    yield "The best of many looks better than it is: other seeds, and problems that did not choose it, will say"


def _worth(key: str, candidates: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The mean over trials by value of a setting; of many numbers, by lower and upper half."""
    by_value: dict[Any, list[float]] = {}
    for candidate in candidates:
        if key in candidate["settings"]:
            by_value.setdefault(value_of(candidate["settings"][key]), []).append(candidate["value"])
    if len(by_value) > FEW:
        numbers = sorted((c["settings"][key], c["value"]) for c in candidates if key in c["settings"])
        half = len(numbers) // 2
        parts = (numbers[:half], numbers[half:])
        by_value = {f"{value_of(p[0][0])} to {value_of(p[-1][0])}": [value for _, value in p] for p in parts}
    for value, found in by_value.items():
        yield f"{value} {percent(sum(found) / len(found))} ({len(found)})"
