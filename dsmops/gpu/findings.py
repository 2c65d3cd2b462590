"""Findings on a machine's GPUs: each has a stable code, a message and a hint."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

from dsmops.findings import Finding, Severity
from dsmops.gpu.host import HostState
from dsmops.gpu.readings import ComputeMode, DeviceReading, Failure, FailureKind
from dsmops.gpu.visible import MASK, ORDER, Visibility
from dsmops.units import size


class GpuCode(StrEnum):
    """The codes of all findings about a machine's GPUs, stable for scripts and runbooks.

    An error means that because of it nothing is usable, a warning that something is, but not all.
    """

    DRIVER_MISSING = "gpu.driver_missing"
    JETSON = "gpu.jetson"
    DRIVER_MISMATCH = "gpu.driver_mismatch"
    DRIVER_NOT_LOADED = "gpu.driver_not_loaded"
    ACCESS_REFUSED = "gpu.access_refused"
    DEVICE_LOST = "gpu.device_lost"
    NO_ANSWER = "gpu.no_answer"
    DRIVER_FAILED = "gpu.driver_failed"
    CONTAINER_WITHOUT_GPU = "gpu.container_without_gpu"
    WSL_LIBRARY_PATH = "gpu.wsl_library_path"
    WSL_WITHOUT_GPU = "gpu.wsl_without_gpu"
    WSL_DRIVER_MISSING = "gpu.wsl_driver_missing"
    DEVICE_MISSING = "gpu.device_missing"
    MASK_CUT = "gpu.mask_cut"
    ALL_HIDDEN = "gpu.all_hidden"
    MIG_EMPTY = "gpu.mig_empty"
    NO_POWER = "gpu.no_power"
    MIG = "gpu.mig"
    ORDER_UNCERTAIN = "gpu.order_uncertain"
    WSL = "gpu.wsl"
    DEVICE_NODES_MISSING = "gpu.device_nodes_missing"
    CAPABILITY_NOT_REPORTED = "gpu.capability_not_reported"
    NVML_FAILED = "gpu.nvml_failed"
    COMPUTE_MODE = "gpu.compute_mode"
    SHARED_MEMORY = "gpu.shared_memory"
    ODD_READING = "gpu.odd_reading"
    ODD_OUTPUT = "gpu.odd_output"


def no_driver(nvml: Failure, smi: Failure | None, host: HostState) -> Finding:
    """Return the one finding that explains why neither NVML nor nvidia-smi answered.

    `smi` is None where nvidia-smi was not asked.
    """
    code, message, hint = _explain_failure(nvml, smi, host)
    return Finding(code, Severity.ERROR, message, hint)


def _explain_failure(
    nvml: Failure, smi: Failure | None, host: HostState
) -> tuple[GpuCode, str, str]:
    if host.platform != "linux":
        return (
            GpuCode.DRIVER_MISSING,
            f"there is no CUDA on this system ({host.platform})",
            "Run this on the Linux machine with the GPU.",
        )
    if host.jetson_model:
        spec = f" Plan for it with `--simulate {host.jetson_sm}`." if host.jetson_sm else ""
        return (
            GpuCode.JETSON,
            f"{host.jetson_model}: an integrated GPU, whose driver has no NVML to ask",
            f"JetPack 7 and some of 6 have NVML.{spec}",
        )
    kind = smi.kind if nvml.kind is FailureKind.BINDINGS_MISSING and smi else nvml.kind
    match kind:
        case FailureKind.VERSION_MISMATCH:
            return _mismatch(host)
        case FailureKind.DRIVER_NOT_LOADED:
            return GpuCode.DRIVER_NOT_LOADED, *_not_loaded(host)
        case FailureKind.NO_PERMISSION | FailureKind.BLOCKED:
            return (
                GpuCode.ACCESS_REFUSED,
                f"the driver refused access: {nvml.detail}",
                _access_hint(host),
            )
        case FailureKind.LOST | FailureKind.RESET_REQUIRED | FailureKind.NO_POWER:
            return (
                GpuCode.DEVICE_LOST,
                f"a GPU is there but does not work: {nvml.detail}",
                _LOST_HINT,
            )
        case FailureKind.LIBRARY_MISSING | FailureKind.TOOL_MISSING:
            return _library_missing(smi, host)
    if smi and smi.kind is FailureKind.NO_ANSWER:
        return GpuCode.NO_ANSWER, f"NVML failed ({nvml.detail}) and {smi.detail}", _LOST_HINT
    if host.container:
        # The known case: a systemd reload on the host takes the devices away from running
        # containers.
        hint = "Restart the container; then check its `--gpus` option."
        return GpuCode.ACCESS_REFUSED, f"NVML failed inside a container: {nvml.detail}", hint
    return (
        GpuCode.DRIVER_FAILED,
        f"NVML failed: {nvml.detail}",
        "Run `nvidia-smi`, look at `sudo dmesg | grep -i nvrm`, and reboot.",
    )


_LOST_HINT = (
    "Look at `sudo dmesg | grep -i -e xid -e nvrm` for the reason, then reboot. "
    "If it happens again: power, heat, or the card's seat in its slot."
)


def _mismatch(host: HostState) -> tuple[GpuCode, str, str]:
    version = f" {host.driver_module_version}" if host.driver_module_version else ""
    message = (
        f"the loaded kernel module{version} and NVIDIA's libraries are of different versions, as"
        " after an update without a reboot"
    )
    if host.container:
        return (
            GpuCode.DRIVER_MISMATCH,
            message,
            "Restart the container; if that does not help, reboot the host.",
        )
    reload = "`sudo rmmod nvidia_drm nvidia_modeset nvidia_uvm nvidia && sudo modprobe nvidia`"
    return (
        GpuCode.DRIVER_MISMATCH,
        message,
        f"Reboot. Without a reboot: stop what uses the GPU, then {reload}.",
    )


def _not_loaded(host: HostState) -> tuple[str, str]:
    if host.kernel_driver == "nouveau":
        return (
            "NVIDIA's libraries are installed, but the kernel uses the nouveau driver for the card",
            (
                "Blacklist nouveau (`echo 'blacklist nouveau' | sudo tee"
                " /etc/modprobe.d/nouveau.conf`), rebuild the initramfs, and reboot."
            ),
        )
    if host.kernel_driver == "vfio-pci":
        return (
            "the card is reserved for a virtual machine (vfio-pci)",
            "Run dsmops in that machine, or give the card back to the host.",
        )
    return (
        "NVIDIA's libraries are installed, but its kernel module is not loaded",
        (
            "`sudo modprobe nvidia`. If that fails: `dkms status`, and Secure Boot, which refuses"
            " unsigned modules (`mokutil --sb-state`)."
        ),
    )


def _access_hint(host: HostState) -> str:
    if host.wsl:
        return "In Windows: update the NVIDIA driver, then `wsl --shutdown`, and start WSL again."
    if host.container:
        return (
            "Start the container with the NVIDIA runtime (`docker run --gpus all ...`), so that its"
            " cgroup may use the devices."
        )
    return "Check `ls -l /dev/nvidia*` and the groups of this user (`video`, `render`)."


def _library_missing(smi: Failure | None, host: HostState) -> tuple[GpuCode, str, str]:
    if host.wsl:
        return _wsl(host)
    if smi and smi.kind is not FailureKind.TOOL_MISSING:
        message = f"libnvidia-ml.so.1 cannot be loaded, and nvidia-smi says: {smi.detail}"
        return GpuCode.DRIVER_MISSING, message, "Reinstall the NVIDIA driver."
    if host.container:
        return (
            GpuCode.CONTAINER_WITHOUT_GPU,
            (
                "this is a container without NVIDIA's libraries, so it was not started with the"
                " NVIDIA runtime"
            ),
            (
                "Start it with `docker run --gpus all ...` (nvidia-container-toolkit on the host),"
                " or with your platform's GPU request."
            ),
        )
    if host.pci_cards:
        cards = "an NVIDIA card is" if host.pci_cards == 1 else f"{host.pci_cards} NVIDIA cards are"
        using = f" (the kernel uses {host.kernel_driver})" if host.kernel_driver else ""
        return (
            GpuCode.DRIVER_MISSING,
            f"{cards} on the PCI bus{using}, but no NVIDIA driver is installed",
            (
                "Install one: `sudo ubuntu-drivers install` on Ubuntu, the package nvidia-driver on"
                " Debian and Fedora; then reboot."
            ),
        )
    return (
        GpuCode.DRIVER_MISSING,
        "no NVIDIA driver, and no NVIDIA card on the PCI bus",
        "Run this on the machine with the GPU.",
    )


def _wsl(host: HostState) -> tuple[GpuCode, str, str]:
    if host.wsl_library:
        return (
            GpuCode.WSL_LIBRARY_PATH,
            "WSL has NVIDIA's libraries in /usr/lib/wsl/lib, but the loader does not look there",
            (
                "`echo /usr/lib/wsl/lib | sudo tee /etc/ld.so.conf.d/ld.wsl.conf && sudo ldconfig`,"
                " or set LD_LIBRARY_PATH."
            ),
        )
    if not host.wsl_gpu:
        return (
            GpuCode.WSL_WITHOUT_GPU,
            "WSL without a GPU: /dev/dxg is missing, as under WSL 1 or an old Windows",
            (
                "In Windows: `wsl --update`, and `wsl --set-version DISTRIBUTION 2` if `wsl -l -v`"
                " says 1."
            ),
        )
    return (
        GpuCode.WSL_DRIVER_MISSING,
        "WSL sees a GPU, but Windows gives it no NVIDIA driver",
        "Install the NVIDIA driver in Windows, never inside WSL; then `wsl --shutdown`.",
    )


def on_reading(
    host: HostState, readings: Sequence[DeviceReading], visibility: Visibility
) -> Iterable[Finding]:
    """Yield what there is to say about a machine whose driver answered, errors first."""
    usable = bool(visibility.ordinals)
    serious = Severity.WARNING if usable else Severity.ERROR
    if not readings:
        hint = (
            "Check the virtual machine's or container's device settings."
            if not host.pci_cards
            else _LOST_HINT
        )
        yield Finding(
            GpuCode.DEVICE_MISSING,
            Severity.ERROR,
            "the NVIDIA driver works, but has no device",
            hint,
        )
    for reading in readings:
        if reading.failure:
            yield _device_failure(reading, reading.failure, serious)
    working = [reading for reading in readings if reading.failure is None]
    empty_mig = [
        card
        for card in working
        if card.mig_enabled
        and (card.uuid or "") not in {other.mig_parent_uuid for other in working}
    ]
    if visibility.mask is not None and visibility.mask_problem and working:
        code = GpuCode.MASK_CUT if usable else GpuCode.ALL_HIDDEN
        message = f"{MASK}={visibility.mask!r}: {visibility.mask_problem}"
        yield Finding(
            code,
            serious,
            message,
            f"`unset {MASK}`, or name the devices by UUID (`nvidia-smi -L`).",
        )
    for card in empty_mig:
        yield Finding(
            GpuCode.MIG_EMPTY,
            serious,
            f"MIG is on for {card.name} (NVML index {card.nvml_index}) and no instance is set up:"
            " CUDA cannot use the card",
            f"`sudo nvidia-smi -i {card.nvml_index} -mig 0` to use it whole, or create an instance"
            " (`nvidia-smi mig -lgip`, then `-cgi`).",
        )
    for card in working:
        if card.compute_mode in (ComputeMode.EXCLUSIVE, ComputeMode.PROHIBITED):
            yield _compute_mode(card, card.compute_mode)
    yield from _notes(host, working, visibility)


def _device_failure(reading: DeviceReading, failure: Failure, severity: Severity) -> Finding:
    where = f"the GPU with NVML index {reading.nvml_index}"
    if failure.kind is FailureKind.NO_PERMISSION:
        return Finding(
            GpuCode.ACCESS_REFUSED,
            severity,
            f"{where} may not be used here: {failure.detail}",
            "Check `ls -l /dev/nvidia*`.",
        )
    if failure.kind is FailureKind.NO_POWER:
        hint = "Connect the card's power cables."
        return Finding(GpuCode.NO_POWER, severity, f"{where} lacks power: {failure.detail}", hint)
    return Finding(
        GpuCode.DEVICE_LOST, severity, f"{where} does not answer: {failure.detail}", _LOST_HINT
    )


def _compute_mode(card: DeviceReading, mode: ComputeMode) -> Finding:
    one = mode is ComputeMode.EXCLUSIVE
    return Finding(
        GpuCode.COMPUTE_MODE,
        Severity.NOTE if one else Severity.WARNING,
        f"{card.name} (NVML index {card.nvml_index}) is set to let"
        f" {'one program at a time' if one else 'no program'} compute on it",
        f"`sudo nvidia-smi -i {card.nvml_index} -c DEFAULT` lets several do.",
    )


def _notes(
    host: HostState, working: Sequence[DeviceReading], visibility: Visibility
) -> Iterable[Finding]:
    whole = [reading for reading in working if reading.mig_parent_uuid is None]
    if any(reading.mig_parent_uuid is not None for reading in working):
        yield Finding(
            GpuCode.MIG,
            Severity.NOTE,
            "MIG is on: a CUDA program sees one instance, the first one unless told otherwise, and"
            " no whole card beside it",
            f"Choose by UUID: `export {MASK}=MIG-...` (`nvidia-smi -L` lists them).",
        )
    if not visibility.certain and len(whole) > 1:
        yield Finding(
            GpuCode.ORDER_UNCERTAIN,
            Severity.WARNING,
            "cards of different models: CUDA counts the fastest first by a rule of its own, so the"
            " ordinals shown are an estimate",
            f"`export {ORDER}=PCI_BUS_ID` to count as NVML does, or choose by UUID: `export"
            f" {MASK}=GPU-...`.",
        )
    if host.jetson_model:
        yield Finding(
            GpuCode.JETSON,
            Severity.NOTE,
            f"{host.jetson_model}: an integrated GPU, whose driver gives few readings",
            "Build the server on the device itself.",
        )
    for reading in working:
        if reading.shares_host_memory:
            total, free = reading.memory_total_bytes, reading.memory_free_bytes
            yield Finding(
                GpuCode.SHARED_MEMORY,
                Severity.NOTE,
                f"{reading.name} shares the host's memory: {size(total)}, {size(free)} available",
                "Plans count from what is available now; end what else uses it.",
            )
    if host.wsl:
        yield Finding(
            GpuCode.WSL,
            Severity.NOTE,
            "WSL: the driver belongs to Windows, and some readings (processes, their memory) are"
            " not available",
            "Update the driver in Windows, never inside WSL. Windows programs use GPU memory too.",
        )
    elif working and not host.jetson_model and not host.uvm_node:
        yield Finding(
            GpuCode.DEVICE_NODES_MISSING,
            Severity.WARNING,
            "the driver answers, but /dev/nvidia-uvm is missing, without which CUDA does not start",
            "`sudo nvidia-modprobe -u -c=0` makes it; in a container, pass the device through.",
        )
    filled = [
        reading
        for reading in working
        if reading.compute_capability is None or "compute_capability" in reading.from_catalogue
    ]
    if filled and not host.jetson_model:
        known = all(reading.compute_capability for reading in filled)
        how = (
            "they were taken from the catalogue by the cards' names"
            if known
            else "the catalogue does not know every card either"
        )
        yield Finding(
            GpuCode.CAPABILITY_NOT_REPORTED,
            Severity.NOTE if known else Severity.WARNING,
            "this driver does not report compute capabilities (those before 510 do not through"
            f" nvidia-smi); {how}",
            "Update the driver, or say what the card is: `--simulate sm75`.",
        )


def odd_readings(readings: Sequence[DeviceReading], unread: Sequence[str]) -> Iterable[Finding]:
    """Yield findings on impossible readings, and on what nvidia-smi printed besides."""
    for reading in readings:
        if reading.dropped:
            yield Finding(
                GpuCode.ODD_READING,
                Severity.NOTE,
                f"the driver answers what no card has, so it counts as unknown: NVML index"
                f" {reading.nvml_index}, {', '.join(reading.dropped)}",
                "Compare with `nvidia-smi -q`; update the driver, and reboot.",
            )
    if unread:
        more = f", and {len(unread) - 1} more" if len(unread) > 1 else ""
        yield Finding(
            GpuCode.ODD_OUTPUT,
            Severity.NOTE,
            f"nvidia-smi prints a line without readings: {unread[0]!r}{more}",
            "A damaged infoROM does not stop the card from computing; `nvidia-smi -q` shows it.",
        )


def nvml_failed(failure: Failure) -> Finding:
    """Return the finding for a machine on which only nvidia-smi answered."""
    return Finding(
        GpuCode.NVML_FAILED,
        Severity.WARNING,
        f"NVML could not be used ({failure.detail}); nvidia-smi answered, with fewer readings",
        "Make libnvidia-ml.so.1 loadable (`ldconfig -p | grep nvidia-ml`).",
    )
