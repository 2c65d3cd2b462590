"""The casts, on every pattern there is, on every path through them, against oracles that share no
code with them.
"""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dsmops.checkpoint.casts import (
    BLOCK_ELEMENTS,
    EXACT,
    NAN,
    SUBNORMAL,
    Bf16ToF16,
    Bf16ToF32,
    Cast,
    make_cast,
    outcomes_of,
)
from dsmops.checkpoint.losses import LossCounts
from dsmops.dtypes import CONVERSION_TARGETS, StorageDType
from tests.support.checkpoints import f16_of, f32_of, value_of

ALL = np.arange(1 << 16, dtype=np.uint16)
REGULAR = np.array(
    [pattern | sign for pattern in range(0x3880, 0x4000) for sign in (0, 0x8000)], np.uint16
)
"""Patterns that the bit arithmetic handles without the table: 2**-14 <= abs(x) < 2."""

ORACLE_F16 = np.array([f16_of(pattern) for pattern in range(1 << 16)], np.uint16)
ORACLE_F32 = np.array([f32_of(pattern) for pattern in range(1 << 16)], np.uint32)


def to_f16(bits: NDArray[np.uint16], cast: Bf16ToF16 | None = None) -> NDArray[np.uint16]:
    out = np.full_like(bits, 0x5555)
    (cast or Bf16ToF16())(bits, out)
    return out


def is_nan16(bits: NDArray[np.uint16]) -> NDArray[np.bool_]:
    return (bits & 0x7FFF) > 0x7C00


def assert_same_f16(got: NDArray[np.uint16], wanted: NDArray[np.uint16]) -> None:
    assert np.array_equal(is_nan16(got), is_nan16(wanted))
    assert np.array_equal(got[~is_nan16(got)], wanted[~is_nan16(wanted)])


@cache
def arrangements() -> dict[str, NDArray[np.uint16]]:
    """Every pattern, in surroundings that lead the cast down each of its paths."""
    rng = np.random.default_rng(0)
    among_regular = rng.choice(REGULAR, 8 << 16)
    among_regular[rng.permutation(8 << 16)[: 1 << 16]] = ALL
    among_zeros = np.zeros(8 << 16, np.uint16)
    among_zeros[rng.permutation(8 << 16)[: 1 << 16]] = ALL
    return {
        "each on its own path": ALL,
        "few among regular ones": among_regular,
        "few among zeros": among_zeros,
        "descending": ALL[::-1].copy(),
        "regular ones only": REGULAR,
        "zeros only": np.array([0, 0x8000] * 50, np.uint16),
        "one at a time": np.array([0x3F80], np.uint16),
        "none": np.array([], np.uint16),
    }


@pytest.mark.parametrize("name", arrangements())
def test_f16_equals_exact_arithmetic_on_every_pattern(name: str) -> None:
    """Each of the 65,536 patterns gives the correctly rounded F16 pattern, whatever stands around
    it; NaN stays NaN.
    """
    bits = arrangements()[name]
    for start in range(0, max(bits.size, 1), BLOCK_ELEMENTS):
        block = bits[start : start + BLOCK_ELEMENTS]
        assert_same_f16(to_f16(block), ORACLE_F16[block])


def test_f32_equals_exact_arithmetic_on_every_pattern() -> None:
    """Each of the 65,536 patterns gives the F32 pattern of the same value, NaN payloads
    included.
    """
    out = np.empty(ALL.size, np.uint32)
    Bf16ToF32()(ALL, out)
    assert np.array_equal(out, ORACLE_F32)


def test_both_casts_equal_torch_on_every_pattern() -> None:
    """`torch.Tensor.to` gives the same bits for all 65,536 patterns, NaN by position."""
    torch = pytest.importorskip("torch")
    source = torch.from_numpy(ALL.view(np.int16).copy()).view(torch.bfloat16)
    assert_same_f16(to_f16(ALL), source.to(torch.float16).view(torch.int16).numpy().view(np.uint16))
    out = np.empty(ALL.size, np.uint32)
    Bf16ToF32()(ALL, out)
    theirs = source.to(torch.float32)
    nan = torch.isnan(theirs).numpy()
    assert np.array_equal(np.isnan(out.view(np.float32)), nan)
    assert np.array_equal(out[~nan], theirs.view(torch.int32).numpy().view(np.uint32)[~nan])


@pytest.mark.parametrize(
    "name", ["each on its own path", "few among regular ones", "few among zeros"]
)
def test_losses_of_every_pattern_are_counted_exactly(name: str) -> None:
    """The counts are those that follow from enumerating all patterns, on the sparse and on the
    dense path.
    """
    bits = arrangements()[name]
    cast = Bf16ToF16()
    for start in range(0, bits.size, BLOCK_ELEMENTS):
        to_f16(bits[start : start + BLOCK_ELEMENTS], cast)
    assert cast.take_counts() == LossCounts(
        elements=bits.size,
        overflowed=28_672,
        underflowed=26_112,
        subnormal=2_814,
        rounded=1_792,
        infinite=2,
        nan=254,
        largest_magnitude=value_of(0x7F7F),
    )


