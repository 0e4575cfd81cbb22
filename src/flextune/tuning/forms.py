"""The closed forms of the Fourier penalty and of its controls: value and gradient of a batch of equal shapes.

Suffixes of shapes: P factors of one shape, N entries of a flattened factor, F = N // 2 + 1 bins; D d_out, R rank,
M d_in. All of it runs outside of autograd and in the dtype of its input.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flextune.tuning.settings import Bins, Form, Norm, Reduction


@dataclass(frozen=True)
class Reading:
    """How eqs. 3 to 6 are read; the fields are the arguments of `FourierPenalty`."""

    threshold: float = 0.5
    phi_low: float = 1.0
    phi_high: float = 0.1
    norm: Norm = "ortho"
    reduction: Reduction = "sum"
    bins: Bins = "rfft"
    seed: int = 0

    def phi(self, size: int) -> Tensor:
        """φ_k of eq. 6 for each bin of a real signal of `size` entries; float64, shape (F,)."""
        bins = size // 2 + 1
        n = size if self.bins == "parameters" else bins
        share_F = (torch.arange(bins, dtype=torch.float64) / (n * self.threshold)).clamp(max=1)
        return self.phi_low + (self.phi_high - self.phi_low) * share_F

    def counts(self, size: int) -> Tensor:
        """How often the sum of eq. 4 counts each bin: a full FFT has each inner frequency twice; shape (F,)."""
        return edges(size, inner=2.0, edge=1.0) if self.bins == "fft" else torch.ones(size // 2 + 1).double()

    def scale(self, size: int, counted: float) -> float:
        """The factor that turns orthonormal energies, summed, into this norm and reduction."""
        power = {"ortho": 1.0, "backward": float(size), "forward": 1 / size}[self.norm]
        return power / counted if self.reduction == "mean" else power


def edges(size: int, inner: float, edge: float) -> Tensor:
    """`edge` at frequency 0 and at the Nyquist bin of an even size, `inner` between them; float64, shape (F,)."""
    weight_F = torch.full((size // 2 + 1,), inner, dtype=torch.float64)
    weight_F[0] = edge
    if size % 2 == 0:
        weight_F[-1] = edge
    return weight_F


class Flat(nn.Module):
    """`factors`: Σ_k ρ_k |ŵ_k|² of each flattened factor, and its gradient 2 · irfft(ρ · c · ŵ).

    c is 1 at frequency 0 and at the Nyquist bin of an even N and ½ elsewhere, since a one-sided sum counts each inner
    frequency once.
    """

    def __init__(self, reading: Reading, size: int):
        super().__init__()
        counts_F = reading.counts(size)
        energy_F = reading.scale(size, counts_F.sum().item()) * counts_F * (1 - reading.phi(size))
        self.size = size
        self.white = energy_F.sum().item() / size
        """The penalty of white noise with variance 1, for each entry."""
        self.energy_F = nn.Buffer(energy_F)
        self.filter_F = nn.Buffer(energy_F * edges(size, inner=1, edge=2))

    def value(self, w_PN: Tensor) -> Tensor:
        """L of the batch, a scalar."""
        spectrum_PF = torch.fft.rfft(w_PN, norm="ortho")
        return (torch.view_as_real(spectrum_PF).square().sum(-1) * self.energy_F).sum()

    def gradient(self, w_PN: Tensor) -> tuple[Tensor]:
        """∇L of each factor."""
        spectrum_PF = torch.fft.rfft(w_PN, norm="ortho").mul_(self.filter_F)
        return (torch.fft.irfft(spectrum_PF, n=self.size, norm="ortho"),)


class Permuted(Flat):
    """`permuted`, a control: the same penalty after a fixed random permutation of the entries of each factor.

    It keeps what the penalty does to the size of a factor and destroys what it does to neighbourhoods, so an effect
    that it has too is no effect of frequency. One permutation for each size, drawn from the reading's seed.
    """

    def __init__(self, reading: Reading, size: int):
        super().__init__(reading, size)
        generator = torch.Generator().manual_seed(reading.seed)
        permutation_N = torch.randperm(size, generator=generator)
        self.there_N = nn.Buffer(permutation_N)
        self.back_N = nn.Buffer(torch.argsort(permutation_N))

    def value(self, w_PN: Tensor) -> Tensor:
        """L of the batch, a scalar."""
        return super().value(w_PN[:, self.there_N])

    def gradient(self, w_PN: Tensor) -> tuple[Tensor]:
        """∇L of each factor."""
        return (super().gradient(w_PN[:, self.there_N])[0][:, self.back_N],)


class L2(Flat):
    """`l2`, a control: c‖w‖², with the c that gives white noise the penalty that the spectrum would."""

    def value(self, w_PN: Tensor) -> Tensor:
        """L of the batch, a scalar."""
        return self.white * w_PN.square().sum()

    def gradient(self, w_PN: Tensor) -> tuple[Tensor]:
        """∇L of each factor."""
        return (w_PN * (2 * self.white),)


class Product(nn.Module):
    """`product`: Σ_kl (1 − φ_k φ_l) |F₂(B A)_kl|², the penalty of ΔW itself, without ever forming ΔW.

    F₂(B A) = F(B) F(A), with B transformed along d_out and A along d_in, and the weight is separable. So the sum is a
    difference of two traces of rank × rank Gram matrices, ⟨BᵀB, A D Aᵀ⟩ − ⟨Bᵀ Φ B, A D Φ Aᵀ⟩, where Φ filters by φ, and
    D is ½ for the inner frequencies of the one-sided axis (torch.fft.rfft2) and 1 at its edges, or 1 for `bins="fft"`.
    For a smooth ΔW the two would cancel; with 1 − φ_k φ_l = (1 − φ_k) + φ_k (1 − φ_l) they are a sum of positive ones:

        L = ⟨Bᵀ (1 − Φ) B, A D Aᵀ⟩ + ⟨Bᵀ Φ B, A D (1 − Φ) Aᵀ⟩

    It costs O(R² (D + M)) after the FFTs, and is unchanged under (B M, M⁻¹ A). The LoRA scale alpha / rank is left out.
    """

    def __init__(self, reading: Reading, shape: tuple[int, int]):
        super().__init__()
        d_out, d_in = shape
        self.shape = shape
        out_F, in_F = reading.phi(d_out), reading.phi(d_in)
        counts_F = reading.counts(d_in)
        cells = d_out * counts_F.sum().item()
        self.scale = reading.scale(d_out * d_in, cells)
        free = (edges(d_out, inner=2, edge=1) @ out_F).item() * (counts_F @ in_F).item()
        self.white = self.scale * (cells - free) / (d_out * d_in)
        """The penalty of a white ΔW with variance 1, for each of its entries."""
        sided_F = torch.ones_like(in_F) if reading.bins == "fft" else edges(d_in, inner=0.5, edge=1)
        self.high_out_F1 = nn.Buffer(1 - out_F.unsqueeze(-1))
        self.sided_F = nn.Buffer(sided_F)
        self.high_in_F = nn.Buffer(sided_F * (1 - in_F))

    def value(self, b_PDR: Tensor, a_PRM: Tensor) -> Tensor:
        """L of the batch, a scalar."""
        high_PDR, sided_PRM, high_PRM = self._filtered(b_PDR, a_PRM)
        high = (b_PDR.mT @ high_PDR) * (a_PRM @ sided_PRM.mT)
        low = (b_PDR.mT @ (b_PDR - high_PDR)) * (a_PRM @ high_PRM.mT)
        return self.scale * (high.sum() + low.sum())

    def gradient(self, b_PDR: Tensor, a_PRM: Tensor) -> tuple[Tensor, Tensor]:
        """∇L of each B and of each A."""
        high_PDR, sided_PRM, high_PRM = self._filtered(b_PDR, a_PRM)
        low_PDR = b_PDR - high_PDR
        gradient_PDR = high_PDR @ (a_PRM @ sided_PRM.mT) + low_PDR @ (a_PRM @ high_PRM.mT)
        gradient_PRM = (b_PDR.mT @ high_PDR) @ sided_PRM + (b_PDR.mT @ low_PDR) @ high_PRM
        return gradient_PDR.mul_(2 * self.scale), gradient_PRM.mul_(2 * self.scale)

    def _filtered(self, b_PDR: Tensor, a_PRM: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1 − Φ) B, A D and A D (1 − Φ)."""
        d_out, d_in = self.shape
        high_PDR = torch.fft.irfft(torch.fft.rfft(b_PDR, dim=-2).mul_(self.high_out_F1), n=d_out, dim=-2)
        spectrum_PRF = torch.fft.rfft(a_PRM)
        sided_PRM = torch.fft.irfft(spectrum_PRF * self.sided_F, n=d_in)
        return high_PDR, sided_PRM, torch.fft.irfft(spectrum_PRF.mul_(self.high_in_F), n=d_in)


LAWS: dict[Form, Any] = {"factors": Flat, "product": Product, "permuted": Permuted, "l2": L2}
"""The closed form of each `form`."""
