"""The Fourier penalty: high frequencies of the LoRA factors cost more than low ones (paper, section 3.3).

    penalty = FourierPenalty(model, strength=0.02)
    loss.backward()
    penalty.add_gradient_()        # once a step, after the last backward pass and before clipping
    optimizer.step()

For each factor W with N entries and n = N // 2 + 1 bins of ŵ = rfft(flatten(W), norm="ortho"):

    L_F = Σ_k ρ_k |ŵ_k|²,   ρ_k = 1 − φ_k,   φ_k = φ_low + (φ_high − φ_low) · min(1, k / (n · T))     (eqs. 3 to 6)

The gradient is closed (`flextune.tuning.forms`), so nothing passes through autograd. For a `transformers.Trainer` there
are `flextune.attach` and `flextune.SpectralTrainerMixin`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from flextune.errors import FlextuneError, UsageError
from flextune.tuning.factors import Factor, LoraPair, distinct, given, lora_pairs
from flextune.tuning.forms import LAWS, Flat, Product, Reading
from flextune.tuning.settings import Bins, Form, Norm, Reduction

CHOICES = {"norm": Norm, "reduction": Reduction, "bins": Bins, "form": Form}
CHUNK = {"cpu": 2**20, "cuda": 2**24}
"""Entries that are transformed at once, by device: what a processor's allocator and caches like."""
ROWS = 8
"""But so many factors at least, if a third of all of them allows it: threads and an FFT's plan are shared by rows."""