def test_counting_starts_anew_after_it_was_taken() -> None:
    """One tensor's counts do not leak into the next one's; a tensor without elements has no largest
    magnitude.
    """
    cast = Bf16ToF16()
    to_f16(ALL, cast)
    cast.take_counts()
    assert cast.take_counts() == LossCounts()
    to_f16(np.array([0xBF80, 0x3F00], np.uint16), cast)
    assert cast.take_counts() == LossCounts(elements=2, largest_magnitude=1.0)


@given(st.lists(st.integers(0, 0xFFFF), max_size=400))
def test_any_values_are_cast_and_counted_as_the_definitions_say(patterns: list[int]) -> None:
    """Values equal the oracle, and every count equals one made element by element from its
    definition.
    """
    bits = np.array(patterns, np.uint16)
    cast = Bf16ToF16()
    got = to_f16(bits, cast)
    assert_same_f16(got, ORACLE_F16[bits])
    values = [value_of(pattern) for pattern in patterns]
    results = [float(value) for value in got.view(np.float16)]
    finite = [abs(value) for value in values if abs(value) < float("inf")]
    pairs = list(zip(values, results, strict=True))
    assert cast.take_counts() == LossCounts(
        elements=len(patterns),
        overflowed=sum(abs(value) < float("inf") == abs(result) for value, result in pairs),
        underflowed=sum(value != 0 == result for value, result in pairs),
        subnormal=sum(0 < abs(result) < 2**-14 for result in results),
        rounded=sum(value != result and 0 < abs(result) < float("inf") for value, result in pairs),
        infinite=sum(abs(value) == float("inf") for value in values),
        nan=sum(math.isnan(value) for value in values),
        largest_magnitude=max(finite, default=None),
    )


def test_clamping_holds_finite_values_at_the_largest_and_leaves_infinity() -> None:
    """With `clamp` what would overflow becomes ±65504 of its own sign; infinities and all other
    values are as without.
    """
    got = to_f16(ALL, Bf16ToF16(clamp=True))
    plain = to_f16(ALL)
    beyond = np.array([0x4780 <= pattern & 0x7FFF < 0x7F80 for pattern in range(1 << 16)])
    assert np.array_equal(got[~beyond], plain[~beyond])
    assert set(got[beyond & (ALL < 0x8000)]) == {0x7BFF}
    assert set(got[beyond & (ALL >= 0x8000)]) == {0xFBFF}


def test_f32_counts_what_is_not_finite() -> None:
    """Nothing is lost in F32; infinities and NaN of the source are still told."""
    cast = Bf16ToF32()
    cast(ALL, np.empty(ALL.size, np.uint32))
    assert cast.take_counts() == LossCounts(
        elements=65_536, infinite=2, nan=254, largest_magnitude=value_of(0x7F7F)
    )


def test_only_non_finite_values_have_no_largest_magnitude() -> None:
    """A tensor of NaN and infinity has no finite value to report."""
    for cast, out in ((Bf16ToF16(), np.empty(2, np.uint16)), (Bf16ToF32(), np.empty(2, np.uint32))):
        cast(np.array([0x7FC0, 0xFF80], np.uint16), out)  # type: ignore[arg-type]
        assert cast.take_counts() == LossCounts(elements=2, infinite=1, nan=1)


def test_unaligned_results_are_right() -> None:
    """A target tensor may begin at an odd byte of the file."""
    room = bytearray(2 * ALL.size + 1)
    Bf16ToF16()(ALL, np.frombuffer(room, "<u2", ALL.size, offset=1))
    assert_same_f16(np.frombuffer(bytes(room[1:]), "<u2"), ORACLE_F16)


def test_every_pattern_has_an_outcome() -> None:
    """Outcomes cover all patterns: as many of each as enumeration gives."""
    assert np.bincount(outcomes_of(StorageDType.F16), minlength=NAN + 1).tolist() == [
        7682,
        1022,
        1792,
        26_112,
        28_672,
        2,
        254,
    ]


@pytest.mark.parametrize("dtype", CONVERSION_TARGETS)
@pytest.mark.parametrize("clamp", [False, True])
def test_the_faster_cast_equals_the_table(dtype: StorageDType, clamp: bool) -> None:
    """Every target's own cast gives what its table gives, and the same counts."""
    cast, disk = make_cast(dtype, clamp=clamp)
    fast, slow = np.empty(ALL.size, disk), np.empty(ALL.size, disk)
    by_table = Cast(dtype, clamp=clamp)
    cast(ALL, fast)
    by_table(ALL, slow)
    decode = CONVERSION_TARGETS[dtype].decode
    assert np.array_equal(decode(fast), decode(slow), equal_nan=True)
    assert cast.take_counts() == by_table.take_counts()


@pytest.mark.parametrize("dtype", CONVERSION_TARGETS)
def test_the_exact_range_of_every_target_is_what_its_row_says(dtype: StorageDType) -> None:
    """Every BF16 value between the two magnitudes keeps its value, and neither bound can move."""
    least, most = CONVERSION_TARGETS[dtype].exact
    magnitudes = np.array([value_of(pattern) for pattern in range(0x7F80)])
    kept = np.isin(outcomes_of(dtype)[:0x7F80], [EXACT, SUBNORMAL])
    inside = (magnitudes >= least) & (magnitudes <= most)
    assert kept[0]
    assert kept[inside].all()
    below, above = magnitudes[1:] < least, magnitudes > most
    assert not below.any() or not kept[1:][below][-1]
    assert not above.any() or not kept[above][0]
