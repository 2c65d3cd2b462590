"""Mimi's split residual vector quantiser: latents to codes and back.

Two quantisers read the same latent: one holds the first (semantic) codebook, the other the rest. A
code is the nearest centroid of what the codebooks before it left over. Always float32: centroids
are running sums divided by counts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.matrix import linear

_USAGE_FLOOR = 1e-5
"""Counts below this are raised to it, as in training, so that unused centroids stay finite."""


def centroids(embedding_sum: Tensor, cluster_usage: Tensor) -> Tensor:
    """Return the centroids [bins, D] of one stored codebook.

    They are `embedding_sum` [bins, D] over `cluster_usage` [bins].
    """
    return embedding_sum / cluster_usage.clamp(min=_USAGE_FLOOR)[:, None]


class ResidualQuantizer(nn.Module):
    """`count` codebooks of `bins` centroids, between two linear maps.

    `codebooks`: [count, bins, D].
    """

    codebooks: Tensor
    half_norms: Tensor

    def __init__(self, width: int, dimension: int, count: int, bins: int) -> None:
        super().__init__()
        self.input_proj = nn.Conv1d(width, dimension, 1, bias=False)
        self.output_proj = nn.Conv1d(dimension, width, 1, bias=False)
        self.register_buffer("codebooks", torch.empty(count, bins, dimension))
        self.register_buffer("half_norms", torch.empty(count, bins), persistent=False)

    def prepare(self) -> None:
        """Derive what encoding needs from the codebooks; to be called once they are loaded."""
        self.half_norms = self.codebooks.square().sum(-1) / 2

    def encode(self, latents: Tensor, count: int) -> list[Tensor]:
        """Return the first `count` codes, int64 [B, T] each, of `latents` [B, width, T]."""
        x = self.input_proj(latents).transpose(1, 2)
        batch, length, dimension = x.shape
        left = x.reshape(-1, dimension)
        codes = []
        for codebook, half_norms in zip(self.codebooks[:count], self.half_norms, strict=False):
            # argmin ‖x − e‖² = argmin ‖e‖²/2 − x·e
            distances = (
                half_norms - linear(left, codebook)
                if left.is_cpu
                else torch.addmm(half_norms, left, codebook.t(), alpha=-1)
            )
            code = distances.argmin(-1)
            left = left - codebook[code]
            codes.append(code.view(batch, length))
        return codes

    def decode(self, codes: Tensor) -> Tensor:
        """Return latents [B, width, T] of `codes` [B, K, T], K at most the number of codebooks."""
        count, bins = codes.shape[1], self.codebooks.shape[1]
        first_rows = torch.arange(count, device=codes.device)[:, None] * bins
        summed = F.embedding(codes + first_rows, self.codebooks.flatten(0, 1)).sum(1)
        return self.output_proj(summed.transpose(1, 2))


class SplitQuantizer(nn.Module):
    """One semantic codebook and the acoustic rest.

    Codes are int64 [B, K, T]; K codes are a prefix of more codes.
    """

    def __init__(self, width: int, dimension: int, count: int, bins: int) -> None:
        super().__init__()
        self.rvq_first = ResidualQuantizer(width, dimension, 1, bins)
        self.rvq_rest = ResidualQuantizer(width, dimension, count - 1, bins)

    def encode(self, latents: Tensor, count: int) -> Tensor:
        """Return the first `count` codes [B, count, T] of `latents` [B, width, T]."""
        return torch.stack(
            [*self.rvq_first.encode(latents, 1), *self.rvq_rest.encode(latents, count - 1)], dim=1
        )

    def decode(self, codes: Tensor) -> Tensor:
        """Return latents [B, width, T] of `codes` [B, K, T], each in 0..bins-1."""
        latents = self.rvq_first.decode(codes[:, :1])
        return latents + self.rvq_rest.decode(codes[:, 1:]) if codes.shape[1] > 1 else latents
