"""One step of attention to keys and values, in one kernel a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from dsmops.worker.models.kernels import C_NAMES, launch, processors, why_not

_SOURCE = "attention.cu"
_HEAD_DIMS = (16, 32, 64, 128)
_ALL_POSITIONS = 2**31 - 1
_STORED = {torch.int8: "signed char"} | C_NAMES


def can_attend(device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Return whether the kernel runs on `device` with heads of this width."""
    return dtype in C_NAMES and head_dim in _HEAD_DIMS and not why_not(device)


def attend_to_ring(
    packed: Tensor,
    rotation: Tensor,
    offset: Tensor,
    stored: Tensor,
    scales: Tensor | None,
    context: int,
) -> Tensor:
    """Write a step's keys and values to the ring, and return what attention reads, [B, 1, width].

    Shapes (B rows, H heads of D): `packed` [B, 1, 3·H·D], projected queries, keys and values, not
    yet rotated; `rotation` complex64 [B, 1, 1, D/2]; `offset` int64 [B], positions done; `stored`
    [B, H, 2, positions, D] and `scales` as `KeysValues` has them. The last `context` positions are
    seen, this step's included.
    """
    return _attend(packed, stored, scales, rotation, offset, context)


def attend_to_all(query: Tensor, stored: Tensor, scales: Tensor | None) -> Tensor:
    """Return what attention to all positions reads, [B, 1, width], for `query` [B, 1, width]."""
    return _attend(query, stored, scales, None, None, _ALL_POSITIONS)


def _attend(
    packed: Tensor,
    stored: Tensor,
    scales: Tensor | None,
    rotation: Tensor | None,
    offset: Tensor | None,
    context: int,
) -> Tensor:
    rows, heads, _, positions, head_dim = stored.shape
    # Many blocks fill the card; of few, each takes more warps, which share its positions. Measured
    # on one H200: 2 warps for heads of 64 and 4 for those of 128 are best from 32 streams on.
    fills = rows * heads >= 2 * processors(stored.device)
    warps = max(2, head_dim // 32) if fills else 16
    out = packed.new_empty(rows, 1, heads * head_dim)
    packed = packed.contiguous()
    is_self = str(rotation is not None).lower()
    types = f"{C_NAMES[packed.dtype]}, {_STORED[stored.dtype]}"
    # The kernel does not read what is not there.
    launch(
        _SOURCE,
        f"attend<{types}, {head_dim}, {warps}, {is_self}>",
        (rows * heads,),
        32 * warps,
        packed,
        stored,
        stored if scales is None else scales,
        packed if rotation is None else rotation,
        packed if offset is None else offset,
        out,
        heads,
        positions,
        context,
    )
    return out
