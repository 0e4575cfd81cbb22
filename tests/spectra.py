"""The penalty as the paper writes it, through autograd, and ΔW formed: what the closed forms are tested against."""

import torch


def phi(size, threshold, phi_low, phi_high, bins):
    """Eq. 6 for each bin of the real FFT."""
    k = torch.arange(size // 2 + 1, dtype=torch.float64)
    n = size if bins == "parameters" else size // 2 + 1
    return phi_low + (phi_high - phi_low) * torch.clamp(k / (n * threshold), max=1)


def both_halves(weight, size):
    """What a bin of the full FFT has: that of its frequency."""
    k = torch.arange(size)
    return weight[torch.minimum(k, size - k)]


def by_autograd(parameters, threshold=0.5, phi_low=1.0, phi_high=0.1, norm="ortho", reduction="sum", bins="rfft"):
    """Eq. 4, summed over factors."""
    total = 0
    for w in parameters:
        flat = w.flatten()
        rho = 1 - phi(flat.numel(), threshold, phi_low, phi_high, bins)
        if bins == "fft":
            rho, spectrum = both_halves(rho, flat.numel()), torch.fft.fft(flat, norm=norm)
        else:
            spectrum = torch.fft.rfft(flat, norm=norm)
        energy = rho.to(flat.dtype) * (spectrum.real.square() + spectrum.imag.square())
        total = total + (energy.sum() if reduction == "sum" else energy.mean())
    return total


def product_by_autograd(pairs, threshold=0.5, phi_low=1.0, phi_high=0.1, norm="ortho", reduction="sum", bins="rfft"):
    """The same on the 2-D spectrum of ΔW, which is formed here."""
    total = 0
    for A, B in pairs:
        delta = B.flatten(1) @ A.flatten(1)
        d_out, d_in = delta.shape
        along_out = both_halves(phi(d_out, threshold, phi_low, phi_high, bins), d_out)
        along_in = phi(d_in, threshold, phi_low, phi_high, bins)
        if bins == "fft":
            along_in, spectrum = both_halves(along_in, d_in), torch.fft.fft2(delta, norm=norm)
        else:
            spectrum = torch.fft.rfft2(delta, norm=norm)
        rho = (1 - along_out[:, None] * along_in[None, :]).to(delta.dtype)
        energy = rho * (spectrum.real.square() + spectrum.imag.square())
        total = total + (energy.sum() if reduction == "sum" else energy.mean())
    return total
