"""The encodings against slow ones, written value by value from their descriptions."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsmops.checkpoint.export.encodings import (
    GGUF_QUANTS,
    MLX_QUANTS,
    Encoded,
    Encoding,
    Floats,
    Items,
    Plain,
    RowInt8,
    as_floats,
)

Q80, Q40, Q4K = (GGUF_QUANTS[name] for name in ("q8_0", "q4_0", "q4_k"))
assert Q80 is not None
assert Q40 is not None
assert Q4K is not None
ALL = [
    *(one for one in GGUF_QUANTS.values() if one is not None),
    *(one for one in MLX_QUANTS.values() if one is not None),
    RowInt8(48),
    Plain("F16"),
    Plain("F32"),
]
SMALL = st.floats(-8, 8, width=16)
"""Few mantissa bits, so that halves and equal magnitudes are common."""


def encode(encoding: Encoding, items: Items) -> Encoded:
    return encoding.encode(encoding.arrange(items))


def f32(value: float) -> float:
    return struct.unpack("<f", struct.pack("<f", value))[0]  # type: ignore[no-any-return]


def f16_bytes(value: float) -> bytes:
    return struct.pack("<e", value)


def slow_q8_0(block: list[float]) -> bytes:
    scale = f32(max(abs(value) for value in block) / 127)
    inverse = f32(1 / scale) if scale else 0.0
    codes = []
    for value in block:
        product = f32(value * inverse)
        whole = math.floor(abs(product) + 0.5)  # exact: a double holds float32 plus a half
        codes.append(int(math.copysign(whole, product)))
    return f16_bytes(scale) + struct.pack("32b", *codes)


def slow_q4_0(block: list[float]) -> bytes:
    largest = block[0]
    for value in block:
        if abs(value) > abs(largest):
            largest = value
    scale = f32(largest / -8)
    inverse = f32(1 / scale) if scale else 0.0
    codes = [min(15, int(f32(f32(value * inverse) + 8.5))) for value in block]
    packed = bytes(low | high << 4 for low, high in zip(codes[:16], codes[16:], strict=True))
    return f16_bytes(scale) + packed


@given(hnp.arrays(np.float32, (3, 32), elements=SMALL))
def test_q8_0_is_what_its_description_gives(values: Floats) -> None:
    """Halves go away from zero, and the scale that is stored is not the one that divides."""
    assert Q80 is not None
    wanted = b"".join(slow_q8_0(block) for block in values.tolist())
    assert encode(Q80, values).pieces[0].tobytes() == wanted


def test_q8_0_rounds_halves_away_from_zero_and_nothing_else() -> None:
    """Nor the neighbours of a half, which adding 0.5 in float32 would round with it."""
    halves = np.arange(15, dtype=np.float32) + np.float32(0.5)
    below = np.nextafter(halves, np.float32(0))
    values = np.zeros((2, 32), np.float32)
    values[:, 0] = 127  # the scale is 1, so codes are the rounded values
    values[0, 1:16], values[0, 16:31] = halves, -halves
    values[1, 1:16], values[1, 16:31] = below, -below
    assert Q80 is not None
    codes = encode(Q80, values).pieces[0][:, 2:].view(np.int8)
    up = np.arange(15)
    assert codes[0, 1:31].tolist() == [*(up + 1), *(-up - 1)]
    assert codes[1, 1:31].tolist() == [*up, *-up]


@pytest.mark.slow
def test_q8_0_codes_of_every_pair_of_bf16_values() -> None:
    """Each greatest magnitude of a group with each value below it: halves go away from zero."""
    assert Q80 is not None
    reach = 31 * 38  # patterns; further below the greatest magnitude all codes are 0
    for first in range(0, 0x7F80, 128):
        groups = np.empty((128, 38, 32), np.uint16)
        groups[:, :, 0] = largest = np.arange(first, first + 128)[:, None]
        groups[:, :, 1:] = np.maximum(largest - np.arange(reach), 0).reshape(128, 38, 31)
        with np.errstate(all="ignore"):
            codes = encode(Q80, groups.reshape(-1, 32)).pieces[0][:, 2:].view(np.int8)
            inverse = np.float32(1) / (as_floats(groups[:, :, :1]) / np.float32(127))
        inverse[np.isinf(inverse)] = 0
        products = (as_floats(groups) * inverse).astype(np.float64)
        assert np.array_equal(codes.reshape(groups.shape), np.floor(products + 0.5)), first


@pytest.mark.parametrize("encoding", ALL, ids=lambda one: one.name)
def test_patterns_of_bf16_give_the_bytes_of_their_values(encoding: Encoding) -> None:
    """All finite patterns: zeros of both signs, subnormal ones and those beyond F16 included."""
    patterns = np.arange(1 << 16, dtype=np.uint16)
    patterns = patterns[patterns & 0x7F80 != 0x7F80]
    among_alike = patterns[np.argsort(patterns & 0x7FFF)]
    among_all = np.random.default_rng(6).permutation(patterns)
    for order in (among_alike, among_all):
        groups = order[: order.size // encoding.group * encoding.group].reshape(-1, encoding.group)
        with np.errstate(all="ignore"):
            found, wanted = encode(encoding, groups), encode(encoding, as_floats(groups))
            error, wanted_error = (np.abs(one.values - one.source) for one in (found, wanted))
        for one, other in zip(found.pieces, wanted.pieces, strict=True):
            assert np.array_equal(one, other)
        assert np.array_equal(error, wanted_error, equal_nan=True)


@given(hnp.arrays(np.float32, (3, 32), elements=SMALL))
def test_q4_0_is_what_its_description_gives(values: Floats) -> None:
    """Of two values of the same magnitude the first decides on the sign of the scale."""
    assert Q40 is not None
    wanted = b"".join(slow_q4_0(block) for block in values.tolist())
    assert encode(Q40, values).pieces[0].tobytes() == wanted


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ALL, ids=lambda one: one.name)
@given(data=st.data())
def test_what_encoding_promises_is_what_decoding_gives(
    encoding: Encoding, data: st.DataObject
) -> None:
    """The values that errors are counted from are those that a reader of the bytes computes."""
    shape = (2, encoding.group)
    values = data.draw(hnp.arrays(np.float32, shape, elements=st.floats(-100, 100, width=32)))
    before = values.copy()
    encoded = encode(encoding, values)
    assert np.array_equal(values, before)
    assert [piece.shape for piece in encoded.pieces] == [
        (2, piece.group_bytes) for piece in encoding.pieces
    ]
    decoded = encoding.decode(encoded.pieces)
    assert np.array_equal(np.abs(encoded.values), np.abs(encoding.arrange(decoded)))
    errors = np.abs(encoding.arrange(decoded - values))
    assert np.array_equal(np.abs(encoded.values - encoded.source), errors)


@pytest.mark.parametrize(
    ("encoding", "steps"),
    [(Q80, 127), (Q40, 8), (MLX_QUANTS["q8"], 127), (MLX_QUANTS["q4"], 7), (RowInt8(64), 127)],
    ids=lambda one: getattr(one, "name", one),
)
def test_no_value_is_further_off_than_its_step(encoding: Encoding, steps: int) -> None:
    """Half a step of rounding, one at the cut end, and the rounding of scale and offset to F16."""
    rng = np.random.default_rng(2)
    values = rng.normal(0, 0.02, (64, encoding.group)).astype(np.float32)
    largest = np.abs(values).max(axis=1, keepdims=True)
    error = np.abs(encoding.decode(encode(encoding, values).pieces) - values)
    assert (error <= 1.01 * largest / steps).all()


def test_q4_k_fits_better_than_q4_0() -> None:
    """Its scales follow 32 values and have a minimum: on normal weights a sixth less error."""
    assert Q40 is not None
    assert Q4K is not None
    values = np.random.default_rng(3).normal(0, 0.02, (64, 256)).astype(np.float32)
    errors = [
        np.square(encoded.values - encoded.source).mean()
        for encoded in (encode(one, values.reshape(-1, one.group)) for one in (Q40, Q4K))
    ]
    assert errors[1] < 0.8 * errors[0]


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1e-6, 3e4])
@pytest.mark.parametrize("encoding", ALL, ids=lambda one: one.name)
def test_equal_values_come_back(encoding: Encoding, value: float) -> None:
    """A block without any spread is stored as near as the scale's F16 allows."""
    values = np.full((2, encoding.group), value, np.float32)
    error = np.abs(encoding.decode(encode(encoding, values).pieces) - values).max()
    assert error <= max(abs(value) * 2e-3, 255 * 2**-25)
