"""Detect the GPUs of this machine: by NVML, then nvidia-smi, never torch.

torch would create a CUDA context just to list GPUs.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dsmops.devices import ComputeCapability
from dsmops.findings import Finding
from dsmops.gpu import nvml, smi
from dsmops.gpu.belief import believable
from dsmops.gpu.catalogue import bandwidth_of_shared, capability_of, find_card
from dsmops.gpu.findings import no_driver, nvml_failed, odd_readings, on_reading
from dsmops.gpu.host import HostState, read_host
from dsmops.gpu.readings import DeviceReading, Failure, FailureKind, HostReading
from dsmops.gpu.report import GpuReport, device_report
from dsmops.gpu.torch_build import installed_torch
from dsmops.gpu.verdict import ARCHITECTURES, judge
from dsmops.gpu.visible import MASK, visible_devices

# Where NVML fails for these, nvidia-smi fails for the same reason, and may take its whole time
# limit to say so.
_FINAL = {FailureKind.VERSION_MISMATCH, FailureKind.DRIVER_NOT_LOADED}


def probe(
    root: Path = Path("/"), environ: Mapping[str, str] | None = None, platform: str = sys.platform
) -> GpuReport:
    """Return the report on this machine's GPUs.

    Never raises for what hardware, driver or environment do: that is what it reports.

    `root` is where the machine's files are read from, `environ` (default: this process's) holds the
    mask of visible devices, `platform` is its operating system as `sys.platform` spells it.
    """
    environ = os.environ if environ is None else environ
    host = read_host(root, environ, platform)
    reading = nvml.read()
    extra: list[Finding] = []
    if isinstance(reading, Failure):
        refusal = reading
        second = None if refusal.kind in _FINAL else smi.read(root)
        if isinstance(second, Failure) and (jetson := _jetson(host)):
            return _report(jetson, host, environ, extra)
        if not isinstance(second, HostReading):
            found = (no_driver(refusal, second, host),)
            mask = environ.get(MASK)
            return GpuReport(
                (),
                found,
                source=None,
                cuda_visible_devices=mask,
                torch=installed_torch(),
                pci_cards=host.pci_cards,
            )
        reading = second
        extra.append(nvml_failed(refusal))
    return _report(reading, host, environ, extra)


def _report(
    reading: HostReading, host: HostState, environ: Mapping[str, str], extra: Sequence[Finding]
) -> GpuReport:
    readings = [_fill_in(believable(device), host) for device in reading.devices]
    visibility = visible_devices(readings, environ)
    torch = installed_torch()
    ordinal_of = {at: ordinal for ordinal, at in enumerate(visibility.ordinals)}
    devices = tuple(
        device_report(
            device,
            reading.source,
            ordinal_of.get(at),
            judge(device.compute_capability, reading.cuda_driver_version, torch),
        )
        for at, device in enumerate(readings)
    )
    cuda = reading.cuda_driver_version
    return GpuReport(
        devices=devices,
        findings=(
            *on_reading(host, readings, visibility),
            *odd_readings(readings, reading.unread),
            *extra,
        ),
        source=reading.source,
        driver_version=reading.driver_version,
        cuda_driver_version=f"{cuda[0]}.{cuda[1]}" if cuda else None,
        cuda_visible_devices=visibility.mask,
        ordinals_certain=visibility.certain,
        torch=torch,
        pci_cards=host.pci_cards,
        nvml_init_ms=reading.nvml_init_ms,
        nvml_read_ms=reading.nvml_read_ms,
    )


_SHARED = re.compile(r"\b(GB10|Orin|Thor|Xavier|Tegra|nvgpu)\b", re.IGNORECASE)
"""Names of devices without memory of their own. A GH200 has some, and as a rule reports it."""


def _jetson(host: HostState) -> HostReading | None:
    """Return the one device of a Jetson whose driver has no NVML, by its device tree."""
    if not host.jetson_sm:
        return None
    device = DeviceReading(
        0, host.jetson_model, compute_capability=ComputeCapability.parse(host.jetson_sm)
    )
    return HostReading((device,), source="device-tree")


def _share_memory(reading: DeviceReading, host: HostState) -> DeviceReading:
    """Take the host's memory where the device has none of its own."""
    name, capability = reading.name or "", reading.compute_capability
    is_embedded = capability in ARCHITECTURES and ARCHITECTURES[capability].embedded
    lacks_own = reading.memory_total_bytes is None and (host.jetson_model or "GH200" in name)
    if not (is_embedded or _SHARED.search(name) or lacks_own):
        return reading
    return replace(
        reading,
        memory_total_bytes=host.memory_total_bytes,
        memory_free_bytes=host.memory_available_bytes,
        memory_bandwidth_bytes_per_s=reading.memory_bandwidth_bytes_per_s
        or bandwidth_of_shared(f"{name} {host.jetson_model or ''}", capability),
        shares_host_memory=True,
    )


def _fill_in(reading: DeviceReading, host: HostState) -> DeviceReading:
    """Fill in missing readings, and note them in `from_catalogue`.

    The catalogue has what is the same for every card of that name. The host has the memory that
    both share.
    """
    if reading.failure is not None or reading.mig_parent_uuid is not None:
        return reading
    reading = _share_memory(reading, host)
    if reading.name is None:
        return reading
    card = find_card(reading.name)
    filled: dict[str, object] = {}
    if reading.compute_capability is None and (capability := capability_of(reading.name)):
        filled["compute_capability"] = capability
    # One name may stand for two memory buses, but not with the same amount of memory.
    same_memory = (
        card
        and reading.memory_total_bytes
        and abs(reading.memory_total_bytes / card.memory_bytes - 1) < 0.1
    )
    if reading.memory_bandwidth_bytes_per_s is None and card and same_memory:
        filled["memory_bandwidth_bytes_per_s"] = card.memory_bandwidth_bytes_per_s
    return replace(reading, **filled, from_catalogue=tuple(filled)) if filled else reading  # type: ignore[arg-type]
