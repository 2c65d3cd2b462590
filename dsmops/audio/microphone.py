"""The microphone: frames as they are recorded. Needs the extra `mic` (sounddevice, PortAudio)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any

import numpy as np

from dsmops.audio.devices import open_stream
from dsmops.audio.libraries import quiet_libraries, sounddevice
from dsmops.audio.mixing import Mixer
from dsmops.audio.pcm import FRAME_SAMPLES, Samples
from dsmops.audio.resampling import Resampler
from dsmops.errors import EnvironmentMissingError, TransferError

_MOST_WAITING = 750
"""Blocks of 80 ms that may wait, a minute: a reader so far behind will not catch up."""

SILENCE_S = 4.0
"""After so long without any sound, or without any block, the device is unplugged or muted. A
working microphone has noise: digital silence is never a quiet place."""


async def microphone(
    stop: asyncio.Event,
    *,
    device: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> AsyncIterator[Samples]:
    """Yield what a microphone records, in frames float32 [1920] at 24 kHz, until `stop` is set.

    `device` is a name or a number, None for the system's default. A device may have any rate and
    any number of channels. `on_note` gets a warning about digital silence.

    Raises:
        ExtraMissingError: sounddevice is not installed, or lacks PortAudio.
        EnvironmentMissingError: there is no microphone, it cannot be opened, or it stopped.
        InputError: `device` is not one microphone.
        TransferError: the reader of the frames is a minute behind.
    """
    with quiet_libraries():
        library = sounddevice("recording from a microphone")
        async with aclosing(_record(library, stop, device, on_note)) as frames:
            async for frame in frames:
                yield frame


async def _record(
    library: Any, stop: asyncio.Event, device: str | None, on_note: Callable[[str], None]
) -> AsyncGenerator[Samples]:
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Samples] = asyncio.Queue()

    def on_block(block: Any, _frames: int, _time: object, _status: object) -> None:
        # Called in PortAudio's own thread, with memory that it will reuse.
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(waiting.put_nowait, block.copy())

    stream, rate_hz, _ = open_stream(library, "input", device, callback=on_block)
    framer = _Framer(rate_hz)
    watch = _SilenceWatch(rate_hz, on_note)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            block = asyncio.ensure_future(waiting.get())
            await asyncio.wait(
                {block, stopped}, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED
            )
            if not block.done():
                block.cancel()
                if stopped.done():
                    break
                raise EnvironmentMissingError(
                    f"the microphone gave nothing for {SILENCE_S:g} s: it was unplugged or stopped",
                    hint="Connect it again, or choose another: `--device list` shows them.",
                    code="audio.device",
                )
            if waiting.qsize() > _MOST_WAITING:
                raise TransferError(
                    "the microphone is a minute ahead of the server",
                    hint="The server or the network is too slow.",
                )
            watch.take(block.result())
            for frame in framer.take(block.result()):
                yield frame
        for frame in framer.finish():
            yield frame
    finally:
        stopped.cancel()
        stream.__exit__(None, None, None)


class _Framer:
    """Blocks of a device's rate and channels to frames."""

    def __init__(self, rate_hz: int) -> None:
        self._mixer = Mixer(rate_hz)
        self._resampler = Resampler(rate_hz)
        self._rest = np.zeros(0, np.float32)

    def take(self, block: Samples) -> Iterator[Samples]:
        for piece in self._resampler.take(self._mixer.mix(block)):
            joined = np.concatenate([self._rest, piece])
            whole = len(joined) // FRAME_SAMPLES * FRAME_SAMPLES
            for start in range(0, whole, FRAME_SAMPLES):
                yield joined[start : start + FRAME_SAMPLES]
            self._rest = joined[whole:]

    def finish(self) -> Iterator[Samples]:
        """Yield the last frame, filled up with silence."""
        rest = np.concatenate([self._rest, *self._resampler.finish()])
        if len(rest):
            yield np.pad(rest, (0, -len(rest) % FRAME_SAMPLES))[:FRAME_SAMPLES]


class _SilenceWatch:
    """Says once that a device gives digital silence."""

    def __init__(self, rate_hz: int, on_note: Callable[[str], None]) -> None:
        self._rate_hz, self._on_note = rate_hz, on_note
        self._silent = 0

    def take(self, block: Samples) -> None:
        if block.any():
            self._silent = 0
            return
        before = self._silent
        self._silent += len(block)
        limit = SILENCE_S * self._rate_hz
        if before < limit <= self._silent:
            self._on_note(
                f"warning: the microphone has given digital silence for {SILENCE_S:g} s: it is "
                "muted or unplugged, or the wrong one; `--device list` shows the others"
            )
