"""What a recipe will need, without doing any of it: parameters, steps, texts, memory, disk; the option `--dry-run`.

Only the model's configuration is read, and the data sets; neither weights nor a GPU are needed, nor the server of a
model that is served. Memory is an estimate from shapes, for one device; `training/metrics.jsonl` has what was used.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from flextune import hub
from flextune.errors import FlextuneError
from flextune.inputs import load_data
from flextune.models import EMBEDDED, find_model, shapes
from flextune.recipe import Recipe
from flextune.tuning.adapters import add_shapes

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Of a weight in 4 bits: a scale of 8 bits for 64 of them, and one of 32 for 256 of those."""
ADAMW_BYTES = 16
"""Of a trained parameter in float32: itself, its gradient and two averages."""


@dataclass(frozen=True)
class Estimate:
    """What a recipe will need; None where it does not train or measure."""

    model: str
    parameters: int | None = None
    """None of a model that another machine serves."""
    trainable: int | None = None
    examples: int | None = None
    """Before those that are longer than `training.max_length` are left out."""
    steps: int | None = None
    """At most, for that reason; None with `training.batch_tokens`, where it depends on the lengths."""
    texts: int | None = None
    """To be written, over all benchmarks, variants, decodings and samples."""
    training_gib: float | None = None
    generation_gib: float | None = None
    disk_gib: float = 0.0
    """Of the adapter and two checkpoints."""


def estimate(recipe: Recipe) -> Estimate:
    """Find out what a recipe will need.

    Raises:
        FlextuneError: The model's configuration or a data set cannot be had; the adapter does not fit the model.
        UsageError: The recipe names what is not there; problems would be learned and then measured.
    """
    data = load_data(recipe)
    texts = _texts(recipe, sum(len(benchmark.problems) for benchmark in data.benchmarks)) if data.benchmarks else None
    if recipe.generation.backend == "openai":
        return Estimate(recipe.model, texts=texts)
    config = _configuration(recipe)
    model = shapes(config)
    weights = [parameter.numel() for parameter in model.parameters()]
    matrices = sum(
        m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"
    )
    type_ = str(config.dtype or torch.float32).removeprefix("torch.") if recipe.dtype == "auto" else recipe.dtype
    held = sum(weights) * BYTES[type_]
    if recipe.quantization:
        held = int((sum(weights) - matrices) * 2 + matrices * NF4_BYTES)
    trainable = examples = steps = training_bytes = None
    adapter_bytes = 0
    training = recipe.training
    if training and data.training_set:
        if not recipe.adapter.start:  # what another run's adapter has is not known before it is there
            trainable, _ = add_shapes(model, recipe.adapter).get_nb_trainable_parameters()
        examples = len(data.training_set.examples)
        if training.batch_tokens is None:
            steps = math.ceil(math.ceil(examples / training.batch_size / training.accumulation) * training.epochs)
        adapter_bytes = 4 * (trainable or 0)
        tokens = training.batch_tokens or training.batch_size * training.max_length
        training_bytes = held + ADAMW_BYTES * (trainable or 0) + _activations(config, tokens, training, BYTES[type_])
    generation_bytes = held + adapter_bytes + _keys_and_values(config, recipe, BYTES[type_]) if texts else None
    return Estimate(
        model=recipe.model,
        parameters=sum(weights),
        trainable=trainable,
        examples=examples,
        steps=steps,
        texts=texts,
        training_gib=training_bytes and training_bytes / GIB,
        generation_gib=generation_bytes and generation_bytes / GIB,
        disk_gib=(adapter_bytes + 2 * 3 * adapter_bytes) / GIB,
    )


def _configuration(recipe: Recipe) -> Any:
    """The model's configuration alone, from its folder or the Hub."""
    from transformers import AutoConfig

    name: str | Path = find_model(EMBEDDED).path if recipe.model == EMBEDDED else recipe.model
    reachable = Path(name).is_dir() or hub.online()
    try:
        return AutoConfig.from_pretrained(name, revision=recipe.revision, trust_remote_code=False)
    except Exception as error:  # huggingface_hub, httpx, OSErrors and ValueErrors alike mean "not to be had"
        why = str(error).strip().splitlines()[0] if reachable else "the Hub cannot be reached and nothing is cached"
        raise FlextuneError(
            f"the configuration of {recipe.model} cannot be read: {why}; give a folder with its config.json as the "
            "model (model=FOLDER)"
        ) from None


def _activations(config: Any, tokens: int, training: Any, width: int) -> int:
    """What the backward pass needs of so many tokens at once, roughly.

    Of each layer the inputs of its norms and projections, in the width of the weights; of each checkpointed layer its
    input alone, and one layer whole. Of the logits, float32, three copies where the loss is computed, and with a
    divergence from the base model three more.
    """
    hidden, inner = config.hidden_size, getattr(config, "intermediate_size", 4 * config.hidden_size)
    layer = tokens * (10 * hidden + 4 * inner) * width
    layers = config.num_hidden_layers
    whole = layers * tokens * hidden * width + layer if training.gradient_checkpointing else layers * layer
    copies = 6 if training.kl else 3
    return int(whole + copies * tokens * config.vocab_size * 4)


def _keys_and_values(config: Any, recipe: Recipe, width: int) -> int:
    """Of all texts that are under way at once, at the longest, after a prompt of 512 tokens."""
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    longest = 512 + recipe.generation.max_new_tokens
    layers: int = config.num_hidden_layers
    return 2 * layers * heads * size * width * longest * recipe.generation.concurrency


def _texts(recipe: Recipe, problems: int) -> int:
    samples = sum(decoding.samples + (decoding.self_tests or 0) for decoding in recipe.evaluation.decodings.values())
    return problems * len(recipe.variants) * samples
