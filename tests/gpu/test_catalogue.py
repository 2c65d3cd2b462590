"""The catalogue: figures that agree with each other, and names as people and drivers write them."""

from __future__ import annotations

import pytest

from dsmops.devices import ComputeCapability
from dsmops.gpu.catalogue import CARDS, capability_of, find_card, nearest_names

# Data rate in Gbit/s a pin and bus width in bits: a second way to the same bandwidth, from the same
# product pages.
GDDR = {
    "t4": (10, 256),
    "a10": (12.5, 384),
    "l4": (12.5, 192),
    "l40s": (18, 384),
    "gtx1050": (7, 128),
    "gtx1050ti": (7, 128),
    "gtx1060": (8, 192),
    "gtx1060 3gb": (8, 192),
    "gtx1070": (8, 256),
    "gtx1070ti": (8, 256),
    "gtx1080": (10, 256),
    "gtx1080ti": (11, 352),
    "gtx1630": (12, 64),
    "gtx1650": (8, 128),
    "gtx1650super": (12, 128),
    "gtx1660": (8, 192),
    "gtx1660super": (14, 192),
    "gtx1660ti": (12, 192),
    "rtx2060": (14, 192),
    "rtx2060 12gb": (14, 192),
    "rtx2060super": (14, 256),
    "rtx2070": (14, 256),
    "rtx2070super": (14, 256),
    "rtx2080": (14, 256),
    "rtx2080super": (15.5, 256),
    "rtx2080ti": (14, 352),
    "quadro rtx 4000": (13, 256),
    "quadro rtx 5000": (14, 256),
    "quadro rtx 6000": (14, 384),
    "quadro rtx 8000": (14, 384),
    "rtx3050": (14, 128),
    "rtx3060": (15, 192),
    "rtx3060ti": (14, 256),
    "rtx3070": (14, 256),
    "rtx3070ti": (19, 256),
    "rtx3080": (19, 320),
    "rtx3080 12gb": (19, 384),
    "rtx3080ti": (19, 384),
    "rtx3090": (19.5, 384),
    "rtx3090ti": (21, 384),
    "rtx4060": (17, 128),
    "rtx4060ti": (18, 128),
    "rtx4060ti 16gb": (18, 128),
    "rtx4070": (21, 192),
    "rtx4070super": (21, 192),
    "rtx4070ti": (21, 192),
    "rtx4070tisuper": (21, 256),
    "rtx4080": (22.4, 256),
    "rtx4080super": (23, 256),
    "rtx4090": (21, 384),
    "rtx5050": (20, 128),
    "rtx5060": (28, 128),
    "rtx5060ti": (28, 128),
    "rtx5060ti 16gb": (28, 128),
    "rtx5070": (28, 192),
    "rtx5070ti": (28, 256),
    "rtx5080": (30, 256),
    "rtx5090": (28, 512),
}


@pytest.mark.parametrize("name", GDDR)
def test_bandwidth_is_data_rate_times_bus_width(name: str) -> None:
    """The bandwidth of every card with GDDR memory follows from its data rate and its bus, within 1
    %.
    """
    card = find_card(name)
    assert card is not None
    gbit_per_s, width_bits = GDDR[name]
    assert card.memory_bandwidth_bytes_per_s == pytest.approx(
        gbit_per_s * 1e9 * width_bits / 8, rel=0.01
    )


def test_every_card_with_gddr_is_checked() -> None:
    """Only HBM cards, and those in the host's memory, are not in the table above."""
    checked = {find_card(name) for name in GDDR}
    assert all(
        card.name.split()[1][:4] in {"P100", "V100", "A100", "H100", "H200", "GH20"}
        for card in CARDS
        if card not in checked and not card.shares_host_memory
    )


@pytest.mark.parametrize(
    ("series", "sm"),
    [
        ("GTX 10", "6.1"),
        ("GTX 16", "7.5"),
        ("RTX 20", "7.5"),
        ("RTX 30", "8.6"),
        ("RTX 40", "8.9"),
        ("RTX 50", "12.0"),
        ("Quadro RTX", "7.5"),
    ],
)
def test_a_series_has_one_capability(series: str, sm: str) -> None:
    """All cards of a consumer series are of one architecture."""
    found = {
        card.compute_capability
        for card in CARDS
        if series in card.name and (series == "Quadro RTX" or "Quadro" not in card.name)
    }
    assert found == {ComputeCapability.parse(sm)}


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("t4", "Tesla T4"),
        ("Tesla T4", "Tesla T4"),
        ("NVIDIA T4", "Tesla T4"),
        ("rtx2070", "GeForce RTX 2070"),
        ("RTX-2070-Super", "GeForce RTX 2070 SUPER"),
        ("NVIDIA GeForce RTX 2070 SUPER", "GeForce RTX 2070 SUPER"),
        ("rtx_2080_ti", "GeForce RTX 2080 Ti"),
        ("GeForce GTX 1060 6GB", "GeForce GTX 1060"),
        ("Tesla V100-SXM2-32GB", "Tesla V100 32GB"),
        ("Tesla P100-PCIE-16GB", "Tesla P100"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 80GB PCIe"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100"),
        ("h200", "NVIDIA H200"),
        ("Quadro RTX 6000", "Quadro RTX 6000"),
    ],
)
def test_names_are_understood_however_written(written: str, name: str) -> None:
    """Marketing names, drivers' names and short names find the same card."""
    card = find_card(written)
    assert card is not None
    assert card.name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA",
        "RTX 6000",
        "NVIDIA RTX 6000 Ada Generation",
        "T400",
        "RTX 2070 with Max-Q Design",
        "Radeon",
    ],
)
def test_names_of_other_cards_are_not_taken_for_these(name: str) -> None:
    """A resembling name is not a match: an RTX 6000 Ada is not a Quadro RTX 6000, and a laptop's
    memory bus is another.
    """
    assert find_card(name) is None


@pytest.mark.parametrize(
    "name",
    ["GeForce RTX 2070 with Max-Q Design", "NVIDIA GeForce RTX 2070 Laptop GPU", "RTX 2070 Mobile"],
)
def test_laptop_cards_share_the_capability(name: str) -> None:
    """The capability of a laptop variant is that of the card it is named after."""
    assert capability_of(name) == ComputeCapability(7, 5)


def test_no_two_cards_answer_to_one_name() -> None:
    """Every card is found under its own name."""
    assert all(find_card(card.name) is card for card in CARDS)


def test_nearest_names() -> None:
    """A typing mistake finds its neighbours."""
    assert nearest_names("rtx2071")[0] == "rtx2070"
    assert "t4" in nearest_names("tesla-t5", 5)
