"""Products of activations with a matrix, in int8 above all."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmops.devices import ComputeCapability
from dsmops.worker.models.device import capability_of
from dsmops.worker.models.kernels import C_NAMES, launch, why_not

_SOURCE = "matrix.cu"
_TENSOR_CORES = "tensor_cores.cu"
_FEW = (1, 2, 4, 8)
"""Rows of activations that one pass over an int8 matrix takes."""
_FEW_PLAIN, _FEWEST_COLUMNS = 2, 1024
"""And over another one, of at least so many columns. For more rows cuBLAS is as fast on one H200,
and smaller matrices were not measured."""
_TENSOR_CORES_SINCE = {
    torch.float16: ComputeCapability(7, 5),
    torch.bfloat16: ComputeCapability(8, 0),
}
"""The lowest compute capability whose tensor cores take a dtype."""
_MOST_FEW = 2
"""Rows of activations up to which reading an int8 matrix once is faster than the tensor cores."""


class _Share(NamedTuple):
    """What a block of `multiply_many` has: 16 · `rows` rows, 8 · `streams` streams, `warps`."""

    rows: int
    streams: int
    warps: int


_SHARES = {
    8: _Share(1, 1, 16),
    16: _Share(1, 2, 8),
    32: _Share(1, 4, 8),
    64: _Share(1, 8, 8),
    128: _Share(2, 8, 4),
}
"""The fastest on an H200 for up to so many streams. Beyond, writing the matrix out is faster."""
_LARGE = 2048 * 2048
"""A matrix with more values takes the shares of 128 streams once there are more than 32."""
_COLUMNS = 512
"""Columns that a warp of `multiply_few` reads at once."""


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
    N the matrix is read once. For up to 128, the tensor cores multiply its codes, turned into the
    dtype. For more, and where they do not know the dtype, the matrix is first written out.
    """
    count, has_tensor_cores = len(x), _has_tensor_cores(x)
    if count <= (_MOST_FEW if has_tensor_cores else _FEW[-1]):
        return few(x, codes, largest, out=add_to, adds=add_to is not None)
    x, most = x.contiguous(), max(_SHARES)
    if has_tensor_cores and count <= most:
        is_large = count > 32 and codes.numel() > _LARGE
        share = _SHARES[most if is_large else min(size for size in _SHARES if size >= count)]
        return _many(x, codes, largest, add_to, share)
    weights = written_out(codes, largest, x.dtype)
    return F.linear(x, weights) if add_to is None else add_to.addmm_(x, weights.t())


def _has_tensor_cores(x: Tensor) -> bool:
    """Return whether the tensor cores multiply what `x` holds."""
    since = _TENSOR_CORES_SINCE.get(x.dtype)
    return since is not None and capability_of(x.device) >= since


def _many(
    x: Tensor, codes: Tensor, largest: Tensor, add_to: Tensor | None, share: _Share
) -> Tensor:
    """Return what `product` does, by the tensor cores."""
    count, (rows, columns) = len(x), codes.shape
    out = x.new_empty(count, rows) if add_to is None else add_to
    launch(
        _TENSOR_CORES,
        name_of(share, x.dtype),
        (-(-rows // (16 * share.rows)), 1, -(-count // (8 * share.streams))),
        32 * share.warps,
        x,
        codes,
        largest,
        out,
        count,
        rows,
        columns,
        int(add_to is not None),
    )
    return out


def name_of(share: _Share, dtype: torch.dtype) -> str:
    """Return the kernel for blocks with this share, with its template's arguments."""
    return f"multiply_many<{C_NAMES[dtype]}, {', '.join(map(str, share))}>"


def written_out(codes: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of a matrix in `dtype`, [rows, columns]."""
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    grid = (-(-codes.numel() // (16 * 256)),)
    launch(_SOURCE, f"write_out<{C_NAMES[dtype]}>", grid, 256, codes, largest, out, *codes.shape)
    return out
