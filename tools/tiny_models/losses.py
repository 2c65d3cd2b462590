"""What the decoder's sound is compared by: logarithmic and linear mel spectra of several
resolutions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mel_bank(size: int, bands: int, rate: int = 24_000) -> Tensor:
    """Return triangular filters [bins, bands], evenly spaced on the mel scale, each of height
    one.
    """
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    bins = torch.linspace(0, rate / 2, size // 2 + 1)[:, None]
    up, down = (
        (bins - edges[:-2]) / (edges[1:-1] - edges[:-2]),
        (edges[2:] - bins) / (edges[2:] - edges[1:-1]),
    )
    return torch.minimum(up, down).clamp(min=0)


class MelLoss(nn.Module):
    """Mean distance of mel spectra over the resolutions."""

    SIZES = ((2048, 80), (1024, 80), (512, 40), (256, 20), (128, 10))

    def __init__(self) -> None:
        super().__init__()
        for size, bands in self.SIZES:
            self.register_buffer(f"bank{size}", mel_bank(size, bands))
            self.register_buffer(f"window{size}", torch.hann_window(size))

    def forward(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of `made` against `wanted`, both [B, N]."""
        total = made.new_zeros(())
        for size, _ in self.SIZES:
            bank, window = getattr(self, f"bank{size}"), getattr(self, f"window{size}")
            spectra = [
                torch.stft(x, size, size // 4, window=window, return_complex=True)
                .abs()
                .transpose(1, 2)
                / math.sqrt(size)
                @ bank
                for x in (made, wanted)
            ]
            total = (
                total
                + F.l1_loss((spectra[0] + 1e-3).log(), (spectra[1] + 1e-3).log())
                + F.l1_loss(spectra[0], spectra[1])
            )
        return total / len(self.SIZES)
