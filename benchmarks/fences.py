"""What is left of the differences between rows when completions end at a closing fence.

    python benchmarks/fences.py --data DATA [--results results/small] [--work runs/fences]

A chat model often closes its answer with a fence. HumanEval's stop strings end a completion there, MultiPL-E's do not:
in JavaScript such a program does not compile, however right it is. This cuts each kept completion at its first fence,
judges those that this changes anew (the others keep their verdicts), and makes the same comparisons. The rows as they
were planned stay what they are; this says how much of them is form.
Prints the tables and writes them to benchmarks/results/fences.md.
"""

import argparse
import io
import shutil
import sys
from pathlib import Path

from rich.console import Console

from flextune.execution.settings import Execution
from flextune.execution.stage import judge_file
from flextune.files import read_jsonl, write_jsonl
from flextune.report.reproduction import NOT_OF_THE_PAPER, summary
from flextune.rundir import Measurement, machine
from flextune.scoring.score import score

RESULTS = Path(__file__).parent / "results" / "fences.md"
FENCE = "```"


def cut(kept: Measurement, target: Measurement, benchmark: str, data: str) -> tuple[int, int, int]:
    """Write the measurement with completions cut; returns how many were cut, solved before, and solved after."""
    rows = [{**row, "cut": FENCE in row["completion"]} for row in read_jsonl(kept.completions)]
    for row in rows:
        row["completion"] = row["completion"].partition(FENCE)[0]
    verdicts = {(row["task_id"], row["sample"]): row for row in read_jsonl(kept.verdicts)}
    before = sum(row["passed"] for row in verdicts.values())
    changed = [row for row in rows if row.pop("cut")]
    if changed:
        part = target.path / "cut"
        write_jsonl(part / "completions.jsonl", changed)
        judge_file(part / "completions.jsonl", benchmark, data, part, Execution())
        verdicts |= {(row["task_id"], row["sample"]): row for row in read_jsonl(part / "verdicts.jsonl")}
    write_jsonl(target.completions, rows)
    write_jsonl(target.path / "problems.jsonl", read_jsonl(kept.problems))
    shutil.copy(kept.execution, target.execution)
    write_jsonl(target.verdicts, verdicts.values())
    score(target, benchmark)
    return len(changed), before, sum(row["passed"] for row in verdicts.values())


def main() -> None:
    """Cut, judge, compare, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--results", default="results/small")
    parser.add_argument("--work", default="runs/fences")
    options = parser.parse_args()
    arms: dict[str, dict[int, Path]] = {}
    lines = ["| row | seed | benchmark | cut | solved as planned | solved when cut |", "|---|---:|---|---:|---:|---:|"]
    for recipe in sorted(Path(options.results).glob("*/seed-*/recipe.yaml")):
        run, row, seed = recipe.parent, recipe.parent.parent.name, int(recipe.parent.name.removeprefix("seed-"))
        target = Path(options.work) / row / run.name
        target.mkdir(parents=True, exist_ok=True)
        for name in ("recipe.yaml", "run.json"):
            shutil.copy(run / name, target / name)
        for folder in sorted(path.parent for path in (run / "evaluation").glob("*/*/*/verdicts.jsonl")):
            place = folder.relative_to(run)
            benchmark, variant = place.parts[1], place.parts[2]
            counts = cut(Measurement(folder), Measurement(target / place), benchmark, options.data)
            name = f"{row}, {variant}, {place.parts[3]}"
            problems = sum(1 for _ in read_jsonl(folder / "verdicts.jsonl"))
            lines.append(f"| {name} | {seed} | {benchmark} | {counts[0]} of {problems} | {counts[1]} | {counts[2]} |")
        arms.setdefault(row, {})[seed] = target
    text = io.StringIO()
    Console(file=text, width=140, markup=False).print(summary(arms, NOT_OF_THE_PAPER))
    parts = [
        "# Completions cut at a closing fence",
        f"`python {' '.join(sys.argv)}`",
        str(machine()),
        (__doc__ or "").partition("\n\n")[2].partition("\n\n")[2].partition("Prints")[0].strip(),
        "\n".join(lines),
        "## The same comparisons, with completions cut",
        f"```text\n{text.getvalue().rstrip()}\n```",
    ]
    RESULTS.write_text("\n\n".join(parts) + "\n")
    print(RESULTS.read_text())


if __name__ == "__main__":
    main()
