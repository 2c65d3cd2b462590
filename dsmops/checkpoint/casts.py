"""Cast BF16 values to another dtype, bit for bit, and count exactly what was lost.

The work is done in blocks that fit a processor cache. numpy has no bfloat16, and needs none: all
work is integer arithmetic on the 16-bit patterns. Any target is a table of what becomes of the
65,536 patterns. Almost every weight of a model lies in the range where F16 follows from BF16 by
moving bits; the few that do not are found by one comparison and looked up.
runbooks/decisions/0007-numpy-for-casts.md has the measurements.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmops.checkpoint.losses import LossCounts
from dsmops.dtypes import CONVERSION_TARGETS, StorageDType

BLOCK_ELEMENTS = 1 << 18
"""Elements per call. Smaller ones cost more Python than arithmetic; larger ones leave the cache."""

Bits = NDArray[np.uint16]
Patterns = NDArray[np.unsignedinteger]

# What becomes of a BF16 pattern in the target.
EXACT, SUBNORMAL, ROUNDED, UNDERFLOWED, OVERFLOWED, INFINITE, NAN = range(7)

_BF16_INF = 0x7F80
_BF16_SMALLEST_NORMAL = 2.0**-126


def disk_dtype(dtype: StorageDType) -> np.dtype[Any]:
    """Return the numpy dtype of the bit patterns of `dtype` on disk."""
    return np.dtype(f"<u{dtype.bits // 8}")


@cache
def patterns_of(dtype: StorageDType, *, clamp: bool = False) -> Patterns:
    """Return the pattern in `dtype`, a conversion target, of every BF16 pattern.

    NaN stays NaN. With `clamp`, what overflows is the largest value of its sign.
    """
    target, source = CONVERSION_TARGETS[dtype], _all_bf16_as_f32()
    if clamp:
        beyond = outcomes_of(dtype) == OVERFLOWED
        source = np.where(beyond, np.copysign(np.float32(target.largest), source), source)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        patterns: Patterns = target.encode(source)
    return patterns


@cache
def outcomes_of(dtype: StorageDType) -> NDArray[np.uint8]:
    """Return what becomes of every BF16 pattern in `dtype`: `EXACT` to `NAN`."""
    target, source = CONVERSION_TARGETS[dtype], _all_bf16_as_f32()
    result = target.decode(patterns_of(dtype))
    outcomes = np.full(source.size, EXACT, np.uint8)
    with np.errstate(invalid="ignore"):
        held_subnormal = (result != 0) & (np.abs(result) < target.smallest_normal)
        outcomes[held_subnormal & (np.abs(source) >= _BF16_SMALLEST_NORMAL)] = SUBNORMAL
        outcomes[result != source] = ROUNDED
    outcomes[(result == 0) & (source != 0)] = UNDERFLOWED
    outcomes[~np.isfinite(result) & np.isfinite(source)] = OVERFLOWED
    outcomes[np.isinf(source)] = INFINITE
    outcomes[np.isnan(source)] = NAN
    return outcomes


def _all_bf16_as_f32() -> NDArray[np.float32]:
    return (np.arange(1 << 16, dtype=np.uint32) << np.uint32(16)).view(np.float32)


class Cast:
    """Casts blocks and counts losses until `take_counts`: here by table, to any target.

    Keeps scratch memory, so use one per thread. It never raises: whether a count matters is the
    caller's policy.
    """

    def __init__(self, dtype: StorageDType, *, clamp: bool = False) -> None:
        self._patterns = patterns_of(dtype, clamp=clamp)
        self._outcomes = outcomes_of(dtype)
        self._doubled = np.empty(BLOCK_ELEMENTS, np.uint16)
        self._tally = _Tally(self._outcomes)

    def __call__(self, bits: Bits, out: NDArray[Any]) -> None:
        """Write the target patterns of at most `BLOCK_ELEMENTS` BF16 patterns to `out`.

        `out` must not overlap `bits`.
        """
        self._tally.note_magnitudes(np.add(bits, bits, out=self._doubled[: bits.size]))
        self._look_up(bits, out)

    def _look_up(self, bits: Bits, out: NDArray[Any]) -> None:
        index = bits.astype(np.intp)
        np.take(self._patterns, index, out=out, mode="wrap")
        self._tally.count_patterns(np.bincount(index, minlength=1 << 16))

    def take_counts(self) -> LossCounts:
        """Return the counts since the last call, and start again from zero."""
        tally, self._tally = self._tally, _Tally(self._outcomes)
        return tally.result()


class Bf16ToF16(Cast):
    """BF16 to F16, rounded to nearest, ties to even.

    Exact for 0 and for 2**-17 <= abs(x) <= 65280. Smaller magnitudes may round to an F16 subnormal;
    at or below 2**-25 they become zero. From 65536 upward they become infinite, or ±65504 with
    `clamp`; what is infinite in the source stays so. NaN stays NaN; its payload may change.
    """

    # For 2**-14 <= abs(x) < 2 the pattern is s0111mmmmmmmmmmm (s sign, m the low exponent and
    # mantissa bits), and the F16 pattern is s0mmmmmmmmmmm000. Modulo 2**16, x * -7 is (something in
    # bits 14, 15) and 0x3800 - 7m below them, and x - (0x3800 - 7m) is what is wanted. ±0 comes out
    # right as well. Everything else is special.
    _FACTOR = np.uint16(-7 & 0xFFFF)
    _LOW_14 = np.uint16(0x3FFF)
    # Doubling drops the sign. As signed numbers the regular patterns are then 0x7100..0x7FFF, and
    # all others are below.
    _FIRST_REGULAR = np.int16(2 * 0x3880)

    def __init__(self, *, clamp: bool = False) -> None:
        super().__init__(StorageDType.F16, clamp=clamp)
        self._special = np.empty(BLOCK_ELEMENTS, np.bool_)

    def __call__(self, bits: Bits, out: NDArray[Any]) -> None:
        count = bits.size
        doubled = np.add(bits, bits, out=self._doubled[:count])
        if self._tally.note_magnitudes(doubled) == 0:
            out[:] = bits
            return
        np.multiply(bits, self._FACTOR, out=out)
        np.bitwise_and(out, self._LOW_14, out=out)
        np.subtract(bits, out, out=out)
        special = np.less(doubled.view(np.int16), self._FIRST_REGULAR, out=self._special[:count])
        where, many = np.flatnonzero(special), count >> 2
        if where.size > many:
            where = np.flatnonzero(
                np.logical_and(special, doubled, out=special)
            )  # zeros came out right; where they are many, leave them
        if where.size > many:
            # Mostly far from 1: looking every element up is cheaper than picking out the special
            # ones.
            self._look_up(bits, out)
        else:
            patterns = bits[where]
            out[where] = self._patterns[patterns]
            self._tally.count_outcomes(np.bincount(self._outcomes[patterns], minlength=NAN + 1))


class Bf16ToF32(Cast):
    """BF16 to F32, always exact: BF16 is the upper half of F32."""

    def __init__(self, *, clamp: bool = False) -> None:
        super().__init__(StorageDType.F32, clamp=clamp)

    def __call__(self, bits: Bits, out: NDArray[Any]) -> None:
        doubled = np.add(bits, bits, out=self._doubled[: bits.size])
        if self._tally.note_magnitudes(doubled) >= 2 * _BF16_INF:
            infinite, nan = (
                np.count_nonzero(doubled == 2 * _BF16_INF),
                np.count_nonzero(doubled > 2 * _BF16_INF),
            )
            self._tally.count_outcomes(np.array([0, 0, 0, 0, 0, infinite, nan]))
        np.left_shift(bits, 16, out=out, dtype=np.uint32)


class _Tally:
    """Running counts of one tensor."""

    def __init__(self, outcomes: NDArray[np.uint8]) -> None:
        self._outcomes = outcomes
        self._elements = 0
        self._counts = np.zeros(NAN + 1, np.int64)
        self._patterns: NDArray[np.int64] | None = None
        self._top = -1

    def note_magnitudes(self, doubled: Bits) -> int:
        """Count a block of doubled patterns, and return the largest of them.

        0 means that all elements are zero.
        """
        if not doubled.size:
            return 0
        self._elements += doubled.size
        top = int(doubled.max())
        if top < 2 * _BF16_INF:
            self._top = max(self._top, top)
        else:
            finite = doubled[doubled < 2 * _BF16_INF]
            self._top = max(self._top, int(finite.max())) if finite.size else self._top
        return top

    def count_outcomes(self, counts: NDArray[np.int64]) -> None:
        self._counts += counts

    def count_patterns(self, counts: NDArray[np.int64]) -> None:
        # Summing 65,536 counts up by outcome takes as long as counting a block, so it is left to
        # the end.
        self._patterns = counts if self._patterns is None else self._patterns + counts

    def result(self) -> LossCounts:
        if self._patterns is not None:
            by_outcome = np.bincount(
                self._outcomes, weights=self._patterns, minlength=NAN + 1
            )  # float64: exact up to 2**53
            self._counts += by_outcome.astype(np.int64)
        _, subnormal, rounded, underflowed, overflowed, infinite, nan = self._counts.tolist()
        return LossCounts(
            elements=self._elements,
            overflowed=overflowed,
            underflowed=underflowed,
            subnormal=subnormal + rounded,
            rounded=rounded,
            infinite=infinite,
            nan=nan,
            largest_magnitude=float(np.uint32(self._top >> 1 << 16).view(np.float32))
            if self._top >= 0
            else None,
        )


_FASTER: dict[StorageDType, type[Bf16ToF16 | Bf16ToF32]] = {
    StorageDType.F16: Bf16ToF16,
    StorageDType.F32: Bf16ToF32,
}


def make_cast(dtype: StorageDType, *, clamp: bool = False) -> tuple[Cast, np.dtype[Any]]:
    """Return the cast from BF16 to `dtype`, and the dtype of its patterns on disk."""
    faster = _FASTER.get(dtype)
    return faster(clamp=clamp) if faster else Cast(dtype, clamp=clamp), disk_dtype(dtype)
