"""Products of activations with a matrix, in int8 above all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmops.worker.models.kernels import C_NAMES, launch, why_not

_SOURCE = "matrix.cu"
_FEW = (1, 2, 4, 8)
"""Rows of activations that one pass over an int8 matrix takes."""
_FEW_PLAIN, _FEWEST_COLUMNS = 2, 1024
"""And over another one, of at least so many columns. For more rows cuBLAS is as fast on one H200,
and smaller matrices were not measured."""
_MOST_SPLIT = 128
"""Beyond, the matrix is written out for each product. On one H200 both take as long at 128."""
_COLUMNS = 512
"""Columns that a warp reads at once."""


def can_multiply(x: Tensor, codes: Tensor) -> bool:
    """Return whether the kernels take `x` [N, columns] and an int8 matrix [rows, columns]."""
    return codes.shape[0] % 8 == 0 and _fit(x, codes)


def is_few(x: Tensor, matrix: Tensor) -> bool:
    """Return whether `few` is the fastest for `x` [..., columns] and a matrix of the same dtype."""
    return (
        x.is_cuda
        and x.numel() <= _FEW_PLAIN * x.shape[-1]
        and x.dtype is matrix.dtype
        and x.shape[-1] >= _FEWEST_COLUMNS
        and not torch.is_grad_enabled()
        and _fit(x, matrix)
    )


def _fit(x: Tensor, matrix: Tensor) -> bool:
    return x.dtype in C_NAMES and matrix.shape[1] % 16 == 0 and not why_not(matrix.device)


def few(
    x: Tensor,
    matrix: Tensor,
    largest: Tensor | None = None,
    *,
    out: Tensor | None = None,
    adds: bool = False,
) -> Tensor:
    """Return x · Wᵀ, [N, rows], of at most 8 rows `x` [N, columns]; in `out`, or added to it.

    W is `matrix`, or with `largest` its values as in `product`.
    """
    count, (rows, columns) = len(x), matrix.shape
    x, most = x.contiguous(), next(number for number in _FEW if number >= count)
    out = x.new_empty(count, rows) if out is None else out
    stored = C_NAMES[matrix.dtype] if largest is None else "signed char"
    launch(
        _SOURCE,
        f"multiply_few<{C_NAMES[x.dtype]}, {stored}, {most}>",
        (-(-rows // 4),),
        32 * min(4, -(-columns // _COLUMNS)),
        x,
        matrix,
        matrix if largest is None else largest,
        out,
        count,
        rows,
        columns,
        int(adds),
    )
    return out


def product(x: Tensor, codes: Tensor, largest: Tensor, add_to: Tensor | None = None) -> Tensor:
    """Return x · Wᵀ, [N, rows], for `x` [N, columns]; with `add_to` [N, rows], added to it.

    W: value = code · largest / 127, `codes` int8 [rows, columns], `largest` float32 [rows]. For few
    N the matrix is read once. For more, activations are split into two int8 parts. From a few
    hundred on the matrix is first written out.
    """
    count, (rows, columns) = len(x), codes.shape
    if count <= _FEW[-1]:
        return few(x, codes, largest, out=add_to, adds=add_to is not None)
    x, dtype = x.contiguous(), C_NAMES[x.dtype]
    if count > _MOST_SPLIT:
        weights = written_out(codes, largest, x.dtype)
        return F.linear(x, weights) if add_to is None else add_to.addmm_(x, weights.t())
    out = x.new_empty(count, rows) if add_to is None else add_to
    adds = int(add_to is not None)
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
