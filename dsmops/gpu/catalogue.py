"""A small catalogue of cards.

`--simulate` uses it, and it fills in readings that a driver did not give. Capabilities are those of
NVIDIA's list of CUDA GPUs. Memory and bandwidth are those of NVIDIA's data sheets, product briefs
(T4: PB-09256) and GeForce product pages. A card sold in two memory sizes under one name appears
once under that name, as the more common one, and once with its size. Laptop variants share a name
and a capability, not a memory bus, so only their capability is known here.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from dsmops.devices import ComputeCapability

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Card:
    """A card as its data sheet has it.

    `memory_bytes` is what its driver reports as total, give or take half a per cent.
    """

    name: str
    compute_capability: ComputeCapability
    memory_bytes: int
    memory_bandwidth_bytes_per_s: int
    shares_host_memory: bool = False


def _card(
    name: str, sm: str, memory_gib: int, bandwidth_gb_s: int, *, ecc_in_memory: bool = False
) -> Card:
    # Data-centre cards with GDDR6 keep their error correction in the same memory and have it on by
    # default: one part in 16 is gone (a T4 reports 15360 MiB, an L4 23034). HBM has extra memory
    # for it; GeForce has none; Quadro RTX ships with it off.
    memory = memory_gib * _GIB * 15 // 16 if ecc_in_memory else memory_gib * _GIB
    return Card(name, ComputeCapability.parse(sm), memory, bandwidth_gb_s * 10**9)


def _unified(name: str, sm: str, memory_gb: int, bandwidth_gb_s: float) -> Card:
    # The operating system sees about 94 % of it: the rest is the firmware's. A DGX Spark of 128 GB
    # shows 119.7 GiB, an AGX Orin of 64 GB 61.4.
    memory = int(memory_gb * _GIB * 0.94)
    return Card(
        name,
        ComputeCapability.parse(sm),
        memory,
        int(bandwidth_gb_s * 10**9),
        shares_host_memory=True,
    )


CARDS = (
    _card("Tesla P100", "6.0", 16, 732),
    _card("Tesla P100 12GB", "6.0", 12, 549),
    _card("Tesla V100", "7.0", 16, 900),
    _card("Tesla V100 32GB", "7.0", 32, 900),
    _card("Tesla V100S", "7.0", 32, 1134),
    _card("Tesla T4", "7.5", 16, 320, ecc_in_memory=True),
    _card("NVIDIA A10", "8.6", 24, 600, ecc_in_memory=True),
    _card("NVIDIA A100 40GB", "8.0", 40, 1555),
    _card("NVIDIA A100 80GB", "8.0", 80, 2039),
    _card("NVIDIA A100 80GB PCIe", "8.0", 80, 1935),
    _card("NVIDIA L4", "8.9", 24, 300, ecc_in_memory=True),
    _card("NVIDIA L40S", "8.9", 48, 864, ecc_in_memory=True),
    _card("NVIDIA H100", "9.0", 80, 3350),
    _card("NVIDIA H100 PCIe", "9.0", 80, 2000),
    _card("NVIDIA H100 NVL", "9.0", 94, 3900),
    _card("NVIDIA H200", "9.0", 141, 4800),
    _card("GeForce GTX 1050", "6.1", 2, 112),
    _card("GeForce GTX 1050 Ti", "6.1", 4, 112),
    _card("GeForce GTX 1060", "6.1", 6, 192),
    _card("GeForce GTX 1060 3GB", "6.1", 3, 192),
    _card("GeForce GTX 1070", "6.1", 8, 256),
    _card("GeForce GTX 1070 Ti", "6.1", 8, 256),
    _card("GeForce GTX 1080", "6.1", 8, 320),
    _card("GeForce GTX 1080 Ti", "6.1", 11, 484),
    _card("GeForce GTX 1630", "7.5", 4, 96),
    _card("GeForce GTX 1650", "7.5", 4, 128),
    _card("GeForce GTX 1650 SUPER", "7.5", 4, 192),
    _card("GeForce GTX 1660", "7.5", 6, 192),
    _card("GeForce GTX 1660 SUPER", "7.5", 6, 336),
    _card("GeForce GTX 1660 Ti", "7.5", 6, 288),
    _card("GeForce RTX 2060", "7.5", 6, 336),
    _card("GeForce RTX 2060 12GB", "7.5", 12, 336),
    _card("GeForce RTX 2060 SUPER", "7.5", 8, 448),
    _card("GeForce RTX 2070", "7.5", 8, 448),
    _card("GeForce RTX 2070 SUPER", "7.5", 8, 448),
    _card("GeForce RTX 2080", "7.5", 8, 448),
    _card("GeForce RTX 2080 SUPER", "7.5", 8, 496),
    _card("GeForce RTX 2080 Ti", "7.5", 11, 616),
    _card("Quadro RTX 4000", "7.5", 8, 416),
    _card("Quadro RTX 5000", "7.5", 16, 448),
    _card("Quadro RTX 6000", "7.5", 24, 672),
    _card("Quadro RTX 8000", "7.5", 48, 672),
    _card("GeForce RTX 3050", "8.6", 8, 224),
    _card("GeForce RTX 3060", "8.6", 12, 360),
    _card("GeForce RTX 3060 Ti", "8.6", 8, 448),
    _card("GeForce RTX 3070", "8.6", 8, 448),
    _card("GeForce RTX 3070 Ti", "8.6", 8, 608),
    _card("GeForce RTX 3080", "8.6", 10, 760),
    _card("GeForce RTX 3080 12GB", "8.6", 12, 912),
    _card("GeForce RTX 3080 Ti", "8.6", 12, 912),
    _card("GeForce RTX 3090", "8.6", 24, 936),
    _card("GeForce RTX 3090 Ti", "8.6", 24, 1008),
    _card("GeForce RTX 4060", "8.9", 8, 272),
    _card("GeForce RTX 4060 Ti", "8.9", 8, 288),
    _card("GeForce RTX 4060 Ti 16GB", "8.9", 16, 288),
    _card("GeForce RTX 4070", "8.9", 12, 504),
    _card("GeForce RTX 4070 SUPER", "8.9", 12, 504),
    _card("GeForce RTX 4070 Ti", "8.9", 12, 504),
    _card("GeForce RTX 4070 Ti SUPER", "8.9", 16, 672),
    _card("GeForce RTX 4080", "8.9", 16, 717),
    _card("GeForce RTX 4080 SUPER", "8.9", 16, 736),
    _card("GeForce RTX 4090", "8.9", 24, 1008),
    _card("GeForce RTX 5050", "12.0", 8, 320),
    _card("GeForce RTX 5060", "12.0", 8, 448),
    _card("GeForce RTX 5060 Ti", "12.0", 8, 448),
    _card("GeForce RTX 5060 Ti 16GB", "12.0", 16, 448),
    _card("GeForce RTX 5070", "12.0", 12, 672),
    _card("GeForce RTX 5070 Ti", "12.0", 16, 896),
    _card("GeForce RTX 5080", "12.0", 16, 960),
    _card("GeForce RTX 5090", "12.0", 32, 1792),
    _card("NVIDIA GH200", "9.0", 96, 4000),
    _card("NVIDIA GH200 144GB", "9.0", 144, 4900),
    _unified("NVIDIA GB10", "12.1", 128, 273),
    _unified("Jetson AGX Thor", "11.0", 128, 273),
    _unified("Jetson AGX Orin 64GB", "8.7", 64, 204.8),
    _unified("Jetson AGX Orin 32GB", "8.7", 32, 204.8),
    _unified("Jetson Orin NX 16GB", "8.7", 16, 102.4),
    _unified("Jetson Orin NX 8GB", "8.7", 8, 102.4),
    _unified("Jetson Orin Nano 8GB", "8.7", 8, 68),
    _unified("Jetson Orin Nano 4GB", "8.7", 4, 34),
    _unified("Jetson AGX Xavier", "7.2", 32, 136.5),
    _unified("Jetson Xavier NX", "7.2", 8, 59.7),
)


def _key(name: str) -> str:
    """`NVIDIA GeForce RTX 2070 SUPER` and `rtx-2070-super` are the same card."""
    words = re.sub(r"[^a-z0-9]+", " ", name.lower()).split()
    return "".join(
        word
        for word in words
        if word not in {"nvidia", "geforce", "tesla", "corporation", "graphics"}
    )


_BY_KEY = {_key(card.name): card for card in CARDS}

# Names under which drivers list these cards, and the short one people use for the A100.
_OTHER_NAMES = {
    "A100": "NVIDIA A100 40GB",
    "A100-SXM4-40GB": "NVIDIA A100 40GB",
    "A100-PCIE-40GB": "NVIDIA A100 40GB",
    "A100-SXM4-80GB": "NVIDIA A100 80GB",
    "H100 80GB HBM3": "NVIDIA H100",
    "H100-SXM5-80GB": "NVIDIA H100",
    "H200 NVL": "NVIDIA H200",
    "GH200 480GB": "NVIDIA GH200",
    "DGX Spark": "NVIDIA GB10",
    "AGX Orin": "Jetson AGX Orin 64GB",
    "Orin NX": "Jetson Orin NX 16GB",
    "Orin Nano": "Jetson Orin Nano 8GB",
    "Jetson AGX Orin": "Jetson AGX Orin 64GB",
    "Jetson Orin NX": "Jetson Orin NX 16GB",
    "Jetson Orin Nano": "Jetson Orin Nano 8GB",
    "AGX Thor": "Jetson AGX Thor",
    "Jetson Thor": "Jetson AGX Thor",
    "GTX 1060 6GB": "GeForce GTX 1060",
    "P100-PCIE-16GB": "Tesla P100",
    "P100-SXM2-16GB": "Tesla P100",
    "P100-PCIE-12GB": "Tesla P100 12GB",
    "V100-PCIE-16GB": "Tesla V100",
    "V100-SXM2-16GB": "Tesla V100",
    "V100-PCIE-32GB": "Tesla V100 32GB",
    "V100-SXM2-32GB": "Tesla V100 32GB",
    "V100S-PCIE-32GB": "Tesla V100S",
}
_BY_KEY |= {_key(other): _BY_KEY[_key(name)] for other, name in _OTHER_NAMES.items()}

_LAPTOP = re.compile(r"\b(laptop gpu|laptop|mobile|with max-?q( design)?|max-?q)\b", re.IGNORECASE)


def short_names() -> list[str]:
    """Return the shortest name of each card that `find_card` knows, such as `t4`."""
    return [_key(card.name) for card in CARDS]


def find_card(name: str) -> Card | None:
    """Return the card of that name, in any spelling.

    None for one that is not in the catalogue, laptop variants included.
    """
    return _BY_KEY.get(_key(name))


def bandwidth_of_shared(name: str, capability: ComputeCapability | None) -> int | None:
    """Return the bandwidth of the host's memory that a device of this name shares.

    None where the name does not determine it.
    """
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    found = {
        card.memory_bandwidth_bytes_per_s
        for card in CARDS
        if card.shares_host_memory
        and capability in (None, card.compute_capability)
        and {
            word
            for word in re.findall(r"[a-z0-9]+", card.name.lower())
            if not re.fullmatch(r"nvidia|jetson|\d+gb", word)
        }
        <= words
    }
    return found.pop() if len(found) == 1 else None


def capability_of(name: str) -> ComputeCapability | None:
    """Return the compute capability of the card of that name, laptop variants included."""
    card = find_card(name) or find_card(_LAPTOP.sub("", name))
    return card.compute_capability if card else None


def nearest_names(name: str, count: int = 3) -> list[str]:
    """Return the names of the catalogue most like `name`, in the form that `--simulate` takes."""
    return difflib.get_close_matches(_key(name), list(_BY_KEY), n=count, cutoff=0.4)
