"""Cards that are not here: what `--simulate` stands for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dsmops.devices import ComputeCapability, Device
from dsmops.errors import InputError
from dsmops.gpu.catalogue import find_card, nearest_names
from dsmops.gpu.report import DeviceReport, DeviceState, GpuReport
from dsmops.gpu.torch_build import installed_torch
from dsmops.gpu.verdict import ARCHITECTURES, judge


def simulate(specs: Sequence[str]) -> GpuReport:
    """Return the report on a machine with these cards, CUDA ordinals in the order given.

    A spec is a compute capability (`sm75`, `sm_75`, `7.5`, `75`, `8`), one with a name (`75:Tesla
    T4`), or a card of the catalogue (`t4`, `RTX 2070 SUPER`). Memory and bandwidth are known where
    the catalogue knows the name; memory counts as wholly free, since free memory is None. There is
    no driver, so nothing limits the CUDA version.

    Raises:
        InputError: a spec is unknown; the hint has the nearest names.
    """
    torch = installed_torch()
    devices = []
    for ordinal, spec in enumerate(specs):
        device = parse_spec(spec, ordinal)
        verdict = judge(device.compute_capability, None, torch)
        devices.append(DeviceReport(device, DeviceState.VISIBLE, verdict, simulated_as=spec))
    return GpuReport(tuple(devices), (), source="simulated", torch=torch)


def parse_spec(spec: str, ordinal: int) -> Device:
    """Return the device that a `--simulate` spec describes, with that CUDA ordinal."""
    head, colon, name = (part.strip() for part in spec.partition(":"))
    capability = _capability(head)
    if capability is None:
        if colon or not (card := find_card(head)):
            raise _unknown(spec, head)
        name, capability = card.name, card.compute_capability
    card = find_card(name) if name else None
    if card and card.compute_capability != capability:
        raise InputError(
            f"--simulate {spec}: {card.name} has compute capability {card.compute_capability}, not"
            f" {capability}",
            hint=f"Write `--simulate '{name}'`, or another name after the colon.",
            code="gpu.unknown_card",
        )
    if colon and not name:
        raise InputError(
            f"--simulate {spec}: no name after the colon",
            hint="Write it like `75:Tesla T4`.",
            code="gpu.unknown_card",
        )
    return Device(
        name=name or f"Simulated {ARCHITECTURES[capability].family} GPU",
        compute_capability=capability,
        memory_total_bytes=card.memory_bytes if card else None,
        memory_free_bytes=None,
        memory_bandwidth_bytes_per_s=card.memory_bandwidth_bytes_per_s if card else None,
        nvml_index=None,
        cuda_ordinal=ordinal,
        uuid=None,
        source="simulated",
        shares_host_memory=bool(card and card.shares_host_memory),
    )


def _capability(text: str) -> ComputeCapability | None:
    """Read a capability that exists.

    `8` is 8.0, and `12` is 12.0, since no card ever was a 1.2 that CUDA still knows.
    """
    major_only = re.fullmatch(r"(?:sm_?|compute_?)?(\d{1,2})", text.lower())
    if major_only and (found := ComputeCapability(int(major_only[1]), 0)) in ARCHITECTURES:
        return found
    try:
        found = ComputeCapability.parse(text)
    except ValueError:
        return None
    return found if found in ARCHITECTURES else None


def _unknown(spec: str, head: str) -> InputError:
    near = nearest_names(head)
    if re.fullmatch(r"(sm_?|compute_?)?(\d{1,3}|\d+\.\d+)[af]?", head.lower()):
        known = ", ".join(str(capability) for capability in ARCHITECTURES)
        hint = f"CUDA's capabilities from Kepler on are {known}."
    elif near:
        hint = f"Did you mean {' or '.join(near)}? A capability works too: `sm75`."
    else:
        hint = (
            "Name a card (t4, rtx2070, gtx1660ti, v100, l4, h100, ...), a capability (sm75, 7.5),"
            " or both (`75:My card`)."
        )
    return InputError(
        f"{spec}: no such card or compute capability", hint=hint, code="gpu.unknown_card"
    )
