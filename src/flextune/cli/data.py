"""The commands `flextune data …`: look at benchmarks and training sets."""

import cyclopts

from flextune.progress import out

app = cyclopts.App(name="data", help="Look at benchmarks and training sets.")


@app.command(name="list")
def list_() -> None:
    """List benchmarks, and training sets with their prompt templates."""
    from flextune.tasks.registry import listed

    out.print("Benchmarks", style="bold")
    for name, entry in listed("measure"):
        out.print(f"  {name:<20} {entry.about}", soft_wrap=True)
    out.print("\nTraining sets", style="bold")
    for name, entry in listed("learn"):
        out.print(f"  {name:<20} {entry.about} (templates: {', '.join(entry.templates)})", soft_wrap=True)
    out.print("\nOr a .jsonl file: of task_id, language, prompt, tests, stop; of prompt and completion.")


@app.command(name="show")
def show(name: str, *, data: str | None = None, number: int = 1, training: bool = False) -> None:
    """Show one problem as the model sees it, with its tests; or one training example with its completion.

    Parameters
    ----------
    name
        A benchmark or a training set.
    data
        A folder with local copies of data sets.
    number
        Which one, from 1.
    training
        Show the training set of this name.
    """
    from flextune import tasks

    out.print(tasks.show(name, data, number, training), soft_wrap=True)


@app.command(name="overlap")
def overlap(training_set: str, benchmark: str, *, data: str | None = None, template: str | None = None) -> None:
    """List what a training set shares with a benchmark.

    Parameters
    ----------
    training_set
        A training set.
    benchmark
        A benchmark.
    data
        A folder with local copies of data sets.
    template
        The prompt template, if not the default.
    """
    from flextune.tasks import load_benchmark, load_training_set
    from flextune.tasks.overlap import NGRAM, find_overlaps

    examples = load_training_set(training_set, data, template).examples
    problems = load_benchmark(benchmark, data).problems
    overlaps = find_overlaps(examples, problems)
    for found in overlaps:
        kind = f"same {found.kind}" if found.certain else f"warning: {NGRAM} words in a row"
        out.print(f"{found.example}  {found.problem}  {kind}")
    certain = len({found.example for found in overlaps if found.certain})
    hints = len({found.example for found in overlaps if not found.certain})
    out.print(
        f"{certain} of {len(examples)} examples are among the {len(problems)} problems; "
        f"{hints} share {NGRAM} words in a row with one"
    )
