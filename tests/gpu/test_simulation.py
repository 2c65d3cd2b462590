"""What `--simulate` understands."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.devices import ComputeCapability
from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError
from dsmops.gpu import choose, simulate
from dsmops.gpu.simulation import parse_spec


@pytest.mark.parametrize(
    ("spec", "sm", "name", "gib"),
    [
        ("sm75", "7.5", "Simulated Turing GPU", None),
        ("sm_75", "7.5", "Simulated Turing GPU", None),
        ("SM_75", "7.5", "Simulated Turing GPU", None),
        ("7.5", "7.5", "Simulated Turing GPU", None),
        ("75", "7.5", "Simulated Turing GPU", None),
        ("compute_75", "7.5", "Simulated Turing GPU", None),
        ("8", "8.0", "Simulated Ampere GPU", None),
        ("7", "7.0", "Simulated Volta GPU", None),
        ("12", "12.0", "Simulated Blackwell GPU", None),
        ("sm90a", "9.0", "Simulated Hopper GPU", None),
        ("75:Tesla T4", "7.5", "Tesla T4", 15),
        ("sm75:Bench card", "7.5", "Bench card", None),
        (" 7.5 : RTX 2070 ", "7.5", "RTX 2070", 8),
        ("t4", "7.5", "Tesla T4", 15),
        ("rtx2070", "7.5", "GeForce RTX 2070", 8),
        ("NVIDIA GeForce RTX 2070 SUPER", "7.5", "GeForce RTX 2070 SUPER", 8),
        ("gtx1060", "6.1", "GeForce GTX 1060", 6),
        ("H200", "9.0", "NVIDIA H200", 141),
    ],
)
def test_specs(spec: str, sm: str, name: str, gib: int | None) -> None:
    """A capability, one with a name, or a card: memory is known where the catalogue knows the name,
    and else unknown.
    """
    device = parse_spec(spec, 0)
    assert device.compute_capability == ComputeCapability.parse(sm)
    assert device.name == name
    assert device.memory_total_bytes == (None if gib is None else gib << 30)
    assert (device.memory_bandwidth_bytes_per_s is None) == (gib is None)
    assert device.memory_free_bytes is None
    assert device.source == "simulated"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("rtx2071", "rtx2070"),
        ("gtx 1661 ti", "gtx1660ti"),
        ("7.3", "7.5"),
        ("13", "12.1"),
        ("sm20", "3.5"),
        ("", "sm75"),
        (":", "sm75"),
        (":Tesla T4", "sm75"),
        ("75:", "75:Tesla T4"),
        ("80:Tesla T4", "Tesla T4"),
        ("t4:Tesla T4", "t4"),
        ("--json", "sm75"),
        ("sm75 sm80", "sm75"),
        ("x" * 5000, "sm75"),
    ],
)
def test_mistakes_name_their_neighbours(spec: str, hint: str) -> None:
    """What cannot be understood is bad input, with what could have been meant."""
    with pytest.raises(InputError) as caught:
        simulate([spec])
    assert caught.value.code == "gpu.unknown_card"
    assert caught.value.exit_code == 3
    assert hint in caught.value.hint


def test_ordinals_follow_the_order_given() -> None:
    """Several cards are CUDA 0, 1, ... in the order given, and the first is the one the server
    takes.
    """
    report = simulate(["l4", "t4"])
    assert [each.device.cuda_ordinal for each in report.visible] == [0, 1]
    assert choose(report).name == "NVIDIA L4"
    assert choose(report, 1).name == "Tesla T4"
    assert report.visible[1].verdict.serving_dtype is ComputeDType.F16
    assert report.source == "simulated"


def test_an_ordinal_that_is_not_there_lists_those_that_are() -> None:
    """Asking for a device beyond the last is bad input that lists the devices."""
    with pytest.raises(InputError) as caught:
        choose(simulate(["l4", "t4"]), 2)
    assert "0 is NVIDIA L4 (sm_89), 1 is Tesla T4 (sm_75)" in caught.value.hint


@given(st.text(max_size=30))
def test_any_text_gives_a_card_or_one_error(spec: str) -> None:
    """No text makes the parser fail in another way."""
    try:
        said = parse_spec(spec, 0).label
    except InputError as exc:
        said = exc.hint
    assert said
