"""Whether the torch installed beside dsmops has kernels for a card.

torch is not imported for that, which would take 1.4 s and a CUDA context. Its `version.py` names
the CUDA it was built with; for the published wheels that decides the architectures inside. A torch
that was built otherwise (conda, a vendor's container, from source) may hold anything: the answer is
then "unknown".
"""

from __future__ import annotations

import importlib.util
import platform
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dsmops.devices import ComputeCapability

# Architectures in the published wheels, by the tag in the version. Sources: the CUDA support matrix
# in RELEASE.md of PyTorch for 2.9 to 2.14, its wheel build script for 2.7 and 2.8, its CUDA upgrade
# notes for 11.8, and `torch.cuda.get_arch_list()` of the 2.15 wheel for CUDA 13.2.
_UP_TO_HOPPER = ("5.0", "6.0", "7.0", "7.5", "8.0", "8.6", "9.0")
_TURING_ON = ("7.5", "8.0", "8.6", "9.0", "10.0", "12.0")
_VOLTA_ON = ("7.0", *_TURING_ON)
# tag → (first minor version of torch 2, last, architectures)
_X86_WHEELS: dict[str, tuple[tuple[int, int, tuple[str, ...]], ...]] = {
    "cu118": ((0, 7, ("3.7", *_UP_TO_HOPPER)),),
    "cu121": ((1, 5, _UP_TO_HOPPER),),
    "cu124": ((4, 6, _UP_TO_HOPPER),),
    "cu126": ((6, 14, _UP_TO_HOPPER),),
    "cu128": ((7, 7, _TURING_ON), (8, 10, _VOLTA_ON), (11, 11, _TURING_ON)),
    "cu129": ((8, 8, _VOLTA_ON),),
    "cu130": ((9, 14, _TURING_ON),),
    "cu132": ((12, 15, _TURING_ON),),
}
_ARM_WHEELS: dict[str, tuple[tuple[int, int, tuple[str, ...]], ...]] = {
    "cu126": ((9, 14, ("8.0", "9.0")),),
    "cu128": ((9, 11, ("8.0", "9.0", "10.0", "12.0")),),
    "cu130": ((9, 14, ("8.0", "9.0", "10.0", "11.0", "12.0")),),
    "cu132": ((12, 14, ("8.0", "9.0", "10.0", "11.0", "12.0")),),
}


class TorchKernels(StrEnum):
    """The answer for one card."""

    YES = "yes"
    NO = "no"
    NO_CUDA = "no_cuda"
    DRIVER_TOO_OLD = "driver_too_old"
    UNKNOWN = "unknown"
    NOT_INSTALLED = "not_installed"


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """The torch of this Python environment.

    `cuda` is the CUDA it was built with; None with a known version means a build without CUDA.
    `architectures` is None where they cannot be told.
    """

    version: str
    cuda: str | None
    architectures: tuple[ComputeCapability, ...] | None


def installed_torch() -> TorchBuild | None:
    """Return the torch that `import torch` would take here, or None when there is none."""
    with suppress(ImportError, ValueError):
        spec = importlib.util.find_spec("torch")
        if spec is not None and spec.origin is not None:
            return read_build(Path(spec.origin).with_name("version.py"))
    return None


def read_build(version_file: Path) -> TorchBuild | None:
    """Return the build that a torch's `version.py` describes; None when it describes none."""
    try:
        text = version_file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    version = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
    cuda = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)['\"]", text, re.MULTILINE)
    if version is None:
        return None
    return TorchBuild(
        version[1], cuda[1] if cuda else None, _architectures(version[1], platform.machine())
    )


def _architectures(version: str, machine: str) -> tuple[ComputeCapability, ...] | None:
    match = re.fullmatch(r"2\.(\d+)\.\d+\+(cu\d+)", version)
    if match is None:
        return None
    wheels = (
        _X86_WHEELS
        if machine in {"x86_64", "AMD64"}
        else _ARM_WHEELS
        if machine in {"aarch64", "arm64"}
        else {}
    )
    for first, last, names in wheels.get(match[2], ()):
        if first <= int(match[1]) <= last:
            return tuple(map(ComputeCapability.parse, names))
    return None


def kernels_for(
    build: TorchBuild | None,
    capability: ComputeCapability | None,
    cuda_driver_version: tuple[int, int] | None,
) -> TorchKernels:
    """Return whether `build` can run on a card of that capability under that driver.

    The driver runs CUDA up to the given version. Machine code for x.y runs on x.z with z ≥ y; and a
    build for CUDA N.x needs a driver of CUDA N.0 or newer (minor version compatibility). Source:
    CUDA compatibility guide.
    """
    if build is None:
        return TorchKernels.NOT_INSTALLED
    if build.cuda is None:
        return TorchKernels.NO_CUDA
    if cuda_driver_version is not None and cuda_driver_version[0] < int(build.cuda.split(".")[0]):
        return TorchKernels.DRIVER_TOO_OLD
    if build.architectures is None or capability is None:
        return TorchKernels.UNKNOWN
    if capability.major > max(arch.major for arch in build.architectures):
        return TorchKernels.UNKNOWN  # some wheels carry PTX, which a newer card can compile
    fits = any(
        arch.major == capability.major and arch.minor <= capability.minor
        for arch in build.architectures
    )
    return TorchKernels.YES if fits else TorchKernels.NO
