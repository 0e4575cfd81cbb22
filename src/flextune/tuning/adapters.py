"""LoRA adapters: fresh ones from a recipe's settings, another run's to go on with, or one made weaker."""

import re
import shutil
import warnings
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME, load_peft_weights
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from flextune.adapters import OF_OTHER_KINDS, find_adapter, with_adapter
from flextune.errors import FlextuneError, UsageError, reason
from flextune.files import publish
from flextune.tuning.roles import check_matches, places
from flextune.tuning.settings import Adapter

OWN = {"r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "targets"}
"""Fields of `LoraConfig` that have a key of their own."""
SET = ("task_type", "inference_mode")
"""Fields of `LoraConfig` that are what they have to be."""
HAVE_A_LOSS = ("kasa_config", "monteclora_config")
"""Fields of `LoraConfig` for kinds of adapters that are nothing without a term of their own in the loss."""
CHANGE_THE_BASE = ("pissa", "olora")
"""Initialisations that take the factors out of the base weights; saved as what was learned since."""
NEED_DATA = ("eva", "corda", "loftq", "lora_ga")
"""Initialisations that need a pass over data, or another base model."""


def add_adapter(base: PreTrainedModel, adapter: Adapter) -> Any:
    """Put LoRA factors (float32 beside weights of 16 or 4 bits) beside the target modules; the base is frozen.

    Raises:
        UsageError: `adapter.peft` has a key that `peft.LoraConfig` has not, one that has its own place, or one that
            needs more than is done here.
        FlextuneError: The model lacks a module that the targets or `adapter.peft` name; the adapter to start from does
            not fit, or needs other weights than the model's.
    """
    if adapter.start is not None:
        tuned = with_adapter(base, find_adapter(adapter.start), trainable=True)
        if changes_the_base(tuned):
            raise FlextuneError(
                f"{adapter.start} has init_lora_weights = {tuned.peft_config['default'].init_lora_weights!r} and was "
                "saved as factors of changed weights; convert it to plain LoRA first (see PEFT on PiSSA and OLoRA)"
            )
        return tuned
    further = _further(adapter)
    asked = places(adapter.targets, base)
    if asked.parameters and adapter.dropout:
        raise UsageError(
            f"adapter.dropout = {adapter.dropout:g}: this model's experts are parameters that hold several layers "
            "each, and PEFT has no dropout in front of those; set adapter.dropout=0"
        )
    experts = {"target_parameters": [*asked.parameters, *further.pop("target_parameters", ())]}
    try:
        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=adapter.rank,
            lora_alpha=adapter.lora_alpha,
            lora_dropout=adapter.dropout,
            target_modules=asked.modules,
            **further,
            **(experts if experts["target_parameters"] else {}),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it sets right itself, such as GPT-2's transposed weights
            tuned = get_peft_model(base, config)
    except (ValueError, TypeError, re.error) as error:
        shown = f"adapter.targets = {adapter.targets!r}" + (f", adapter.peft = {adapter.peft}" if adapter.peft else "")
        raise FlextuneError(f"{shown} does not fit this model: {reason(error)}") from None
    check_matches(tuned, adapter.targets, asked, adapter.peft)
    return tuned


def add_shapes(model: Any, adapter: Adapter) -> Any:
    """`add_adapter` on a model of `shapes`; an initialisation that needs weights changes no shape."""
    plain = {key: value for key, value in adapter.peft.items() if key != "init_lora_weights"}
    return add_adapter(model, replace(adapter, peft=plain))


def save_adapter(model: Any, folder: Path, start: Path) -> None:
    """Write a plain PEFT folder; one whose factors came out of the base weights as their difference since `start`."""
    model.save_pretrained(
        folder, path_initial_model_for_weight_conversion=str(start) if changes_the_base(model) else None
    )


def load_weights(model: Any, folder: Path) -> None:
    """Put the factors that a checkpoint holds into the model."""
    set_peft_model_state_dict(model, load_peft_weights(str(folder), device="cpu"))


def changes_the_base(model: Any) -> bool:
    """Whether the adapter's initialisation has changed the weights that it stands beside."""
    return str(model.peft_config["default"].init_lora_weights).lower().startswith(CHANGE_THE_BASE)


def scaled(adapter: Path, scale: float, folder: Path) -> Path:
    """A copy of a PEFT folder whose ΔW is `scale` times as large, for any tool that reads the original.

    B is multiplied, not `lora_alpha`, which some readers take for a whole number. A folder that is there is left as it
    is.

    Raises:
        FlextuneError: ΔW is not proportional to B: DoRA, or an adapter that also has whole modules or biases.
    """
    if folder.exists():
        return folder
    weights = load_peft_weights(str(adapter), device="cpu")
    others = [name for name in weights if "lora_A" not in name and "lora_B" not in name]
    if others:
        raise FlextuneError(
            f"{adapter} has more than the factors A and B, such as {others[0]}: multiplying B would not scale it"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shutil.copyfile(adapter / CONFIG_NAME, partial / CONFIG_NAME)
    save_file(
        {name: (scale * weight if "lora_B" in name else weight).contiguous() for name, weight in weights.items()},
        partial / SAFETENSORS_WEIGHTS_NAME,
        metadata={"format": "pt"},
    )
    publish(partial, folder)
    return folder


def gathered(model: Any) -> dict[str, Tensor]:
    """What is trained of a model whose parameters are sharded (FSDP2), whole; every process has to call it."""
    return {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def _further(adapter: Adapter) -> dict[str, Any]:
    names = {field.name for field in fields(LoraConfig)}
    for key in adapter.peft:
        if key in OWN:
            raise UsageError(f"adapter.peft.{key}: write adapter.{OWN[key]} instead")
        if key in OF_OTHER_KINDS and adapter.peft[key] is not None:
            raise UsageError(f"adapter.peft.{key} makes a kind of LoRA that flextune does not know: leave it out")
        if key in HAVE_A_LOSS and adapter.peft[key] is not None:
            raise UsageError(f"adapter.peft.{key} needs a loss of its own, which is not added here: leave it out")
        if key not in names or key in SET:
            raise UsageError(
                f"adapter.peft.{key} is not a field of peft.LoraConfig that can be set here; there are "
                f"{', '.join(sorted(names - {*OWN, *SET, *HAVE_A_LOSS}))}"
            )
    start = adapter.peft.get("init_lora_weights", True)
    if str(start).lower().startswith(NEED_DATA):
        raise UsageError(
            f"adapter.peft.init_lora_weights = {start!r} needs a pass over data first; there are true, false, "
            "gaussian, orthogonal, olora, pissa and pissa_niter_<n>"
        )
    if str(start).lower().startswith(CHANGE_THE_BASE):
        held = ["use_dora", "modules_to_save", "trainable_token_indices"]
        held += ["rank_pattern", "alpha_pattern"] if adapter.peft.get("use_rslora") else []
        others = [key for key in held if adapter.peft.get(key)]
        others += ["bias"] if adapter.peft.get("bias", "none") != "none" else []
        if others:
            raise UsageError(
                f"adapter.peft.init_lora_weights = {start!r} is saved as a difference of factors, which cannot hold "
                f"adapter.peft.{others[0]}: leave out one of the two"
            )
    return dict(adapter.peft)
