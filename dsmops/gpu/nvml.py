"""The only module that imports pynvml.

NVML is loaded inside `read`, asked everything once, and shut down again.

A query that a device does not support gives None. Errors that concern a whole device or the whole
driver become a `Failure`, by one table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dsmops.devices import ComputeCapability
from dsmops.gpu.readings import (
    ComputeMode,
    DeviceReading,
    Failure,
    FailureKind,
    HostReading,
    Process,
)

# NVML return codes that end a device's or the driver's reading (nvml.h, nvmlReturn_t). All others
# mean one missing value.
_FAILURES = {
    4: FailureKind.NO_PERMISSION,
    8: FailureKind.NO_POWER,
    9: FailureKind.DRIVER_NOT_LOADED,
    11: (
        FailureKind.LOST
    ),  # the kernel could not deliver interrupts to the GPU; it is as unusable as a lost one
    12: FailureKind.LIBRARY_MISSING,
    15: FailureKind.LOST,
    16: FailureKind.RESET_REQUIRED,
    17: FailureKind.BLOCKED,
    18: FailureKind.VERSION_MISMATCH,
}
_FUNCTION_NOT_FOUND = 13
# nvmlComputeMode_t; exclusive by thread is long gone and means the same now.
_COMPUTE_MODES = {
    0: ComputeMode.SHARED,
    1: ComputeMode.EXCLUSIVE,
    2: ComputeMode.PROHIBITED,
    3: ComputeMode.EXCLUSIVE,
}


def read() -> HostReading | Failure:
    """Return what NVML says about this machine, or why it says nothing.

    Never raises for what hardware or driver do.
    """
    try:
        import pynvml
    except ImportError as exc:
        return Failure(FailureKind.BINDINGS_MISSING, str(exc))
    started_s = time.perf_counter()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as exc:
        return _failure(exc)
    init_ms = (time.perf_counter() - started_s) * 1000
    try:
        started_s = time.perf_counter()
        devices = _devices(pynvml)
        driver = _ask(pynvml, pynvml.nvmlSystemGetDriverVersion)
        cuda = _ask(pynvml, pynvml.nvmlSystemGetCudaDriverVersion_v2)
        return HostReading(
            devices=devices,
            source="nvml",
            driver_version=driver,
            # NVML writes 12.4 as 12040.
            cuda_driver_version=(cuda // 1000, cuda % 1000 // 10) if cuda else None,
            nvml_init_ms=round(init_ms, 1),
            nvml_read_ms=round((time.perf_counter() - started_s) * 1000, 1),
        )
    except pynvml.NVMLError as exc:
        return _failure(exc)
    finally:
        _ask(pynvml, pynvml.nvmlShutdown)


def _failure(exc: Any) -> Failure:
    return Failure(_FAILURES.get(exc.value, FailureKind.UNKNOWN), str(exc))


def _ask(nvml: Any, query: Callable[..., Any], *args: Any) -> Any:
    """Return the answer, or None where this device or driver has none.

    Raises:
        NVMLError: the device itself is gone, so that asking on makes no sense.
    """
    try:
        return query(*args)
    except nvml.NVMLError as exc:
        if _FAILURES.get(exc.value) in {FailureKind.LOST, FailureKind.RESET_REQUIRED}:
            raise
        return None
    except UnicodeDecodeError:  # a process may be called anything
        return None


def _devices(nvml: Any) -> tuple[DeviceReading, ...]:
    readings: list[DeviceReading] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            card = _read_device(nvml, handle, index)
            instances = _mig_instances(nvml, handle, card) if card.mig_enabled else []
        except nvml.NVMLError as exc:
            readings.append(DeviceReading(nvml_index=index, failure=_failure(exc)))
        else:
            readings += [card, *instances]
    return tuple(readings)


def _read_device(nvml: Any, handle: Any, index: int) -> DeviceReading:
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    pci = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    display = _ask(nvml, nvml.nvmlDeviceGetDisplayActive, handle)
    mig = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    cores = _ask(nvml, nvml.nvmlDeviceGetNumGpuCores, handle)
    clock_mhz = _ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM)
    return DeviceReading(
        nvml_index=index,
        name=_ask(nvml, nvml.nvmlDeviceGetName, handle),
        uuid=_ask(nvml, nvml.nvmlDeviceGetUUID, handle),
        pci_bus_id=pci.busId if pci else None,
        compute_capability=ComputeCapability(*capability) if capability else None,
        # A driver of a card that shares the host's memory may answer with zeros instead of "not
        # supported".
        memory_total_bytes=(memory.total or None) if memory else None,
        memory_free_bytes=memory.free if memory and memory.total else None,
        memory_used_bytes=memory.used if memory and memory.total else None,
        memory_bandwidth_bytes_per_s=_bandwidth(nvml, handle),
        throughput=cores * clock_mhz if cores and clock_mhz else None,
        display_active=bool(display) if display is not None else None,
        compute_mode=_COMPUTE_MODES.get(_ask(nvml, nvml.nvmlDeviceGetComputeMode, handle)),
        mig_enabled=mig[0] == nvml.NVML_DEVICE_MIG_ENABLE if mig else None,
        processes=_processes(nvml, handle),
    )


def _bandwidth(nvml: Any, handle: Any) -> int | None:
    """Return the peak of the memory bus in bytes a second: two transfers a clock × bus width.

    A T4: 2 × 5001 MHz × 256 bit = 320 GB/s.
    """
    width_bits = _ask(nvml, nvml.nvmlDeviceGetMemoryBusWidth, handle)
    clock_mhz = _ask(nvml, nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM)
    return 2 * clock_mhz * 1_000_000 * width_bits // 8 if width_bits and clock_mhz else None


def _mig_instances(nvml: Any, handle: Any, card: DeviceReading) -> list[DeviceReading]:
    instances = []
    for index in range(_ask(nvml, nvml.nvmlDeviceGetMaxMigDeviceCount, handle) or 0):
        instance = _ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, index)
        if instance is None:  # a free place
            continue
        memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, instance)
        instances.append(
            DeviceReading(
                nvml_index=card.nvml_index,
                name=_ask(nvml, nvml.nvmlDeviceGetName, instance) or f"{card.name} MIG {index}",
                uuid=_ask(nvml, nvml.nvmlDeviceGetUUID, instance),
                pci_bus_id=card.pci_bus_id,
                compute_capability=card.compute_capability,
                memory_total_bytes=memory.total if memory else None,
                memory_free_bytes=memory.free if memory else None,
                memory_used_bytes=memory.used if memory else None,
                mig_parent_uuid=card.uuid or "",
            )
        )
    return instances


def _processes(nvml: Any, handle: Any) -> tuple[Process, ...] | None:
    """Return compute and graphics processes by falling memory, each pid once.

    None where the driver does not list them.
    """
    found: dict[int, int | None] = {}
    listed = False
    for newest, older in (
        (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetComputeRunningProcesses_v2),
        (nvml.nvmlDeviceGetGraphicsRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses_v2),
    ):
        try:
            entries = _ask_strictly(nvml, newest, older, handle)
        except nvml.NVMLError:
            continue
        listed = True
        for entry in entries:
            known = found.get(entry.pid)
            # A process with both kinds of context is listed twice with the same memory.
            found[entry.pid] = (
                entry.usedGpuMemory if known is None else max(known, entry.usedGpuMemory or 0)
            )
    if not listed:
        return None
    ordered = sorted(found.items(), key=lambda item: (-(item[1] or 0), item[0]))
    return tuple(
        Process(pid, _ask(nvml, nvml.nvmlSystemGetProcessName, pid) or None, used)
        for pid, used in ordered
    )


def _ask_strictly(
    nvml: Any, newest: Callable[..., Any], older: Callable[..., Any], handle: Any
) -> Any:
    """Return the answer to a process query, also from old drivers.

    Drivers before 510 lack the third version of the process queries, which the bindings call by
    default.
    """
    try:
        return newest(handle)
    except nvml.NVMLError as exc:
        if exc.value != _FUNCTION_NOT_FOUND:
            raise
        return older(handle)
