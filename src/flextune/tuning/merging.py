"""Adapters added into the weights, and what that costs: the verb `merge`.

    merge("runs/first", "merged", dtype="bfloat16")         # a folder that any tool loads without PEFT
    check(find_model("smollm2-135m"), Path("runs/first/adapter"), prompts)

Merging in float32 and casting once loses what the type rounds away of each weight; adding into 4-bit weights loses most
of an adapter, because ΔW is smaller than the distance between two of their 16 values.
"""

import gc
import importlib.util
import math
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flextune.adapters import adapted_weight, find_adapter, merged_below, with_adapter
from flextune.errors import FlextuneError, UsageError
from flextune.files import differences, publish, read_json, sha256, write_json
from flextune.finite import first_not_finite
from flextune.models import ModelSource, check_adapters, find_model, load_model, save_model
from flextune.progress import progress, waiting
from flextune.rundir import versions

DType = Literal["auto", "float32", "bfloat16", "float16"]
ABOUT = "merge.json"
"""In a merged folder: what it was made from."""
PROMPTS, POSITIONS = 32, 32
"""How many prompts `check` reads, and of how many positions at the end of each it compares what comes next."""
BLOCK = 64
"""Weights that share a scale in NF4."""
ROUND_OFF = 1e-3
"""In float32, more than this share of ΔW lost, or of the largest logit changed, is no round-off."""


