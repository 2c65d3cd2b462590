"""The fallback: a program that may be missing, hang, or answer oddly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dsmops.gpu import smi
from dsmops.gpu.readings import Failure, FailureKind, HostReading


def tool(folder: Path, code: str) -> Path:
    """Write an nvidia-smi that runs this Python code."""
    path = folder / "nvidia-smi"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable} -SE\n{code}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_no_tool(bin_folder: Path, tmp_path: Path) -> None:
    """Without the program the failure says so."""
    found = smi.read(tmp_path)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.TOOL_MISSING


def test_a_tool_that_hangs_is_given_up(bin_folder: Path, tmp_path: Path) -> None:
    """A program that does not answer in time is a failure of its own kind, which names the
    limit.
    """
    tool(bin_folder, "import signal; signal.pause()")
    found = smi.read(tmp_path, timeout_s=0.3)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.NO_ANSWER
    assert "0.3 s" in found.detail


def test_a_tool_that_cannot_be_run(bin_folder: Path, tmp_path: Path) -> None:
    """A file that is not a program counts as no tool."""
    (bin_folder / "nvidia-smi").write_bytes(b"\x7fELF nonsense")
    (bin_folder / "nvidia-smi").chmod(0o755)
    found = smi.read(tmp_path)
    assert isinstance(found, Failure)
    assert found.kind is FailureKind.TOOL_MISSING


def test_the_tool_that_windows_puts_into_wsl_is_found(bin_folder: Path, tmp_path: Path) -> None:
    """Inside WSL the program is found where Windows puts it, also when that is not on PATH."""
    tool(tmp_path / "usr/lib/wsl/lib", "print('No devices were found')")
    found = smi.read(tmp_path)
    assert isinstance(found, HostReading)
    assert found.devices == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (
            (
                "Failed to initialize NVML: Driver/library version mismatch\nNVML library version:"
                " 570.124\n"
            ),
            FailureKind.VERSION_MISMATCH,
        ),
        ("Failed to initialize NVML: Insufficient Permissions\n", FailureKind.NO_PERMISSION),
        (
            "Failed to initialize NVML: GPU access blocked by the operating system\n",
            FailureKind.BLOCKED,
        ),
        (
            (
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make"
                " sure ...\n"
            ),
            FailureKind.DRIVER_NOT_LOADED,
        ),
        (
            "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system.\n",
            FailureKind.LIBRARY_MISSING,
        ),
        (
            "Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n",
            FailureKind.LOST,
        ),
        ("Failed to initialize NVML: Unknown Error\n", FailureKind.UNKNOWN),
    ],
)
def test_what_the_tool_says_when_it_cannot(
    text: str, kind: FailureKind, bin_folder: Path, tmp_path: Path
) -> None:
    """Its known sentences are distinguished, on either stream, and kept in the detail."""
    tool(bin_folder, f"import sys; sys.stderr.write({text!r}); sys.exit(9)")
    found = smi.read(tmp_path)
    assert isinstance(found, Failure)
    assert found.kind is kind
    assert found.detail.startswith(text.splitlines()[0][:40])


@pytest.mark.parametrize("output", ["", "\n\n", "a,b,c\n", '"\n', "0, 1\n", "\\x00\\xff\n"])
def test_odd_output_is_no_crash(output: str, bin_folder: Path, tmp_path: Path) -> None:
    """Whatever a program of that name prints, the result is an empty list or a failure."""
    tool(
        bin_folder,
        "import sys;"
        f" sys.stdout.buffer.write({output.encode().decode('unicode_escape').encode('latin-1')!r})",
    )
    found = smi.read(tmp_path)
    assert isinstance(found, Failure) or found.devices == ()


def test_a_tool_without_a_needed_field_ends(bin_folder: Path, tmp_path: Path) -> None:
    """A program that refuses even the index is a failure, not an endless loop."""
    tool(bin_folder, "print('Field \"index\" is not a valid field to query.')")
    assert isinstance(smi.read(tmp_path), Failure)


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("470.82.01", (11, 4)),
        ("550.54.15", (12, 4)),
        ("580.95.05", (13, 0)),
        ("999.1", None),
        ("", None),
        (None, None),
        ("abc", None),
    ],
)
def test_newest_cuda_of_a_driver(driver: str | None, cuda: tuple[int, int] | None) -> None:
    """The driver's branch gives its CUDA; an unknown branch gives nothing."""
    assert smi.newest_cuda(driver) == cuda
