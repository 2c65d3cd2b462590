"""CUDA's view of the cards: masks, order, MIG."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.devices import ComputeCapability
from dsmops.gpu.findings import on_reading
from dsmops.gpu.host import HostState
from dsmops.gpu.readings import DeviceReading, Failure, FailureKind
from dsmops.gpu.visible import visible_devices

L4, T4 = ("NVIDIA L4", ComputeCapability(8, 9)), ("Tesla T4", ComputeCapability(7, 5))


def card(index: int, model: tuple[str, ComputeCapability] = L4, **more: object) -> DeviceReading:
    """A whole card whose UUID starts with its index and then a letter of its own."""
    return DeviceReading(
        nvml_index=index,
        name=model[0],
        compute_capability=model[1],
        uuid=f"GPU-{index}{'abcdef'[index]}-0000",
        **more,  # type: ignore[arg-type]
    )


def instance(index: int, number: int) -> DeviceReading:
    """A MIG instance of the card with that NVML index."""
    return DeviceReading(
        nvml_index=index,
        name="MIG 1g",
        uuid=f"MIG-{index}{number}-0000",
        mig_parent_uuid=card(index).uuid,
    )


FOUR = [card(0), card(1), card(2), card(3)]


@pytest.mark.parametrize(
    ("mask", "ordinals"),
    [
        (None, (0, 1, 2, 3)),
        ("0", (0,)),
        ("2,1", (2, 1)),
        ("0,2,-1,1", (0, 2)),
        ("1,9,0", (1,)),
        ("", ()),
        (" ", ()),
        ("-1", ()),
        ("none", ()),
        ("NoDevFiles", ()),
        ("0,0", ()),
        ("1,2,1", ()),
        (" 3 , 0", (3, 0)),
        ("1gpu2,2ampere", (1, 2)),
        ("+2", (2,)),
        ("0,", (0,)),
        (",0", ()),
        ("99999999999999999999", ()),
        ("GPU-2c-0000", (2,)),
        ("GPU-3,GPU-0a", (3, 0)),
        ("GPU-", ()),
        ("GPU-0,GPU-9,GPU-1", (0,)),
        ("GPU-1,GPU-1b", ()),
        ("GPU-1,0", (1,)),
        ("1,GPU-2", (1,)),
        ("MIG-00", ()),
    ],
)
def test_a_mask_gives_these_ordinals_on_four_equal_cards(
    mask: str | None, ordinals: tuple[int, ...]
) -> None:
    """Numbers, UUID prefixes and mistakes select and order the devices as CUDA does, and a mask
    that hides too much says why.
    """
    seen = visible_devices(FOUR, {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask})
    assert seen.ordinals == ordinals
    assert seen.certain
    if mask is not None and not ordinals:
        assert seen.mask_problem


def test_mixed_cards_are_counted_fastest_first_and_marked_uncertain() -> None:
    """With two models the faster one is ordinal 0, by cores × clock when known, and the result is
    an estimate.
    """
    readings = [card(0, T4, throughput=2560 * 1590), card(1, L4, throughput=7424 * 2040)]
    seen = visible_devices(readings, {})
    assert seen.ordinals == (1, 0)
    assert not seen.certain


def test_mixed_cards_without_throughput_are_counted_by_capability() -> None:
    """Where cores or clocks are not known for every card, the newer architecture counts as the
    faster.
    """
    seen = visible_devices([card(0, T4, throughput=10**9), card(1, L4)], {})
    assert seen.ordinals == (1, 0)


def test_numbers_in_a_mask_follow_cudas_order_not_nvmls() -> None:
    """With mixed cards, `0` names the fastest one, unless the order is that of the bus."""
    readings = [card(0, T4), card(1, L4)]
    assert visible_devices(readings, {"CUDA_VISIBLE_DEVICES": "0"}).ordinals == (1,)
    by_bus = visible_devices(
        readings, {"CUDA_VISIBLE_DEVICES": "0", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    )
    assert by_bus.ordinals == (0,)
    assert by_bus.certain


def test_uuids_make_mixed_cards_certain() -> None:
    """A mask of UUIDs means the same whatever CUDA's order is."""
    seen = visible_devices([card(0, T4), card(1, L4)], {"CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1"})
    assert seen.ordinals == (0, 1)
    assert seen.certain


