"""The verbs that need several stages: `run` does all of a recipe, `evaluate` measures a model, `quickstart` shows both.

Every stage writes its files under their final names only when they are whole, so each verb can be killed at any moment
and called again: what is whole is skipped, what is half done goes on.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from flextune import processes
from flextune.adapters import find_adapter, merged_below
from flextune.checkpoints import compute_dtype
from flextune.errors import UsageError
from flextune.execution.engine import prepare
from flextune.execution.program import Program
from flextune.execution.settings import Execution
from flextune.execution.stage import judge_completions
from flextune.execution.toolchain import find_tool, tool_version
from flextune.files import claim, sha256, write_json, write_jsonl
from flextune.generation.engine import Engine
from flextune.generation.generate import generate
from flextune.generation.prompts import Question
from flextune.generation.settings import Decoding, Generation
from flextune.inputs import Inputs, find_inputs, model_source
from flextune.languages import LANGUAGES
from flextune.models import check_adapters
from flextune.progress import say
from flextune.recipe import Recipe, Variant, dump_recipe, load_recipe
from flextune.report.card import write_card
from flextune.report.run import write_report
from flextune.reranking import ask_for_tests, choose, cross
from flextune.rundir import Measurement, RunDirectory, versions
from flextune.scoring.runs import compare_within
from flextune.scoring.score import is_scored, score
from flextune.section import parse
from flextune.tasks import Problem, load_benchmark


def run(recipe: Recipe, output: str | Path) -> RunDirectory:
    """Measure the base model, fine-tune it, measure it again, compare, and write the report.

    Args:
        recipe: What to do.
        output: The run directory; made if it is not there, continued if it holds a part of this same run.
    """
    if processes.count() > 1:
        raise UsageError(
            "several processes can only train: start them with `-m flextune train`, then `flextune run` with the same "
            "recipe and directory goes on from there"
        )
    directory = RunDirectory(output)
    with directory.lock():
        plan = _begin(recipe, directory)
        with Engine(plan.source, recipe.generation, recipe.dtype) as engine:
            if "base" in recipe.variants:
                _measure(recipe, directory, plan, engine, "base")
            if recipe.training and not directory.adapter.exists():
                engine.release()  # training needs the memory
            _train(recipe, directory, plan)
            for variant in recipe.variants:
                if variant != "base":
                    _measure(recipe, directory, plan, engine, variant)
        comparisons = compare_within(directory.path)
        if comparisons:
            write_json(directory.comparison, comparisons)
        _write_up(directory)
    return directory


def _write_up(directory: RunDirectory) -> None:
    """Write the report and the adapter's card; what goes wrong there takes nothing from a run that is whole."""
    for write in (write_report, write_card):
        try:
            write(directory.path)
        except Exception as error:
            say(f"The run is whole, but {write.__name__} failed: {type(error).__name__}: {error}")


def evaluate(
    model: str,
    benchmark: Sequence[str],
    output: str | Path,
    *,
    adapter: str | Path | None = None,
    variants: Sequence[Variant] | None = None,
    data: str | None = None,
    limit: int | None = None,
    dtype: str = "auto",
    max_new_tokens: int | None = None,
    allow_unsandboxed: bool = False,
) -> RunDirectory:
    """Measure a model, or an adapter on it, greedily on one or more benchmarks: generate, execute, score and compare.

    `variants` are those of the recipe; by default `unmerged` with an adapter and `base` without. What was merged below
    the adapter when it was trained is merged here too.
    """
    below = merged_below(find_adapter(adapter)) if adapter else ()
    content: dict[str, Any] = {
        "model": model,
        "merge_first": str(below[-1]) if below else None,
        "dtype": dtype,
        "data": data,
        "evaluation": {
            "benchmarks": list(benchmark),
            "limit": limit,
            "adapter": str(adapter) if adapter else None,
            "variants": list(variants or ["unmerged" if adapter else "base"]),
        },
        "generation": {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens},
        "execution": {"allow_unsandboxed": allow_unsandboxed},
    }
    return run(parse(Recipe, content, "evaluate"), output)


def quickstart(output: str | Path, overrides: Sequence[str] = ()) -> RunDirectory:
    """Run the recipe that comes with flextune: a small model, tuned on Python, measured on Python and Java.

    Without a JDK it goes on with Python alone, and says so.
    """
    with as_file(files("flextune") / "recipes" / "quickstart.yaml") as path:
        recipe = load_recipe(path, overrides)
    without_java = [name for name in recipe.evaluation.benchmarks if name != "basics-java"]
    if find_tool("java") is None and without_java:
        say(f"Java is not measured: {LANGUAGES['java'].tool} is missing ({LANGUAGES['java'].install})")
        recipe = replace(recipe, evaluation=replace(recipe.evaluation, benchmarks=without_java))
    return run(recipe, output)


