"""What was read from a machine, before anything is concluded from it.

Plain values; whatever a driver did not give is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dsmops.devices import ComputeCapability


class FailureKind(StrEnum):
    """Why a driver, or one device of it, gave no readings."""

    BINDINGS_MISSING = "bindings_missing"
    LIBRARY_MISSING = "library_missing"
    TOOL_MISSING = "tool_missing"
    DRIVER_NOT_LOADED = "driver_not_loaded"
    VERSION_MISMATCH = "version_mismatch"
    NO_PERMISSION = "no_permission"
    BLOCKED = "blocked"
    LOST = "lost"
    RESET_REQUIRED = "reset_required"
    NO_POWER = "no_power"
    NO_ANSWER = "no_answer"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Failure:
    """A refusal with the library's own words in `detail`."""

    kind: FailureKind
    detail: str


class ComputeMode(StrEnum):
    """How many programs the driver lets compute on a card at once, as `nvidia-smi -c` sets it."""

    SHARED = "shared"
    EXCLUSIVE = "exclusive"
    PROHIBITED = "prohibited"


@dataclass(frozen=True, slots=True)
class Process:
    """A process that holds memory of a device.

    Name and bytes are None where the driver does not tell (WSL, other containers).
    """

    pid: int
    name: str | None
    used_bytes: int | None


@dataclass(frozen=True, slots=True)
class DeviceReading:
    """One GPU, or one MIG instance of a GPU, as the driver describes it.

    A MIG instance carries the UUID of its card in `mig_parent_uuid` and follows that card in every
    list. `throughput` is cores × MHz, only good for telling which of two cards is the faster.
    `processes` is None when the driver does not list them, and empty when there are none. A device
    with a `failure` has few readings or none.
    """

    nvml_index: int
    name: str | None = None
    uuid: str | None = None
    pci_bus_id: str | None = None
    compute_capability: ComputeCapability | None = None
    memory_total_bytes: int | None = None
    memory_free_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_bandwidth_bytes_per_s: int | None = None
    throughput: int | None = None
    display_active: bool | None = None
    mig_enabled: bool | None = None
    mig_parent_uuid: str | None = None
    compute_mode: ComputeMode | None = None
    processes: tuple[Process, ...] | None = None
    failure: Failure | None = None
    from_catalogue: tuple[str, ...] = ()
    """Names of the readings that the driver did not give and the catalogue filled in by name."""
    dropped: tuple[str, ...] = ()
    """Readings that no device can have, as `name value`; they count as missing."""
    shares_host_memory: bool = False
    """Whether the host's memory is the device's, so that total and free were read from the host."""

    @property
    def model(self) -> tuple[str | None, ComputeCapability | None]:
        """What tells two models of card apart for CUDA's ordering."""
        return self.name, self.compute_capability


@dataclass(frozen=True, slots=True)
class HostReading:
    """All devices in NVML order, with the driver they belong to.

    `cuda_driver_version` is the newest CUDA that the driver runs. `source` is `nvml`, `nvidia-smi`
    or `device-tree`. The two times are NVML's own: loading its library and initialising, then all
    queries; None when NVML was not what answered.
    """

    devices: tuple[DeviceReading, ...]
    source: str
    driver_version: str | None = None
    cuda_driver_version: tuple[int, int] | None = None
    nvml_init_ms: float | None = None
    nvml_read_ms: float | None = None
    unread: tuple[str, ...] = ()
    """Lines of nvidia-smi without readings."""
