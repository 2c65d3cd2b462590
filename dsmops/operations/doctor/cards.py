"""Cards, driver, torch and the packages of the embedded worker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import PurePath

from dsmops.findings import Finding, Severity
from dsmops.gpu import DeviceReport
from dsmops.gpu.findings import GpuCode
from dsmops.gpu.torch_build import TorchKernels
from dsmops.operations.doctor.findings import DoctorFinding, finding, name_of, ok
from dsmops.operations.doctor.site import Site
from dsmops.units import counted, size

_ABSENT = {GpuCode.DRIVER_MISSING, GpuCode.CONTAINER_WITHOUT_GPU, GpuCode.WSL_WITHOUT_GPU}
"""Codes that a machine without a card has too."""
_OTHER_TORCH = (
    "Install a torch made with CUDA 12.6, which has kernels from 5.0 to 9.0:"
    " https://pytorch.org/get-started/previous-versions"
)
_SOMEBODYS_BYTES = 1 << 30
"""More than a driver, a desktop or an idle context takes."""


def cards(site: Site) -> Iterator[DoctorFinding]:
    """Report the driver and every card that CUDA programs see."""
    for each in site.gpu.findings:
        if each.code in _ABSENT and not site.gpu.pci_cards:
            yield finding(
                "gpu-none",
                Severity.NOTE,
                "there is no GPU here",
                each.message,
                fix="dsmops plan --simulate t4",
                unseen="whether configs, checkpoints and server suit the card that will serve",
            )
        else:
            yield _of_host(each)
    for device in site.gpu.visible:
        yield from _card(site, device)


def _of_host(found: Finding) -> DoctorFinding:
    # A container is often meant to have no card, and the machine around it is in order.
    absent = found.code == GpuCode.CONTAINER_WITHOUT_GPU
    severity = Severity.WARNING if absent else found.severity
    return finding(name_of(found.code), severity, found.message, fix=found.hint)


def _card(site: Site, report: DeviceReport) -> Iterator[DoctorFinding]:
    device, verdict = report.device, report.verdict
    capability = device.compute_capability
    free, total = device.memory_free_bytes, device.memory_total_bytes
    cuda = (
        f", runs CUDA up to {site.gpu.cuda_driver_version}" if site.gpu.cuda_driver_version else ""
    )
    driver = f"driver {site.gpu.driver_version or 'of unknown version'}{cuda}"
    memory = f"{size(free)} of {size(total)} free"
    yield ok(
        "gpu",
        f"{device.label} answers, as CUDA ordinal {device.cuda_ordinal}",
        driver,
        memory,
        f"read by {device.source}",
    )
    if verdict.bf16_fails and verdict.dtype_override:
        yield finding(
            "gpu-pre-ampere",
            Severity.NOTE,
            f"{device.label} has no bf16, in which moshi-server computes unless the config says"
            " otherwise",
            f"compute capability {capability}; {verdict.serving_reason}",
            fix=(
                f'dtype_override = "{verdict.dtype_override}" in every module of the config, as'
                " `dsmops prep-sm75` writes it"
            ),
        )
    if verdict.build is not None and verdict.build.problem is not None:
        yield finding(
            "gpu-driver-old",
            Severity.WARNING,
            f"no moshi-server can be built for {device.label} under this driver:"
            f" {verdict.build.problem}",
            driver,
            fix="Update the NVIDIA driver.",
        )
    if total and free is not None and total - free > _SOMEBODYS_BYTES:
        holders = [
            f"pid {process.pid}, {PurePath(process.name).name if process.name else 'unnamed'}:"
            f" {size(process.used_bytes)}"
            for process in report.processes or ()
        ]
        yield finding(
            "gpu-memory-taken",
            Severity.WARNING,
            f"{size(total - free)} of {device.label} are taken",
            *(holders or ["the driver does not list by whom"]),
            fix="dsmops plan",
        )


def torch(site: Site) -> Iterator[DoctorFinding]:
    """Report whether the installed torch can compute on the card, without importing it."""
    build = site.gpu.torch
    if build is None:
        yield finding(
            "torch-missing",
            Severity.NOTE,
            "torch is not installed, so the embedded worker cannot run; moshi-server needs none",
            fix="pip install 'dsmops[worker]'",
        )
        return
    build_text = f"torch {build.version}" + (
        f", made with CUDA {build.cuda}" if build.cuda else ", made without CUDA"
    )
    if not site.gpu.visible:
        yield ok("torch", f"{build_text}; without a card it computes on the CPU")
        return
    card = site.gpu.visible[0]
    label, holds = card.device.label, ", ".join(arch.sm for arch in build.architectures or ())
    match card.verdict.torch_kernels:
        case TorchKernels.YES:
            yield ok("torch", f"{build_text}, has kernels for {label}")
        case TorchKernels.NO_CUDA:
            yield finding(
                "torch-without-cuda",
                Severity.WARNING,
                f"the embedded worker would not use {label}: this torch was made without CUDA",
                build_text,
                fix=_OTHER_TORCH,
            )
        case TorchKernels.NO:
            yield finding(
                "torch-without-kernels",
                Severity.WARNING,
                f"the embedded worker would fail on {label}: this torch has no kernels for it",
                build_text,
                f"its kernels are for {holds}",
                fix=_OTHER_TORCH,
            )
        case TorchKernels.DRIVER_TOO_OLD:
            yield finding(
                "torch-driver-old",
                Severity.WARNING,
                "the embedded worker would not find a card: the driver is too old for this torch",
                build_text,
                f"driver {site.gpu.driver_version}, runs CUDA up to {site.gpu.cuda_driver_version}",
                fix="Update the NVIDIA driver, or install a torch made with an older CUDA.",
            )
        case _:
            yield finding(
                "torch-kernels-unknown",
                Severity.NOTE,
                f"cannot tell whether this torch has kernels for {label}: it is not a known"
                " published wheel",
                build_text,
                fix="python -c 'import torch; print(torch.zeros(1, device=\"cuda\"))'",
                unseen="whether torch computes on the card",
            )


def packages(site: Site) -> Iterator[DoctorFinding]:  # noqa: ARG001 every area is asked alike
    """Report which packages of the `worker` extra are absent.

    Only names are looked up; nothing is imported.
    """
    wanted = list(_worker_packages())
    missing = [name for name in wanted if not _is_installed(name)]
    if missing:
        yield finding(
            "packages-missing",
            Severity.NOTE,
            "the embedded worker and the commands that talk to servers (`worker`, `transcribe`,"
            " `synthesize`, `evaluate`, `smoke-test`) lack packages; moshi-server needs none of"
            " them",
            f"not installed: {', '.join(missing)}",
            fix="pip install 'dsmops[worker]'",
        )
    elif wanted:
        yield ok(
            "packages", f"all {counted(len(wanted), 'package')} of the worker extra are installed"
        )


def _worker_packages() -> Iterator[str]:
    with suppress(metadata.PackageNotFoundError):
        for requirement in metadata.requires("dsmops") or ():
            if re.search(r"extra\s*==\s*['\"]worker['\"]", requirement) and (
                name := re.match(r"[\w.-]+", requirement)
            ):
                yield name[0]


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