def train_only(recipe: Recipe, output: str | Path) -> RunDirectory:
    """Train the adapter of a recipe; `run` with the same recipe and directory goes on from there.

    Under torchrun or `accelerate launch` every process calls it: the first holds the directory and writes, all train.
    """
    if recipe.training is None:
        raise UsageError("the recipe has no `training`")
    directory = RunDirectory(output)
    if processes.leads():
        with directory.lock():
            plan = _begin(recipe, directory, measure=False)
            processes.wait_for_all()
            _train(recipe, directory, plan)
    else:
        processes.wait_for_all()
        _train(recipe, directory, find_inputs(recipe))
    processes.part()
    return directory


def generate_only(
    model: str,
    benchmark: str,
    output: str | Path,
    *,
    decoding: dict[str, Any],
    generation: dict[str, Any],
    adapter: str | None = None,
    merged: bool = False,
    data: str | None = None,
    limit: int | None = None,
    dtype: str = "auto",
    seed: int = 0,
) -> Path:
    """Write the completions of one benchmark into a folder, with the snapshot of its problems."""
    if merged and adapter is None:
        raise UsageError("--merged needs --adapter")
    chosen, settings = parse(Decoding, decoding, "decoding"), parse(Generation, generation, "generation")
    asked = load_benchmark(benchmark, data, limit)
    source = model_source(model, settings)
    tuned = find_adapter(adapter) if adapter else None
    source = replace(source, adapters=merged_below(tuned)) if tuned else source
    if settings.backend != "openai":
        check_adapters(source, [*source.adapters, *([tuned] if tuned else [])], merged)
    measurement = Measurement(Path(output))
    about = {
        "model": source.provenance,
        "adapters below": [sha256(folder) for folder in source.adapters],
        "adapter": sha256(tuned) if tuned else None,
        "merged": merged,
        "dtype": dtype if settings.backend == "openai" else compute_dtype(source, dtype),
        "benchmark": {"name": benchmark, **asked.provenance},
        "decoding": asdict(chosen),
        "generation": {key: value for key, value in asdict(settings).items() if key != "workers"},
        "seed": seed,
    }
    if chosen.self_tests:
        prepare([_unwritten(problem) for problem in ask_for_tests(asked.problems)], Execution())
    with RunDirectory(output).lock(), Engine(source, settings, dtype) as engine:
        claim(measurement.generation, about)
        write_jsonl(measurement.path / "problems.jsonl", (problem.snapshot() for problem in asked.problems))
        _write(
            engine,
            asked.problems,
            measurement,
            decoding=chosen,
            variant=(tuned, merged),
            seed=seed,
            execution=Execution(),
            label=benchmark,
        )
    return measurement.completions


def check(recipe: Recipe) -> Inputs:
    """Find all that a recipe names, and see that this machine can judge what it measures; an error says what is not."""
    inputs = find_inputs(recipe)
    if recipe.variants:
        prepare([_unwritten(problem) for found in inputs.benchmarks for problem in found.problems], recipe.execution)
    return inputs


def _begin(recipe: Recipe, directory: RunDirectory, measure: bool = True) -> Inputs:
    """Find and check all that a recipe needs, so that nothing can be missing later, and record the start.

    A machine that only trains needs neither a sandbox nor toolchains.
    """
    plan = check(recipe) if measure else find_inputs(recipe)
    if recipe.training and not directory.adapter.exists():
        from flextune.tuning.preflight import check_training

        check_training(
            plan.source,
            recipe.training,
            recipe.adapter,
            merged="merged" in recipe.variants,
            examples=plan.training_set.examples if plan.training_set else (),
            validation=plan.validation_set.examples if plan.validation_set else (),
        )
    inputs: dict[str, Any] = {"model": plan.source.provenance}
    if recipe.generation.backend != "openai":
        inputs["model files"] = plan.source.settings()
        inputs["dtype"] = {"computed in": compute_dtype(plan.source, recipe.dtype)}
    inputs |= {f"benchmark {benchmark.name}": benchmark.provenance for benchmark in plan.benchmarks}
    if plan.training_set:
        inputs[f"training set {plan.training_set.name}"] = plan.training_set.provenance
    if plan.validation_set:
        inputs[f"validation set {plan.validation_set.name}"] = plan.validation_set.provenance
    for name, adapter in (
        ("adapter", recipe.evaluation.adapter),
        ("adapter merged first", recipe.merge_first),
        ("adapter to start from", recipe.adapter.start if recipe.training else None),
    ):
        if adapter:
            folder = find_adapter(adapter)
            inputs[name] = {"folder": str(folder), "sha256": sha256(folder)}
    if plan.training_set and not directory.adapter.exists():
        inputs["training processes"] = processes.count()
    languages = sorted({problem.language for benchmark in plan.benchmarks for problem in benchmark.problems})
    toolchains = {f"toolchain {name}": tool_version(name) or "missing" for name in languages}
    before = dump_recipe(load_recipe(directory.recipe)) if directory.recipe.exists() else None
    directory.begin(dump_recipe(recipe), inputs, versions() | toolchains, before)
    for benchmark in plan.benchmarks:
        snapshot = directory.problems(benchmark.name)
        if not snapshot.exists():
            write_jsonl(snapshot, (problem.snapshot() for problem in benchmark.problems))
    return plan


