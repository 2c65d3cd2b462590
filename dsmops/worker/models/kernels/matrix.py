"""Products of activations with a matrix, in int8 above all."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dsmops.devices import ComputeCapability
from dsmops.worker.models.device import capability_of
from dsmops.worker.models.kernels import C_NAMES, launch, processors, why_not

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
"""From which compute capability on the tensor cores multiply a dtype, by the instructions used."""
_SMALL = 2048 * 2048
"""Values of a matrix that counts as small: it does not fill the card with tiles."""
_MOST_TILES = 4096


class _Tiles(NamedTuple):
    """How `multiply_tiles` shares out its work: its template's arguments behind the dtype."""

    warp_rows: int
    warp_streams: int
    row_warps: int
    stream_warps: int
    column_warps: int
    stages: int
    ahead: int


class _Plan(NamedTuple):
    """A way to multiply, and how many blocks a processor should have, where they share columns."""

    work: _Tiles
    blocks: float = 0


_PLANS = (
    (16, _Plan(_Tiles(1, 2, 2, 1, 4, 3, 2)), _Plan(_Tiles(2, 2, 2, 1, 4, 2, 1), 2)),
    (32, _Plan(_Tiles(1, 4, 2, 1, 4, 2, 2), 1), _Plan(_Tiles(2, 4, 2, 1, 4, 2, 1), 1)),
    (64, _Plan(_Tiles(1, 8, 2, 1, 2, 2, 2), 1), _Plan(_Tiles(1, 8, 4, 1, 2, 2, 2), 1)),
)
"""For up to so many streams, how to multiply with a small matrix, and with a larger one: the
fastest ways on an H200. For more, writing the matrix out is faster."""
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
    N the matrix is read once. For more, the tensor cores multiply the codes, turned into the dtype.
    From 65 on, and where they do not know the dtype, the matrix is first written out.
    """
    count = len(x)
    if count <= _FEW[-1]:
        return few(x, codes, largest, out=add_to, adds=add_to is not None)
    x = x.contiguous()
    if _has_tensor_cores(x):
        for most, small, large in _PLANS:
            if count <= most:
                plan = small if codes.numel() <= _SMALL else large
                return _by_tensor_cores(x, codes, largest, add_to, plan)
    weights = written_out(codes, largest, x.dtype)
    return F.linear(x, weights) if add_to is None else add_to.addmm_(x, weights.t())


def _has_tensor_cores(x: Tensor) -> bool:
    """Return whether the tensor cores multiply what `x` holds."""
    since = _TENSOR_CORES_SINCE.get(x.dtype)
    return since is not None and capability_of(x.device) >= since


def _by_tensor_cores(
    x: Tensor, codes: Tensor, largest: Tensor, add_to: Tensor | None, plan: _Plan
) -> Tensor:
    """Return what `product` does."""
    count, (rows, columns), work = len(x), codes.shape, plan.work
    out = x.new_empty(count, rows) if add_to is None else add_to
    name = name_of(work, x.dtype)
    numbers = (count, rows, columns, int(add_to is not None))
    tile_rows, tile_streams = 16 * work.warp_rows * work.row_warps, 8 * work.warp_streams
    tile_streams *= work.stream_warps
    tiles = -(-rows // tile_rows)
    most_splits = -(-columns // (64 * work.column_warps))
    splits = max(1, min(round(plan.blocks * processors(x.device) / tiles), most_splits))
    left = tiles * splits * tile_rows * tile_streams if splits > 1 else 0
    launch(
        _TENSOR_CORES,
        name,
        (tiles, splits, -(-count // tile_streams)),
        32 * work.row_warps * work.stream_warps * work.column_warps,
        x,
        codes,
        largest,
        out,
        torch.empty(left, device=x.device),
        _arrived(x.device, torch.cuda.current_stream(x.device).cuda_stream),
        *numbers,
    )
    return out


def name_of(work: _Tiles, dtype: torch.dtype) -> str:
    """Return the kernel that works so, with its template's arguments."""
    return f"multiply_tiles<{C_NAMES[dtype]}, {', '.join(map(str, work))}>"


@cache
def _arrived(device: torch.device, stream: int) -> Tensor:  # noqa: ARG001 - each stream has its own
    """Return zeros, with which the blocks of a product on `stream` count each other."""
    return torch.zeros(_MOST_TILES, dtype=torch.int32, device=device)


def written_out(codes: Tensor, largest: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of a matrix in `dtype`, [rows, columns]."""
    out = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    grid = (-(-codes.numel() // (16 * 256)),)
    launch(_SOURCE, f"write_out<{C_NAMES[dtype]}>", grid, 256, codes, largest, out, *codes.shape)
    return out
