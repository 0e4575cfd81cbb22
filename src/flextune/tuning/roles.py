"""Which modules an adapter goes on: presets are roles, and each architecture has its own names for them.

    places("mlp", model)                   # Llama: gate_proj, up_proj, down_proj; Phi-3: gate_up_proj, down_proj

A role that a model has no module for, and a name that matches nothing, are refused: PEFT adapts what it finds.
"""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn
from transformers.pytorch_utils import Conv1D

from flextune.errors import UsageError
from flextune.tuning.settings import PRESETS

PLAYS: dict[str, tuple[str, ...]] = {
    "q_proj": ("query",),
    "q_b_proj": ("query",),  # DeepSeek: the second of two factors
    "v_proj": ("value",),
    "kv_b_proj": ("value",),
    "qkv_proj": ("query", "value"),  # Phi-3, CodeGen
    "query_key_value": ("query", "value"),  # GPT-NeoX, Falcon, BLOOM
    "c_attn": ("query", "value"),  # GPT-2, GPT-BigCode
    "Wqkv": ("query", "value"),  # MPT
    "gate_proj": ("gate",),
    "gate_up_proj": ("gate", "up"),  # Phi-3, GLM-4, and most experts
    "up_proj": ("up",),
    "c_fc": ("up",),  # GPT-2, StarCoder2
    "fc1": ("up",),  # Phi, OPT
    "fc_in": ("up",),  # GPT-J, CodeGen
    "dense_h_to_4h": ("up",),  # GPT-NeoX, Falcon, BLOOM
    "down_proj": ("down",),
    "mlp.c_proj": ("down",),
    "fc2": ("down",),
    "fc_out": ("down",),
    "dense_4h_to_h": ("down",),
}
"""The roles of a module, by the end of its name; a fused one plays several."""
WITHOUT = ("gate",)
"""A role that many architectures do without."""


@dataclass(frozen=True)
class Places:
    """Where LoRA goes."""

    modules: list[str] | str
    """Ends of names of linear layers, or `all-linear`."""
    parameters: list[str]
    """Ends of names of parameters that hold a linear layer for each of several experts."""


def places(targets: str | Sequence[str], model: nn.Module) -> Places:
    """The names that a preset selects in a model, or a list as it is.

    Raises `UsageError` if the model has no module for a role of the preset, with the names that it has.
    """
    if not isinstance(targets, str):
        return Places(list(targets), [])
    linear, experts = _linear(model), _experts(model)
    if targets == "all-linear":
        if unknown := _other_layers(model):
            raise UsageError(
                f"adapter.targets = 'all-linear': {unknown[0]} of this {type(model).__name__} holds several layers in "
                f"a way that flextune does not know; name the modules, out of {_listed(linear)}"
            )
        names = sorted({name.rpartition(".")[2] for name in linear}) if experts else "all-linear"
        return Places(names, sorted({_end(name, 2) for name in experts}))
    wanted = set(PRESETS[targets])
    modules = {key: roles for name in linear if (key := _key(name)) and (roles := wanted & set(PLAYS[key]))}
    parameters = {
        _end(name, 2): roles for name in experts if (key := _key(name)) and (roles := wanted & set(PLAYS[key]))
    }
    played = {role for roles in (*modules.values(), *parameters.values()) for role in roles}
    if lacking := wanted - played - set(WITHOUT):
        raise UsageError(
            f"adapter.targets = {targets!r}: flextune knows no module of this {type(model).__name__} for "
            f"{' and '.join(sorted(lacking))}; name the modules, out of {_listed([*linear, *experts])}"
        )
    return Places(_in_order(modules), _in_order(parameters))


