"""The encodings that exported tensors are stored in: blocks of values to bytes and back.

An encoding works on groups of neighbouring values of a row. Every step is a numpy operation on a
whole block of groups, so nothing here loops over values. Each such pass costs 0.1 to 0.2 ns a
value, so the speed of an encoding is the number of its passes and the width of what they read.

Sources: ggml `ggml-quants.c` and candle 0.9.1 `k_quants.rs` (Q8_0, Q4_0, Q4_K), MLX `quantize`
(affine), bitsandbytes `int8_vectorwise_quant` (one scale a row).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsmops.dtypes import GgufDType, StorageDType

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Items = NDArray[Any]
"""Values as a checkpoint stores them: float32, float16, or uint16, which are patterns of BF16."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One of the arrays that an encoding makes of a tensor.

    suffix: what replaces a trailing "weight" of the name; "" keeps the name.
    dtype: of the items; a GGUF type where they are blocks.
    group_bytes: bytes of one group.
    item_bytes: bytes of one item of `dtype`; of a GGUF block type, bytes of a block.
    """

    suffix: str
    dtype: StorageDType | GgufDType
    group_bytes: int
    item_bytes: int

    @property
    def group_items(self) -> int:
        """Items of `dtype` that one group makes."""
        return self.group_bytes // self.item_bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """Groups of values, encoded.

    pieces: the bytes of each piece of the encoding, uint8 [n, group_bytes].
    source, values: float32, the source's values and what `decode` gives for them, both in the
        order of `arrange`.
    """

    pieces: tuple[Bytes, ...]
    source: Floats
    values: Floats


class Encoding(ABC):
    """How the values of a tensor are stored. `group` values of a row share what is stored."""

    def __init__(self, name: str, group: int, pieces: tuple[Piece, ...]) -> None:
        self.name = name
        self.group = group
        self.pieces = pieces

    def arrange(self, items: Items) -> Items:
        """Return the items of [n, group] in the order that `encode` works in, in any shape."""
        return items

    @abstractmethod
    def encode(self, items: Items) -> Encoded:
        """Return what `arrange` gave, encoded. `items` is not changed."""

    @abstractmethod
    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        """Return float32 [n, group] of what `encode` gave, as the readers compute it."""


class Plain(Encoding):
    """Values stored one by one, as F16 (rounded to nearest even) or F32."""

    def __init__(self, dtype: str) -> None:
        item_bytes = {"F16": 2, "F32": 4}[dtype]
        super().__init__(
            dtype.lower(), 1, (Piece("", StorageDType[dtype], item_bytes, item_bytes),)
        )
        self._dtype = np.dtype(f"<f{item_bytes}")

    def encode(self, items: Items) -> Encoded:
        values = as_floats(items)
        with np.errstate(over="ignore", under="ignore"):
            stored = values.astype(self._dtype)
        return Encoded((_as_bytes(stored),), values, stored.astype(np.float32))

    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        return pieces[0].view(self._dtype).astype(np.float32)


class _InLanes(Encoding):
    """An encoding whose groups lie above each other while it works on them, see `_lanes`."""

    def arrange(self, items: Items) -> Items:
        return _lanes(items)


_Q8_0_BLOCK = np.dtype([("scale", "<f2"), ("codes", "<u8", 4)])
_Q4_0_BLOCK = np.dtype([("scale", "<f2"), ("codes", "<u8", 2)])
_MAGNITUDE = np.uint16(0x7FFF)
_BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


class Q80(_InLanes):
    """GGUF Q8_0: 32 values of 8 bits and an F16 scale, 34 bytes. Halves go away from zero."""

    def __init__(self) -> None:
        super().__init__("q8_0", 32, (Piece("", GgufDType.Q8_0, 34, 34),))

    def encode(self, items: Items) -> Encoded:
        source = as_floats(items)
        scales = _Scales.of_bf16(items) if items.dtype == np.uint16 else None
        if scales is not None:
            values = source * _per_lane(scales.inverse)
            np.rint(values, out=values)
        else:
            scales = _Scales.of(_over_lanes(np.maximum, np.abs(source)))
            values = source * _per_lane(scales.inverse)
            # With 0.5 itself, the addition would round the number below a half up too.
            values += np.copysign(_BELOW_HALF, values)
            np.trunc(values, out=values)
        codes = values.astype(np.int8)
        values *= _per_lane(scales.stored_f32)
        block = np.empty(len(scales.stored), _Q8_0_BLOCK)
        block["scale"] = scales.stored
        for number, octets in enumerate(codes.view(np.uint64)):
            block["codes"][:, number] = octets
        return Encoded((_as_bytes(block),), source, values)

    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        (block,) = pieces
        return _f16(block[:, :2]) * block[:, 2:].view(np.int8).astype(np.float32)


_LEAST_SCALED = np.uint16((127 - 118) << 7)
"""2**-118 as a BF16 pattern: from there on a scale and its inverse are normal float32 numbers, and
their mantissas do not depend on the exponent."""


class _Scales(NamedTuple):
    """What the scale of each group multiplies by, and what is stored of it, [n]."""

    inverse: Floats
    stored: NDArray[np.float16]
    stored_f32: Floats

    @classmethod
    def of(cls, largest: Floats) -> _Scales:
        """Return the scales of groups with these greatest magnitudes."""
        scale = largest / np.float32(127)
        with np.errstate(over="ignore"):
            stored = scale.astype("<f2")
        return cls(_inverse(scale), stored, stored.astype(np.float32))

    @classmethod
    def of_bf16(cls, lanes: Items) -> _Scales | None:
        """Return the scales of groups of BF16 patterns, None where a group has very small values.

        With `inverse`, `rint` rounds halves as the format asks, away from zero.
        """
        largest = _over_lanes(np.maximum, lanes & _MAGNITUDE)
        if np.any((largest < _LEAST_SCALED) & (largest > 0)):
            return None
        every, index = cls._of_all_bf16(), largest.astype(np.intp)
        return cls(
            every.inverse.take(index), every.stored.take(index), every.stored_f32.take(index)
        )

    @classmethod
    @cache
    def _of_all_bf16(cls) -> _Scales:
        """Return the scales for every BF16 pattern that a greatest magnitude can have.

        A product of a BF16 value and an inverse is a half, or further from it than many float32
        steps. So a few steps more bring the halves above themselves, and change no other code.
        Where the inverse was rounded down, the products of the format are below a half already.
        """
        with np.errstate(invalid="ignore"):
            scales = cls.of(as_floats(np.arange(1 << 15, dtype=np.uint16)))
            values = as_floats(np.arange(127 - 9 << 7, 128 << 7, dtype=np.uint16))
            products = np.multiply.outer(scales.inverse[127 << 7 : 128 << 7], values)
            halves_up = (np.floor(products + _BELOW_HALF) != np.rint(products)) & (products < 128)
        regular = slice(_LEAST_SCALED, 0x7F80)
        steps = scales.inverse[regular].view(np.uint32).reshape(-1, 128)
        steps += np.where(halves_up.any(axis=1), np.uint32(16), np.uint32(0))
        return scales


class Q40(_InLanes):
    """GGUF Q4_0: 32 values of 4 bits and an F16 scale, 18 bytes."""

    def __init__(self) -> None:
        super().__init__("q4_0", 32, (Piece("", GgufDType.Q4_0, 18, 18),))

    def encode(self, items: Items) -> Encoded:
        # The value of largest magnitude becomes -8 exactly, so the scale has its opposite sign.
        source = as_floats(items)
        high, low = _over_lanes(np.maximum, source), _over_lanes(np.minimum, source)
        largest = np.where(high > -low, high, low)
        tied = np.flatnonzero(high == -low)
        # Both signs are there, or of zero perhaps: the first value counts.
        groups = source.reshape(len(source), -1, 8)[:, tied].swapaxes(0, 1).reshape(-1, 32)
        first = np.abs(groups).argmax(axis=1)
        largest[tied] = groups[np.arange(len(tied)), first]
        scale = np.divide(largest, np.float32(-8), dtype=np.float32)
        stored_scale = scale.astype("<f2")
        # As the reference: half up, by cutting what is 8.5 more.
        values = source * _per_lane(_inverse(scale))
        values += np.float32(8.5)
        codes = values.astype(np.uint8)
        # Eight bytes at a time: each is below 17, so none reaches into the next. 16 becomes 15.
        octets = codes.view(np.uint64)
        octets -= octets >> np.uint64(4) & np.uint64(0x0101010101010101)
        block = np.empty(len(scale), _Q4_0_BLOCK)
        block["scale"] = stored_scale
        for number in range(2):
            block["codes"][:, number] = octets[number] | octets[number + 2] << np.uint64(4)
        values[:] = codes
        values -= np.float32(8)
        values *= _per_lane(stored_scale.astype(np.float32))
        return Encoded((_as_bytes(block),), source, values)

    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        (block,) = pieces
        low, high = block[:, 2:] & 15, block[:, 2:] >> 4
        codes = np.concatenate([low, high], axis=1).astype(np.float32)
        return _f16(block[:, :2]) * (codes - np.float32(8))


_SUB = 32
_TRIES = 5
_TOP = np.float32(15)


class Q4K(Encoding):
    """GGUF Q4_K: 256 values of 4 bits in 8 sub-blocks, each with a scale and a minimum of 6 bits.

    144 bytes. Scales and minima are fitted by least squares in at most five rounds, as candle does.
    """

    def __init__(self) -> None:
        super().__init__("q4_k", 256, (Piece("", GgufDType.Q4_K, 144, 144),))

    def encode(self, items: Items) -> Encoded:
        values = as_floats(items)
        blocks = len(values)
        sub = values.reshape(-1, _SUB)
        scales, minima = (part.reshape(blocks, 8) for part in _fit_sub_blocks(sub))
        top_scale = scales.max(axis=1, keepdims=True)
        top_minimum = minima.max(axis=1, keepdims=True)
        scale_codes = _six_bits(scales, top_scale)
        minimum_codes = _six_bits(minima, top_minimum)
        d, dmin = ((top / np.float32(63)).astype("<f2") for top in (top_scale, top_minimum))
        step = (d.astype(np.float32) * scale_codes).reshape(-1, 1)
        floor = (dmin.astype(np.float32) * minimum_codes).reshape(-1, 1)
        # Where the step is 0 all codes are 0.
        codes = np.where(step == 0, 0, np.rint((sub + floor) * _inverse(step)))
        codes = np.clip(codes, 0, 15).astype(np.uint8).reshape(blocks, 4, 2, _SUB)
        out = np.empty((blocks, 144), np.uint8)
        out[:, :2], out[:, 2:4] = _as_bytes(d), _as_bytes(dmin)
        out[:, 4:16] = _pack_six_bits(scale_codes, minimum_codes)
        out[:, 16:] = (codes[:, :, 0] | codes[:, :, 1] << 4).reshape(blocks, 128)
        decoded = step * codes.reshape(-1, _SUB) - floor
        return Encoded((out,), values, decoded.reshape(values.shape))

    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        (block,) = pieces
        scale_codes, minimum_codes = _unpack_six_bits(block[:, 4:16])
        step = _f16(block[:, :2]) * scale_codes
        floor = _f16(block[:, 2:4]) * minimum_codes
        packed = block[:, 16:].reshape(-1, 4, 1, _SUB)
        codes = np.concatenate([packed & 15, packed >> 4], axis=2).reshape(-1, 8, _SUB)
        values: Floats = (step[:, :, None] * codes - floor[:, :, None]).reshape(-1, 256)
        return values


def _fit_sub_blocks(sub: Floats) -> tuple[Floats, Floats]:
    """Return the scale and the minimum (as a positive number) of each row of 32 values."""
    low = np.minimum(sub.min(axis=1, keepdims=True), 0)
    high = sub.max(axis=1, keepdims=True)
    scale = (high - low) / _TOP
    for _ in range(_TRIES):
        shifted = sub - low
        codes = np.clip(np.rint(shifted * _inverse(scale)), 0, _TOP)
        dot, square = (np.einsum("ij,ij->i", codes, other)[:, None] for other in (shifted, codes))
        scale = dot * _inverse(square)
        low = np.minimum((sub - scale * codes).mean(axis=1, keepdims=True), 0)
    return scale, -low


def _six_bits(values: Floats, top: Floats) -> Floats:
    codes: Floats = np.minimum(np.rint(values * _inverse(top / np.float32(63))), 63)
    return np.maximum(codes, 0)


def _pack_six_bits(scales: Floats, minima: Floats) -> Bytes:
    """Return uint8 [n, 12] of 8 scales and 8 minima of 6 bits each, in the order of ggml."""
    s, m = scales.astype(np.uint8), minima.astype(np.uint8)
    return np.concatenate(
        [
            s[:, :4] | s[:, 4:] >> 4 << 6,
            m[:, :4] | m[:, 4:] >> 4 << 6,
            (s[:, 4:] & 15) | (m[:, 4:] & 15) << 4,
        ],
        axis=1,
    )


def _unpack_six_bits(packed: Bytes) -> tuple[Floats, Floats]:
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (rest & 15) | first >> 6 << 4], axis=1)
    minima = np.concatenate([second & 63, rest >> 4 | second >> 6 << 4], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


class MlxAffine(_InLanes):
    """MLX affine quantisation: codes in uint32, an F16 scale and an F16 bias for each group."""

    def __init__(self, bits: int, group: int) -> None:
        self._bits = bits
        pieces = (
            Piece("weight", StorageDType.U32, group * bits // 8, 4),
            Piece("scales", StorageDType.F16, 2, 2),
            Piece("biases", StorageDType.F16, 2, 2),
        )
        super().__init__(f"q{bits}", group, pieces)

    def encode(self, items: Items) -> Encoded:
        source = as_floats(items)
        low, high = _over_lanes(np.minimum, source), _over_lanes(np.maximum, source)
        top = np.float32((1 << self._bits) - 1)
        scale = np.maximum((high - low) / top, np.float32(1e-7))
        below = np.abs(low) > np.abs(high)
        scale = np.where(below, scale, -scale)
        edge = np.where(below, low, high)
        # The edge is moved onto a whole code, so that the larger end is stored exactly.
        at = np.rint(edge / scale)
        scale = np.where(at == 0, scale, edge / np.where(at == 0, np.float32(1), at))
        bias = np.where(at == 0, np.float32(0), edge)
        stored_scale, stored_bias = scale.astype("<f2"), bias.astype("<f2")
        decoded = source - _per_lane(bias)
        decoded /= _per_lane(scale)
        np.rint(decoded, out=decoded)
        np.clip(decoded, 0, top, out=decoded)
        codes = decoded.astype(np.uint8)
        if self._bits == 4:
            octets = codes.view(np.uint64)
            codes = (octets | octets >> np.uint64(4)).view(np.uint16).astype(np.uint8)
        # Eight values have so many bytes of codes.
        packed = np.ascontiguousarray(codes.view(f"<u{self._bits}").T)
        decoded *= _per_lane(stored_scale.astype(np.float32))
        decoded += _per_lane(stored_bias.astype(np.float32))
        return Encoded(
            (_as_bytes(packed), _as_bytes(stored_scale), _as_bytes(stored_bias)), source, decoded
        )

    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        packed, scale, bias = pieces
        codes: NDArray[np.uint8] = packed
        if self._bits == 4:
            codes = np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)
        return _f16(scale) * codes.astype(np.float32) + _f16(bias)


class RowInt8(Encoding):
    """int8 with one F32 scale a row, as bitsandbytes stores it: value = code × scale / 127."""

    def __init__(self, row: int) -> None:
        pieces = (
            Piece("weight", StorageDType.I8, row, 1),
            Piece("weight_scb", StorageDType.F32, 4, 4),
        )
        super().__init__("int8", row, pieces)

    def encode(self, items: Items) -> Encoded:
        values = as_floats(items)
        # The `moshi` package hands bitsandbytes the weights as F16.
        halves = values.astype(np.float16).astype(np.float32)
        largest = np.abs(halves).max(axis=1, keepdims=True)
        rounded = np.rint(halves * (np.float32(127) * _inverse(largest)))
        codes = rounded.astype(np.int8).view(np.uint8)
        rounded *= largest / np.float32(127)
        return Encoded((codes, _as_bytes(largest.astype("<f4"))), values, rounded)

    def decode(self, pieces: tuple[Bytes, ...]) -> Floats:
        codes, largest = pieces
        scale = np.divide(largest.view("<f4"), np.float32(127), dtype=np.float32)
        values: Floats = codes.view(np.int8).astype(np.float32) * scale
        return values


def _inverse(values: Floats) -> Floats:
    """Return 1 / values, and 0 where that is beyond the range of float32."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / values
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def as_floats(items: Items) -> Floats:
    """Return float32 values of items, in the same shape."""
    if items.dtype == np.uint16:
        return np.left_shift(items, 16, dtype=np.uint32).view(np.float32)
    return items.astype(np.float32, copy=False)


