"""The results of a run in the terminal: a table, and a sentence for each comparison."""

from collections.abc import Iterator

from rich.console import Group
from rich.table import Table
from rich.text import Text

from flextune.report.comparison import sentence
from flextune.report.results import Results, form, percent


def summary(results: Results) -> Group:
    """One row for each measurement, then what changed against the base model and how sure that is."""
    return Group(_table(results), *(Text(sentence) for sentence in _sentences(results)))


def _table(results: Results) -> Table:
    several = len({result.decoding for result in results.results}) > 1
    table = Table()
    for column in ("benchmark", "variant", *(["decoding"] if several else [])):
        table.add_column(column, no_wrap=True)
    for column in ("solved", "pass@1 (95 % interval)", "no code"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in results.results:
        score = result.scores["pass@1"]
        table.add_row(
            result.benchmark,
            result.variant,
            *([result.decoding] if several else []),
            result.solved,
            f"{percent(score['value'])} ({100 * score['low']:.1f} to {100 * score['high']:.1f})",
            str(result.scores.get("not_code", "")),
        )
    return table


def _sentences(results: Results) -> Iterator[str]:
    for row in results.comparisons:
        decoding = "" if row["decoding"] == "greedy" else f" ({row['decoding']})"
        solved = f", {len(row['won'])} won, {len(row['lost'])} lost" if "won" in row else ""
        yield (
            f"{row['benchmark']}, {row['variant']} against {row['against']}{decoding}: {sentence(row)}{solved}"
            f"{form(results, row)}"
        )
