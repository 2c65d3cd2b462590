"""Causal self-attention with rotary positions over a window.

It works on a whole sequence, or on a stream through a ring of keys and values.

Streaming semantics are those of `moshi` 0.2.13: a row holds its last `context` positions; the
positions of one call are written before any of them attends, so with two positions a call the first
no longer sees the oldest key (Mimi's transformers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.state import RowState

_RING_ALIGNMENT = 8
"""Rings are rounded up to a multiple of this: fused attention kernels copy a mask whose rows are
not a multiple of 8 long."""


@dataclass(frozen=True, slots=True)
class RingState:
    """The positions done per row, and the keys and values of each layer.

    `offset`: int64 [B]. Keys and values of a layer are one tensor [B, H, 2, capacity, D]. The keys
    are rotated.
    """

    offset: Tensor
    entries: list[Tensor]


@dataclass(frozen=True, slots=True)
class Positions:
    """What all layers share in one call of T positions.

    It is the rotation, the mask and, when streaming, the places to write to.

    `rotation`: complex64 [B or 1, 1, T, D/2]. `mask`: additive, in the compute dtype, broadcastable
    to [B, H, T, keys]. `slots`: int64 [B, T], ring entries of the new positions; None for a whole
    pass.
    """

    rotation: Tensor
    mask: Tensor
    slots: Tensor | None


def init_ring(
    rows: RowState, layers: int, heads: int, head_dim: int, context: int, dtype: torch.dtype
) -> RingState:
    """Return empty rings of `layers` layers for `rows`."""
    capacity = -(-context // _RING_ALIGNMENT) * _RING_ALIGNMENT
    return RingState(
        rows.zeros(dtype=torch.int64),
        [rows.zeros(heads, 2, capacity, head_dim, dtype=dtype) for _ in range(layers)],
    )


def plan_positions(
    length: int,
    *,
    head_dim: int,
    context: int,
    period: float,
    dtype: torch.dtype,
    device: torch.device,
    ring: RingState | None,
) -> Positions:
    """Return what the attention layers of one call of `length` positions share.

    Without `ring`: positions 0..length-1, key p visible to query t where 0 <= t - p < context. With
    it, the next `length` positions of every row; the caller moves `ring.offset` on when all layers
    are done. A position is exact up to 2**24 (15 days of frames).
    """
    steps = torch.arange(length, device=device)
    if ring is None:
        queries = steps[None]
        keys, newest, slots = steps[None, None], queries[..., -1:, None], None
    else:
        queries = ring.offset[:, None] + steps
        capacity = ring.entries[0].shape[3]
        newest = queries[:, -1:, None]
        entries = torch.arange(capacity, device=device)
        keys = newest - (newest - entries) % capacity
        slots = queries % capacity
    seen = (keys >= 0) & (keys <= queries[..., None])
    seen &= (queries[..., None] if ring is None else newest) - keys < context
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)[
        :, None
    ]
    frequency = torch.arange(0, head_dim, 2, device=device, dtype=torch.float32) / head_dim
    angle = queries[:, None, :, None].float() * torch.exp(frequency * -math.log(period))
    return Positions(torch.polar(torch.ones_like(angle), angle), mask, slots)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Return `x` [..., D] with each adjacent pair (2i, 2i+1) turned by its angle.

    In float32, rounded back.
    """
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * rotation).flatten(-2).to(x.dtype)


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Return softmax(Q·Kᵀ/√D + mask)·V for Q [B, H, T, D], K and V [B, H, keys, D].

    Every query sees at least one key.
    """
    if query.dtype is torch.float32:
        # With one or two queries the fused float32 kernels are slower than plain products, which
        # the memory bus bounds.
        scores = torch.matmul(query * query.shape[-1] ** -0.5, key.transpose(-1, -2))
        if mask is not None:
            scores = scores + mask
        return torch.matmul(scores.softmax(-1), value)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


class _Attention(nn.Module):
    """Weights of an attention without biases: packed input rows [Q | K | V], heads contiguous.

    Callers apply `out_proj`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.out_proj = nn.Linear(width, width, bias=False)


class SelfAttention(_Attention):
    """Causal attention among the positions of a stream, their keys and queries rotated."""

    def forward(
        self, x: Tensor, at: Positions, ring: RingState | None = None, layer: int = 0
    ) -> Tensor:
        """Return what attention reads, [B, T, width], before the output projection.

        `x` is [B, T, width].

        With `ring`, this layer's keys and values are written before they are read.
        """
        packed = (
            F.linear(x, self.in_proj_weight)
            .unflatten(-1, (3, self.heads, -1))
            .permute(0, 3, 2, 1, 4)
        )
        turned = rotate(packed[:, :, :2], at.rotation[:, None])
        query, key, value = turned[:, :, 0], turned[:, :, 1], packed[:, :, 2]
        if ring is not None and at.slots is not None:
            entries = ring.entries[layer]
            # Idle rows write too, where their own next active step will write again.
            new = torch.stack([key, value], dim=2)
            entries.scatter_(3, at.slots[:, None, None, :, None].expand_as(new), new)
            key, value = entries[:, :, 0], entries[:, :, 1]
        return attend(query, key, value, at.mask).transpose(1, 2).flatten(-2)


class CrossAttention(_Attention):
    """Attention, without positions, to a sequence that a stream keeps."""

    def project(self, sequence: Tensor) -> Tensor:
        """Return keys and values [..., H, 2, L, D] of `sequence` [..., L, width]."""
        width = sequence.shape[-1]
        return (
            F.linear(sequence, self.in_proj_weight[width:])
            .unflatten(-1, (2, self.heads, -1))
            .movedim(-4, -2)
            .transpose(-3, -4)
        )

    def forward(self, x: Tensor, entries: Tensor) -> Tensor:
        """Return what attention reads, [B, T, width], before the output projection.

        `entries` [B, H, 2, L, D] as `project` makes them.
        """
        query = (
            F.linear(x, self.in_proj_weight[: x.shape[-1]])
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
        )
        return attend(query, entries[:, :, 0], entries[:, :, 1], None).transpose(1, 2).flatten(-2)
