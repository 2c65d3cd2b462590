"""Show a machine's GPUs: one table, what each kind of card needs, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePath

from dsmops.dtypes import ComputeDType
from dsmops.findings import Severity
from dsmops.gpu import DeviceReport, DeviceState, GpuReport
from dsmops.gpu.torch_build import TorchBuild, TorchKernels
from dsmops.gpu.verdict import ServerBuild
from dsmops.report import Block, Table
from dsmops.units import size


def show_gpus(report: GpuReport) -> Iterator[Block]:
    """Yield the report. Why nothing is usable is left to the error that ends the command."""
    if report.source is None:
        return
    yield _origin(report)
    if report.devices:
        yield ""
        yield _table(report)
        yield ""
    for _, alike in groupby(report.visible, key=lambda each: (each.device.label, each.verdict)):
        yield from _details(list(alike), report.torch)
    for finding in report.findings:
        if report.visible or finding.severity is not Severity.ERROR:
            yield f"{finding.severity.value}: {finding.message}"
            yield f"  {finding.hint}"
            yield ""
    if report.visible:
        yield "Next:"
        for command in _next_commands(report):
            yield f"  {command}"


def _origin(report: GpuReport) -> str:
    if report.source == "simulated":
        return "Simulated: nothing was read from this machine."
    driver = f"Driver {report.driver_version or 'of unknown version'}"
    cuda = (
        f"runs CUDA up to {report.cuda_driver_version}"
        if report.cuda_driver_version
        else "newest CUDA unknown"
    )
    how = report.source or ""
    if report.nvml_init_ms is not None and report.nvml_read_ms is not None:
        how = f"NVML: {report.nvml_init_ms:.0f} ms to start, {report.nvml_read_ms:.0f} ms to read"
    return f"{driver}, {cuda} ({how})"


def _table(report: GpuReport) -> Table:
    rows = []
    for each in report.devices:
        device = each.device
        rows.append(
            [
                "-" if device.cuda_ordinal is None else str(device.cuda_ordinal),
                "-" if device.nvml_index is None else str(device.nvml_index),
                device.name,
                device.compute_capability.sm if device.compute_capability else "n/a",
                size(device.memory_total_bytes),
                size(device.memory_free_bytes),
                each.verdict.serving_dtype.candle_name if each.verdict.serving_dtype else "n/a",
                _remark(each, report),
            ]
        )
    head = ["CUDA>", "NVML>", "device", "capability", "memory>", "free>", "serve in", ""]
    return Table(head, rows)


def _remark(each: DeviceReport, report: GpuReport) -> str:
    match each.state:
        case DeviceState.FAILED:
            return "does not work"
        case DeviceState.SPLIT:
            return "in MIG mode"
        case DeviceState.HIDDEN:
            return (
                "hidden by MIG"
                if report.cuda_visible_devices is None
                else "hidden by CUDA_VISIBLE_DEVICES"
            )
        case DeviceState.VISIBLE:
            if each.device.cuda_ordinal != 0:
                return ""
            return (
                "moshi-server takes this one"
                if report.ordinals_certain
                else "moshi-server probably takes this one"
            )


def _details(alike: list[DeviceReport], torch: TorchBuild | None) -> Iterator[str]:
    verdict = alike[0].verdict
    ordinals = ", ".join(f"CUDA {each.device.cuda_ordinal}" for each in alike)
    yield f"{alike[0].device.label}, {ordinals}"
    if verdict.serving_dtype is None:
        yield f"  serve in     unknown: {verdict.serving_reason}"
    else:
        yield f"  serve in     {verdict.serving_dtype.candle_name}: {verdict.serving_reason}"
    if verdict.dtype_override:
        yield (
            f'  config       dtype_override = "{verdict.dtype_override}" in every STT module,'
            " moshi-server 0.6.4 or newer; without it"
        )
        yield "               the port opens, but the model loop dies in warm-up with"
        yield f"               {verdict.bf16_error}"
        yield f"  convert      {_conversion(verdict.serving_dtype)}"
    if verdict.build:
        yield f"  build        {_build(verdict.build)}"
    yield f"  torch        {_torch(verdict.torch_kernels, torch)}"
    for each in alike:
        which = f"CUDA {each.device.cuda_ordinal}: " if len(alike) > 1 else ""
        if each.device.uuid:
            yield f"  uuid         {which}{each.device.uuid}, PCI {each.pci_bus_id or 'n/a'}"
        if (use := _use(each)) is not None:
            yield f"  in use       {which}{use}"
    yield ""


def _conversion(serving: ComputeDType | None) -> str:
    if serving is ComputeDType.F16:
        return (
            "recommended: proves that every weight fits f16, and loads without casts; the server"
            " can also cast while loading"
        )
    return "not needed: the server casts to f32 exactly while loading"


def _build(build: ServerBuild) -> str:
    if build.problem:
        return f"no: {build.problem}"
    toolkits = (
        build.toolkit_min
        if build.toolkit_min == build.toolkit_max
        else f"{build.toolkit_min} to {build.toolkit_max}"
    )
    return f"CUDA_COMPUTE_CAP={build.cuda_compute_cap}, CUDA toolkit {toolkits} ({build.note})"


def _torch(kernels: TorchKernels, torch: TorchBuild | None) -> str:
    if torch is None:
        return "not installed beside dsmops"
    words = {
        TorchKernels.YES: "has kernels for this card",
        TorchKernels.NO: "has no kernels for this card",
        TorchKernels.NO_CUDA: "is a build without CUDA",
        TorchKernels.DRIVER_TOO_OLD: f"needs a driver for CUDA {torch.cuda}; this one is too old",
    }
    return f"{torch.version} {words.get(kernels, 'is a build whose architectures are not known')}"


def _use(each: DeviceReport) -> str | None:
    if each.processes:
        return ", ".join(
            f"{size(process.used_bytes)} by"
            f" {PurePath(process.name).name if process.name else 'an unnamed process'} (pid"
            f" {process.pid})"
            for process in each.processes
        )
    # A driver's own reserve is well below this; more is somebody's.
    if each.memory_used_bytes and each.memory_used_bytes > 1 << 30:
        return f"{size(each.memory_used_bytes)}, by processes that the driver does not list"
    return None


def _next_commands(report: GpuReport) -> Iterator[str]:
    taken, *others = report.visible
    where = f" --simulate {shlex.quote(taken.simulated_as)}" if taken.simulated_as else ""
    yield f"dsmops plan{where}"
    yield (
        f"dsmops prep-sm75{where}"
        if taken.verdict.serving_dtype is ComputeDType.F16
        else f"dsmops make-config{where}"
    )
    for each in others:
        if each.device.label != taken.device.label:
            other = (
                f"--simulate {shlex.quote(each.simulated_as)}"
                if each.simulated_as
                else f"--device {each.device.cuda_ordinal}"
            )
            yield f"dsmops plan {other}"
