"""Products of activations with an int8 matrix."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmops.worker.models.kernels import C_NAMES, launch, why_not

_SOURCE = "matrix.cu"
_FEW = (1, 2, 4, 8)
"""Rows of activations that one pass over the matrix takes."""
_MOST_SPLIT = 128
"""Beyond, the matrix is written out for each product. On one H200 both take as long at 128."""
_COLUMNS = 512
"""Columns that a warp reads at once."""


def can_multiply(x: Tensor, codes: Tensor) -> bool:
    """Return whether the kernels take activations `x` and a matrix `codes` [rows, columns]."""
    rows, columns = codes.shape
    return x.dtype in C_NAMES and rows % 8 == 0 and columns % 16 == 0 and not why_not(codes.device)


def product(x: Tensor, codes: Tensor, largest: Tensor, add_to: Tensor | None = None) -> Tensor:
    """Return x · Wᵀ, [N, rows], for `x` [N, columns]; with `add_to` [N, rows], added to it.

    W: value = code · largest / 127, `codes` int8 [rows, columns], `largest` float32 [rows]. For few
    N the matrix is read once. For more, activations are split into two int8 parts. From a few
    hundred on the matrix is first written out.
    """
    count, (rows, columns) = len(x), codes.shape
    x, dtype = x.contiguous(), C_NAMES[x.dtype]
    out = x.new_empty(count, rows) if add_to is None else add_to
    adds = int(add_to is not None)
    if count <= _FEW[-1]:
        most = next(number for number in _FEW if number >= count)
        launch(
            _SOURCE,
            f"multiply_few<{dtype}, {most}>",
            (-(-rows // 4),),
            32 * min(4, -(-columns // _COLUMNS)),
            x,
            codes,
            largest,
            out,
            count,
            rows,
            columns,
            adds,
        )
        return out
    if count > _MOST_SPLIT:
        weights = written_out(codes, largest, x.dtype)
        return F.linear(x, weights) if add_to is None else add_to.addmm_(x, weights.t())
    parts = torch.empty(2 * count, columns, dtype=torch.int8, device=x.device)
    scales = torch.empty(count, device=x.device)
    launch(_SOURCE, f"split<{dtype}>", (count,), 256, x, parts, scales, count, columns)
    sums = torch._int_mm(parts, codes.t())
    grid = (-(-rows // (4 * 128)), count)
    launch(_SOURCE, f"join<{dtype}>", grid, 128, sums, scales, largest, out, count, rows, adds)
    return out


def written_out(codes: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of a matrix in `dtype`, [rows, columns]."""
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    grid = (-(-codes.numel() // (16 * 256)),)
    launch(_SOURCE, f"write_out<{C_NAMES[dtype]}>", grid, 256, codes, largest, out, *codes.shape)
    return out
