"""The Fourier penalty in a `transformers.Trainer`: `SpectralTrainerMixin`, and the trainer that flextune uses.

class MyTrainer(SpectralTrainerMixin, SFTTrainer): ...
MyTrainer(..., penalty=FourierPenalty(model))
"""

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from flextune.tuning.fourier import FourierPenalty


class SpectralTrainerMixin:
    """Adds λ·∇L_F to the gradient once per optimizer step, after the last backward pass and before clipping.

    So the penalty is independent of gradient accumulation, and the logged `loss` and `eval_loss` stay the pure task
    loss; `fourier_loss` (L_F, without λ) is logged beside them.

    Args:
        penalty: What to add; None trains as the trainer alone would.
    """

    accelerator: Any

    def __init__(self, *args: Any, penalty: FourierPenalty | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.penalty = penalty

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; on the last of a step also the penalty's gradient."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if self.penalty is not None and self.accelerator.sync_gradients:
            scaler = self.accelerator.scaler
            self.penalty.add_gradient_(scale=scaler.get_scale() if scaler is not None else 1.0)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with `fourier_loss` beside the training loss."""
        if self.penalty is not None and "loss" in logs:
            logs["fourier_loss"] = self.penalty.value().item()
        super().log(logs, *args, **kwargs)  # type: ignore[misc]


class SpectralTrainer(SpectralTrainerMixin, Trainer):
    """`transformers.Trainer` with the penalty."""
