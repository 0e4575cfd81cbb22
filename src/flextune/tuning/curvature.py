"""The curvature of the loss that Sophia divides by: estimated on a part of a batch, in a loop or in a Trainer.

    refresh_curvature(optimizer, model, batch, share=0.25)                             # a plain loop
    Trainer(model, ..., optimizer_cls_and_kwargs=(SophiaG, {"lr": 1e-4}), callbacks=[SophiaCallback()])

The estimate of Gauss, Newton and Bartlett (Liu et al. 2023, arXiv 2305.14342, algorithm 2) draws a label from the model
itself at the position of each. With n of these, and g the gradient of their mean loss, n·g² has the diagonal of the
loss's Gauss–Newton matrix as its expectation, whatever n is. Squares of the training gradient have not: they estimate
the noise in the data, and are here as the ablation `empirical_fisher`.
"""

import inspect
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from flextune.errors import UsageError
from flextune.tuning.batching import IGNORED
from flextune.tuning.settings import Estimator
from flextune.tuning.sophia import SophiaG

FIRST_STEPS = (0, 1, 2, 4, 8)
"""A LoRA starts with B = 0: until B has moved, A has no curvature, and would go by signs up to the tenth step."""
NOT_INPUTS = ("labels", "shift_labels", "num_items_in_batch", "fused_lm_head", "return_dict")
"""What a trainer passes to a model's forward for the sake of its loss."""
SCALE = 4096.0
"""Multiplies the loss while its gradient is on the way, for the sake of float16, where it would vanish; a power of two
changes nothing elsewhere."""
PACKED_ELSEWHERE = ("cu_seq_lens_q", "cu_seq_lens_k")
"""With these, made by other collators for flash attention, a row cannot be cut."""


def refresh_is_due(step: int, every: int = 10) -> bool:
    """Whether the curvature is estimated before an optimizer step, counted from 0.

    >>> [step for step in range(31) if refresh_is_due(step)]
    [0, 1, 2, 4, 8, 10, 20, 30]
    """
    return step in FIRST_STEPS or step % every == 0


def refresh_curvature(
    optimizer: SophiaG,
    model: nn.Module,
    batch: Mapping[str, Any],
    *,
    estimator: Estimator = "gnb",
    share: float = 1.0,
    seed: int = 0,
) -> int:
    """Estimate the curvature on a part of a batch and give it to the optimizer; returns the number of labels used.

    Call it between a backward pass and the optimizer's step, or before both: gradients that are there are left alone.
    With several processes each calls it with a batch of its own, and all get the estimate of the whole. No label at
    all, or a gradient that overflows (float16), changes nothing and returns 0.

    Args:
        optimizer: What steps the model's parameters.
        model: A causal language model that returns `logits`, under DDP or FSDP2 or neither.
        batch: What its forward takes, with `labels` as transformers wants them: (batch, length), −100 where there is
            none. Also with `shift_labels`, those at the positions of the logits, and `logits_to_keep`.
        estimator: `gnb`; or `hutchinson`, u ⊙ Hu with signs u (an ablation; not under FSDP2); or `empirical_fisher`,
            the square of the gradient of the true labels (an ablation).
        share: The part of the batch to use: of its rows, or, where it is one row of several examples with positions
            that start again, of these.
        seed: Of the labels or signs that are drawn.

    Raises `UsageError` if the batch has no labels, or the estimator cannot work with this model.
    """
    model = model.module if isinstance(model, DistributedDataParallel) else model
    processes = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    rank = torch.distributed.get_rank() if processes > 1 else 0
    parameters = optimizer.parameters()
    with sdpa_kernel(SDPBackend.MATH) if estimator == "hutchinson" else nullcontext():  # fused: no second derivative
        logits_NV, labels_N = _logits_at_labels(model, _part(batch, share))
        count = torch.tensor(float(len(labels_N)), device=logits_NV.device)
        if processes > 1:
            torch.distributed.all_reduce(count)
        labels = int(count)
        if not labels:
            return 0
        if estimator == "gnb":
            labels_N = draw_labels(logits_NV, _generator(logits_NV, seed * processes + rank))
        # processes average their gradients, so each counts as many times as there are
        loss = nn.functional.cross_entropy(logits_NV, labels_N, reduction="sum") * (processes / labels)
        if estimator == "hutchinson":
            estimates = _hutchinson(loss, parameters, _generator(logits_NV, seed), processes)
        else:
            gradients = _gradients(loss, parameters, processes)
            # times the labels' number: so the estimate depends neither on it nor on padding or the batch's size
            estimates = [None if g is None else g.square_().mul_(labels) for g in gradients]
    if not _finite([estimate for estimate in estimates if estimate is not None]):
        return 0
    optimizer.update_curvature(estimates)
    return labels