def test_a_bare_prefix_names_no_card() -> None:
    """`GPU-` shows nothing even where it would be unambiguous, as the CUDA driver does on a machine
    with one card.
    """
    assert visible_devices([card(0)], {"CUDA_VISIBLE_DEVICES": "GPU-"}).ordinals == ()


def test_a_mig_card_stands_for_its_first_instance() -> None:
    """CUDA enumerates one MIG instance and then no whole card, whether the mask names the card, the
    instance or nothing.
    """
    readings = [card(0), card(1, mig_enabled=True), instance(1, 0), instance(1, 1)]
    assert visible_devices(readings, {}).ordinals == (2,)
    assert visible_devices(readings, {"CUDA_VISIBLE_DEVICES": "1"}).ordinals == (2,)
    assert visible_devices(readings, {"CUDA_VISIBLE_DEVICES": "GPU-1b"}).ordinals == (2,)
    assert visible_devices(readings, {"CUDA_VISIBLE_DEVICES": "MIG-11"}).ordinals == (3,)
    assert visible_devices(readings, {"CUDA_VISIBLE_DEVICES": "MIG-11,MIG-10"}).ordinals == (3,)
    assert visible_devices(readings, {"CUDA_VISIBLE_DEVICES": "0"}).ordinals == (0,)


def test_a_mig_card_without_instances_is_no_device() -> None:
    """A card in MIG mode with nothing set up is skipped; the whole cards beside it stay."""
    assert visible_devices([card(0, mig_enabled=True), card(1)], {}).ordinals == (1,)


def test_a_failed_card_is_no_device() -> None:
    """A lost card has no ordinal, and the cards after it move up."""
    lost = DeviceReading(nvml_index=0, failure=Failure(FailureKind.LOST, "GPU is lost"))
    assert visible_devices([lost, card(1)], {}).ordinals == (1,)


@st.composite
def machines(draw: st.DrawFn) -> list[DeviceReading]:
    """Any machine of up to four cards, equal or not, whole, split or lost."""
    readings: list[DeviceReading] = []
    for index in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["whole", "lost", "split", "empty"]))
        if kind == "lost":
            readings.append(
                DeviceReading(nvml_index=index, failure=Failure(FailureKind.LOST, "GPU is lost"))
            )
            continue
        readings.append(
            card(index, draw(st.sampled_from([L4, T4])), mig_enabled=kind in {"split", "empty"})
        )
        if kind == "split":
            readings += [instance(index, number) for number in range(draw(st.integers(1, 2)))]
    return readings


MASKS = st.one_of(
    st.none(),
    st.text(max_size=12),
    st.lists(
        st.sampled_from(
            ["0", "1", "2", "9", "-1", "GPU-0", "GPU-1b", "GPU-", "MIG-10", "MIG-", "x", ""]
        ),
        max_size=4,
    ).map(",".join),
)


@given(
    readings=machines(), mask=MASKS, order=st.sampled_from([None, "PCI_BUS_ID", "FASTEST_FIRST"])
)
def test_any_machine_under_any_mask_has_a_device_or_a_reason(
    readings: list[DeviceReading], mask: str | None, order: str | None
) -> None:
    """Ordinals are distinct usable devices; where there are none, a finding of severity error says
    why, and else there is no error.
    """
    environ = {
        name: value
        for name, value in (("CUDA_VISIBLE_DEVICES", mask), ("CUDA_DEVICE_ORDER", order))
        if value is not None
    }
    seen = visible_devices(readings, environ)
    assert len(set(seen.ordinals)) == len(seen.ordinals)
    assert all(
        readings[at].failure is None and not readings[at].mig_enabled for at in seen.ordinals
    )
    errors = [
        finding
        for finding in on_reading(HostState(), readings, seen)
        if finding.severity == "error"
    ]
    assert bool(errors) == (not seen.ordinals)
