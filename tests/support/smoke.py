"""The simulation of `smoke-test` with one part replaced, and what holds of every report."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from dsmops.operations.smoke import (
    CHECKS,
    CheckStatus,
    Simulation,
    SmokeReport,
    SmokeRequest,
    simulate_success,
)
from dsmops.operations.smoke.checks import Limits
from dsmops.operations.smoke.simulate import TinyModel, random_tts

BROKEN_WORKER = Path(__file__).with_name("broken_worker.py")
HASTY = Limits(ready_s=2.0, step_s=2.0, marker_s=3.0, close_s=2.0, return_s=1.0, grace_s=8.0)
"""For a tiny model, whose steps take milliseconds."""


def random_models(folder: Path) -> tuple[TinyModel, ...]:
    """Two models with random weights: quicker than the trained one, for faults that need no
    words.
    """
    from dsmops.worker.tiny.stt import write_tiny_stt

    stt = write_tiny_stt(folder / "stt")
    return TinyModel(stt.files.lm, stt.server_config), random_tts(folder)


RANDOM = Simulation(generate=random_models)


def broken_worker(fault: str, *, simulation: Simulation = RANDOM) -> Simulation:
    """The simulation with a worker of which one part does not work."""
    return replace(simulation, command=(sys.executable, str(BROKEN_WORKER), fault))


def simulate(
    folder: Path,
    simulation: Simulation = RANDOM,
    *,
    port: int | None = None,
    timeout_s: float = 60.0,
    limits: Limits = HASTY,
) -> SmokeReport:
    """Run a short simulation, of random models unless `simulation` says otherwise.

    Checks that its report is complete and that the server has ended.
    """
    report = simulate_success(
        folder,
        SmokeRequest(timeout_s=timeout_s, port=port, recording_s=0.6, limits=limits),
        simulation=simulation,
    )
    assert {check.name for check in report.checks} == set(CHECKS) - {"server-binary"}
    for module in {check.module for check in report.checks}:
        names = [check.name for check in report.checks if check.module == module]
        assert names == [name for name in CHECKS if name in names]
    for check in report.checks:
        assert check.evidence
        if check.status is CheckStatus.BLOCKED:
            assert check.evidence.startswith("could not run: ")
    assert report.passed == (
        not any(
            check.status in (CheckStatus.FAILED, CheckStatus.BLOCKED) for check in report.checks
        )
    )
    if report.url and port is None:
        with socket.create_server(("127.0.0.1", urlsplit(report.url).port or 0)):
            pass
    return report


def evidence(report: SmokeReport, name: str, module: str | None = None) -> str:
    """What a check saw; of several modules the first, or the one that is named."""
    return next(
        check.evidence
        for check in report.checks
        if check.name == name and module in (None, check.module)
    )


def blocked(report: SmokeReport, module: str | None = None) -> set[str]:
    """The checks that could not run, of the server and all modules, or of the server and one."""
    return {
        check.name
        for check in report.checks
        if check.status is CheckStatus.BLOCKED
        and (module is None or check.module in (None, module))
    }


def waiting_for(name: str) -> set[str]:
    """The checks of a speech-to-text module, and of the whole server, that cannot run after `name`
    failed, by what each needs.
    """
    of_tts = {"speech", *(check.name for check in CHECKS.values() if check.needs == ("speech",))}
    waiting = {name}
    # Needs come first in the table, so one pass finds all.
    for check in CHECKS.values():
        if check.name not in of_tts and waiting & set(check.needs):
            waiting.add(check.name)
    return waiting - {name}
