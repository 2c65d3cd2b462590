"""The words of the verdicts, where they depend on more than the code."""

from __future__ import annotations

import pytest

from dsmops.errors import DriverMissingError, EnvironmentMissingError
from dsmops.gpu import GpuReport, has_pre_ampere, nvml, require_visible, simulate
from dsmops.gpu.findings import no_driver
from dsmops.gpu.host import HostState
from dsmops.gpu.readings import Failure, FailureKind

NO_LIBRARY = Failure(FailureKind.LIBRARY_MISSING, "NVML Shared Library Not Found")
NO_TOOL = Failure(FailureKind.TOOL_MISSING, "nvidia-smi is not on PATH")


def test_a_mismatch_names_the_loaded_module() -> None:
    """The version that the kernel runs is in the message; the hint says to restart a container and
    to reboot a machine.
    """
    refused = Failure(FailureKind.VERSION_MISMATCH, "Driver/library version mismatch")
    on_machine = no_driver(refused, None, HostState(driver_module_version="535.161.07"))
    in_container = no_driver(
        refused, None, HostState(driver_module_version="535.161.07", container=True)
    )
    assert "535.161.07" in on_machine.message
    assert on_machine.hint.startswith("Reboot")
    assert in_container.hint.startswith("Restart the container")


def test_without_a_driver_the_hint_depends_on_the_card() -> None:
    """A card without a driver needs one installed; no card means another machine."""
    assert "ubuntu-drivers" in no_driver(NO_LIBRARY, NO_TOOL, HostState(pci_cards=1)).hint
    assert (
        no_driver(NO_LIBRARY, NO_TOOL, HostState()).hint == "Run this on the machine with the GPU."
    )


def test_other_systems_have_no_cuda() -> None:
    """On macOS the reason is the system, not a missing driver."""
    assert "darwin" in no_driver(NO_LIBRARY, NO_TOOL, HostState(platform="darwin")).message


def test_missing_bindings_leave_the_verdict_to_nvidia_smi() -> None:
    """When pynvml is broken, what nvidia-smi says decides."""
    broken = Failure(FailureKind.BINDINGS_MISSING, "No module named 'pynvml'")
    said = Failure(FailureKind.VERSION_MISMATCH, "Driver/library version mismatch")
    assert no_driver(broken, said, HostState()).code == "gpu.driver_mismatch"
    assert no_driver(broken, NO_TOOL, HostState()).code == "gpu.driver_missing"


def test_a_driver_that_hangs_is_named() -> None:
    """NVML failing for unknown reasons beside a hanging nvidia-smi is a hang, with where to
    look.
    """
    hangs = Failure(FailureKind.NO_ANSWER, "nvidia-smi did not answer within 5 s")
    found = no_driver(Failure(FailureKind.UNKNOWN, "Unknown Error"), hangs, HostState())
    assert found.code == "gpu.no_answer"
    assert "dmesg" in found.hint


def test_bindings_that_cannot_be_imported_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without pynvml gives a failure value."""
    monkeypatch.setitem(__import__("sys").modules, "pynvml", None)
    found = nvml.read()
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.BINDINGS_MISSING


def test_pre_ampere_needs_a_known_capability() -> None:
    """Yes when one visible device is older, no when none is, and an error when it is unknown."""
    assert has_pre_ampere(simulate(["l4", "t4"]))
    assert not has_pre_ampere(simulate(["l4", "h100"]))


def test_pre_ampere_of_an_unknown_card_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device without a capability makes the check impossible: exit code 4."""
    from dsmops.devices import Device
    from dsmops.gpu import DeviceReport, DeviceState
    from dsmops.gpu.verdict import judge

    device = Device("GRID", None, None, None, None, 0, 0, None, "nvml")
    report = GpuReport(
        (DeviceReport(device, DeviceState.VISIBLE, judge(None, None, None)),), (), source="nvml"
    )
    with pytest.raises(EnvironmentMissingError) as caught:
        has_pre_ampere(report)
    assert (caught.value.exit_code, caught.value.code) == (4, "gpu.capability_unknown")


def test_the_error_suggests_to_pretend() -> None:
    """A user who needs a GPU and has none learns how to go on without."""
    report = GpuReport((), (no_driver(NO_LIBRARY, NO_TOOL, HostState()),), source=None)
    with pytest.raises(DriverMissingError) as caught:
        require_visible(report)
    assert "--simulate t4" in caught.value.hint