class FourierPenalty:
    """λ · L_F over LoRA factors, as a value and as a gradient that is added to `.grad`.

    Args:
        model_or_parameters: A PEFT model, whose trainable LoRA factors are found by PEFT's structure, or the
            parameters themselves (for `form="product"`: pairs of A and B). With FSDP2 give the model: sharding
            replaces its parameters.
        strength: λ of eq. 7.
        threshold: T of eq. 6, in (0, 1].
        phi_low: φ at frequency 0, in [0, 1].
        phi_high: φ above the threshold, in [0, 1].
        norm: Of the FFT: `ortho`, `backward` (no factor, what torch.fft does by default) or `forward` (1 / N). It
            multiplies L_F by 1, N or 1 / N.
        reduction: Over the bins of one factor, `sum` (eq. 4) or `mean`. Factors are always summed.
        bins: `rfft` counts the n = N // 2 + 1 bins of a real FFT once each (eqs. 3 and 4 as they are written); `fft`
            counts both halves of the spectrum; `parameters` is `rfft` with n = N in eq. 6.
        form: `factors` is the paper's. `product` is the penalty on the 2-D spectrum of ΔW = B A, unchanged under
            (B M, M⁻¹ A). `permuted` and `l2` are controls: the penalty after a random permutation of each flattened
            factor, and plain L2 with the same penalty for white noise.
        seed: Draws the permutation of `form="permuted"`.

    Parameters of any dtype are transformed in float32 (float64 stays float64). Factors of one shape are transformed in
    batches. There is no state to save, no autograd graph, and no host synchronisation in a step. Sharded parameters
    (FSDP2's DTensor) are gathered for it. `print` shows what λ amounts to.

    Raises:
        UsageError: An argument is out of its range, a parameter is not finite, there is nothing to penalise, or the
            parameters are parts of a factor (DeepSpeed ZeRO-3, FSDP1), whose spectrum they do not have.

    Example:
        >>> w = nn.Parameter(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))   # all its energy at the highest frequency
        >>> round(FourierPenalty([w]).value().item(), 3)
        3.6
        >>> round(FourierPenalty([nn.Parameter(torch.ones(2, 2))]).value().item(), 3)   # and here at the lowest
        0.0
    """

    def __init__(
        self,
        model_or_parameters: nn.Module | Iterable[Any],
        strength: float = 0.02,
        threshold: float = 0.5,
        phi_low: float = 1.0,
        phi_high: float = 0.1,
        norm: Norm = "ortho",
        reduction: Reduction = "sum",
        bins: Bins = "rfft",
        form: Form = "factors",
        seed: int = 0,
    ):
        if not (isinstance(strength, int | float) and strength >= 0 and math.isfinite(strength)):
            raise UsageError(f"strength = {strength!r}: expected a number of at least 0")
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold = {threshold}: expected a number in (0, 1]")
        for name, phi in (("phi_low", phi_low), ("phi_high", phi_high)):
            if not 0 <= phi <= 1:
                raise UsageError(f"{name} = {phi}: expected a number in [0, 1]")
        for name, word in (("norm", norm), ("reduction", reduction), ("bins", bins), ("form", form)):
            if word not in get_args(CHOICES[name]):
                raise UsageError(f"{name} = {word!r}: expected one of {', '.join(get_args(CHOICES[name]))}")
        self.strength, self.form = strength, form
        self.reading = Reading(threshold, phi_low, phi_high, norm, reduction, bins, seed)
        pairs, self.factors = _find(model_or_parameters, form)
        self._A, self._B = distinct(pair.A for pair in pairs), distinct(pair.B for pair in pairs)
        if not self.factors:
            name = type(model_or_parameters).__name__
            raise UsageError(f"model_or_parameters: there are no trainable LoRA factors to penalise in this {name}")
        for factor in self.factors:
            if found := factor.not_finite():
                raise UsageError(f"model_or_parameters: {found}; expected finite numbers")
        columns = [(pair.B, pair.A) for pair in pairs] if form == "product" else [(f,) for f in self.factors]
        self._groups = list(_group(columns, form, self.reading))

    @torch.no_grad()
    def value(self) -> Tensor:
        """L_F summed over the factors, without λ; a scalar tensor on the first factor's device."""
        parts = [group.law.value(*group.stacked()) for group in self._groups]
        return torch.stack([part.to(parts[0].device) for part in parts]).sum()

    @torch.no_grad()
    def add_gradient_(self, scale: float | Tensor = 1.0) -> None:
        """Add scale · λ · ∇L_F to the `.grad` of every factor (created if there is none).

        Call it once for each optimizer step, after the last backward pass and before clipping. Under a GradScaler
        `scale` is the scale of the loss: a number or, without waiting for the device, a tensor.
        """
        if self.strength == 0:
            return
        for parameters, gradients in self._gradients(scale):
            for parameter in parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            torch._foreach_add_([parameter.grad for parameter in parameters], gradients)

    @torch.no_grad()
    def decay_(self, optimizer: torch.optim.Optimizer, scale: float = 1.0) -> None:
        """Take scale · lr · λ · ∇L_F from every factor itself, lr being that of its group in the optimizer.

        The decoupled penalty, as AdamW's weight decay is: call it after `optimizer.step()`, in place of
        `add_gradient_`. An ablation, since a small λ acts through the normalisation that this leaves out.
        """
        if self.strength == 0:
            return
        rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        for factor in self.factors:
            if id(factor.parameter) not in rates:
                raise UsageError(f"optimizer: it does not have {factor.name}; make the penalty of what it trains")
        for parameters, gradients in self._gradients(scale):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-rates[id(parameter)])

    @torch.no_grad()
    def norms(self) -> dict[str, Tensor]:
        """‖A‖ and ‖B‖ over the layers in training, `lora_A_norm` and `lora_B_norm`; empty if parameters were given."""
        kinds = {"lora_A_norm": self._A, "lora_B_norm": self._B}
        return {
            name: nn.utils.get_total_norm([_in_full(factor.whole()) for factor in factors])
            for name, factors in kinds.items()
            if factors
        }

    def check_finite(self) -> None:
        """Raise `FlextuneError` with the name and place of the first value that is not finite."""
        for factor in self.factors:
            if found := factor.not_finite():
                raise FlextuneError(f"{found}: lower the learning rate, or the penalty's strength ({self.strength:g})")

    def effective_strengths(self) -> dict[str, float]:
        """For each factor (for `product`, each B) the λ′ for which ½ λ′ ‖W‖² is the penalty of a white W.

        So λ′ compares with a weight decay, and with the λ′ of another norm, reduction or shape.

        >>> FourierPenalty([nn.Parameter(torch.ones(8, 4096))]).effective_strengths()
        {'parameter 0': 0.0135...}
        """
        return {row[0].name: 2 * self.strength * group.law.white for group in self._groups for row in group.rows}

    def __str__(self) -> str:
        counts: Counter[tuple[str, str]] = Counter()
        for group in self._groups:
            shape = " by ".join("×".join(map(str, factor.shape)) for factor in group.rows[0])
            counts[shape, f"{2 * self.strength * group.law.white:.3g}"] += len(group.rows)
        how = ", ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in asdict(self.reading).items()
            if name != "seed"
        )
        lines = [f"Fourier penalty on {self.form}: λ = {self.strength:g} ({how}); for white noise a weight decay of"]
        lines += [f"  {decay} on {number} of shape {shape}" for (shape, decay), number in counts.items()]
        return "\n".join(lines)

    def _gradients(self, scale: float | Tensor) -> Iterator[tuple[list[Any], list[Tensor]]]:
        """Parameters of one shape that are trained now, with scale · λ · ∇L_F in each one's dtype and sharding."""
        for group in self._groups:
            gradients = group.law.gradient(*group.stacked())
            for factors, gradient_P in zip(zip(*group.rows, strict=True), gradients, strict=True):
                gradient_P.mul_(self.strength)
                if isinstance(scale, Tensor):
                    gradient_P.mul_(scale.to(gradient_P.device))
                elif scale != 1:
                    gradient_P.mul_(scale)
                parameters = [factor.parameter for factor in factors]
                gradient_P = gradient_P.to(parameters[0].dtype).view(-1, *factors[0].shape)
                trained = [(p, _like(p, g)) for p, g in zip(parameters, gradient_P, strict=True) if p.requires_grad]
                if trained:
                    yield [parameter for parameter, _ in trained], [gradient for _, gradient in trained]


