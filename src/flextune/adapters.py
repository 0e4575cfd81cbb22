"""LoRA adapters that exist: found, checked against their model, and put into it.

adapter = find_adapter("runs/first")                     # the folder, also when the run is named
tuned = with_adapter(model, adapter)                     # at run time; with merged=True added into the weights

flextune refuses an adapter if any of its weights has no place in the model. PEFT would only warn, and the base model
would be measured as the tuned one.
"""

import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from flextune.errors import FlextuneError, reason
from flextune.files import read_json, read_yaml
from flextune.progress import say, say_once

CONFIG = "adapter_config.json"
WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
OF_OTHER_KINDS = ("alora_invocation_tokens", "arrow_config")
"""Fields of `LoraConfig` with which a token's weights depend on other tokens, or on other adapters."""


def find_adapter(folder: str | Path) -> Path:
    """The folder of a LoRA adapter, also when the run that trained it is named.

    Raises `FlextuneError` if no adapter is found, or if its kind is not LoRA.
    """
    path = Path(folder)
    for candidate in (path, path / "adapter"):
        if (candidate / CONFIG).exists():
            _check_kind(candidate)
            return candidate
    raise FlextuneError(f"{path} is neither a PEFT adapter nor a run that has one: it has no {CONFIG}")


def _check_kind(adapter: Path) -> None:
    config = read_json(adapter / CONFIG)
    kind = config.get("peft_type") if isinstance(config, dict) else None
    if kind is None:
        raise FlextuneError(f"{adapter / CONFIG} has no peft_type: expected LORA, as PEFT's save_pretrained writes it")
    if kind != "LORA":
        raise FlextuneError(f"{adapter / CONFIG}: peft_type is {kind}, and flextune reads LoRA adapters only (LORA)")
    if other := next((key for key in OF_OTHER_KINDS if config.get(key)), None):
        raise FlextuneError(f"{adapter / CONFIG}: {other} makes it a kind of LoRA that flextune does not know")
    if not any((adapter / name).exists() for name in WEIGHTS):
        raise FlextuneError(f"{adapter} has an {CONFIG}, and no {WEIGHTS[0]}")


def merged_below(adapter: Path) -> tuple[Path, ...]:
    """The adapters that were part of the weights, in order, when a run of flextune trained this one."""
    recipe = adapter.parent / "recipe.yaml"
    first = read_yaml(recipe).get("merge_first") if recipe.exists() else None
    return (*merged_below(find_adapter(first)), find_adapter(first)) if first else ()


def warn_of_other_base(adapter: Path, model: str, checksums: dict[str, str] | None = None) -> None:
    """Warn if the files of an adapter say that it was trained on another model.

    A run of flextune has recorded the checksums of its model's weights, and they decide. Any other adapter names its
    base model. Only the last part of that name is compared, since one model may lie in many folders.
    """
    run = adapter.parent / "run.json"
    if run.exists() and checksums:
        recorded = read_json(run).get("inputs", {}).get("model", {}).get("sha256")
        if recorded and recorded != checksums:
            say(f"Warning: {adapter} was trained on other weights than those of {model}, as {run} records")
        if recorded:
            return
    named = read_json(adapter / CONFIG).get("base_model_name_or_path")
    if named and _last_part(str(named)) != _last_part(model):
        say(f"Warning: {adapter} names {named} as its base model, and is used on {model}")


def _last_part(name: str) -> str:
    """A model's name without owner and folders, also out of a folder of the Hub's cache.

    >>> _last_part("/home/me/hub/models--codellama--CodeLlama-7b-hf/snapshots/6c284d1/")
    'codellama-7b-hf'
    """
    cached = re.search(r"models--(?:.*--)?([^/]+)/snapshots/", f"{name}/")
    return (cached[1] if cached else Path(name).name).lower()