def merge(adapter: str | Path, output: str | Path, *, model: str | None = None, dtype: DType = "auto") -> Path:
    """Add an adapter into its model's weights, in float32, cast once, and write them as a model folder.

    Weights that the adapter does not touch are cast from the checkpoint's type. A folder that is there and was made
    from the same adapter and weights is left as it is.

    Args:
        adapter: A PEFT folder, or a run that has one. What a run merged below it (`merge_first`) is merged first.
        output: The folder to write.
        model: The model; by default the one that the adapter names.
        dtype: Type of the weights that are written; `auto` is the checkpoint's own.

    Returns:
        `output`.

    Raises:
        UsageError: The folder holds something else.
        FlextuneError: The model's weights are in 4 or 8 bits; the adapter does not fit.
    """
    folder, output = find_adapter(adapter), Path(output)
    source = base_of(folder, model)
    about = {
        "model": source.provenance,
        "adapters below": [sha256(below) for below in source.adapters],
        "adapter": sha256(folder),
        "dtype": dtype,
    }
    if output.exists():
        there = read_json(output / ABOUT) if (output / ABOUT).exists() else None
        if there is None:
            raise UsageError(f"{output} is there and no merge of flextune's; name another --output")
        if changed := differences({key: there.get(key) for key in about}, about):
            raise UsageError(f"{output} holds another merge: {'; '.join(changed.values())}; name another --output")
        return output
    check_adapters(source, [*source.adapters, folder], merged=True)
    loaded, tokenizer = load_model(source, "auto")
    merged = with_adapter(loaded, folder, merged=True, dtype=dtype)
    if name := first_not_finite(merged.named_parameters()):
        raise FlextuneError(f"merged in {dtype}, {name} overflows its type: choose another --dtype, such as bfloat16")
    partial = output.with_name(f".{output.name}.partial")
    try:
        with waiting(f"Writing {output}"):
            save_model(merged, tokenizer, partial, source)
            write_json(partial / ABOUT, {**about, "versions": versions()})
        publish(partial, output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def model_of(adapter: Path) -> str:
    """The model that an adapter names."""
    name = read_json(adapter / "adapter_config.json").get("base_model_name_or_path")
    if not name:
        raise UsageError(f"{adapter / 'adapter_config.json'} names no base_model_name_or_path: give --model")
    return str(name)


def base_of(adapter: Path, model: str | None = None) -> ModelSource:
    """The model of an adapter, with what was merged below it; refuses weights that are quantized on disk."""
    name = model or model_of(adapter)
    source = find_model(name)
    if read_json(source.path / "config.json", of_model=True).get("quantization_config"):
        raise FlextuneError(
            f"the weights of {name} are quantized: merging into them would lose most of the adapter. Name the model in "
            "16 or 32 bits with --model, and quantize what comes out if need be"
        )
    return replace(source, adapters=merged_below(adapter))


@dataclass(frozen=True)
class Difference:
    """How far one way of running a tuned model is from another."""

    name: str
    against: str
    largest_logit: float | None
    """The largest difference of a logit; None where the type overflows, as for `kl` and `flipped`."""
    kl: float | None
    """The mean Kullback–Leibler divergence of the next token, in nats."""
    flipped: float | None
    """The share of positions whose likeliest next token is another."""
    kept: float | None
    """⟨M − W, ΔW⟩ / ‖ΔW‖², of the weights M that act and the reference's W: how much of the adapter is in them; None
    where the adapter is zero, as for `error`."""
    error: float | None
    """‖M − (W + ΔW)‖ / ‖ΔW‖: what was lost or added, in units of the adapter."""


@dataclass(frozen=True)
class Check:
    """What `check` found."""

    rows: list[Difference]
    skipped: list[str]
    """What could not be measured here, and why."""
    fault: str | None
    """What is wrong with the merge, if anything."""
    prompts: int
    positions: int


@dataclass(frozen=True)
class _Way:
    """One way to run a tuned model."""

    name: str
    dtype: str
    merged: bool = False
    tuned: bool = True
    quantization: str | None = None
    written: Path | None = None


@dataclass(frozen=True)
class _Reference:
    """What the others are measured against."""

    name: str
    logits: list[Tensor]
    layers: dict[str, tuple[Tensor, Any]]
    """By name, each weight under the adapter, and the adapter's layer without it."""


_UNMERGED = _Way("unmerged, float32", "float32")
_MERGED = _Way("merged, float32", "float32", merged=True)
_OTHERS = (
    _Way("unmerged, bfloat16", "bfloat16"),
    _Way("merged, bfloat16", "bfloat16", merged=True),
    _Way("unmerged, float16", "float16"),
    _Way("merged, float16", "float16", merged=True),
    _Way("without the adapter, float32", "float32", tuned=False),
)
_UNMERGED_NF4 = _Way("unmerged, NF4", "bfloat16", quantization="nf4")
_MERGED_NF4 = _Way("merged into NF4", "bfloat16", merged=True, quantization="nf4")


@torch.no_grad()
def check(source: ModelSource, adapter: Path, prompts: Sequence[str], written: Path | None = None) -> Check:
    """Measure what merging changes: logits on the same prompts, and how much of ΔW is in the weights.

    The reference runs unmerged in float32. Beside each merged type stands the same type unmerged, for most of what
    differs there comes from computing in it; and the model without the adapter, for what there is to lose. In NF4
    (needs bitsandbytes) the reference is the unmerged adapter on 4-bit weights: against it stand the adapter merged
    into those weights as PEFT does it, and the adapter on the weights of 16 bits, which is what becomes of one that was
    trained on 4-bit weights. One model is in memory at a time, and the weights under the adapter.

    Args:
        source: The model, as `base_of` finds it.
        adapter: The PEFT folder.
        prompts: Texts; the first 32 are read, and what follows each of their last 32 tokens is compared.
        written: A merged folder to measure too.

    Returns:
        Its `fault` says what is wrong where merging in float32 changes more than round-off.
    """
    texts = list(prompts[:PROMPTS])
    if not texts:
        raise UsageError("the check needs at least one prompt")
    ways = [_MERGED, *_OTHERS, *([_Way("as written", "auto", merged=True, written=written)] if written else [])]
    plan = [(_UNMERGED, ways)]
    skipped = []
    if importlib.util.find_spec("bitsandbytes") is None:
        skipped.append("4 bits: bitsandbytes is missing (pip install 'flextune[qlora]')")
    elif (width := read_json(source.path / "config.json", of_model=True).get("hidden_size", BLOCK)) < BLOCK:
        skipped.append(f"4 bits: the model is {width} wide, and bitsandbytes quantizes blocks of {BLOCK} weights")
    else:
        plan += [(_UNMERGED, [_UNMERGED_NF4]), (_UNMERGED_NF4, [_MERGED_NF4, _Way("unmerged, float16", "float16")])]
    rows: list[Difference] = []
    fault = None
    reference = _Reference("", [], {})
    with progress("checking the merge", sum(1 + len(others) for _, others in plan)) as step:
        for against, others in plan:
            if reference.name != against.name:
                reference = _reference(source, adapter, texts, against)
            step()
            for way in others:
                with _running(source, way, adapter) as (model, tokenizer):
                    rows.append(_difference(way.name, reference, model, _logits(model, tokenizer, texts)))
                if way is _MERGED:
                    fault = _fault(rows[0], max(float(logits.abs().max()) for logits in reference.logits))
                step()
    return Check(rows, skipped, fault, len(texts), sum(len(logits) for logits in reference.logits))


def _fault(row: Difference, largest: float) -> str | None:
    """What speaks against the merge in float32, which must equal the unmerged model up to round-off."""
    if row.error is not None and row.kept is not None and row.error > ROUND_OFF:
        return (
            f"{row.name}: {100 * row.kept:.1f} % of ΔW is in the weights, with an error of {100 * row.error:.1f} % of "
            "its size; in float32 both are exact up to round-off"
        )
    if row.largest_logit is None or row.largest_logit > ROUND_OFF * largest:
        return (
            f"{row.name}: a logit differs from the unmerged model's by {row.largest_logit}, where the largest is "
            f"{largest:.2g}; in float32 they are equal up to round-off"
        )
    return None


@contextmanager
def _running(source: ModelSource, way: _Way, adapter: Path) -> Iterator[tuple[Any, Any]]:
    """A model run in one way, and its tokenizer, for as long as they are needed."""
    if way.written:
        source = find_model(str(way.written))
    model, tokenizer = load_model(replace(source, quantization=way.quantization), way.dtype, overflow=True)
    if way.merged and way.quantization:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT warns of what is measured here
            model = with_adapter(model, adapter).merge_and_unload()
    elif way.tuned and not way.written:
        model = with_adapter(model, adapter, merged=way.merged)
    try:
        yield model.eval(), tokenizer
    finally:
        del model
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _reference(source: ModelSource, adapter: Path, texts: Sequence[str], way: _Way) -> _Reference:
    with _running(source, way, adapter) as (model, tokenizer):
        # weights before logits: on a processor bitsandbytes packs 4-bit weights otherwise when they are first used
        layers = {name: (_dense(adapted_weight(layer)).to(model.dtype).cpu(), layer) for name, layer in _adapted(model)}
        logits = list(_logits(model, tokenizer, texts))
        for _, layer in layers.values():
            _let_go(layer)
    return _Reference(way.name, logits, layers)


def _let_go(layer: Any) -> None:
    """Take the model out of a LoRA layer, so that its memory can be freed; ΔW of experts asks for a type alone."""
    before, name = adapted_weight(layer), getattr(layer, "parameter_name", None)
    layer.base_layer = torch.nn.Identity()
    if name:
        layer.base_layer.register_parameter(name, torch.nn.Parameter(before.new_empty(0), requires_grad=False))


def _adapted(model: Any) -> list[tuple[str, Any]]:
    """The weights of the model that have an adapter, by the name that they have without, each with its LoRA layer."""
    from peft.tuners.lora import LoraLayer

    found = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    return [
        (
            f"{name.removeprefix('base_model.model.').replace('.base_layer', '')}."
            f"{getattr(module, 'parameter_name', None) or 'weight'}",
            module,
        )
        for name, module in found
    ]


def _delta(layer: Any) -> Tensor:
    return layer.get_delta_weight(layer.active_adapters[0]).float()  # type: ignore[no-any-return]


def _dense(weight: Any) -> Tensor:
    """A weight; that of 4 bits as the numbers that they stand for."""
    if getattr(weight, "quant_state", None) is None:
        return weight.detach()  # type: ignore[no-any-return]
    import bitsandbytes.functional as bnb

    return bnb.dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[no-any-return]


def _logits(model: Any, tokenizer: Any, texts: Iterable[str]) -> Iterator[Tensor]:
    """For each text the logits after each of its last tokens; float32, shape (at most POSITIONS, vocabulary)."""
    for text in texts:
        ids = tokenizer(text, return_tensors="pt").input_ids.to(model.device)
        yield model(ids, logits_to_keep=POSITIONS).logits[0].float().cpu()


def _difference(name: str, reference: _Reference, model: Any, logits: Iterable[Tensor]) -> Difference:
    kept, error = _kept(reference, model)
    found = Difference(name, reference.name, None, None, None, kept, error)
    largest = kl = 0.0
    flipped = positions = 0
    for expected, here in zip(reference.logits, logits, strict=True):
        if not here.isfinite().all():
            return found
        largest = max(largest, float((expected - here).abs().max()))
        log_p, log_q = expected.log_softmax(-1), here.log_softmax(-1)
        kl += float((log_p.exp() * (log_p - log_q)).sum(dtype=torch.float64))
        flipped += int((expected.argmax(-1) != here.argmax(-1)).sum())
        positions += len(expected)
    return replace(found, largest_logit=largest, kl=max(kl, 0.0) / positions, flipped=flipped / positions)


def _kept(reference: _Reference, model: Any) -> tuple[float | None, float | None]:
    """How much of ΔW is in a model's weights, and how far they are from W + ΔW.

    None for DoRA, which adds no ΔW, and where the weights overflow their type.
    """
    if any(lora.lora_magnitude_vector for _, lora in reference.layers.values()):
        return None, None
    weights, adapted = dict(model.named_parameters(remove_duplicate=False)), dict(_adapted(model))
    inner = error = size = 0.0
    for name, (weight, lora) in reference.layers.items():
        layer = adapted.get(name)
        acting = _dense(adapted_weight(layer) if layer is not None else weights[name]).float()
        if layer is not None:
            acting = acting + _delta(layer)
        change, delta = (acting - weight.to(acting)).double(), _delta(lora).to(acting).double()
        inner += float((change * delta).sum())
        error += float((change - delta).square().sum())
        size += float(delta.square().sum())
    return (inner / size, (error / size) ** 0.5) if size and math.isfinite(error) else (None, None)
