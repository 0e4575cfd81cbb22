"""The Fourier penalty in a `transformers.Trainer`, or in a trainer derived from it such as TRL's `SFTTrainer`.

attach(trainer, FourierPenalty(trainer.model))       # a trainer that already exists

class MyTrainer(SpectralTrainerMixin, SFTTrainer): ...
MyTrainer(..., penalty=FourierPenalty(model))
"""

import math
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback

from flextune.errors import FlextuneError, UsageError
from flextune.progress import say
from flextune.tuning.fourier import FourierPenalty


class SpectralTrainerMixin:
    """Adds λ·∇L_F to the gradient once per optimizer step, after the last backward pass and before clipping.

    So the penalty depends neither on gradient accumulation nor on the number of processes, and the logged `loss` and
    `eval_loss` stay the pure task loss. Beside them are logged `fourier_loss` (L_F, without λ), `task_grad_norm` (the
    norm of the gradient without the penalty; the Trainer's `grad_norm` is with it, before clipping), `lora_A_norm` and
    `lora_B_norm`; the first and the last two are as they are after the step. What λ amounts to is printed at the start.

    Args:
        penalty: What to add; None trains as the trainer alone would.
        start_step: The first optimizer step, from 0, at which the penalty acts.
        ramp_steps: Steps over which it grows linearly from there to its whole strength.
        decoupled: Take the penalty's gradient from the weights after the optimizer's step (`FourierPenalty.decay_`),
            an ablation.

    Works with DDP, FSDP2, bf16, and fp16 with its GradScaler.

    Raises:
        UsageError: The penalty cannot be right: the trainer works with DeepSpeed, which keeps gradients to itself, or
            with an optimizer that steps during the backward pass; `model_init` would replace the model; a step is
            negative; or, when training begins, the penalty's factors are not what is trained.
    """

    accelerator: Any
    args: Any
    model_init: Any
    state: Any

    def __init__(
        self,
        *args: Any,
        penalty: FourierPenalty | None = None,
        start_step: int = 0,
        ramp_steps: int = 0,
        decoupled: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self._set_penalty(penalty, start_step, ramp_steps, decoupled)

    def _set_penalty(self, penalty: FourierPenalty | None, start_step: int, ramp_steps: int, decoupled: bool) -> None:
        for name, steps in (("start_step", start_step), ("ramp_steps", ramp_steps)):
            if steps < 0:
                raise UsageError(f"{name} = {steps}: expected a number of at least 0")
        if penalty is not None:
            self._refuse_what_cannot_be_right()
        self.penalty = penalty
        self._start_step, self._ramp_steps, self._decoupled = start_step, ramp_steps, decoupled
        self._task_grad_norm: Tensor | None = None
        if penalty is not None and penalty.strength > 0 and self.accelerator.is_main_process:
            say(str(penalty))
        self.remove_callback(_AroundTheStep)  # type: ignore[attr-defined]
        self.add_callback(_AroundTheStep(self))  # type: ignore[attr-defined]

    def _refuse_what_cannot_be_right(self) -> None:
        if self.accelerator.distributed_type == "DEEPSPEED":
            raise UsageError(
                "the Fourier penalty cannot train with DeepSpeed, which keeps the gradients of its ZeRO stages to "
                "itself; use DDP or FSDP2"
            )
        optimizer = str(getattr(self.args.optim, "value", self.args.optim))
        if "lomo" in optimizer or "layerwise" in optimizer:
            raise UsageError(
                f"optim = {optimizer!r} steps during the backward pass, before there is a gradient to add the Fourier "
                "penalty to; use another, such as adamw_torch_fused"
            )
        if self.model_init is not None:
            raise UsageError("model_init makes another model than the Fourier penalty's for each training; pass model")

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; on the last of a step also the penalty's gradient."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)  # type: ignore[misc]
        if self.penalty is not None and self.accelerator.sync_gradients:
            scale = self._loss_scale(loss)
            self._task_grad_norm = gradient_norm(model, scale)
            strength = ramp(self.state.global_step, self._start_step, self._ramp_steps)
            if strength > 0 and not self._decoupled:
                self.penalty.add_gradient_(scale * strength)
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log, with the penalty's figures beside the training loss.

        Raises `FlextuneError` with the name of a factor that is no longer finite, or if the penalty was never added.
        """
        if self.penalty is not None and "loss" in logs:
            if self._task_grad_norm is None:
                raise FlextuneError(
                    f"the training_step of this {type(self).__name__} is not SpectralTrainerMixin's, so the Fourier "
                    "penalty was not added; do not replace it, or let it call super().training_step"
                )
            logs["fourier_loss"] = self.penalty.value().item()
            if self.penalty.strength > 0 and not math.isfinite(logs["fourier_loss"]):
                self.penalty.check_finite()
            logs["task_grad_norm"] = self._task_grad_norm.item()
            logs |= {name: norm.item() for name, norm in self.penalty.norms().items()}
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _loss_scale(self, loss: Tensor) -> float | Tensor:
        """The GradScaler's factor, as a tensor so that nobody waits for the device; 1 without one."""
        scaler = self.accelerator.scaler
        if scaler is None or not scaler.is_enabled():
            return 1.0
        one = torch.ones((), device=loss.device)
        scaled: Tensor = scaler.scale(one)
        return scaled


class _AroundTheStep(TrainerCallback):
    """Checks the penalty when training begins, and applies a decoupled one after each step that was taken."""

    def __init__(self, trainer: SpectralTrainerMixin):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The penalty must act on what is trained: another model's factors would silently stay as they are."""
        trained = {id(parameter) for parameter in kwargs["model"].parameters() if parameter.requires_grad}
        for factor in self.trainer.penalty.factors if self.trainer.penalty is not None else ():
            if id(factor.parameter) not in trained:
                raise UsageError(
                    f"penalty: {factor.name} is not trained in this trainer's model; make the penalty of "
                    "trainer.model, once it has the adapter to train"
                )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The optimizer has stepped; the schedule has not yet."""
        trainer = self.trainer
        if trainer.penalty is None or not trainer._decoupled or trainer.accelerator.optimizer_step_was_skipped:
            return
        strength = ramp(state.global_step, trainer._start_step, trainer._ramp_steps)
        if strength > 0:
            trainer.penalty.decay_(kwargs["optimizer"], strength)


def gradient_norm(model: nn.Module, scale: float | Tensor = 1.0) -> Tensor:
    """The norm of all gradients of a model, sharded ones (DTensor) and others, divided by the scale of the loss."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    kinds = [[g for g in gradients if isinstance(g, DTensor) == sharded] for sharded in (False, True)]
    norms: list[Any] = [nn.utils.get_total_norm(kind) for kind in kinds if kind]
    total = nn.utils.get_total_norm([norm.full_tensor() if isinstance(norm, DTensor) else norm for norm in norms])
    return total / (scale.to(total.device) if isinstance(scale, Tensor) else scale)


def ramp(step: int, start_step: int = 0, ramp_steps: int = 0) -> float:
    """The share of its strength that the penalty has at an optimizer step, counted from 0.

    0 before `start_step`, then `ramp_steps` steps that rise linearly, the last of them to 1.

    >>> [ramp(step, start_step=2, ramp_steps=4) for step in range(8)]
    [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    """
    return min(1.0, max(0, step - start_step + 1) / max(1, ramp_steps))


class SpectralTrainer(SpectralTrainerMixin, Trainer):
    """`transformers.Trainer` with the penalty."""


AnyTrainer = TypeVar("AnyTrainer", bound=Trainer)


def attach(
    trainer: AnyTrainer,
    penalty: FourierPenalty,
    *,
    start_step: int = 0,
    ramp_steps: int = 0,
    decoupled: bool = False,
) -> AnyTrainer:
    """Give a trainer that already exists the penalty; returns the same trainer.

    Its class becomes a subclass of its own that has `SpectralTrainerMixin`, which explains the arguments. The penalty
    is made of the trainer's model, after the trainer has put the adapter into it:

        trainer = SFTTrainer(model, train_dataset=..., peft_config=LoraConfig(...))
        attach(trainer, FourierPenalty(trainer.model))

    Raises `UsageError` if this is no `transformers.Trainer`, if it has a penalty already, or as the mixin does.
    """
    if not isinstance(trainer, Trainer):
        raise UsageError(f"trainer: expected a transformers.Trainer, found {type(trainer).__name__}")
    kind = type(trainer)
    if not isinstance(trainer, SpectralTrainerMixin):
        trainer.__class__ = type(f"{kind.__name__}WithFourierPenalty", (SpectralTrainerMixin, kind), {})
    elif trainer.penalty is not None:
        raise UsageError("trainer: it has a Fourier penalty already")
    trainer._set_penalty(penalty, start_step, ramp_steps, decoupled)
    return trainer
