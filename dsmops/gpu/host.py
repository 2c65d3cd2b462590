"""What the operating system knows about the machine's GPUs, without any driver.

It reads files under /proc, /sys, /dev and /etc. They only serve to distinguish machines on which
the driver does not answer, and to word the fix.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_NVIDIA_VENDOR = "0x10de"
_DISPLAY_CLASS = "0x03"  # PCI class of VGA (0x0300) and 3D (0x0302) controllers

# Module name in the device tree of a Jetson → compute capability. Longer names first. Source: CUDA
# GPUs list, Jetson products.
_JETSON_SM = (
    ("thor", "11.0"),
    ("orin", "8.7"),
    ("xavier", "7.2"),
    ("tx2", "6.2"),
    ("tx1", "5.3"),
    ("nano", "5.3"),
)


@dataclass(frozen=True, slots=True)
class HostState:
    """What kind of machine this is.

    `kernel_driver` is the kernel driver bound to the first NVIDIA card on the PCI bus (`nvidia`,
    `nouveau`, `vfio-pci`), or None. `driver_module_version` is the version of NVIDIA's loaded
    kernel module. `jetson_model` is None on anything but a Jetson.
    """

    platform: str = "linux"
    wsl: bool = False
    wsl_gpu: bool = False
    wsl_library: bool = False
    container: bool = False
    jetson_model: str | None = None
    jetson_sm: str | None = None
    pci_cards: int = 0
    kernel_driver: str | None = None
    driver_module_version: str | None = None
    uvm_node: bool = True
    memory_total_bytes: int | None = None
    memory_available_bytes: int | None = None


def read_host(root: Path, environ: Mapping[str, str], platform: str) -> HostState:
    """Return the state of the machine whose file system starts at `root`.

    What cannot be read is taken as absent.

    `platform` is its operating system as `sys.platform` spells it.
    """
    release = _text(root / "proc/sys/kernel/osrelease")
    jetson = _jetson_model(root)
    cards = _nvidia_pci_cards(root)
    return HostState(
        platform=platform,
        wsl="microsoft" in release.lower(),
        wsl_gpu=(root / "dev/dxg").exists(),
        wsl_library=(root / "usr/lib/wsl/lib/libnvidia-ml.so.1").exists(),
        container=_in_container(root, environ),
        jetson_model=jetson,
        jetson_sm=next((sm for name, sm in _JETSON_SM if name in jetson.lower()), None)
        if jetson
        else None,
        pci_cards=len(cards),
        kernel_driver=next((driver for card in cards if (driver := _bound_driver(card))), None),
        driver_module_version=_module_version(root),
        uvm_node=(root / "dev/nvidia-uvm").exists(),
        memory_total_bytes=_memory(root, "MemTotal"),
        memory_available_bytes=_memory(root, "MemAvailable"),
    )


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    return ""


def _jetson_model(root: Path) -> str | None:
    model = _text(root / "proc/device-tree/model")
    if "jetson" in model.lower():
        return model
    return "Jetson" if (root / "etc/nv_tegra_release").exists() else None


def _nvidia_pci_cards(root: Path) -> list[Path]:
    with suppress(OSError):
        return [
            card
            for card in sorted((root / "sys/bus/pci/devices").iterdir())
            if _text(card / "vendor") == _NVIDIA_VENDOR
            and _text(card / "class").startswith(_DISPLAY_CLASS)
        ]
    return []


def _memory(root: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _bound_driver(card: Path) -> str | None:
    with suppress(OSError):
        return (card / "driver").readlink().name
    return None


def _in_container(root: Path, environ: Mapping[str, str]) -> bool:
    if (root / ".dockerenv").exists() or (root / "run/.containerenv").exists():
        return True
    if environ.get("container") or environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    return re.search(r"docker|kubepods|containerd|lxc", _text(root / "proc/1/cgroup")) is not None


def _module_version(root: Path) -> str | None:
    found = re.search(r"\b(\d{3}\.\d+(?:\.\d+)?)\b", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None