def _generator(like: Tensor, seed: int) -> torch.Generator:
    return torch.Generator(like.device).manual_seed(seed)


def draw_labels(logits_NV: Tensor, generator: torch.Generator) -> Tensor:
    """One label for each row of logits (N, vocabulary), drawn from its softmax."""
    with torch.no_grad():
        # whatever is drawn where the logits are no numbers: the gradient will not be finite, and not be taken
        return torch.multinomial(logits_NV.softmax(-1).nan_to_num(1.0), 1, generator=generator)[:, 0]


def draw_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """A tensor of −1 and 1, each as likely."""
    return torch.randint(0, 2, like.shape, generator=generator, device=like.device).mul_(2).sub_(1).to(like.dtype)


def _logits_at_labels(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """The logits (N, vocabulary) that predict a label, in float32, and these labels (N)."""
    labels_BT = batch.get("shift_labels")
    if labels_BT is None:
        if batch.get("labels") is None:
            raise UsageError("refresh_curvature: the batch has no labels; pass the batch as the loss sees it")
        labels_BT = batch["labels"][:, 1:]  # the logits before a token predict it
        columns = (labels_BT != IGNORED).any(0).nonzero()[:, 0]
        if "logits_to_keep" not in batch and _accepts(model, "logits_to_keep"):
            batch = {**batch, "logits_to_keep": columns}
            labels_BT = labels_BT[:, columns]
    inputs = {key: value for key, value in batch.items() if key not in NOT_INPUTS}
    logits_BTV = model(**inputs).logits[:, : labels_BT.shape[1]]
    kept = labels_BT != IGNORED
    return logits_BTV[kept].float(), labels_BT[kept]


def _accepts(model: nn.Module, name: str) -> bool:
    inner: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    return name in inspect.signature(inner.forward).parameters


def _part(batch: Mapping[str, Any], share: float) -> dict[str, Any]:
    """The first rows of a batch, or the first examples of one packed row; at least one."""
    if share >= 1 or any(key in batch for key in PACKED_ELSEWHERE):
        return dict(batch)
    ids_BT = batch["input_ids"]
    rows, length = ids_BT.shape
    if rows > 1:
        kept = max(1, round(share * rows))
        return {key: value[:kept] if _has_size(value, 0, rows) else value for key, value in batch.items()}
    positions = batch.get("position_ids")
    starts = (positions[0] == 0).nonzero()[1:, 0].tolist() if positions is not None else []
    end = min([start for start in starts if start >= share * length] or starts[-1:] or [length])
    part = {key: value[:, :end] if _has_size(value, 1, length) else value for key, value in batch.items()}
    at = batch.get("logits_to_keep")
    if isinstance(at, Tensor):
        kept = int((at < end).sum())
        part |= {"logits_to_keep": at[:kept], "labels": batch["labels"][:, :kept]}
        part |= {"shift_labels": batch["shift_labels"][:, :kept]} if "shift_labels" in batch else {}
    return part


def _has_size(value: Any, dimension: int, size: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > dimension and value.shape[dimension] == size


def _finite(estimates: list[Tensor]) -> bool:
    """Whether every number is finite, in every process's shard."""
    total = torch.stack([(e.to_local() if isinstance(e, DTensor) else e).sum().float() for e in estimates]).sum()
    if any(isinstance(e, DTensor) for e in estimates):
        torch.distributed.all_reduce(total)
    return bool(total.isfinite())


def _gradients(loss: Tensor, parameters: list[Tensor], processes: int) -> list[Tensor | None]:
    """The gradient of a loss, averaged over processes; what stands in `.grad` is put aside meanwhile.

    Through `.grad`, because FSDP2 leaves its reduced gradients there and nowhere else. DDP's hooks do nothing after a
    forward pass that was not its own, so that what is not sharded is averaged here.
    """
    aside = [p.grad for p in parameters]
    try:
        for p in parameters:
            p.grad = None
        torch.autograd.backward(loss * SCALE)
        found = [p.grad for p in parameters]
    finally:
        for p, gradient in zip(parameters, aside, strict=True):
            p.grad = gradient
    _average([g for g in found if g is not None and not isinstance(g, DTensor)], processes)
    return [g if g is None else g.to(torch.promote_types(g.dtype, torch.float32)).div_(SCALE) for g in found]


def _hutchinson(
    loss: Tensor, parameters: list[Tensor], generator: torch.Generator, processes: int
) -> list[Tensor | None]:
    """The estimate u ⊙ Hu for random signs u, the same in all processes (Liu et al. 2023, algorithm 1)."""
    if any(isinstance(p, DTensor) for p in parameters):
        raise UsageError("estimator = 'hutchinson' needs second derivatives, which FSDP2 does not give; use gnb")
    first = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, first, strict=True) if g is not None]
    signs = [draw_signs(p, generator) for p, _ in used]
    product = torch.stack([(g * u).sum() for (_, g), u in zip(used, signs, strict=True)]).sum()
    second = torch.autograd.grad(product, [p for p, _ in used], materialize_grads=True)
    estimates = [u * h for u, h in zip(signs, second, strict=True)]
    _average(estimates, processes)
    of = {p: estimate for (p, _), estimate in zip(used, estimates, strict=True)}
    return [of.get(p) for p in parameters]


