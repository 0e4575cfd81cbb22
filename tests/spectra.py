"""The penalty as the paper writes it."""

import torch

from flextune.tuning.fourier import bin_weights


def by_autograd(parameters, threshold=0.5, phi_low=1.0, phi_high=0.1):
    """The paper's sum as it is written, through autograd."""
    total = 0
    for w in parameters:
        spectrum = torch.fft.rfft(w.flatten(), norm="ortho")
        weights = bin_weights(w.numel(), threshold, phi_low, phi_high).to(w.dtype)
        total = total + (weights * spectrum.abs().square()).sum()
    return total
