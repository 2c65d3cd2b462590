"""What a model loop tells about itself, and what it is asked, across processes."""

from __future__ import annotations

import time
from math import inf

import numpy as np

from dsmops.worker.runtime.shared import shared_arrays


class LoopBoard:
    """The state of one loop. The loop writes all of it but the request for a step."""

    def __init__(self) -> None:
        arrays = shared_arrays({"last_step_s": (np.float64, (1,)), "probes": (np.int64, (2,))})
        self._last_step_s, self._probes = arrays["last_step_s"], arrays["probes"]
        self._last_step_s[0] = -inf

    @property
    def last_step_s(self) -> float:
        """When the last step ended, by `time.monotonic`, which all processes share."""
        return float(self._last_step_s[0])

    def note_step(self) -> None:
        """Note that a step has ended now."""
        self._last_step_s[0] = time.monotonic()

    def ask_for_step(self) -> None:
        """Ask for a step as soon as there is nothing else to do."""
        self._probes[0] = self._probes[1] + 1

    @property
    def step_is_wanted(self) -> bool:
        """Whether a step was asked for since the last answer."""
        return bool(self._probes[0] > self._probes[1])

    def answer(self) -> None:
        """Note that the step that was asked for begins now."""
        self._probes[1] = self._probes[0]
