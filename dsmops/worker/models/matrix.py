"""Matrices of linear layers: floating point, or int8 with one scale for each row.

An int8 matrix is multiplied with activations in the compute dtype (W8A16). The values are those of
bitsandbytes: value = code · largest / 127, where `largest` is the greatest magnitude of the row.

On a CPU with FBGEMM the products are int8 · int8, summed in int32, and activations are split into
two parts of 7 bits, so that they keep 14 bits. On a CUDA device kernels multiply, where there are
any (`models.kernels`). Everywhere else the matrix is first written out in the compute dtype, which
is the reference.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dsmops.worker.models.kernels.matrix import can_multiply, few, is_few, product

_LEVELS = 63
"""Codes of one part of an activation, -63 to 63. The AVX2 kernel adds two products in int16, so
2 · 126 · 127 must stay below 32,768: 7 bits with the offset."""
_PART = 126
"""What the second part counts: what rounding left, at most a half, in steps of 1/126."""
_ENGINE = "fbgemm"
_MOST_TURNED = 8


class Int8Matrix(nn.Module):
    """An int8 matrix [rows, columns] with a scale for each row, which multiplies activations.

    `codes` int8 [rows, columns], empty once they are packed for FBGEMM; `largest` float32 [rows].
    """

    codes: Tensor
    largest: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.register_buffer("codes", torch.empty(rows, columns, dtype=torch.int8))
        self.register_buffer("largest", torch.empty(rows))
        self._packed: Any = None

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.rows * self.columns + self.rows * self.largest.itemsize

    def fill(self, codes: Tensor, largest: Tensor) -> None:
        """Take the values code · largest / 127, packed for the processor where that is faster."""
        if self.codes.device.type == "cpu" and _has_fbgemm():
            self.largest.copy_(largest)
            self._packed = _packed(codes, self.largest)
            # Packing made a copy of its own.
            self.codes = torch.empty(0, dtype=torch.int8)
            return
        self.codes.copy_(codes)
        self.largest.copy_(largest)

    def written_out(self) -> Tensor:
        """Return the values, float32 [rows, columns]."""
        if self._packed is None:
            return values(self.codes, self.largest)
        unpacked: Tensor = torch.ops.quantized.linear_unpack(self._packed)[0]
        return values(unpacked.int_repr(), self.largest)

    def forward(self, x: Tensor) -> Tensor:
        """Return x · Wᵀ, [..., rows] in the dtype of `x` [..., columns]."""
        if self._packed is not None:
            found = _split_product(x.float().flatten(0, -2), self._packed).to(x.dtype)
        elif can_multiply(x, self.codes):
            found = product(x.flatten(0, -2), self.codes, self.largest)
        else:
            return F.linear(x, self.written_out().to(x.dtype))
        return found.view(*x.shape[:-1], self.rows)

    def add_product_(self, x: Tensor, y: Tensor) -> Tensor:
        """Add y · Wᵀ to `x`, both of two dimensions, and return `x`."""
        if self._packed is None and can_multiply(y, self.codes):
            return product(y, self.codes, self.largest, add_to=x)
        return x.add_(self(y))


Matrix = Tensor | Int8Matrix
"""What a linear layer multiplies with, [rows, columns]."""


def multiply(x: Tensor, matrix: Matrix) -> Tensor:
    """Return x · Wᵀ."""
    if not isinstance(matrix, Tensor):
        return matrix(x)
    if is_few(x, matrix):
        return few(x.flatten(0, -2), matrix).view(*x.shape[:-1], -1)
    return linear(x, matrix)


def linear(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x · Wᵀ, for a floating-point matrix, by PyTorch."""
    if not _is_turned(x, matrix):
        return F.linear(x, matrix)
    return _turned(x.flatten(0, -2), matrix).contiguous().view(*x.shape[:-1], -1)


def _is_turned(x: Tensor, matrix: Tensor) -> bool:
    """Return whether (W · xᵀ)ᵀ is faster: for 2 to 8 rows of `x`, in float32 on a CPU.

    One thread of a processor with AVX2, W 11,264 × 2,048: 26 → 11 ms for four rows; 2,048 × 512:
    0.75 → 0.47 ms for two. For one row and for 16 both take the same.
    """
    rows = x.numel() // x.shape[-1]
    return matrix.is_cpu and matrix.dtype is torch.float32 and 2 <= rows <= _MOST_TURNED


