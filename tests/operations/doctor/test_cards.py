"""Cards and torch are judged from what recorded hosts say."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsmops.findings import Severity
from dsmops.gpu import GpuReport
from dsmops.gpu.torch_build import TorchBuild, TorchKernels
from dsmops.operations.doctor import NAMES, Scope, diagnose
from tests.gpu.hosts import host_names
from tests.operations.doctor.conftest import Play, found


@pytest.mark.slow
@pytest.mark.parametrize("name", host_names())
def test_every_recorded_host_is_diagnosed(name: str, scope: Scope, play: Play) -> None:
    """What its driver reports comes with a page; a machine without any card has no error for it."""
    report = play(name)
    cards = diagnose(scope, report).areas[0].findings
    assert {each.code for each in cards} <= NAMES
    assert len([each for each in cards if each.code == "gpu-ok"]) == len(report.visible)
    if (
        not report.devices
        and not report.pci_cards
        and report.findings[0].code == "gpu.driver_missing"
    ):
        assert [(each.code, each.severity) for each in cards] == [("gpu-none", Severity.NOTE)]
    elif not report.visible:
        assert Severity.ERROR in {each.severity for each in cards} or cards[0].code in {
            "gpu-none",
            "gpu-container-without-gpu",
        }


def test_a_turing_card_needs_the_override(scope: Scope, play: Play) -> None:
    """A T4 in order gets what its configs must say, with the public report of what happens
    otherwise.
    """
    seen = found(diagnose(scope, play("t4_cloud")))["gpu-pre-ampere"]
    assert seen.upstream_issue == "kyutai-labs/moshi#355"
    assert 'dtype_override = "f16"' in seen.hint


def test_taken_memory_names_who_holds_it(scope: Scope, play: Play) -> None:
    """Memory beyond what a driver takes is somebody's."""
    report = play("two_l4")
    card = report.devices[0]
    holder = replace(card, device=replace(card.device, memory_free_bytes=2 << 30), processes=())
    seen = found(diagnose(scope, replace(report, devices=(holder,))))["gpu-memory-taken"]
    assert seen.severity is Severity.WARNING
    assert seen.evidence == ("the driver does not list by whom",)


@pytest.mark.parametrize(
    ("kernels", "name"),
    [
        (TorchKernels.YES, "torch-ok"),
        (TorchKernels.NO, "torch-without-kernels"),
        (TorchKernels.NO_CUDA, "torch-without-cuda"),
        (TorchKernels.DRIVER_TOO_OLD, "torch-driver-old"),
        (TorchKernels.UNKNOWN, "torch-kernels-unknown"),
    ],
)
def test_torch_is_judged_for_the_card(
    kernels: TorchKernels, name: str, scope: Scope, play: Play
) -> None:
    """The card that the worker takes decides; none of it keeps moshi-server from working, so none
    is an error.
    """
    report = play("t4_cloud")
    card = replace(
        report.devices[0], verdict=replace(report.devices[0].verdict, torch_kernels=kernels)
    )
    diagnosis = diagnose(
        scope, replace(report, devices=(card,), torch=TorchBuild("2.11.0", "12.8", None))
    )
    assert name in found(diagnosis)
    assert diagnosis.errors == 0


def test_no_torch_is_a_note(scope: Scope, bare: GpuReport) -> None:
    """Moshi-server needs none."""
    assert found(diagnose(scope, bare))["torch-missing"].severity is Severity.NOTE
