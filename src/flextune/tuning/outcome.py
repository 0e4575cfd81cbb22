"""Whether a training has ended with an adapter that can be measured."""

from typing import Any

import torch

from flextune.errors import DivergedError
from flextune.finite import first_not_finite
from flextune.progress import say
from flextune.tuning.factors import lora_pairs
from flextune.tuning.validation import loss_per_token


def check_outcome(model: Any, batch: dict[str, Any], learning_rate: float, steps: int) -> None:
    """Refuse an adapter with which the loss is NaN or infinite, and warn if the adapter does nothing.

    The loss of the last step was measured before its update, so one more forward pass shows what that led to.

    Args:
        model: The model with the trained adapter.
        batch: Some examples that were learned.
        learning_rate: The recipe's, for the message.
        steps: Optimizer steps taken.

    Raises:
        DivergedError: A factor or the loss is NaN or infinite.
    """
    advice = f"lower training.learning_rate (now {learning_rate:g}), or train with dtype: float32 or bfloat16"
    learned = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if name := first_not_finite(learned):
        raise DivergedError(f"{name} contains NaN or infinity after step {steps}: {advice}")
    loss = loss_per_token(model, [batch])
    if not torch.isfinite(torch.tensor(loss)):
        raise DivergedError(f"the training loss is {loss} after step {steps}: {advice}")
    if is_identity(model):
        say(
            f"Warning: the adapter still does nothing after {steps} steps, since every factor B is zero: the tuned "
            "model is the base model; raise training.epochs or training.learning_rate"
        )


def is_identity(model: Any) -> bool:
    """Whether an adapter changes nothing: all that is trained is LoRA factors, and every B is zero."""
    others = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "lora_" not in name]
    return not others and not any(bool(pair.B.whole().any()) for pair in lora_pairs(model))
