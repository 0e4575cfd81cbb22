"""The verbs that say what verdicts mean: `score` and `compare`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flextune.errors import UsageError
from flextune.files import read_json
from flextune.progress import out
from flextune.rundir import Measurement


def score(
    folder: str,
    *more: str,
    benchmark: str = "",
    k: Annotated[tuple[int, ...], Parameter(consume_multiple=False)] = (),
    problems: bool = False,
) -> None:
    """Turn the verdicts in a folder into scores.json: pass@k with its interval.

    Parameters
    ----------
    folder
        The folder with verdicts.jsonl.
    more
        Further ones that differ by the seed of their training, for the mean with intervals over problems and seeds.
    benchmark
        The benchmark's name, for the file; by default the one that is there, or the folder's name.
    k
        Which pass@k, beside those of 1, 10 and 100 that there are samples for; may be given often.
    problems
        Show every problem too.
    """
    from flextune.report import comparison
    from flextune.scoring.score import score as write_scores
    from flextune.scoring.score import score_seeds

    measurements = [Measurement(Path(name)) for name in (folder, *more)]
    for measurement in measurements:
        there = read_json(measurement.scores) if measurement.scores.exists() else {}
        scores = write_scores(measurement, benchmark or there.get("benchmark", measurement.path.name), k)
        out.print(comparison.scores(scores, "" if not more else str(measurement.path), problems))
    if more:
        out.print(comparison.scores_of_seeds(score_seeds(measurements, k)))


def compare(
    first: str,
    *others: str,
    k: int = 1,
    anyway: bool = False,
    show: Literal["correction", "regression", "alternative"] | None = None,
    output: str | None = None,
) -> None:
    """Compare measurements of the same problems, or whole runs, with the first.

    Commas join folders that differ by the seed of their training: compare base tuned-0,tuned-1,tuned-2

    Each comparison names the variant (base, unmerged or merged) of both sides. A run whose recipe asks for a tuned
    variant is compared only after that variant has been judged.

    Parameters
    ----------
    first
        A folder with verdicts.jsonl, or a run directory.
    others
        One or more of the same kind. Of several, p-values are corrected for their number.
    k
        Compare pass@k.
    anyway
        Compare what was measured under different conditions too, on the problems that both were asked. Of runs that
        are not complete, compare what both sides have. What differs or is missing is stamped on the result.
    show
        Show the programs of both, with their difference: correction (failed before, solved after), regression, or
        alternative (solved by different programs).
    output
        A folder to write: comparison.json, and changes.jsonl with all the programs.
    """
    from flextune.files import write_json, write_jsonl
    from flextune.report import comparison
    from flextune.scoring.changes import changes
    from flextune.scoring.compare import compare_each
    from flextune.scoring.runs import compare_runs

    if not others:
        raise UsageError("compare needs at least two: name what to compare with the first")
    arms = {name: tuple(Path(part) for part in name.split(",") if part) for name in (first, *others)}
    places = [Path(part).resolve() for name in (first, *others) for part in name.split(",") if part]
    if len(set(places)) < len(places):
        raise UsageError("one folder is named twice")
    runs = {name: _are_runs(arm) for name, arm in arms.items()}
    if len(set(runs.values())) > 1:
        raise UsageError(
            "a run directory cannot be compared with a measurement: name a folder with verdicts.jsonl for each, such "
            "as RUN/evaluation/humaneval/base/greedy"
        )
    reference = arms.pop(first)
    single = not runs[first] and len(arms) == 1 and all(len(arm) == 1 for arm in (reference, *arms.values()))
    if show and not single:
        raise UsageError("--show needs two folders with verdicts.jsonl")
    rows = (compare_runs if runs[first] else compare_each)(reference, arms, k=k, anyway=anyway)
    for row in rows:
        out.print(comparison.paragraph(row, first), soft_wrap=True)
    out.print(comparison.not_compared(rows), soft_wrap=True)
    if output:
        write_json(Path(output) / "comparison.json", rows)
    programs = []
    if single and (show or output):
        programs = list(changes(Measurement(reference[0]), Measurement(next(iter(arms.values()))[0])))
    for change in programs:
        if change.kind == show:
            out.print(comparison.side_by_side(change))
    if output:
        if single:
            write_jsonl(Path(output) / "changes.jsonl", (change.row() for change in programs))
        out.print(f"Written: {output}", soft_wrap=True)


def _are_runs(arm: Sequence[Path]) -> bool:
    """True for run directories, False for folders with verdicts; an error for what is neither."""
    kinds = set()
    for folder in arm:
        if not (folder / "verdicts.jsonl").exists() and not (folder / "evaluation").is_dir():
            raise UsageError(
                f"{folder} is neither a run directory nor a folder with verdicts.jsonl; judge completions with "
                "`flextune execute`"
            )
        kinds.add(not (folder / "verdicts.jsonl").exists())
    if len(kinds) != 1:
        raise UsageError(f"{','.join(map(str, arm))}: expected only run directories or only folders with verdicts")
    return kinds.pop()
