"""Verifying a target: the first differing element is named, and what conversions do is not a
difference.
"""

import struct
from pathlib import Path

import pytest

from dsmops.checkpoint import OverflowPolicy, convert, plan_conversion, verify
from dsmops.checkpoint.casts import BLOCK_ELEMENTS
from dsmops.dtypes import StorageDType
from dsmops.errors import InputError
from tests.support.checkpoints import (
    Stored,
    bf16,
    f16_of,
    patterns,
    read_file,
    write_file,
    write_sharded,
)

SOURCE: dict[str, Stored] = {
    "all": ("BF16", (256, 256), patterns(*range(1 << 16))),
    "bytes": ("U8", (5,), b"abcde"),
    "scalar": ("BF16", (), patterns(0x3F80)),
    "empty": ("BF16", (0,), b""),
}


def pair(tmp_path: Path, changed: dict[str, Stored]) -> tuple[Path, Path]:
    """A source, and a target made by the oracle with some tensors exchanged; the shape (-1,) takes
    a tensor away.
    """
    target = {**{name: oracle(stored) for name, stored in SOURCE.items()}, **changed}
    left = {name: stored for name, stored in target.items() if stored[1] != (-1,)}
    return write_file(tmp_path / "in.safetensors", SOURCE, {"k": "v"}), write_file(
        tmp_path / "out.safetensors", left, {"k": "v"}
    )


def oracle(stored: Stored) -> Stored:
    dtype, shape, raw = stored
    return (
        ("F16", shape, patterns(*map(f16_of, struct.unpack(f"<{len(raw) // 2}H", raw))))
        if dtype == "BF16"
        else stored
    )


@pytest.mark.parametrize("policy", list(OverflowPolicy))
@pytest.mark.parametrize("dtype", [StorageDType.F16, StorageDType.F32])
def test_every_conversion_verifies(
    tmp_path: Path, dtype: StorageDType, policy: OverflowPolicy
) -> None:
    """All patterns, by every policy that lets them through, sharded or not; counts say what was
    compared.
    """
    source = write_file(tmp_path / "in.safetensors", SOURCE)
    target = tmp_path / "out.safetensors"
    if dtype is StorageDType.F32 or policy is not OverflowPolicy.FAIL:
        convert(plan_conversion(source, target, dtype, on_overflow=policy))
        report = verify(source, target)
        assert report.same
        assert (report.tensors, report.converted, report.untouched) == (4, 3, 1)
        assert report.compared_bytes == (1 << 17) * (1 + read_sizes(target)) + 10 + 2 + len(
            read_file(target)[0]["scalar"][2]
        )


def read_sizes(target: Path) -> int:
    """How many times larger than in the source the large tensor is."""
    return len(read_file(target)[0]["all"][2]) >> 17


def test_the_oracle_of_another_program_verifies(tmp_path: Path) -> None:
    """No record and no metadata of dsmops are needed, and NaN payloads do not matter."""
    source, target = pair(tmp_path, {})
    assert verify(source, target).same


def test_one_wrong_element_is_named_with_its_patterns(tmp_path: Path) -> None:
    """The difference has tensor, count, index, and what was found and expected."""
    wrong = [f16_of(pattern) for pattern in range(1 << 16)]
    wrong[0x3F80] ^= 1
    wrong[0x4000] ^= 1
    source, target = pair(
        tmp_path, {"all": ("F16", (256, 256), patterns(*wrong)), "bytes": ("U8", (5,), b"abXde")}
    )
    report = verify(source, target)
    assert [(difference.tensor, difference.elements) for difference in report.differences] == [
        ("all", 2),
        ("bytes", 1),
    ]
    assert (
        report.differences[0].message
        == "2 of 65536 elements differ (BF16 to F16), first element 16256: 0x3f80 became 0x3c01,"
        " not 0x3c00"
    )
    assert (
        report.differences[1].message
        == "1 of 5 bytes differ (U8, copied), first byte 2: 0x63 became 0x58"
    )


@pytest.mark.parametrize("pattern", [0x7FC0, 0x7F80, 0x4780], ids=["NaN", "infinity", "overflow"])
def test_special_values_must_stay_what_they_are(tmp_path: Path, pattern: int) -> None:
    """A number where NaN was, or the largest number where infinity is due, is a difference."""
    wrong = [f16_of(number) for number in range(1 << 16)]
    wrong[pattern] = 0x7BFF
    source, target = pair(tmp_path, {"all": ("F16", (256, 256), patterns(*wrong))})
    (difference,) = verify(source, target).differences
    assert f"element {pattern}: {pattern:#06x} became 0x7bff" in difference.message


LAYOUTS: dict[str, tuple[dict[str, Stored], str]] = {
    "missing": ({"scalar": ("F16", (-1,), b"")}, "missing in the target"),
    "added": ({"new": ("U8", (1,), b"x")}, "not in the source"),
    "reshaped": ({"scalar": ("F16", (1,), patterns(0x3C00))}, "shape [] became [1]"),
    "another dtype": ({"bytes": ("I8", (5,), b"abcde")}, "U8 became I8"),
    "impossible dtype": ({"scalar": ("I16", (), patterns(0x3C00))}, "BF16 became I16"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_differences_of_layout_are_named(tmp_path: Path, name: str) -> None:
    """Names, shapes and dtypes are compared too, and the rest is compared nonetheless."""
    changed, said = LAYOUTS[name]
    source, target = pair(tmp_path, changed)
    (difference,) = verify(source, target).differences
    assert said in difference.message
    assert difference.tensor in changed


def test_lost_metadata_is_a_difference(tmp_path: Path) -> None:
    """Metadata of the source belong in the target."""
    source = write_file(tmp_path / "in.safetensors", {"a": bf16(1)}, {"k": "v"})
    target = write_file(tmp_path / "out.safetensors", {"a": bf16(1)})
    (difference,) = verify(source, target).differences
    assert "'k' is missing" in difference.message


def test_sharded_and_single_are_compared_by_name(tmp_path: Path) -> None:
    """How tensors are spread over files does not matter."""
    source = write_sharded(
        tmp_path / "in", {"one.safetensors": {"a": bf16(1)}, "sub/two.safetensors": {"b": bf16(2)}}
    )
    for target in (tmp_path / "out", tmp_path / "all.safetensors"):
        convert(plan_conversion(source, target, StorageDType.F16))
        assert verify(source, target).same


def test_a_difference_beyond_the_first_block_has_its_true_index(tmp_path: Path) -> None:
    """Element numbers count from the start of the tensor, not of the block."""
    count = BLOCK_ELEMENTS + 10
    source = write_file(tmp_path / "in.safetensors", {"a": ("BF16", (count,), bytes(2 * count))})
    wrong = bytearray(2 * count)
    wrong[2 * (count - 3)] = 1
    target = write_file(tmp_path / "out.safetensors", {"a": ("F16", (count,), bytes(wrong))})
    (difference,) = verify(source, target).differences
    assert f"first element {count - 3}:" in difference.message


def test_a_file_is_not_compared_with_itself(tmp_path: Path) -> None:
    """That would prove nothing."""
    source, _ = pair(tmp_path, {})
    with pytest.raises(InputError, match="same file"):
        verify(source, source)
