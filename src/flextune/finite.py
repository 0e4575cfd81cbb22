"""NaN and infinity: whether tensors contain them, and in which layer of a model they begin."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def first_not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that contains NaN or infinity, or None. It skips integers and `meta`."""
    for name, tensor in tensors:
        if tensor.is_meta or not tensor.is_floating_point():
            continue
        if isinstance(tensor, DTensor):
            tensor = tensor.to_local()
        with suppress(NotImplementedError, RuntimeError):  # 8-bit floats, for which torch has no such test
            if not torch.isfinite(tensor).all():
                return name
    return None


def where_it_begins(model: nn.Module, forward: Callable[[], Any]) -> str:
    """In words: the first weight that contains NaN or infinity, or else the first layer whose output does."""
    if name := first_not_finite(model.named_parameters()):
        return f"the weight {name}"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def look(module: nn.Module, arguments: Any, output: Any) -> None:
            values = [value for value in (output if isinstance(output, tuple) else (output,)) if torch.is_tensor(value)]
            if not found and first_not_finite((name, value) for value in values):
                found.append(name)

        return look

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    return f"the layer {found[0]}" if found else "a layer in which they do not appear when the text is computed alone"
