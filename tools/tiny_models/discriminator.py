"""A discriminator that tells decoded sound from recorded sound: 2-D convolutions over complex
spectra of several resolutions, as EnCodec trains its decoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class SpectrumDiscriminator(nn.Module):
    """Judges one resolution; returns the scores and what its layers saw."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size))
        kernel = (3, 9)
        layers = [weight_norm(nn.Conv2d(2, channels, kernel, padding=(1, 4)))]
        for dilation in (1, 2, 4):
            padding = (dilation, 4)
            layers.append(
                weight_norm(nn.Conv2d(channels, channels, kernel, (1, 2), padding, (dilation, 1)))
            )
        layers.append(weight_norm(nn.Conv2d(channels, channels, (3, 3), padding=(1, 1))))
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, pcm: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return scores and features of `pcm` float32 [B, N]."""
        spectrum = torch.stft(
            pcm.float(),
            self.size,
            self.size // 4,
            window=self.window,
            return_complex=True,
            normalized=True,
        )
        x = torch.view_as_real(spectrum).permute(0, 3, 2, 1)
        seen = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            seen.append(x)
        return self.last(x), seen


class Discriminators(nn.Module):
    """One discriminator for each resolution."""

    def __init__(self, sizes: tuple[int, ...] = (2048, 1024, 512, 256), channels: int = 24) -> None:
        super().__init__()
        self.parts = nn.ModuleList(SpectrumDiscriminator(size, channels) for size in sizes)

    def forward(self, pcm: Tensor) -> list[tuple[Tensor, list[Tensor]]]:
        """Return each part's scores and features of `pcm` [B, N]."""
        return [part(pcm) for part in self.parts]


Judged = list[tuple[Tensor, list[Tensor]]]


def discriminator_loss(real: Judged, made: Judged) -> Tensor:
    """Return the hinge loss of a discriminator."""
    losses = [
        F.relu(1 - one.float()).mean() + F.relu(1 + other.float()).mean()
        for (one, _), (other, _) in zip(real, made, strict=True)
    ]
    return torch.stack(losses).mean()


def generator_losses(real: Judged, made: Judged) -> tuple[Tensor, Tensor]:
    """Return how well the discriminators are deceived, and how far their features are apart."""
    deceived = torch.stack([-score.float().mean() for score, _ in made]).mean()
    apart = []
    for (_, wanted), (_, found) in zip(real, made, strict=True):
        for one, other in zip(wanted, found, strict=True):
            scale = one.detach().float().abs().mean() + 1e-5
            apart.append(F.l1_loss(other.float(), one.detach().float()) / scale)
    return deceived, torch.stack(apart).mean()