def with_adapter(model: Any, adapter: Path, merged: bool = False, trainable: bool = False, dtype: str = "auto") -> Any:
    """Put an adapter into a model: applied at run time, or added into the weights, in float32, cast once.

    Args:
        model: The model; it is changed. On `meta` nothing is loaded, and only the fit is checked.
        adapter: The PEFT folder.
        merged: Add it into the weights.
        trainable: Let it be trained.
        dtype: Merged: the type that all weights get in the end; `auto` leaves each as it was.

    Raises:
        FlextuneError: A weight is missing, unexpected, of another shape, NaN or infinite; the adapter is not LoRA.
    """
    from peft import LoraConfig, PeftConfig, PeftModel
    from peft.utils import load_peft_weights

    from flextune.finite import first_not_finite

    adapter = find_adapter(adapter)
    try:
        weights = load_peft_weights(str(adapter), device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing weights are refused below
            config = PeftConfig.from_pretrained(str(adapter))
            if any(parameter.is_meta for parameter in model.parameters()):
                config.init_lora_weights = False  # some take the factors out of weights that are not there
            tuned = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable, config=config)
    except Exception as error:  # PEFT and safetensors raise a dozen types; each means that it does not fit
        raise FlextuneError(f"the adapter {adapter} does not fit the model: {reason(error)}") from None
    if not weights:
        raise FlextuneError(f"the adapter {adapter} has no weights in it")
    if name := first_not_finite(weights.items()):
        raise FlextuneError(f"the adapter {adapter} contains NaN or infinity, such as in {name}: train it again")
    _check_landing(tuned, weights, adapter)
    named = {field.name for field in fields(LoraConfig)} | {"auto_mapping", "peft_version"}
    if unknown := sorted(key for key, value in read_json(adapter / CONFIG).items() if value and key not in named):
        say_once(f"Warning: {adapter / CONFIG} has {', '.join(unknown)}, which this version of PEFT ignores")
    factors = [weight for name, weight in weights.items() if "lora_B" in name or "lora_embedding_B" in name]
    if len(factors) * 2 == len(weights) and not any(weight.any() for weight in factors):
        say_once(
            f"Warning: the adapter {adapter} does nothing, since every factor B is zero: the model is the base model"
        )
    return _merge(tuned, dtype) if merged else tuned


def _check_landing(tuned: Any, weights: dict[str, Any], adapter: Path) -> None:
    """Refuse an adapter whose names are not those of the model's own factors, one for one."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = set(get_peft_model_state_dict(tuned, save_embedding_layers=False))
        missing, unexpected = expected - set(weights), set(weights) - expected
        if unexpected:
            # saved embeddings, and experts under the names of older versions, which PEFT converts
            result = set_peft_model_state_dict(tuned, dict(weights))
            landed = {key for key in result.missing_keys if ".default" in key}
            missing = {key for key in missing if "lora_" not in key} | landed
            unexpected = set(result.unexpected_keys)
    if missing or unexpected:
        raise FlextuneError(
            f"the adapter {adapter} does not fit the model: {mismatch(missing, unexpected)} of "
            f"{len(expected)} weights; the base model would be measured in its place"
        )


def mismatch(missing: Iterable[str], unexpected: Iterable[str]) -> str:
    """How many names are missing and unexpected, and the first of each.

    >>> mismatch({"b", "a"}, [])
    '2 missing, such as a'
    """
    kinds = (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
    return "; ".join(f"{len(names)} {kind}, such as {names[0]}" for kind, names in kinds if names)


def _merge(tuned: Any, dtype: str) -> Any:
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    check_mergeable(tuned)
    for layer in tuned.modules():
        if isinstance(layer, BaseTunerLayer):
            # the layer alone: casting a whole model to and fro would round its rotary frequencies
            base = layer.get_base_layer()
            before = adapted_weight(layer).dtype
            base.float()
            layer.merge()
            base.to(before if dtype == "auto" else getattr(torch, dtype))
    merged = tuned.unload()
    return merged if dtype == "auto" else merged.to(getattr(torch, dtype))


def check_mergeable(tuned: Any) -> None:
    """Refuse an adapter that cannot be added into the model's weights; weights on `meta` are enough to see it."""
    from peft.tuners.lora import LoraLayer

    uses = Counter(id(parameter) for _, parameter in tuned.named_parameters(remove_duplicate=False))
    for name, layer in tuned.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        if uses[id(adapted_weight(layer))] > 1:
            raise FlextuneError(
                f"the adapter changes {name.rpartition('.')[2]}, whose weights are also another layer's in this model: "
                "merged, the change would act on both; measure it unmerged, or leave it out of adapter.targets"
            )
        if any(layer.lora_bias.values()) and getattr(layer.get_base_layer(), "bias", None) is None:
            raise FlextuneError(
                f"the adapter has a bias (lora_bias) for {name.rpartition('.')[2]}, and the model has none there to "
                "add it to: measure it unmerged, or train without adapter.peft.lora_bias"
            )


def is_only_factors(adapter: Path) -> bool:
    """Whether the base model is unchanged after PEFT unloads this adapter.

    It is not if the adapter has more than factors, such as a trained head, or if loading it changes weights.
    """
    from safetensors import safe_open

    config = read_json(adapter / CONFIG)
    if config.get("layer_replication") or config.get("init_lora_weights") not in (True, False, None, "gaussian"):
        return False
    path = adapter / WEIGHTS[0]
    if not path.exists():
        return False
    with safe_open(path, framework="pt") as file:
        return all("lora_" in name for name in file.keys())  # noqa: SIM118


def adapted_weight(layer: Any) -> Any:
    """The weight that a LoRA layer changes: its base layer's, or the parameter that holds a layer of experts."""
    parameter = getattr(layer, "parameter_name", None)
    return getattr(layer.get_base_layer(), parameter or "weight")
