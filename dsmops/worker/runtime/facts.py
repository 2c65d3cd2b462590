"""What a model process tells about its engine: device, dtype, memory. Fronts read it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

import numpy as np

from dsmops.worker.runtime.shared import fence, shared_arrays

_ROWS = 64
"""Devices of one worker."""
_ROW_BYTES = 512


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Where an engine runs.

    `memory_bytes` is what its process takes of the device's memory once it is loaded, of the
    machine's on a CPU. `memory_total_bytes` is what there is. None is unknown. `fallback` is why
    it runs on a CPU where a GPU was wanted, else empty. `no_kernels` is why a GPU computes
    attention in PyTorch alone, else empty.
    """

    device: str
    device_name: str
    dtype: str
    memory_bytes: int | None
    memory_total_bytes: int | None
    fallback: str = ""
    no_kernels: str = ""


class FactsBoard:
    """The facts of one module on all devices, in memory that processes share after a fork."""

    def __init__(self) -> None:
        self._text = shared_arrays({"text": (np.uint8, (_ROWS, _ROW_BYTES))})["text"]
        self.row = 0
        """The device that this process computes on."""

    def write(self, facts: EngineFacts) -> None:
        """Tell the facts of this process's engine, once."""
        text = json.dumps(asdict(facts)).encode()
        if len(text) >= _ROW_BYTES:
            return
        data = np.frombuffer(text, np.uint8)
        # The first byte last: a row without it is not there yet.
        self._text[self.row, 1 : len(data)] = data[1:]
        fence()
        self._text[self.row, 0] = data[0]

    @property
    def own(self) -> EngineFacts | None:
        """The facts of this process's engine."""
        text = bytes(self._text[self.row]).rstrip(b"\0")
        return EngineFacts(**json.loads(text)) if text else None

    def read(self) -> list[EngineFacts]:
        """Return the facts of all engines that are loaded."""
        rows = (bytes(row).rstrip(b"\0") for row in self._text[self._text[:, 0] > 0])
        return [EngineFacts(**json.loads(row)) for row in rows]