def _average(tensors: list[Tensor], processes: int) -> None:
    if processes > 1 and tensors:
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = torch.split(flat.div_(processes), [tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


class SophiaCallback(TrainerCallback):
    """Gives `SophiaG` its curvature in any `transformers.Trainer`, and logs how it fares.

    Before the steps that `refresh_is_due` names, it takes the last batch that the model saw in this step and calls
    `refresh_curvature`. The log has `sophia_unclipped` (the share of coordinates that the last step did not clip),
    `sophia_gamma`, `sophia_curvature` (the norm of ĥ) and `sophia_refreshes` beside the training loss. A tracker sees
    them too if this callback stands before it in `trainer.callback_handler.callbacks`.

    Args:
        estimator: As for `refresh_curvature`.
        refresh_every: Steps between two estimates, after the first ones.
        refresh_share: The share of the batch that an estimate is made from, at least one example. A quarter of four
            examples, every 10 steps, is 2.5 % more work in a long run; one of one is 10 %.
        seed: With the step's number it seeds the labels that are drawn, so that a run that goes on draws the same.

    Works with DDP, FSDP2 and gradient accumulation. The model's forward must take labels or the batch must have them.

    Raises `UsageError` when training begins with another optimizer, or with DeepSpeed, which keeps gradients to itself.
    """

    def __init__(
        self,
        estimator: Estimator = "gnb",
        refresh_every: int = 10,
        refresh_share: float = 0.25,
        seed: int = 0,
    ):
        if refresh_every < 1:
            raise UsageError(f"SophiaCallback: refresh_every = {refresh_every}: expected at least 1")
        if not 0 < refresh_share <= 1:
            raise UsageError(f"SophiaCallback: refresh_share = {refresh_share}: expected above 0, at most 1")
        self.estimator, self.every, self.share, self.seed = estimator, refresh_every, refresh_share, seed
        self._due = False
        self._batch: dict[str, Any] | None = None
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look at every batch that goes into the model from now on."""
        optimizer = _sophia(kwargs["optimizer"])
        if optimizer is None:
            raise UsageError(
                f"SophiaCallback: the trainer's optimizer is {type(kwargs['optimizer']).__name__}; give it "
                'optimizer_cls_and_kwargs=(SophiaG, {"lr": ...})'
            )
        if getattr(args, "deepspeed", None):
            raise UsageError(
                "Sophia cannot train with DeepSpeed, which keeps the gradients of its ZeRO stages to itself; use DDP "
                "or FSDP2"
            )
        self._hook = kwargs["model"].register_forward_pre_hook(self._see, with_kwargs=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A step begins; its number decides whether there is to be an estimate."""
        self._due = refresh_is_due(state.global_step, self.every)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The gradient of the step is there: now the curvature at the same place."""
        if self._due and self._batch is not None:
            batch, self._batch, self._due = self._batch, None, False
            optimizer = _sophia(kwargs["optimizer"])
            assert optimizer is not None
            refresh_curvature(
                optimizer,
                kwargs["model"],
                batch,
                estimator=self.estimator,
                share=self.share,
                seed=self.seed * 1_000_003 + state.global_step,
            )

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Add the figures to what is logged, and to the trainer's own history."""
        optimizer = _sophia(kwargs.get("optimizer"))
        if logs is not None and "loss" in logs and optimizer is not None:
            figures: dict[str, Any] = {
                "sophia_unclipped": optimizer.unclipped_share(),
                "sophia_curvature": optimizer.curvature_norm(),
                "sophia_refreshes": optimizer.refreshes,
            }
            figures |= {} if optimizer.gamma is None else {"sophia_gamma": optimizer.gamma}
            logs |= figures
            if state.log_history:
                state.log_history[-1] |= figures

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Look no longer."""
        if self._hook is not None:
            self._hook.remove()

    def _see(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._due and torch.is_grad_enabled() and module.training:
            self._batch = kwargs


def _sophia(optimizer: Any) -> SophiaG | None:
    """The optimizer inside accelerate's wrapper, if it is Sophia."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, SophiaG) else None
