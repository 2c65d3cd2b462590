"""The models' audio: 24 kHz mono float32, cut into frames, and how loud it is. numpy only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.errors import InputError

SAMPLE_RATE_HZ = 24_000
"""Samples a second of every array in this package. Source: Mimi's config, `sample_rate`."""

FRAME_SAMPLES = 1920
"""Samples of one frame, 80 ms: the step of the models. Source: Mimi's config, `frame_rate` 12.5."""

SILENCE_RMS = 1e-3
"""RMS (-60 dBFS) under which a frame counts as silent. Background noise on a headset is near
-50 dBFS, speech near -25."""

LOUDEST = float(2**31)
"""Largest magnitude of audio: float files that hold unscaled 32-bit integer values reach it."""

Samples = NDArray[np.float32]
"""Samples of one channel, float32 [n], nominally in [-1, 1]."""


def frames(blocks: Iterable[Samples], prefix_s: float = 0.0) -> Iterator[Samples]:
    """Yield the audio of `blocks` as frames float32 [1920], the last one filled up with zeros.

    `prefix_s` seconds of silence come first. No audio and no prefix give no frame. A frame that
    lies whole in a block is a view of it.
    """
    pending = np.zeros(FRAME_SAMPLES, np.float32)
    silent_frames, held = divmod(round(prefix_s * SAMPLE_RATE_HZ), FRAME_SAMPLES)
    for _ in range(silent_frames):
        yield np.zeros(FRAME_SAMPLES, np.float32)
    for block in blocks:
        start = 0
        if held:
            start = min(FRAME_SAMPLES - held, len(block))
            pending[held : held + start] = block[:start]
            held += start
            if held < FRAME_SAMPLES:
                continue
            yield pending
            pending = np.zeros(FRAME_SAMPLES, np.float32)
        whole = (len(block) - start) // FRAME_SAMPLES
        for index in range(whole):
            yield block[start + index * FRAME_SAMPLES : start + (index + 1) * FRAME_SAMPLES]
        rest = block[start + whole * FRAME_SAMPLES :]
        held = len(rest)
        pending[:held] = rest
    if held:
        pending[held:] = 0
        yield pending


def excerpt(
    blocks: Iterable[Samples], offset_s: float, duration_s: float | None
) -> Iterator[Samples]:
    """Yield the `duration_s` (None: all) of the audio from `offset_s` on, no block of it empty."""
    start = round(offset_s * SAMPLE_RATE_HZ)
    stop = None if duration_s is None else start + round(duration_s * SAMPLE_RATE_HZ)
    at = 0
    for block in blocks:
        piece = block[max(0, start - at) : None if stop is None else max(0, stop - at)]
        if len(piece):
            yield piece
        at += len(block)
        if stop is not None and at >= stop:
            return


@dataclass(frozen=True, slots=True)
class Levels:
    """How loud audio is.

    `peak` and `rms` are magnitudes (1.0 is full scale). `silent_share` is a share of the duration
    in [0, 1].
    """

    duration_s: float
    peak: float
    rms: float
    silent_share: float


class LevelMeter:
    """Adds up the levels of audio. Each `add` is silent or not as a whole, so add frames."""

    def __init__(self) -> None:
        self._samples = 0
        self._silent = 0
        self._peak = 0.0
        self._energy = 0.0

    def add(self, frame: Samples) -> None:
        """Take in one frame, of any length."""
        if not len(frame):
            return
        wide = frame.astype(np.float64)
        energy = float(np.dot(wide, wide))
        self._samples += len(frame)
        self._energy += energy
        self._peak = max(self._peak, float(frame.max()), -float(frame.min()))
        if energy < SILENCE_RMS**2 * len(frame):
            self._silent += len(frame)

    @property
    def levels(self) -> Levels:
        """The levels so far. Without any audio all is 0 but the silent share, which is 1."""
        count = self._samples or 1
        return Levels(
            duration_s=self._samples / SAMPLE_RATE_HZ,
            peak=self._peak,
            rms=(self._energy / count) ** 0.5,
            silent_share=self._silent / count if self._samples else 1.0,
        )


def require_audible_numbers(block: Samples, *, name: str, before: int, rate_hz: int) -> None:
    """Check that every sample of `block` is finite and at most `LOUDEST`.

    `before` samples at `rate_hz` came before it.

    Raises:
        InputError: one is not; the message has its position and value.
    """
    # Written so that a NaN, which compares false with everything, is caught too. max() hands a NaN
    # through.
    if not len(block) or float(np.abs(block).max()) <= LOUDEST:
        return
    index = int(np.argmax(~(np.abs(block) <= LOUDEST)))
    position = before + index
    raise InputError(
        f"{name}: sample {position} (at {position / rate_hz:.3f} s) is {float(block[index])!r}, "
        "which is not audio",
        hint="The program that wrote this produced broken numbers; make the audio again.",
        code="audio.not_finite",
    )
