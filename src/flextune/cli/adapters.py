"""The verbs on adapters themselves: `spectrum`, `merge`, `push`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from flextune.errors import FlextuneError
from flextune.progress import out


def spectrum(
    adapter: str,
    *more: str,
    output: str | None = None,
    threshold: float = 0.5,
    permutations: int = 39,
    seed: int = 0,
) -> None:
    """Show where in frequency adapters have their energy, and whether chance would put it there.

    Parameters
    ----------
    adapter
        A PEFT folder, or a run that has one; no model is loaded.
    more
        Further ones, to see side by side.
    output
        The folder to write: spectrum.json, and figures as SVG. By default spectrum.json goes into the run if one is
        named, whose report then shows it, and all of it into runs/spectrum otherwise.
    threshold
        The relative frequency above which energy counts as high.
    permutations
        Random permutations of the adapter's entries that show what chance does.
    seed
        For permutations.
    """
    from flextune.files import write_numbers
    from flextune.report import spectra
    from flextune.rundir import RunDirectory
    from flextune.tuning.spectrum import spectrum as measure

    runs = [RunDirectory(folder) for folder in (adapter, *more)]
    content = measure([run.adapter if run.recipe.exists() else run.path for run in runs], threshold, permutations, seed)
    run = runs[0]
    if output is None and not more and run.recipe.exists():
        write_numbers(run.spectrum, content)
        out.print(spectra.summary(content))
        out.print(f"Numbers: {run.spectrum}; `flextune report {run.path}` shows the figures", soft_wrap=True)
        return
    folder = Path(output or "runs/spectrum")
    write_numbers(folder / "spectrum.json", content)
    spectra.draw(content, folder)
    out.print(spectra.summary(content))
    out.print(f"Numbers and figures: {folder}", soft_wrap=True)


def merge(
    adapter: str,
    *,
    output: str | None = None,
    model: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    check: bool = False,
    benchmark: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    data: str | None = None,
    limit: int | None = None,
    max_new_tokens: int = 512,
) -> None:
    """Add an adapter into its model's weights, and say what that changed.

    Parameters
    ----------
    adapter
        A PEFT folder, or a run that has one.
    output
        The folder of the merged model; by default the adapter's, with -merged.
    model
        The model; by default the one that the adapter names.
    dtype
        Type of the weights that are written; auto is the model's own.
    check
        Measure merged against unmerged, in every type: logits, and how much of the adapter is kept.
    benchmark
        Measure pass@1 of both too, paired; may be given several times.
    data
        A folder with local copies of data sets.
    limit
        Ask only the first problems.
    max_new_tokens
        Longest completion.
    """
    from dataclasses import asdict

    from flextune import pipeline
    from flextune.adapters import find_adapter
    from flextune.files import read_json, write_json
    from flextune.report import merging as report
    from flextune.report.results import read_results
    from flextune.report.run import summary
    from flextune.tasks import load_benchmark
    from flextune.tuning import merging

    folder = find_adapter(adapter)
    target = Path(output) if output else folder.with_name(f"{folder.name}-merged")
    asked = [load_benchmark(name, data, limit) for name in benchmark or ("basics-python", "basics-java")]
    merging.merge(folder, target, model=model, dtype=dtype)
    out.print(f"Merged: {target}", soft_wrap=True)
    if check:
        each = merging.PROMPTS // len(asked) or 1
        prompts = [problem.prompt for found in asked for problem in found.problems[:each]]
        found = asdict(merging.check(merging.base_of(folder, model), folder, prompts, target))
        write_json(target / merging.ABOUT, {**read_json(target / merging.ABOUT), "check": found})
        out.print(report.summary(found))
        if found["fault"]:
            raise FlextuneError("the merged weights are not the model that was trained")
    if benchmark:
        run = pipeline.evaluate(
            model or merging.model_of(folder),
            benchmark,
            target.with_name(f"{target.name}-measured"),
            adapter=folder,
            variants=("unmerged", "merged"),
            data=data,
            limit=limit,
            dtype=dtype,
            max_new_tokens=max_new_tokens,
        )
        out.print(summary(read_results(run.path)))
        out.print(f"Run: {run.path}", soft_wrap=True)


def push(
    run: str,
    repo: str,
    *,
    license: str | None = None,
    base_model: str | None = None,
    private: bool = False,
) -> None:
    """Publish the adapter of a run on the Hub, with its model card.

    Parameters
    ----------
    run
        The run directory.
    repo
        Where on the Hub: user/name.
    license
        What others may do with it, as the Hub calls it, such as apache-2.0.
    base_model
        The base model's name on the Hub, where the run has it from a folder.
    private
        Make a private repository.
    """
    from flextune import publish

    address = publish.push(run, repo, license=license, base_model=base_model, private=private)
    out.print(f"Published: {address}", soft_wrap=True)
