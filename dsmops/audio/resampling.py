"""A sample rate to 24 kHz, as samples come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dsmops.audio.libraries import soxr
from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples


class Resampler:
    """Changes one rate to another, by default to 24 kHz. Equal rates pass unchanged."""

    def __init__(self, rate_hz: int, target_hz: int = SAMPLE_RATE_HZ) -> None:
        """Raises ExtraMissingError where the rates differ and soxr is not installed."""
        self.rate_hz = rate_hz
        self._stream = (
            None
            if rate_hz == target_hz
            else soxr().ResampleStream(rate_hz, target_hz, 1, dtype="float32", quality="HQ")
        )

    def take(self, samples: Samples, *, last: bool = False) -> Iterator[Samples]:
        """Yield what these samples complete."""
        block = samples
        if self._stream is not None:
            block = self._stream.resample_chunk(samples, last=last)
        if len(block):
            yield block

    def finish(self) -> Iterator[Samples]:
        """Yield what was held back."""
        yield from self.take(np.zeros(0, np.float32), last=True)