def _lanes(items: Items) -> Items:
    """Return [n, group] as [group / 8, n * 8]: the octets of a group above each other.

    What is done to all groups then runs over long rows, several times as fast.
    """
    groups, octets = len(items), items.shape[1] // 8
    words = items.view(np.complex128).reshape(groups, octets, -1)  # any type of 16 bytes
    return np.ascontiguousarray(words.swapaxes(0, 1)).view(items.dtype).reshape(octets, -1)


def _over_lanes(pick: np.ufunc, lanes: Items) -> Items:
    """Return `pick` (maximum or minimum) over each group, [n]."""
    found: Items = pick.reduce(lanes, axis=0)
    for _ in range(3):
        found = pick(found[::2], found[1::2])
    return found


def _per_lane(values: Floats) -> Floats:
    """Return the values of the groups, [n], for each value of a row of lanes, [n * 8]."""
    return np.repeat(values, 8)


def _as_bytes(values: NDArray[np.generic]) -> Bytes:
    return values.view(np.uint8).reshape(len(values), -1)


def _f16(pair: Bytes) -> Floats:
    return np.ascontiguousarray(pair).view("<f2").astype(np.float32)


GGUF_QUANTS: dict[str, Encoding | None] = {
    "q8_0": Q80(),
    "q4_0": Q40(),
    "q4_k": Q4K(),
    "none": None,
}
"""What `export --to gguf --quant` takes. None: every tensor is stored as F16 or F32."""

MLX_QUANTS: dict[str, Encoding | None] = {
    "q8": MlxAffine(8, 64),
    "q4": MlxAffine(4, 32),
    "none": None,
}
"""The same for MLX; `moshi_mlx` chooses the group by the file's name, `.q8.` or `.q4.`."""
