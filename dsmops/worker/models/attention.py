"""Causal self-attention with rotary positions over a window.

It works on a whole sequence, or on a stream through a ring of keys and values.

Streaming semantics are those of `moshi` 0.2.13: a row holds its last `context` positions; the
positions of one call are written before any of them attends, so with two positions a call the first
no longer sees the oldest key (Mimi's transformers).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.dtypes import Quant
from dsmops.worker.models.kernels.attention import attend_to_all, attend_to_ring, can_attend
from dsmops.worker.models.matrix import Int8Matrix, Matrix, hold_int8, multiply
from dsmops.worker.models.state import RowState

_RING_ALIGNMENT = 8
"""Rings are rounded up to a multiple of this: fused attention kernels copy a mask whose rows are
not a multiple of 8 long."""


@dataclass(frozen=True, slots=True)
class KeysValues:
    """The keys and values of one layer, [B, H, 2, positions, D], as they are or in int8.

    `scales`: float32 [B, H, 2, positions], for int8: the greatest magnitude of each position and
    head, value = code · scale / 127. All zeros are zeros in both.

    `in_kernel`: steps of one position attend to them in a kernel instead of `read` and `attend`,
    which are the reference.
    """

    stored: Tensor
    scales: Tensor | None = None
    in_kernel: bool = False

    @classmethod
    def zeros(
        cls,
        rows: RowState,
        heads: int,
        positions: int,
        head_dim: int,
        dtype: torch.dtype,
        kv: Quant,
        *,
        is_cleared: bool = True,
    ) -> KeysValues:
        """Return state of `rows` for values of `dtype`, `is_cleared` as in `RowState.zeros`."""

        def new(*shape: int, dtype: torch.dtype) -> Tensor:
            return rows.zeros(heads, 2, positions, *shape, dtype=dtype, is_cleared=is_cleared)

        in_kernel = can_attend(rows.device, dtype, head_dim)
        if kv is Quant.NONE:
            return cls(new(head_dim, dtype=dtype), None, in_kernel)
        return cls(new(head_dim, dtype=torch.int8), new(dtype=torch.float32), in_kernel)

    @property
    def positions(self) -> int:
        """Positions that there is room for."""
        return self.stored.shape[3]

    def write(self, slots: Tensor, new: Tensor) -> None:
        """Write `new` [B, H, 2, T, D] to the positions `slots`, int64 [B, T]."""
        at = slots[:, None, None].expand(new.shape[:-1])
        if self.scales is not None:
            new, scales = _quantise(new)
            self.scales.scatter_(3, at, scales)
        self.stored.scatter_(3, at[..., None].expand_as(new), new)

    def put(self, row: int, new: Tensor) -> None:
        """Replace all positions of one row by `new` [H, 2, positions, D]."""
        if self.scales is not None:
            new, self.scales[row] = _quantise(new)
        self.stored[row] = new

    def copy(self, source: int, rows: Sequence[int]) -> None:
        """Replace all positions of `rows` by those of the row `source`."""
        for tensor in (self.stored, self.scales):
            if tensor is not None:
                for row in rows:
                    tensor[row] = tensor[source]

    def read(self, dtype: torch.dtype, filled: int | None = None) -> tuple[Tensor, Tensor]:
        """Return keys and values of the first `filled` positions, [B, H, filled, D] each."""
        held = self.stored[..., :filled, :]
        if self.scales is not None:
            # In the compute dtype, so that no copy in float32 is made of a whole cache.
            scales = (self.scales[..., :filled] / 127).to(dtype)
            held = held.to(dtype).mul_(scales[..., None])
        return held[:, :, 0], held[:, :, 1]


def _quantise(new: Tensor) -> tuple[Tensor, Tensor]:
    """Return int8 codes [..., D] and float32 scales [...] of `new` [..., D].

    NaN and infinity stay in the scale, and so in what is read.
    """
    new = new.float()
    scales = new.abs().amax(-1)
    inverse = 127 / scales.clamp_min(torch.finfo(torch.float32).tiny)
    codes = (new * inverse[..., None]).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return codes.round_().to(torch.int8), scales


@dataclass(frozen=True, slots=True)
class RingState:
    """The positions done per row, int64 [B], and the keys and values of each layer.

    The keys are rotated.
    """

    offset: Tensor
    entries: list[KeysValues]


@dataclass(frozen=True, slots=True)
class Positions:
    """What all layers share in one call of T positions.

    It is the rotation, the mask and, when streaming, the places to write to.

    `rotation`: complex64 [B or 1, 1, T, D/2]. `mask`: additive, in the compute dtype, broadcastable
    to [B, H, T, keys]. `slots`: int64 [B, T], ring entries of the new positions; None for a whole
    pass. `filled`: how many entries of the ring any row has used, a multiple of 8; only these are
    read, keys of the mask. A kernel needs the `context` instead: `mask` and `slots` are None.
    """

    rotation: Tensor
    mask: Tensor | None
    slots: Tensor | None
    filled: int = 0
    context: int = 0


def init_ring(
    rows: RowState,
    layers: int,
    heads: int,
    head_dim: int,
    context: int,
    dtype: torch.dtype,
    kv: Quant = Quant.NONE,
) -> RingState:
    """Return empty rings of `layers` layers for `rows`."""
    capacity = -(-context // _RING_ALIGNMENT) * _RING_ALIGNMENT
    return RingState(
        rows.zeros(dtype=torch.int64),
        [KeysValues.zeros(rows, heads, capacity, head_dim, dtype, kv) for _ in range(layers)],
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
    if ring is not None and ring.entries[0].in_kernel and length == 1:
        return Positions(_rotation(ring.offset[:, None], head_dim, period), None, None, 0, context)
    if ring is None:
        queries = steps[None]
        keys, newest, slots, filled = steps[None, None], queries[..., -1:, None], None, 0
    else:
        queries = ring.offset[:, None] + steps
        capacity = ring.entries[0].positions
        newest = queries[:, -1:, None]
        filled = capacity
        if device.type == "cpu":
            # Elsewhere asking would wait for the device, and a captured graph has one size.
            used = int(ring.offset.max()) + length
            filled = min(capacity, -(-used // _RING_ALIGNMENT) * _RING_ALIGNMENT)
        entries = torch.arange(filled, device=device)
        keys = newest - (newest - entries) % capacity
        slots = queries % capacity
    seen = (keys >= 0) & (keys <= queries[..., None])
    seen &= (queries[..., None] if ring is None else newest) - keys < context
    mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(~seen, -torch.inf)[
        :, None
    ]
    return Positions(_rotation(queries, head_dim, period), mask, slots, filled)


def _rotation(positions: Tensor, head_dim: int, period: float) -> Tensor:
    """Return complex64 [B, 1, T, D/2], how `positions` [B, T] turn the pairs of a head."""
    frequency = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    angle = positions[:, None, :, None].float() * torch.exp(
        frequency / head_dim * -math.log(period)
    )
    return torch.polar(torch.ones_like(angle), angle)


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

    in_proj_weight: Matrix | nn.ModuleList

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.out_proj = nn.Linear(width, width, bias=False)

    def hold_int8(self) -> None:
        """Keep the weights in int8, as `matrix.hold_int8` does."""
        hold_int8(self, "in_proj_weight")
        hold_int8(self.out_proj, "weight")


class SelfAttention(_Attention):
    """Causal attention among the positions of a stream, their keys and queries rotated."""

    in_proj_weight: Matrix

    def forward(
        self, x: Tensor, at: Positions, ring: RingState | None = None, layer: int = 0
    ) -> Tensor:
        """Return what attention reads, [B, T, width], before the output projection.

        `x` is [B, T, width].

        With `ring`, this layer's keys and values are written before they are read.
        """
        projected = multiply(x, self.in_proj_weight)
        if ring is not None and at.mask is None:
            held = ring.entries[layer]
            return attend_to_ring(
                projected, at.rotation, ring.offset, held.stored, held.scales, at.context
            )
        packed = projected.unflatten(-1, (3, self.heads, -1)).permute(0, 3, 2, 1, 4)
        turned = rotate(packed[:, :, :2], at.rotation[:, None])
        query, key, value = turned[:, :, 0], turned[:, :, 1], packed[:, :, 2]
        if ring is not None and at.slots is not None:
            # Idle rows write too, where their own next active step will write again.
            ring.entries[layer].write(at.slots, torch.stack([key, value], dim=2))
            key, value = ring.entries[layer].read(query.dtype, at.filled)
        return attend(query, key, value, at.mask).transpose(1, 2).flatten(-2)


class CrossAttention(_Attention):
    """Attention, without positions, to a sequence that a stream keeps.

    Queries, keys and values have a matrix each where they are int8: a step needs the first alone.
    """

    def hold_int8(self) -> None:
        """Keep the weights in int8, as `matrix.hold_int8` does."""
        packed = cast("Tensor", self.in_proj_weight)
        self.in_proj_weight = nn.Parameter(packed.unflatten(0, (3, -1)), requires_grad=False)
        super().hold_int8()

    def project(self, sequence: Tensor) -> Tensor:
        """Return keys and values [..., H, 2, L, D] of `sequence` [..., L, width]."""
        return (
            torch.cat([multiply(sequence, self._part(part)) for part in (1, 2)], dim=-1)
            .unflatten(-1, (2, self.heads, -1))
            .movedim(-4, -2)
            .transpose(-3, -4)
        )

    def forward(self, x: Tensor, entries: KeysValues) -> Tensor:
        """Return what attention reads, [B, T, width], before the output projection.

        `entries` as `project` makes them.
        """
        projected = multiply(x, self._part(0))
        if entries.in_kernel and x.shape[1] == 1:
            return attend_to_all(projected, entries.stored, entries.scales)
        query = projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return attend(query, *entries.read(query.dtype), None).transpose(1, 2).flatten(-2)

    def _part(self, number: int) -> Matrix:
        """Return the matrix of queries, keys or values: 0, 1, 2."""
        packed = self.in_proj_weight
        if isinstance(packed, Tensor):
            return packed.chunk(3)[number]
        return cast("Int8Matrix", cast("nn.ModuleList", packed)[number])
