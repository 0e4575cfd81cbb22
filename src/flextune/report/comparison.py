"""Scores and comparisons in the terminal: what was found and how sure it is, and two programs side by side."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from flextune.report.results import WORDS, judgement, percent, points
from flextune.scoring.changes import Change

STYLES = {"-": "red", "+": "green", " ": ""}


def scores(found: Mapping[str, Any], title: str = "", problems: bool = False) -> Group:
    """pass@k with its interval, how often each verdict was found, and on demand each problem."""
    parts: list[RenderableType] = [Text(title)] if title else []
    parts += [Text(line) for line in _values(found)]
    table = Table()
    table.add_column("verdict")
    table.add_column("samples", justify="right")
    for verdict, count in found["verdicts"].items():
        table.add_row(Text(WORDS.get(verdict, printable(verdict))), str(count))
    parts.append(table)
    if problems:
        parts.append(_problems(found))
    return Group(*parts)


def _values(found: Mapping[str, Any]) -> Iterator[str]:
    for name, value in found.items():
        if not name.startswith("pass@"):
            continue
        samples = f", {found['samples']} samples" if "samples" in found else ""
        line = (
            f"{name} {percent(value['value'])} (95 % interval {percent(value['low'])} to {percent(value['high'])}; "
            f"{value['problems']} problems{samples})"
        )
        if value["too_few"]:
            line += f"; {len(value['too_few'])} problems have fewer samples and are left out"
        yield line


def _problems(found: Mapping[str, Any]) -> Table:
    table = Table()
    table.add_column("problem")
    table.add_column("passed", justify="right")
    for task_id, count in found["per_problem"].items():
        table.add_row(Text(printable(task_id)), f"{count['passed']} of {count['samples']}")
    return table


def scores_of_seeds(found: Mapping[str, Any]) -> Group:
    """The mean over several seeds, the wider of the two intervals first."""
    lines = []
    for name, value in found.items():
        if name.startswith("pass@"):
            interval = _of_seeds(value, percent)
            lines.append(
                f"{name} of {found['seeds']} seeds: {percent(value['value'])} (95 % interval {interval}; "
                f"{value['problems']} problems)"
            )
    return Group(*map(Text, lines))


def _of_seeds(value: Mapping[str, Any], form: Any) -> str:
    """Both intervals, the wider first: `30.1 % to 45.2 % over problems; over seeds 33.0 % to 42.0 %`."""
    order = ("over_problems", "over_seeds") if value["wider"] == "problems" else ("over_seeds", "over_problems")
    (first, one), (second, two) = ((name.replace("_", " "), value[name]) for name in order)
    return f"{form(one[0])} to {form(one[1])} {first}; {second} {form(two[0])} to {form(two[1])}"


def sentence(row: Mapping[str, Any]) -> str:
    """The difference, its interval, its p-value and what they allow one to say."""
    difference = row["difference"]
    interval = f"{points(difference['low'])} to {points(difference['high'])}"
    if "wider" in difference:
        interval = _of_seeds(difference, points)
    p = f"p = {row['p_value']:.2g}"
    if row.get("comparisons", 1) > 1:
        p += f", {row['p_adjusted']:.2g} as one of {row['comparisons']} comparisons"
    return (
        f"{points(difference['value'])} points (95 % interval {interval}; {p}, {row['problems']} problems): "
        f"{judgement(row)}"
    )


def paragraph(row: Mapping[str, Any], reference: str) -> Group:
    """A comparison with all that belongs to it; the variant of each side is named where it is known."""
    place = ", ".join(str(row[key]) for key in ("benchmark", "decoding") if key in row)
    first, second = row.get("first_variant"), row.get("second_variant")
    names = [
        name + (f" ({variant})" if variant else "") for name, variant in ((row["name"], second), (reference, first))
    ]
    lines = [
        Text(f"{' against '.join(names)}{f': {place}' if place else ''}", style="bold"),
        Text(sentence(row)),
    ]
    if "first" in row:
        values = [
            (f"{variant} " if variant else "") + percent(row[side]["value"])
            for side, variant in (("first", first), ("second", second))
        ]
        lines.append(Text(f"{' → '.join(values)}; {row['method']}"))
    else:
        lines.append(Text(f"mean of {', '.join(row['benchmarks'])}; {row['method']}"))
    if row["detectable"] is None:
        few = "these problems and seeds" if row["seeds"] > 1 else "these problems"
        lines.append(Text(f"No difference could have been detected with {few}"))
    else:
        found = percent(row["detectable"]).replace(" %", " points")
        lines.append(Text(f"A difference of {found} would have been found four times in five; smaller ones less often"))
    lines += [
        Text(f"{name} {len(row[name])}: {printable(' '.join(row[name]))}") for name in ("won", "lost") if name in row
    ]
    lines += [Text(f"Compared anyway: {printable(line)}", style="yellow") for line in row["unlike"]]
    lines += [Text(printable(line)) for line in row["unrecorded"]]
    return Group(*lines)


def not_compared(rows: Sequence[Mapping[str, Any]]) -> Group:
    """What runs lack, and what one side alone has; each sentence once for all rows."""
    lines = dict.fromkeys(line for row in rows for line in row.get("not_compared", ()))
    return Group(*(Text(f"Not compared: {printable(line)}", style="yellow") for line in lines))


def side_by_side(change: Change) -> Panel:
    """Both completions of a problem line by line, with their verdicts."""
    body = Text()
    for mark, line in change.difference:
        body.append(f"{mark} {printable(line)}\n", style=STYLES[mark])
    before, after = (WORDS.get(written.verdict, written.verdict) for written in (change.before, change.after))
    title = Text(f"{change.kind}: {printable(change.task_id)} (- {before}, + {after})")
    return Panel(body, title=title, title_align="left")


def printable(text: str) -> str:
    r"""A text without what would steer a terminal, or what none can show: control characters, halves of pairs.

    >>> printable("a\x1b[31mb\tc")
    'a\\x1b[31mb\tc'
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]", lambda match: repr(match[0])[1:-1], text)
