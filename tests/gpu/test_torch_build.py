"""What can be told about a torch without importing it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dsmops.devices import ComputeCapability
from dsmops.gpu.torch_build import TorchBuild, TorchKernels, kernels_for, read_build

VERSION_PY = """from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda}
git_version = 'cf30153c4c131c8164ee7798e5022d810682e2cb'
hip: Optional[str] = None
"""


def build(
    version: str,
    cuda: str | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str = "x86_64",
) -> TorchBuild:
    """Return the build that a version file written as torch writes it describes."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    file = folder / "version.py"
    file.write_text(VERSION_PY.format(version=version, cuda=repr(cuda)))
    found = read_build(file)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("version", "cuda", "sm", "driver", "answer"),
    [
        ("2.13.0+cpu", None, "7.5", (12, 8), TorchKernels.NO_CUDA),
        ("2.6.0+cu124", "12.4", "6.1", (12, 4), TorchKernels.YES),
        ("2.6.0+cu118", "11.8", "3.7", (11, 8), TorchKernels.YES),
        ("2.6.0+cu124", "12.4", "12.0", (12, 8), TorchKernels.UNKNOWN),
        ("2.7.0+cu128", "12.8", "7.0", (12, 8), TorchKernels.NO),
        ("2.8.0+cu128", "12.8", "7.0", (12, 8), TorchKernels.YES),
        ("2.11.0+cu128", "12.8", "7.0", (12, 8), TorchKernels.NO),
        ("2.11.0+cu126", "12.6", "7.0", (12, 8), TorchKernels.YES),
        ("2.13.0+cu126", "12.6", "6.1", (12, 8), TorchKernels.YES),
        ("2.13.0+cu130", "13.0", "7.5", (13, 0), TorchKernels.YES),
        ("2.13.0+cu130", "13.0", "8.9", (13, 0), TorchKernels.YES),
        ("2.13.0+cu130", "13.0", "9.0", (13, 0), TorchKernels.YES),
        ("2.13.0+cu130", "13.0", "12.1", (13, 0), TorchKernels.YES),
        ("2.13.0+cu130", "13.0", "10.3", None, TorchKernels.YES),
        ("2.13.0+cu130", "13.0", "7.0", (13, 0), TorchKernels.NO),
        ("2.13.0+cu130", "13.0", "6.1", (13, 0), TorchKernels.NO),
        ("2.13.0+cu130", "13.0", "9.0", (12, 8), TorchKernels.DRIVER_TOO_OLD),
        ("2.13.0+cu126", "12.6", "9.0", (12, 0), TorchKernels.YES),
        ("2.99.0+cu130", "13.0", "7.5", (13, 0), TorchKernels.UNKNOWN),
        ("2.9.0a0+50eac811a6.nv25.9", "13.0", "7.5", (13, 0), TorchKernels.UNKNOWN),
        ("2.5.1", "12.4", "7.5", (12, 4), TorchKernels.UNKNOWN),
        ("1.13.1+cu117", "11.7", "7.5", (12, 4), TorchKernels.UNKNOWN),
    ],
)
def test_answers(
    version: str,
    cuda: str | None,
    sm: str,
    driver: tuple[int, int] | None,
    answer: TorchKernels,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The published wheels have the architectures of PyTorch's support matrix; about all others
    nothing is claimed.
    """
    torch = build(version, cuda, tmp_path, monkeypatch)
    assert kernels_for(torch, ComputeCapability.parse(sm), driver) is answer


def test_arm_wheels_have_other_architectures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same tag on aarch64 has no Turing kernels."""
    torch = build("2.13.0+cu130", "13.0", tmp_path, monkeypatch, machine="aarch64")
    assert kernels_for(torch, ComputeCapability(7, 5), (13, 0)) is TorchKernels.NO
    assert kernels_for(torch, ComputeCapability(11, 0), (13, 0)) is TorchKernels.YES


def test_no_torch_and_no_capability() -> None:
    """Without torch the answer is that, and without a capability it is unknown."""
    assert kernels_for(None, ComputeCapability(7, 5), (12, 4)) is TorchKernels.NOT_INSTALLED
    assert (
        kernels_for(TorchBuild("2.13.0+cu126", "12.6", (ComputeCapability(7, 5),)), None, None)
        is TorchKernels.UNKNOWN
    )


@pytest.mark.parametrize("text", [None, "", "version = 3", "__version__ = compute()"])
def test_a_version_file_that_says_nothing(text: str | None, tmp_path: Path) -> None:
    """A missing or odd version file counts as no torch, without a crash."""
    file = tmp_path / "version.py"
    if text is not None:
        file.write_text(text)
    assert read_build(file) is None


def test_the_installed_torch_is_read_and_not_imported() -> None:
    """Looking at the torch of this environment, when there is one, leaves it out of the process."""
    code = (
        "import sys; from dsmops.gpu.torch_build import installed_torch; print(installed_torch());"
        " print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parity
def test_the_version_read_is_torchs_own() -> None:
    """Version and CUDA are what torch says about itself."""
    torch = pytest.importorskip("torch")
    from dsmops.gpu.torch_build import installed_torch

    found = installed_torch()
    assert found is not None
    assert (found.version, found.cuda) == (torch.__version__, torch.version.cuda)