def check_matches(tuned: Any, targets: str | Sequence[str], asked: Places, peft: dict[str, Any]) -> None:
    """Refuse an adapter that has less than was asked for.

    Args:
        tuned: The model with the adapter in it.
        targets: As the recipe has them.
        asked: What they came to.
        peft: Further fields of `LoraConfig`; each name and layer in them has to be there too.
    """
    base = tuned.get_base_model()
    adapted = [_plain(name, layer) for name, layer in base.named_modules() if isinstance(layer, LoraLayer)]
    everything = [name.replace(".base_layer", "") for name, _ in base.named_modules() if name]
    parameters = [name.replace(".base_layer", "") for name, _ in base.named_parameters()]
    names = [] if isinstance(asked.modules, str) else asked.modules
    candidates = [*_linear(base), *_experts(base)]
    narrowed = any(peft.get(key) is not None for key in ("layers_to_transform", "exclude_modules"))
    if isinstance(targets, str) and not narrowed:
        expected = [name for name in candidates if any(_ends(name, end) for end in [*names, *asked.parameters])]
        if lost := sorted({name.replace(".base_layer", "") for name in expected} - set(adapted)):
            raise UsageError(
                f"adapter.targets = {targets!r}: PEFT puts no adapter on {len(lost)} modules of this model, such as "
                f"{lost[0]}; use adapter.targets=attention, or name the modules to adapt"
            )
    for name in names if not isinstance(targets, str) else ():
        if not any(_ends(found, name) for found in adapted):
            raise UsageError(_no_such(f"adapter.targets = {targets!r}", name, candidates))
    for key, there in (
        ("modules_to_save", everything),
        ("exclude_modules", everything),
        ("target_parameters", parameters),
    ):
        given = peft.get(key) or ()
        if isinstance(given, str):
            raise UsageError(f"adapter.peft.{key} = {given!r}: expected a list of names")
        for name in given:
            if not any(_ends(found, name) for found in there):
                raise UsageError(_no_such(f"adapter.peft.{key} = {given!r}", name, there))
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in peft.get(key) or ():
            if not any(re.match(rf"(.*\.)?({pattern})$", found) for found in adapted):
                raise UsageError(_no_such(f"adapter.peft.{key}", pattern, adapted))
    layers = peft.get("layers_to_transform")
    for layer in [layers] if isinstance(layers, int) else layers or ():
        if not any(str(layer) in found.split(".") for found in adapted):
            raise UsageError(f"adapter.peft.layers_to_transform = {layers!r}: the model has no layer {layer} to adapt")


def _linear(model: nn.Module) -> list[str]:
    """The linear layers that may be adapted, by name, without the output head."""
    get_head = getattr(model, "get_output_embeddings", None)
    head = get_head() if get_head else None
    inner = {id(module.get_base_layer()) for module in model.modules() if isinstance(module, LoraLayer)}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not head
        and "lora_" not in name
        and (id(module) in inner or ".base_layer" not in name)
    ]


def _experts(model: nn.Module) -> list[str]:
    """The parameters that hold a linear layer for each of several experts, by name."""
    found = [name for name, parameter in model.named_parameters() if parameter.ndim == 3]
    return [name.replace(".base_layer", "") for name in found if _key(name) and "experts" in name.split(".")]


def _other_layers(model: nn.Module) -> list[str]:
    """Parameters that hold several layers and that flextune does not know as experts."""
    kernels = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv1d)}
    several = {name for name, weight in nn.Module.named_parameters(model) if weight.ndim == 3}
    return sorted(several - kernels - set(_experts(model)))


def _plain(name: str, layer: Any) -> str:
    """The name of what a LoRA layer adapts: a module, or a parameter of one, which may be wrapped several times."""
    name = name.replace(".base_layer", "")
    parameter = getattr(layer, "parameter_name", None)
    return f"{name}.{parameter}" if parameter else name


def _key(name: str) -> str | None:
    return next((end for end in (_end(name, 2), _end(name, 1)) if end in PLAYS), None)


def _end(name: str, parts: int) -> str:
    return ".".join(name.split(".")[-parts:])


def _ends(name: str, end: str) -> bool:
    name = name.replace(".base_layer", "")
    return name == end or name.endswith(f".{end}")


def _in_order(found: Iterable[str]) -> list[str]:
    order = list(PLAYS)
    return sorted(found, key=lambda name: order.index(_key(name) or ""))


def _no_such(where: str, name: str, there: Iterable[str]) -> str:
    ends = sorted({_end(found, 1) for found in there})
    close = difflib.get_close_matches(name.rpartition(".")[2], ends, n=1)
    return (
        f"{where}: the model has nothing named {name!r} to adapt{f'; did you mean {close[0]}?' if close else ';'} "
        + (f"it has {_listed(there)}")
    )


def _listed(names: Iterable[str]) -> str:
    ends = sorted({_end(name.replace(".base_layer", ""), 1) for name in names})
    ends = [end for end in ends if not end.isdigit()]
    return ", ".join(ends[:30]) + (", …" if len(ends) > 30 else "")
