"""The devices that a CUDA program sees, and their ordinals.

`CUDA_VISIBLE_DEVICES` and `CUDA_DEVICE_ORDER` are applied to readings. NVML counts cards in PCI
order. CUDA by default counts the fastest first, by a rule that NVIDIA does not publish; cards of
one model keep PCI order. So the two numberings agree for certain when
`CUDA_DEVICE_ORDER=PCI_BUS_ID`, when all cards are of one model, or when the mask names UUIDs. With
different models the fastest is estimated here and the result is marked as not certain.

Sources: CUDA programming guide, "CUDA environment variables"; MIG user guide, "CUDA device
enumeration"; for what the guide leaves out (numbers read like strtoul, a repeated entry hides
everything) PyTorch's own device count, which follows the driver.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dsmops.gpu.readings import DeviceReading

MASK = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


@dataclass(frozen=True, slots=True)
class Visibility:
    """The devices that CUDA enumerates.

    `ordinals[n]` is the position, in the list of readings, of the device with CUDA ordinal n.
    `mask` is the value of `CUDA_VISIBLE_DEVICES`, None when unset. `mask_problem` says why the mask
    hides more than it seems to.
    """

    ordinals: tuple[int, ...]
    certain: bool
    mask: str | None = None
    mask_problem: str | None = None


def visible_devices(readings: Sequence[DeviceReading], environ: Mapping[str, str]) -> Visibility:
    """Return what a CUDA program started in `environ` would see.

    Cards with a failure are taken as not enumerated.
    """
    mask = environ.get(MASK)
    cards = [
        at
        for at, reading in enumerate(readings)
        if reading.mig_parent_uuid is None and reading.failure is None
    ]
    mixed = len({readings[at].model for at in cards}) > 1
    by_bus = environ.get(ORDER) == "PCI_BUS_ID"
    if mixed and not by_bus:
        cards = _fastest_first(readings, cards)
    problem = None
    chosen = cards
    by_uuid = False
    if mask is not None:
        by_uuid = mask.startswith(("GPU-", "MIG-"))
        wanted, problem = _parse_uuids(mask, readings) if by_uuid else _parse_numbers(mask, cards)
        chosen = wanted
    return Visibility(_enumerated(readings, chosen), by_bus or by_uuid or not mixed, mask, problem)


def _fastest_first(readings: Sequence[DeviceReading], cards: Sequence[int]) -> list[int]:
    """Return `cards` in an estimated order of speed, the fastest first.

    By cores × clock where all cards tell them, else by architecture and memory bandwidth. Equal
    cards stay in bus order.
    """
    comparable = all(readings[at].throughput for at in cards)

    def speed(at: int) -> tuple[int, ...]:
        reading, capability = readings[at], readings[at].compute_capability
        if comparable:
            return (reading.throughput or 0,)
        sm = (capability.major, capability.minor) if capability else (0, 0)
        return (*sm, reading.memory_bandwidth_bytes_per_s or 0)

    return sorted(cards, key=speed, reverse=True)


def _parse_numbers(mask: str, cards: Sequence[int]) -> tuple[list[int], str | None]:
    chosen: list[int] = []
    for entry in mask.split(","):
        match = re.match(r"\s*\+?([0-9]+)", entry)
        number = int(match[1]) if match and len(match[1]) < 10 else -1
        if not 0 <= number < len(cards):
            return chosen, _cut(entry, empty=not mask.strip(), at_start=not chosen)
        if cards[number] in chosen:
            return [], f"{number} appears twice, and CUDA then shows no device at all"
        chosen.append(cards[number])
    return chosen, None


def _parse_uuids(mask: str, readings: Sequence[DeviceReading]) -> tuple[list[int], str | None]:
    prefix = mask[:4]
    chosen: list[int] = []
    for entry in mask.split(","):
        found = [
            at
            for at, reading in enumerate(readings)
            if reading.uuid and reading.uuid.startswith(entry) and not reading.failure
        ]
        # "GPU-" alone shows nothing, also where it would name one card (seen with driver 580).
        if not entry.startswith(prefix) or entry == prefix or len(found) != 1:
            return chosen, _cut(entry, empty=False, at_start=not chosen)
        if found[0] in chosen:
            return [], f"{entry} appears twice, and CUDA then shows no device at all"
        chosen.append(found[0])
    return chosen, None


def _cut(entry: str, *, empty: bool, at_start: bool) -> str:
    if empty:
        return "it is set and empty, which hides every device"
    what = "hides every device" if at_start else "CUDA ignores it and all entries after it"
    return f"{entry.strip()!r} names no device (or more than one); {what}"


def _enumerated(readings: Sequence[DeviceReading], chosen: Sequence[int]) -> tuple[int, ...]:
    """Return the devices after MIG.

    A card in MIG mode stands for its instances. CUDA takes only the first one, and then no whole
    card beside it.
    """
    whole: list[int] = []
    for at in chosen:
        if readings[at].mig_parent_uuid is not None:
            return (at,)
        if readings[at].mig_enabled:
            after = at + 1
            if after < len(readings) and readings[after].mig_parent_uuid is not None:
                return (after,)
        else:
            whole.append(at)
    return tuple(whole)
