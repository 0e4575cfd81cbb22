"""How far a tuned model goes from the one it came from: a term of the loss that holds it back.

The field's usual remedy against forgetting, and so what the Fourier penalty has to be better than.
"""

from typing import Any

import torch
from torch import Tensor

from flextune.tuning.batching import IGNORED

LABELS = ("labels", "shift_labels")


@torch.no_grad()
def base_logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    """The logits that the model has without its adapter, for a batch of `Collator`."""
    with model.disable_adapter():
        logits: Tensor = model(**{key: value for key, value in inputs.items() if key not in LABELS}).logits
    return logits


def divergence(base: Tensor, tuned: Tensor, inputs: dict[str, Any]) -> Tensor:
    """KL(base ‖ tuned) of the next token in nats, summed over the positions that a label is learned at.

    In this direction what the base model would write keeps its probability, whether or not the data have it.

    Args:
        base: Logits of `base_logits`.
        tuned: Those of the model with its adapter, of the same shape.
        inputs: The batch.
    """
    if "shift_labels" in inputs:
        learned = inputs["shift_labels"] != IGNORED
    else:
        learned = inputs["labels"][:, 1:] != IGNORED
        base, tuned = base[:, :-1], tuned[:, :-1]
    log_p_LV, log_q_LV = (logits[learned].float().log_softmax(-1) for logits in (base, tuned))
    return torch.nn.functional.kl_div(log_q_LV, log_p_LV, reduction="sum", log_target=True)
