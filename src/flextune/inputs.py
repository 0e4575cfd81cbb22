"""What a recipe names: data sets, a model, adapters; found and checked before anything is done with them."""

from dataclasses import dataclass, replace
from pathlib import Path

from flextune.adapters import find_adapter, merged_below
from flextune.errors import UsageError
from flextune.generation.settings import Generation
from flextune.models import ModelSource, check_adapters, find_model
from flextune.recipe import Recipe
from flextune.reranking import ask_for_tests
from flextune.tasks import Benchmark, TrainingSet, first, load_benchmark, load_training_set
from flextune.tasks.split import ask, hold_out, without_overlaps


def model_source(name: str, generation: Generation, revision: str | None = None) -> ModelSource:
    """The model's folder; or, on a server, its name there."""
    if generation.backend == "openai":
        return ModelSource(Path(name), {"server": generation.server, "model": name})
    return find_model(name, revision)


@dataclass(frozen=True)
class Data:
    """The data sets that a recipe names."""

    benchmarks: list[Benchmark]
    training_set: TrainingSet | None
    validation_set: TrainingSet | None


def load_data(recipe: Recipe) -> Data:
    """The problems to measure, the examples to learn from, and those to measure the loss on; overlaps are refused."""
    asked = recipe.evaluation
    benchmarks = ask([load_benchmark(name, recipe.data) for name in asked.benchmarks], asked.only, asked.without)
    benchmarks = [first(benchmark, asked.limit) for benchmark in benchmarks]
    training = recipe.training
    if training is None:
        return Data(benchmarks, None, None)

    def load(seed: int) -> TrainingSet:
        found = load_training_set(
            training.dataset, recipe.data, training.template, training.limit, training.solutions, seed
        )
        return without_overlaps(found, benchmarks, training.overlap)

    if isinstance(training.validation, int):
        return Data(benchmarks, *hold_out(load(recipe.seed), load(0), training.validation))
    if training.validation is None:
        return Data(benchmarks, load(recipe.seed), None)
    held_out = load_training_set(training.validation, recipe.data)
    return Data(benchmarks, load(recipe.seed), without_overlaps(held_out, benchmarks, training.overlap))


@dataclass(frozen=True)
class Inputs(Data):
    """All that a recipe names."""

    source: ModelSource


def find_inputs(recipe: Recipe) -> Inputs:
    """Find all that a recipe names, and refuse what does not go together."""
    if recipe.study:
        raise UsageError("the recipe has a `study`, several runs: use `flextune run`, or flextune.studies.compare")
    data = load_data(recipe)
    if any(decoding.self_tests for decoding in recipe.evaluation.decodings.values()):
        for benchmark in data.benchmarks:
            ask_for_tests(benchmark.problems)  # an error now, not after hours
    source = replace(model_source(recipe.model, recipe.generation, recipe.revision), quantization=recipe.quantization)
    if recipe.merge_first:
        adapter = find_adapter(recipe.merge_first)
        source = replace(source, adapters=(*merged_below(adapter), adapter))
    for key, name in (("adapter.start", recipe.adapter.start), ("evaluation.adapter", recipe.evaluation.adapter)):
        if name and [a.resolve() for a in merged_below(find_adapter(name))] != [a.resolve() for a in source.adapters]:
            below = ", ".join(map(str, merged_below(find_adapter(name)))) or "none"
            raise UsageError(
                f"{key} = {name!r} was trained on weights with other adapters merged in ({below}) than merge_first "
                f"gives here ({', '.join(map(str, source.adapters)) or 'none'})"
            )
    named = [find_adapter(name) for name in (recipe.adapter.start, recipe.evaluation.adapter) if name]
    check_adapters(source, [*source.adapters, *named], merged="merged" in recipe.variants)
    return Inputs(**vars(data), source=source)