@dataclass(frozen=True)
class _Group:
    """Factors of one shape (for `product`, rows of B and A) that are transformed together, and their closed form."""

    law: Flat | Product
    rows: Sequence[tuple[Factor, ...]]

    def stacked(self) -> list[Tensor]:
        """One batch for each column of the rows, in the dtype of the computation."""
        columns = [[factor.whole() for factor in factors] for factors in zip(*self.rows, strict=True)]
        batches = [_in_full(torch.stack(column) if len(column) > 1 else column[0].unsqueeze(0)) for column in columns]
        dtype = max((batch.dtype for batch in batches), key=lambda dtype: dtype.itemsize)
        self.law.to(batches[0].device, dtype)  # the model may have moved, or changed, since
        return [batch.to(dtype).flatten(2 if isinstance(self.law, Product) else 1) for batch in batches]


def _group(rows: Sequence[tuple[Factor, ...]], form: Form, reading: Reading) -> Iterator[_Group]:
    """Rows of equal shapes, dtype and device, in parts small enough for the memory."""
    alike: dict[Any, list[tuple[Factor, ...]]] = {}
    times: Counter[int] = Counter()
    for row in rows:
        parameters = [factor.parameter for factor in row]
        # a parameter that several layers share is added to once in a group
        key = tuple((p.shape, p.dtype, p.device, times[id(p)]) for p in parameters)
        alike.setdefault(key, []).append(row)
        times.update(id(p) for p in parameters)
    entries = sum(factor.shape.numel() for row in rows for factor in row)
    for same in alike.values():
        first = same[0][0].parameter
        shapes = [factor.shape for factor in same[0]]
        extent = (shapes[0][0], shapes[1][1:].numel()) if form == "product" else shapes[0].numel()
        law = LAWS[form](reading, extent)
        size = sum(shape.numel() for shape in shapes)
        number = max(ROWS, CHUNK.get(first.device.type, CHUNK["cuda"]) // size)
        number = max(1, min(number, entries // 3 // size))  # the transform takes thrice its input
        parts = math.ceil(len(same) / number)
        for part in range(parts):
            yield _Group(law, same[part * len(same) // parts : (part + 1) * len(same) // parts])


def _find(source: nn.Module | Iterable[Any], form: Form) -> tuple[list[LoraPair], list[Factor]]:
    """The pairs of a model (or, for `product`, those given), and the factors that are trained."""
    if isinstance(source, nn.Module):
        pairs = list(lora_pairs(source))
    elif form == "product":
        pairs = [LoraPair(*_given_pair(pair, number)) for number, pair in enumerate(source)]
    else:
        factors = [given(parameter, f"parameter {i}") for i, parameter in enumerate(source)]
        return [], [factor for factor in distinct(factors) if factor.parameter.requires_grad]
    pairs = [pair for pair in pairs if pair.A.parameter.requires_grad or pair.B.parameter.requires_grad]
    for pair in pairs if form == "product" else ():
        if not pair.is_product or pair.A.shape[0] != pair.B.shape[1:].numel():
            shapes = f"{tuple(pair.B.shape)} and {tuple(pair.A.shape)}"
            raise UsageError(
                f"form = 'product': ΔW of {pair.B.name} and {pair.A.name} is not B A (shapes {shapes}); "
                "use form = 'factors'"
            )
    factors = distinct(factor for pair in pairs for factor in (pair.A, pair.B))
    return pairs, [factor for factor in factors if factor.parameter.requires_grad]


def _given_pair(pair: Any, number: int) -> tuple[Factor, Factor]:
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise UsageError(
            f"model_or_parameters: item {number} is a {type(pair).__name__}; form = 'product' expects pairs (A, B)"
        )
    return given(pair[0], f"A {number}"), given(pair[1], f"B {number}")


def _in_full(values: Tensor) -> Tensor:
    """In float32, or float64 if that is what they are."""
    return values if values.dtype == torch.float64 else values.float()


def _like(parameter: Tensor, gradient: Tensor) -> Tensor:
    """A whole gradient, sharded as the parameter is."""
    if not isinstance(parameter, DTensor):
        return gradient
    return distribute_tensor(gradient, parameter.device_mesh, parameter.placements, src_data_rank=None)
