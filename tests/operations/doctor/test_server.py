"""The server's binary is judged for the card, from real files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.findings import Severity
from dsmops.gpu import GpuReport
from dsmops.operations.doctor import Scope, diagnose
from tests.operations.doctor.conftest import Play, found
from tests.support.binaries import write_machine_code, write_script, write_server

UPSTREAM = b"Kyutai moshi server"


def server_names(scope: Scope, gpu: GpuReport, binary: Path) -> dict[str, Severity]:
    diagnosis = diagnose(replace(scope, moshi_bin=str(binary)), gpu)
    area = next(area for area in diagnosis.areas if area.name == "server")
    return {each.code: each.severity for each in area.findings}


def test_servers_are_told_apart(scope: Scope, bare: GpuReport, tmp_path: Path) -> None:
    """Upstream is fine, a fork is noted, and what cannot serve is an error where it was named."""
    assert server_names(scope, bare, write_server(tmp_path / "upstream")) == {
        "server-ok": Severity.OK
    }
    assert server_names(scope, bare, write_server(tmp_path / "fork", fork=True)) == {
        "server-fork": Severity.NOTE,
        "server-ok": Severity.OK,
    }
    python = write_script(
        tmp_path / "pip", "from moshi.server import main\n", interpreter="/usr/bin/python3"
    )
    assert server_names(scope, bare, python) == {"server-python": Severity.ERROR}
    assert server_names(scope, bare, write_script(tmp_path / "other", "echo hello")) == {
        "server-unknown": Severity.ERROR
    }
    assert server_names(scope, bare, tmp_path / "absent") == {"server-missing": Severity.ERROR}
    assert server_names(scope, bare, tmp_path) == {"server-unreadable": Severity.ERROR}


def test_a_missing_libpython_is_named_with_its_cure(
    scope: Scope, bare: GpuReport, tmp_path: Path
) -> None:
    """The loader's words become a command that tells it where Python's library is."""
    said = (
        "error while loading shared libraries: libpython3.12.so.1.0: cannot open shared object file"
    )
    binary = write_script(tmp_path / "moshi-server", f"echo '{said}'; exit 127")
    seen = found(diagnose(replace(scope, moshi_bin=str(binary)), bare))["server-library-missing"]
    assert "libpython3.12.so.1.0" in seen.message
    assert "LD_LIBRARY_PATH" in seen.hint


@pytest.mark.parametrize(
    ("host", "contents", "name", "level"),
    [
        ("t4_cloud", (b".target sm_75",), "server-ignores-override", Severity.ERROR),
        ("two_l4", (b".target sm_89",), "server-ignores-override", Severity.NOTE),
        (
            "t4_cloud",
            (b"dtype_override", b".target sm_80"),
            "server-built-for-newer",
            Severity.ERROR,
        ),
        (
            "two_l4",
            (b"dtype_override", b".target sm_75"),
            "server-built-for-older",
            Severity.WARNING,
        ),
        (
            "two_l4",
            (b"dtype_override", b"\n.version 8.7\n.target sm_89"),
            "server-toolkit-newer",
            Severity.ERROR,
        ),
        ("two_l4", (b"dtype_override",), "server-without-cuda", Severity.WARNING),
    ],
)
def test_kernels_are_compared_with_the_card(
    host: str, contents: tuple[bytes, ...], name: str, level: Severity, scope: Scope, play: Play
) -> None:
    """A T4 has 7.5, an L4 8.9 and here a driver for CUDA 12.4; the PTX in the file tells what a
    server was built for.
    """
    gpu = play(host)
    names = server_names(
        scope, gpu, write_machine_code(scope.folder / "moshi-server", UPSTREAM, *contents)
    )
    assert names.pop("server-not-starting") is Severity.ERROR
    assert names == {name: level}


@pytest.mark.parametrize(("host", "target"), [("t4_cloud", b"sm_90"), ("two_l4", b"sm_75")])
def test_kernels_of_an_earlier_build_are_suspected(
    host: str, target: bytes, scope: Scope, play: Play
) -> None:
    """A binary with the kernels of another architecture may be one that was rebuilt: candle's build
    keeps them when only CUDA_COMPUTE_CAP changed, and the finding names the cure.
    """
    contents = (UPSTREAM, b"dtype_override", b".target " + target)
    binary = write_machine_code(scope.folder / "moshi-server", *contents)
    seen = found(diagnose(replace(scope, moshi_bin=str(binary)), play(host)))
    name = "server-built-for-newer" if host == "t4_cloud" else "server-built-for-older"
    assert any(
        "kept the old kernels" in each and "cargo clean -p candle-kernels" in each
        for each in seen[name].evidence
    )
    assert "CUDA_COMPUTE_CAP=" in seen[name].hint


def test_a_server_that_was_only_found_is_no_error(scope: Scope, bare: GpuReport) -> None:
    """It may not be the one that serves; one that cargo built is named instead."""
    cargo = Path.home() / ".cargo" / "bin"
    cargo.mkdir(parents=True)
    write_script(
        cargo / "moshi-server", "from moshi.server import main\n", interpreter="/usr/bin/python3"
    )
    diagnosis = diagnose(scope, bare)
    assert found(diagnosis)["server-python"].severity is Severity.WARNING
    assert str(cargo / "moshi-server") in found(diagnosis)["server-python"].hint
