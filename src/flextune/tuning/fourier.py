"""The Fourier penalty: high frequencies of the LoRA factors cost more than low ones (paper, section 3.3).

    penalty = FourierPenalty(model, strength=0.02)
    loss.backward()
    penalty.add_gradient_()        # once a step, before clipping
    optimizer.step()

For each factor W with N entries and n = N // 2 + 1 bins of ŵ = rfft(flatten(W), norm="ortho"):

    L_F = Σ_k ρ_k |ŵ_k|²,   ρ_k = 1 − φ_k,   φ_k = φ_low + (φ_high − φ_low) · min(1, k / (n · T))     (eqs. 3 to 6)

The gradient is closed: ∇L_F = 2 · irfft(ρ · c · ŵ), with c = 1 at frequency 0 (and at the Nyquist bin of an even N)
and ½ elsewhere, since a one-sided sum counts each inner frequency once. So nothing passes through autograd.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from flextune.errors import UsageError


class FourierPenalty:
    """λ · L_F over LoRA factors, as a value and as a gradient that is added to `.grad`.

    Args:
        model_or_parameters: A PEFT model, whose trainable LoRA factors are found by PEFT's structure, or the
            parameters themselves.
        strength: λ of eq. 7.
        threshold: T of eq. 6, in (0, 1].
        phi_low: φ at frequency 0, in [0, 1].
        phi_high: φ above the threshold, in [0, 1].

    Parameters of any dtype are transformed in float32 (float64 stays float64). Factors of one shape are transformed in
    one batch.

    Raises:
        UsageError: An argument is out of its range, or there is nothing to penalise.

    Example:
        >>> w = nn.Parameter(torch.tensor([[1.0, -1.0], [1.0, -1.0]]))   # all its energy at the highest frequency
        >>> round(FourierPenalty([w]).value().item(), 3)
        3.6
        >>> round(FourierPenalty([nn.Parameter(torch.ones(2, 2))]).value().item(), 3)   # and here at the lowest
        0.0
    """

    def __init__(
        self,
        model_or_parameters: nn.Module | Iterable[nn.Parameter],
        strength: float = 0.02,
        threshold: float = 0.5,
        phi_low: float = 1.0,
        phi_high: float = 0.1,
    ):
        if strength < 0:
            raise UsageError(f"strength = {strength}: expected a number of at least 0")
        if not 0 < threshold <= 1:
            raise UsageError(f"threshold = {threshold}: expected a number in (0, 1]")
        for name, phi in (("phi_low", phi_low), ("phi_high", phi_high)):
            if not 0 <= phi <= 1:
                raise UsageError(f"{name} = {phi}: expected a number in [0, 1]")
        self.strength, self.threshold, self.phi_low, self.phi_high = strength, threshold, phi_low, phi_high
        if isinstance(model_or_parameters, nn.Module):
            parameters = [factor for factor in lora_factors(model_or_parameters) if factor.requires_grad]
        else:
            parameters = list(model_or_parameters)
        if not parameters:
            raise UsageError("model_or_parameters: there are no trainable LoRA factors to penalise")
        self._groups: dict[tuple[int, torch.device], list[nn.Parameter]] = {}
        for parameter in parameters:
            self._groups.setdefault((parameter.numel(), parameter.device), []).append(parameter)

    @torch.no_grad()
    def value(self) -> Tensor:
        """L_F summed over the factors, without λ; a scalar tensor on the first factor's device."""
        total: Tensor | None = None
        for parameters in self._groups.values():
            w_PN, weight_F = self._flat(parameters), self._weight(parameters)
            energy_PF = torch.fft.rfft(w_PN, norm="ortho").abs().square()
            part = (energy_PF * weight_F).sum()
            total = part if total is None else total + part.to(total.device)
        assert total is not None
        return total

    @torch.no_grad()
    def add_gradient_(self, scale: float = 1.0) -> None:
        """Add scale · λ · ∇L_F to the `.grad` of every factor (created if there is none)."""
        if self.strength == 0:
            return
        for parameters in self._groups.values():
            w_PN, weight_F = self._flat(parameters), self._weight(parameters)
            size = w_PN.shape[-1]
            one_sided_F = weight_F.clone()  # 2 · ρ · c
            one_sided_F[0] *= 2
            if size % 2 == 0 and size > 1:
                one_sided_F[-1] *= 2
            gradient_PN = torch.fft.irfft(torch.fft.rfft(w_PN, norm="ortho") * one_sided_F, n=size, norm="ortho")
            for parameter, gradient_N in zip(parameters, gradient_PN, strict=True):
                gradient = gradient_N.view_as(parameter).to(parameter.dtype)
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.add_(gradient, alpha=scale * self.strength)

    def _flat(self, parameters: list[nn.Parameter]) -> Tensor:
        flat = torch.stack([parameter.flatten() for parameter in parameters])
        return flat if flat.dtype == torch.float64 else flat.float()

    def _weight(self, parameters: list[nn.Parameter]) -> Tensor:
        first = parameters[0]
        dtype = torch.float64 if first.dtype == torch.float64 else torch.float32
        return bin_weights(first.numel(), self.threshold, self.phi_low, self.phi_high).to(first.device, dtype)


def bin_weights(size: int, threshold: float = 0.5, phi_low: float = 1.0, phi_high: float = 0.1) -> Tensor:
    """ρ_k for each of the `size // 2 + 1` bins of a real signal of `size` entries (eqs. 5 and 6); float64.

    >>> [round(weight, 3) for weight in bin_weights(198)[[0, 1, 5, 10, 25, 50, 99]].tolist()]
    [0.0, 0.018, 0.09, 0.18, 0.45, 0.9, 0.9]
    """
    bins = size // 2 + 1
    share_F = (torch.arange(bins, dtype=torch.float64) / (bins * threshold)).clamp(max=1)
    return 1 - (phi_low + (phi_high - phi_low) * share_F)


def lora_factors(model: nn.Module) -> Iterator[nn.Parameter]:
    """The factors A and B of every LoRA layer of a PEFT model, adapter by adapter."""
    from peft.tuners.lora import LoraLayer

    for module in model.modules():
        if isinstance(module, LoraLayer):
            for factors in (module.lora_A, module.lora_B, module.lora_embedding_A, module.lora_embedding_B):
                yield from factors.parameters()