def _turned(x: Tensor, matrix: Tensor) -> Tensor:
    """Return x · Wᵀ for `x` [N, columns], its columns one after the other in memory."""
    return torch.mm(matrix, x.t()).t()


def multiply_into(out: Tensor, x: Tensor, matrix: Matrix) -> None:
    """Write x · Wᵀ to `out` [N, rows], for `x` [N, columns]."""
    if not isinstance(matrix, Tensor):
        out.copy_(matrix(x))
    elif out.is_contiguous() and is_few(x, matrix):
        few(x, matrix, out=out)
    elif _is_turned(x, matrix):
        out.copy_(_turned(x, matrix))
    else:
        torch.mm(x, matrix.t(), out=out)


def add_product_(x: Tensor, y: Tensor, matrix: Matrix) -> Tensor:
    """Add y · Wᵀ to `x`, both of two dimensions, and return `x`.

    With a floating-point matrix the sum is rounded once.
    """
    if isinstance(matrix, Tensor):
        if is_few(y, matrix):
            return few(y, matrix, out=x, adds=True)
        if _is_turned(y, matrix):
            return x.add_(_turned(y, matrix))
        return x.addmm_(y, matrix.t())
    return matrix.add_product_(x, y)


def quantise(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the codes, int8 [rows, columns], and the greatest magnitudes, float32 [rows].

    The weights are rounded to f16 first, as in the int8 files of the `moshi` package, so that a
    matrix has the same codes whether it is quantised here or by `dsmops export`.
    """
    exact = weights.half().float()
    largest = exact.abs().amax(dim=1)
    # A row of zeros, or of numbers too small to divide by, has the code 0 everywhere.
    inverse = (1 / largest).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    return (exact * (127 * inverse)[:, None]).round().to(torch.int8), largest


def values(codes: Tensor, largest: Tensor) -> Tensor:
    """Return the float32 values of int8 `codes` [rows, columns]."""
    return codes.float() * (largest.float() / 127)[:, None]


def hold_int8(owner: nn.Module, name: str) -> None:
    """Let the parameter `name` of `owner` be int8: one matrix, or a list where it is a stack.

    Values are kept, unless the parameter is on the meta device.
    """
    parameter = getattr(owner, name)
    delattr(owner, name)
    stack = parameter if parameter.dim() == 3 else parameter[None]
    matrices = []
    for weights in stack:
        with torch.device(weights.device):
            matrix = Int8Matrix(*weights.shape)
        if not weights.is_meta:
            matrix.fill(*quantise(weights))
        matrices.append(matrix)
    setattr(owner, name, matrices[0] if parameter.dim() == 2 else nn.ModuleList(matrices))


def _has_fbgemm() -> bool:
    return _ENGINE in torch.backends.quantized.supported_engines and hasattr(
        torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32"
    )


def _packed(codes: Tensor, largest: Tensor) -> Any:
    """Return the matrix in the layout of FBGEMM."""
    scales = largest.double() / 127
    # The scale 0 has no inverse; the codes of such a row are all 0.
    scales = torch.where(scales > 0, scales, 1.0)
    zeros = torch.zeros(len(scales), dtype=torch.int64)
    engine = torch.backends.quantized.engine
    with warnings.catch_warnings():
        # torch 2.13 deprecates tensors of this kind. Without the operators the reference is used.
        warnings.simplefilter("ignore", UserWarning)
        torch.backends.quantized.engine = _ENGINE
        try:
            exact = torch.quantize_per_channel(
                (codes * scales[:, None]).float(), scales, zeros, 0, torch.qint8
            )
            return torch.ops.quantized.linear_prepack(exact, None)
        finally:
            torch.backends.quantized.engine = engine


def _split_product(x: Tensor, packed: Any) -> Tensor:
    """Return x · Wᵀ for `x` float32 [N, columns], to 1e-4 of the largest value of its row.

    Rows have scales of their own and integer sums are exact, so a row's result does not depend on
    the others.
    """
    largest = x.abs().amax(dim=-1, keepdim=True)
    # NaN and infinity stay in `largest`, and so in the row's result.
    x = x * (_LEVELS / largest.clamp_min(torch.finfo(torch.float32).tiny))
    first = x.round()
    parts = torch.cat([first, (x - first).mul_(_PART)])
    first, second = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
        parts, 1.0, _LEVELS + 1, packed
    ).chunk(2)
    return torch.add(first, second, alpha=1 / _PART).mul_(largest / _LEVELS)
