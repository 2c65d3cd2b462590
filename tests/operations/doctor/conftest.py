"""What every area of a diagnosis is tested with: recorded hosts, an empty folder, and the findings
by name.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dsmops.gpu import GpuReport
from dsmops.operations.doctor import Diagnosis, DoctorFinding, Scope
from tests.gpu.hosts import PlayedHost, load_host

Play = Callable[[str], GpuReport]


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Play:
    """Return the report on a recorded host."""
    return lambda name: PlayedHost(
        load_host(name), tmp_path_factory.mktemp(name), monkeypatch
    ).probe()


@pytest.fixture
def bare() -> GpuReport:
    """A machine without a card."""
    return GpuReport((), (), source=None)


@pytest.fixture
def scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scope:
    """An empty working directory, a free port, and no hub."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Scope(folder=tmp_path, port=port, offline=True)


def found(diagnosis: Diagnosis) -> dict[str, DoctorFinding]:
    """The findings by name, the last of each."""
    return {each.code: each for area in diagnosis.areas for each in area.findings}
