"""The LoRA factors of a model, found by PEFT's structure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from flextune.errors import UsageError


@dataclass(frozen=True, eq=False)
class Factor:
    """One penalised parameter; `get` finds it anew each time, since FSDP2 replaces the parameters of a module."""

    name: str
    get: Callable[[], Any]
    shape: torch.Size

    @property
    def parameter(self) -> Any:
        """The parameter as it is registered now.

        Raises `UsageError` if it is a part of the factor, or no longer what the optimizer steps.
        """
        found = self.get()
        if found.shape != self.shape or not found.is_leaf or hasattr(found, "ds_id"):
            raise UsageError(
                f"{self.name}: this process holds only a part of the factor (DeepSpeed ZeRO-3 and FSDP1 do that), and "
                "a part has no spectrum; train with DDP or FSDP2"
            )
        return found

    def whole(self) -> Tensor:
        """All of the parameter's values, gathered if they are sharded."""
        parameter = self.parameter.detach()
        return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter

    def not_finite(self) -> str | None:
        """The first value that is not finite, and where; None if all are (or if there are none yet, on `meta`)."""
        values = self.whole()
        if values.is_meta or torch.isfinite(values).all():
            return None
        place = tuple((~torch.isfinite(values)).nonzero()[0].tolist())
        return f"{self.name} holds {values[place].item()} at {place}"


@dataclass(frozen=True, eq=False)
class LoraPair:
    """A (rank × d_in) and B (d_out × rank) of one LoRA layer and adapter."""

    A: Factor
    B: Factor
    is_product: bool = True
    """False where ΔW is not B A: factors for several experts, block-diagonal ones, AdaLoRA's B E A."""


def lora_pairs(model: nn.Module) -> Iterator[LoraPair]:
    """The factors of every LoRA layer of a PEFT model, layer by layer and adapter by adapter.

    Linear, embedding and convolution layers are found alike, quantised or not, with any rank pattern. DoRA's
    magnitudes, LoRA biases and `modules_to_save` are no factors, nor is a parameter that only has a LoRA-like name.
    """
    from peft.tuners.lora import LoraLayer

    for path, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            for group in ("lora", "lora_embedding"):
                held_A, held_B = getattr(layer, f"{group}_A"), getattr(layer, f"{group}_B")
                for adapter in held_A:
                    A = _held(f"{path}.{group}_A.{adapter}", held_A, adapter)
                    B = _held(f"{path}.{group}_B.{adapter}", held_B, adapter)
                    blocks = any(hasattr(held[adapter], "nblocks") for held in (held_A, held_B))
                    several = getattr(layer, "num_experts", 1) > 1 or hasattr(layer, "lora_E")
                    yield LoraPair(A, B, is_product=not blocks and not several)


def _held(name: str, held: Any, adapter: str) -> Factor:
    if isinstance(held[adapter], nn.Module):
        return Factor(f"{name}.weight", partial(getattr, held[adapter], "weight"), held[adapter].weight.shape)
    return Factor(name, partial(getattr, held, adapter), held[adapter].shape)


def given(parameter: Any, name: str) -> Factor:
    """A factor that comes without a model.

    Raises `UsageError` if it is nothing that a gradient could be added to.
    """
    if not isinstance(parameter, Tensor):
        found = f"a {type(parameter).__name__}"
    elif not parameter.is_floating_point() or not parameter.is_leaf or not parameter.numel():
        found = f"a tensor of {parameter.dtype}, {parameter.numel()} entries{'' if parameter.is_leaf else ', computed'}"
    else:
        return Factor(name, partial(_itself, parameter), parameter.shape)
    raise UsageError(f"model_or_parameters: {name} is {found}; expected an nn.Parameter of floats")


def distinct(factors: Iterable[Factor]) -> list[Factor]:
    """Each once: tied layers share a parameter, or have two on the same memory."""
    return list({_memory(factor.get()): factor for factor in factors}.values())


def _memory(parameter: Tensor) -> tuple[Any, ...]:
    if isinstance(parameter, DTensor) or parameter.is_meta:
        return (id(parameter),)
    return parameter.device, parameter.data_ptr(), parameter.numel()


def _itself(parameter: Tensor) -> Tensor:
    return parameter
