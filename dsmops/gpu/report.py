"""The report on a machine's GPUs, and the choice of one of them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsmops.devices import Device
from dsmops.errors import DriverMissingError, EnvironmentMissingError, InputError
from dsmops.findings import Finding, Severity
from dsmops.gpu.readings import DeviceReading, Process
from dsmops.gpu.torch_build import TorchBuild
from dsmops.gpu.verdict import DeviceVerdict


class DeviceState(StrEnum):
    """What CUDA programs can do with a device here and now."""

    VISIBLE = "visible"
    HIDDEN = "hidden"
    SPLIT = "split"
    """A card in MIG mode; only its instances are devices."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DeviceReport:
    """One device: what planners need of it, what else was read, and the verdict.

    `simulated_as` is the text after `--simulate`, None for a real device. `from_catalogue` names
    the values that the driver did not give.
    """

    device: Device
    state: DeviceState
    verdict: DeviceVerdict
    pci_bus_id: str | None = None
    memory_used_bytes: int | None = None
    display_active: bool | None = None
    mig_parent_uuid: str | None = None
    processes: tuple[Process, ...] | None = None
    from_catalogue: tuple[str, ...] = ()
    simulated_as: str | None = None


@dataclass(frozen=True, slots=True)
class GpuReport:
    """All devices of a machine, and the findings about the machine.

    Devices are in NVML order, simulated ones as given. `source` is `nvml`, `nvidia-smi`,
    `device-tree`, `simulated`, or None when nothing answered. `cuda_driver_version` is the newest
    CUDA that the driver runs. `ordinals_certain` is False where the CUDA ordinals are an estimate.
    `pci_cards` counts the NVIDIA cards on the PCI bus, whatever the driver says of them; None for
    simulated ones. The times are NVML's own, apart from dsmops'.
    """

    devices: tuple[DeviceReport, ...]
    findings: tuple[Finding, ...]
    source: str | None
    driver_version: str | None = None
    cuda_driver_version: str | None = None
    cuda_visible_devices: str | None = None
    ordinals_certain: bool = True
    torch: TorchBuild | None = None
    pci_cards: int | None = None
    nvml_init_ms: float | None = None
    nvml_read_ms: float | None = None

    @property
    def visible(self) -> tuple[DeviceReport, ...]:
        """The devices that CUDA programs see, by ordinal; moshi-server takes the first."""
        seen = [device for device in self.devices if device.device.cuda_ordinal is not None]
        return tuple(sorted(seen, key=lambda device: device.device.cuda_ordinal or 0))


def choose(report: GpuReport, ordinal: int | None = None) -> Device:
    """Return the device with that CUDA ordinal; None means 0, the one moshi-server takes.

    Raises:
        DriverMissingError: no CUDA program would find a device here; code, message and hint are
            those of the finding that says why.
        InputError: there are devices, but none with that ordinal; the hint lists those there are.
    """
    require_visible(report)
    for device in report.visible:
        if device.device.cuda_ordinal == (ordinal or 0):
            return device.device
    listed = ", ".join(
        f"{each.device.cuda_ordinal} is {each.device.label}" for each in report.visible
    )
    raise InputError(
        f"there is no CUDA device {ordinal}",
        hint=f"Ordinals count the visible devices from 0: {listed}.",
        code="gpu.no_such_device",
    )


def require_visible(report: GpuReport) -> None:
    """Check that a CUDA program would find at least one device here.

    Raises:
        DriverMissingError: it would not.
    """
    if report.visible:
        return
    why = next(finding for finding in report.findings if finding.severity is Severity.ERROR)
    hint = f"{why.hint} To plan for a card that is not here, pretend: `--simulate t4`."
    raise DriverMissingError(f"no usable GPU: {why.message}", hint=hint, code=why.code)


def device_report(
    reading: DeviceReading, source: str, ordinal: int | None, verdict: DeviceVerdict
) -> DeviceReport:
    """Return the report on one reading.

    `ordinal` is its CUDA ordinal, None where CUDA does not enumerate it.
    """
    device = Device(
        name=reading.name or f"GPU {reading.nvml_index}",
        compute_capability=reading.compute_capability,
        memory_total_bytes=reading.memory_total_bytes,
        memory_free_bytes=reading.memory_free_bytes,
        memory_bandwidth_bytes_per_s=reading.memory_bandwidth_bytes_per_s,
        nvml_index=reading.nvml_index,
        cuda_ordinal=ordinal,
        uuid=reading.uuid,
        source=source,
        shares_host_memory=reading.shares_host_memory,
    )
    return DeviceReport(
        device=device,
        state=_state(reading, ordinal),
        verdict=verdict,
        pci_bus_id=reading.pci_bus_id,
        memory_used_bytes=reading.memory_used_bytes,
        display_active=reading.display_active,
        mig_parent_uuid=reading.mig_parent_uuid,
        processes=reading.processes,
        from_catalogue=reading.from_catalogue,
    )


def _state(reading: DeviceReading, ordinal: int | None) -> DeviceState:
    if reading.failure is not None:
        return DeviceState.FAILED
    if reading.mig_enabled:
        return DeviceState.SPLIT
    return DeviceState.HIDDEN if ordinal is None else DeviceState.VISIBLE


def has_pre_ampere(report: GpuReport) -> bool:
    """Return whether a visible device is older than Ampere, and so without bf16.

    Raises:
        EnvironmentMissingError: none is known to be, but the capability of one is unknown, so that
            the answer is unknown.
    """
    fails = [device.verdict.bf16_fails for device in report.visible]
    if True in fails:
        return True
    if None in fails:
        name = report.visible[fails.index(None)].device.name
        raise EnvironmentMissingError(
            f"cannot tell whether {name} is older than Ampere: its compute capability is unknown",
            hint="Update the NVIDIA driver, or say what the card is: `--simulate sm75`.",
            code="gpu.capability_unknown",
        )
    return False
