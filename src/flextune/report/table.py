"""The results of a run as a table in the terminal."""

from rich.table import Table

from flextune.report.results import Results, judgement, percent, points


def summary(results: Results) -> Table:
    """One row for each measurement, with its interval and, for a tuned model, the difference from the base."""
    table = Table(title=f"{results.recipe['model']}: problems solved", title_justify="left")
    for column in ("benchmark", "variant", "solved", "pass@1", "95 % interval", "no code", "against base"):
        table.add_column(column, justify="left" if column in ("benchmark", "variant", "against base") else "right")
    decodings = {result.decoding for result in results.results}
    for result in results.results:
        score = result.scores["pass@1"]
        comparison = next(
            (
                row
                for row in results.comparisons
                if (row["benchmark"], row["variant"], row["decoding"])
                == (result.benchmark, result.variant, result.decoding)
            ),
            None,
        )
        against = ""
        if comparison:
            low, high = comparison["difference"]["low"], comparison["difference"]["high"]
            against = (
                f"{points(comparison['difference']['value'])} points ({points(low)} to {points(high)}), "
                f"p = {comparison['p_value']:.2g}: {judgement(comparison)}"
            )
        table.add_row(
            result.benchmark,
            result.variant if len(decodings) == 1 else f"{result.variant}, {result.decoding}",
            result.solved,
            percent(score["value"]),
            f"{percent(score['low'])} to {percent(score['high'])}",
            str(result.scores.get("not_code", "")),
            against,
        )
    return table
