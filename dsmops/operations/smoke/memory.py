"""Compares the GPU memory of a server with the plan for its config."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from dsmops.config.load import Config
from dsmops.config.memory import MIB, ServedModel, serving_memory
from dsmops.config.modules import Module, modules
from dsmops.config.values import resolve
from dsmops.devices import Device, Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import DsmopsError
from dsmops.gpu import DeviceReport, probe
from dsmops.models import TtsShape
from dsmops.operations.models.files import read_json
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply
from dsmops.operations.smoke.family import family, main_memory
from dsmops.units import counted, size

_EVERY_S = 0.5
_TOLERANCE = {Runtime.EMBEDDED: 0.03, Runtime.MOSHI_SERVER: 0.10}
"""The plan for moshi-server is derived from its sources, not measured."""
_LEAST_TOLERANCE_BYTES = 150 * MIB
_SCRIPTS_CODEBOOKS = 24
"""The default of moshi-server's tts.py."""


class MemoryWatch:
    """Reads the memory of device 0 while a server runs.

    The peak is that of the server's processes together or, where the driver does not list them,
    what the device holds more than before.
    """

    def __init__(self) -> None:
        self.device: Device | None = None
        self.peak_bytes: int | None = None
        self._before_bytes: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what the device holds before the server starts. Without a device, do nothing."""
        first = await asyncio.to_thread(_first_device)
        if first is not None:
            self.device, self._before_bytes = first.device, first.memory_used_bytes

    def follow(self, pid: int) -> None:
        """Read every half second for the process `pid` and those that it starts, until `stop`."""
        if self.device is not None:
            self._task = asyncio.ensure_future(self._look(pid))

    async def stop(self) -> None:
        """End the readings."""
        if self._task is not None:
            self._task.cancel()
            # A failed reading counts as none; `judge_memory` says so.
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self, pid: int) -> None:
        while True:
            found = await asyncio.to_thread(_first_device)
            used = None if found is None else self._used_by(pid, found)
            if used is not None:
                self.peak_bytes = max(used, self.peak_bytes or 0)
            await asyncio.sleep(_EVERY_S)

    def _used_by(self, pid: int, found: DeviceReport) -> int | None:
        own = family(pid)
        used = [
            process.used_bytes
            for process in found.processes or ()
            if process.pid in own and process.used_bytes is not None
        ]
        if used:
            return sum(used)
        if found.memory_used_bytes is None or self._before_bytes is None:
            return None
        return found.memory_used_bytes - self._before_bytes


def judge_memory(
    config: Config,
    watch: MemoryWatch,
    runtime: Runtime,
    pid: int,
    quantised: Quantised = PLAIN,
) -> str:
    """Compare the peak with the plan of all modules in the config, and return that as evidence.

    Raises:
        CheckFailed: the server used more than planned.
        DoesNotApply: no GPU was used, or no plan exists for the config.
    """
    found = main_memory(pid)
    also = (
        ""
        if found is None
        else f"; {size(found[0])} of main memory in {counted(found[1], 'process', 'processes')}"
    )
    if watch.device is None or watch.peak_bytes is None:
        raise DoesNotApply(f"no GPU was used, and the plan is about its memory{also}")
    planned = _planned_bytes(config, watch.device, runtime, quantised)
    if planned is None:
        raise DoesNotApply(
            "no plan exists for the config's modules; "
            f"{size(watch.peak_bytes)} of {watch.device.name} at most{also}"
        )
    allowed = max(_TOLERANCE[runtime] * planned, _LEAST_TOLERANCE_BYTES)
    compared = (
        f"{size(watch.peak_bytes)} of {watch.device.name} at most, {size(planned)} planned{also}"
    )
    if watch.peak_bytes > planned + allowed:
        raise CheckFailed(
            f"{compared}: {size(watch.peak_bytes - planned)} more",
            "Plan with a larger --reserve, and report the figures.",
        )
    return compared


def _planned_bytes(
    config: Config, device: Device, runtime: Runtime, quantised: Quantised
) -> int | None:
    """Return what all modules use together, None if one has no plan.

    The runtime's own part counts once.
    """
    total = shared = 0
    for module in modules(config):
        is_tts = module.type == "Py"
        shape = _tts_shape(module) if is_tts else module.lm_shape()
        batch_size = module.whole("batch_size")
        if (
            shape is None
            or batch_size is None
            or device.compute_capability is None
            or (is_tts and runtime is not Runtime.EMBEDDED)
        ):
            return None
        override = module.text("dtype_override")
        dtype = (
            ComputeDType.parse(override) if override else device.compute_capability.serving_dtype
        )
        n_q = (
            min(module.whole("py", "n_q") or _SCRIPTS_CODEBOOKS, shape.lm.audio_codebooks)
            if isinstance(shape, TtsShape)
            else None
        )
        split = serving_memory(
            ServedModel(shape, dtype, runtime=runtime, n_q=n_q, quantised=quantised), batch_size
        )
        total += split.total_bytes - split.runtime_bytes
        shared = split.runtime_bytes
    return total + shared


def _tts_shape(module: Module) -> TtsShape | None:
    """Return the dimensions of a text-to-speech module, None without a readable config.json."""
    from dsmops.worker.models.tts_config import TtsConfig

    path = module.text("py", "config_path")
    try:
        return (
            TtsConfig.from_json(read_json(Path(resolve(path, os.environ).text))).shape
            if path
            else None
        )
    except DsmopsError:
        return None


def _first_device() -> DeviceReport | None:
    visible = probe().visible
    return visible[0] if visible else None