def _unwritten(problem: Problem) -> Program:
    """A problem with nothing written yet: what will have to be judged."""
    return Program(problem.task_id, 0, problem.language, problem.prompt, "", problem.tests)


def _train(recipe: Recipe, directory: RunDirectory, plan: Inputs) -> None:
    """Train the adapter, if the recipe says so and it is not there."""
    if recipe.training is None or plan.training_set is None:
        return
    if directory.adapter.exists():
        if processes.leads():
            shutil.rmtree(directory.checkpoints, ignore_errors=True)  # killed before that was done
        return
    from accelerate.utils.memory import clear_device_cache

    from flextune.tuning.train import train

    train(
        plan.source,
        plan.training_set.examples,
        directory,
        training=recipe.training,
        adapter=recipe.adapter,
        penalty=recipe.penalty,
        validation=plan.validation_set.examples if plan.validation_set else (),
        dtype=recipe.dtype,
        seed=recipe.seed,
    )
    if processes.leads():
        directory.record("adapter", {"sha256": sha256(directory.adapter)})
    clear_device_cache(garbage_collection=True)  # the trainer refers to itself: its model stays until somebody looks


def _measure(recipe: Recipe, directory: RunDirectory, plan: Inputs, engine: Engine, variant: Variant) -> None:
    """Generate, execute and score one variant of the model on every benchmark with every decoding."""
    adapter = None
    if variant != "base":
        adapter = find_adapter(recipe.evaluation.adapter) if recipe.evaluation.adapter else directory.adapter
        if recipe.evaluation.scale != 1:
            from flextune.tuning.adapters import scaled

            adapter = scaled(adapter, recipe.evaluation.scale, directory.scaled_adapter)
    for benchmark in plan.benchmarks:
        for name, decoding in recipe.evaluation.decodings.items():
            measurement = directory.measurement(benchmark.name, variant, name)
            label = f"{benchmark.name}, {variant}, {name}"
            _write(
                engine,
                benchmark.problems,
                measurement,
                decoding=decoding,
                variant=(adapter, variant == "merged"),
                seed=recipe.seed,
                execution=recipe.execution,
                label=label,
            )
            judge_completions(
                measurement.completions, benchmark.problems, measurement.path, recipe.execution, f"judging {label}"
            )
            if not is_scored(measurement):
                score(measurement, benchmark.name)


def _write(
    engine: Engine,
    problems: Sequence[Problem],
    measurement: Measurement,
    *,
    decoding: Decoding,
    variant: tuple[Path | None, bool],
    seed: int,
    execution: Execution,
    label: str,
) -> None:
    """The completions of one measurement, unless they are there.

    With tests of the model's own, they are one of several samples for each problem.
    """
    if measurement.completions.exists():
        return
    if decoding.self_tests is None:
        path = measurement.completions
        generate(engine, problems, path, decoding=decoding, variant=variant, seed=seed, label=f"writing {label}")
        return
    asked = ask_for_tests(problems)
    for what, written, samples, count, ask in (
        ("samples", problems, measurement.samples, decoding.samples, None),
        ("tests", asked, measurement.self_tests, decoding.self_tests, lambda p: Question(p, p.prompt)),
    ):
        generate(
            engine,
            written,
            samples.completions,
            decoding=replace(decoding, samples=count, self_tests=None),
            variant=variant,
            seed=seed,
            ask=ask,
            label=f"writing {what}, {label}",
        )
    crossed = cross(problems, measurement)
    if crossed:
        judge_completions(
            measurement.crossed.completions, crossed, measurement.crossed.path, execution, f"judging by tests, {label}"
        )
    choose(problems, measurement)
