"""The verbs of a whole experiment: `quickstart`, `run`, `evaluate`, `recipe`."""

from pathlib import Path
from typing import Literal

from rich.text import Text

from flextune.progress import out


def quickstart(*overrides: str, output: str = "runs/quickstart") -> None:
    """Tune a small model on Python, measure it on Python and Java before and after, and write a report.

    Parameters
    ----------
    overrides
        Keys of the recipe to change, such as training.epochs=1 (`flextune recipe` lists them).
    output
        The run directory.
    """
    from flextune import pipeline

    _show(pipeline.quickstart(output, overrides).path)


def run(recipe: str, *overrides: str, output: str | None = None, dry_run: bool = False) -> None:
    """Do all of a recipe: measure, train, measure again, compare, report. Killed, it goes on where it was.

    A recipe with a `study` trains several times and compares.

    Parameters
    ----------
    recipe
        The YAML file (`flextune recipe` lists its keys), or one that comes with flextune, such as
        recipes/quickstart.yaml.
    overrides
        Keys to change, such as training.learning_rate=1e-4.
    output
        The run directory; by default runs/ and the name of the recipe.
    dry_run
        Only say what it will need: parameters, steps, texts, memory, disk.
    """
    from flextune import pipeline
    from flextune.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    if dry_run:
        from flextune.estimate import estimate
        from flextune.report.estimates import summary

        out.print(summary({Path(recipe).stem: estimate(loaded)}))
        if loaded.study:
            out.print(f"A study: {loaded.study.trainings} trainings, each of them like this")
        return
    folder = output or Path("runs") / Path(recipe).stem
    if loaded.study:
        from flextune.studies.compare import run_study

        _show_study(run_study(loaded, folder))
    else:
        _show(pipeline.run(loaded, folder).path)


def evaluate(
    model: str,
    *,
    benchmark: list[str],
    output: str | None = None,
    adapter: str | None = None,
    data: str | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    allow_unsandboxed: bool = False,
) -> None:
    """Measure a model on benchmarks: generate greedily, execute in the sandbox, score.

    Parameters
    ----------
    model
        A folder, a name on the Hub, or smollm2-135m.
    benchmark
        A benchmark (`flextune data list`); may be given several times.
    output
        The run directory; by default runs/evaluate- and the model's name.
    adapter
        A PEFT folder to put beside the model's weights.
    data
        A folder with local copies of data sets.
    limit
        Ask only the first problems.
    max_new_tokens
        Longest completion.
    dtype
        Type of the weights; auto is the model's own.
    allow_unsandboxed
        Agree to run programs without a sandbox if there is none.
    """
    from flextune import pipeline

    done = pipeline.evaluate(
        model,
        benchmark,
        output or f"runs/evaluate-{Path(model).name}",
        adapter=adapter,
        data=data,
        limit=limit,
        max_new_tokens=max_new_tokens,
        dtype=dtype,
        allow_unsandboxed=allow_unsandboxed,
    )
    _show(done.path)


def recipe() -> None:
    """List the keys of a recipe: type, default, and what each does."""
    from flextune.recipe import describe_keys

    for key, kind, default, description in describe_keys():
        if kind == "section":
            out.print(Text.assemble("\n", (key, "bold"), f": {description}"))
        else:
            out.print(Text.assemble("  ", (key, "bold"), f" ({default}): {description}"))


def _show(run: Path) -> None:
    """The end of a run: the table, and where the report is."""
    from flextune.report.results import read_results
    from flextune.report.run import summary

    results = read_results(run)
    if results.results:
        out.print(summary(results))
    else:
        out.print(f"Adapter: {run / 'adapter'}", soft_wrap=True)
    out.print(f"Report: {run / 'report' / 'index.html'}", soft_wrap=True)


def _show_study(folder: Path) -> None:
    """The end of a study: the table, and where everything is."""
    from flextune.report.study import STUDY, read_study, summary

    out.print(summary(read_study(folder)))
    out.print(f"Trials: {folder / 'trials'}", soft_wrap=True)
    out.print(f"Results: {folder / STUDY}", soft_wrap=True)
    out.print(f"Report: {folder / 'report' / 'index.html'}", soft_wrap=True)
