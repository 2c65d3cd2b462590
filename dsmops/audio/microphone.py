"""The microphone: frames as they are heard. Needs the package sounddevice, which comes with the extra `mic`, and PortAudio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from dsmops.audio.libraries import sounddevice
from dsmops.audio.pcm import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from dsmops.errors import EnvironmentMissingError, TransferError

_MOST_WAITING = 750
"""Frames that may wait, a minute: whoever reads so far behind will not catch up."""


async def microphone(stop: asyncio.Event) -> AsyncIterator[Samples]:
    """Yield what the system's default microphone hears, in frames float32 [1920] at 24 kHz, until `stop` is set.

    Raises:
        ExtraMissingError: sounddevice is not installed, or lacks PortAudio.
        EnvironmentMissingError: there is no microphone, or it cannot be opened.
        TransferError: whoever reads the frames is a minute behind.
    """
    library = sounddevice("listening to a microphone")
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Samples] = asyncio.Queue()

    def on_frame(heard: Any, _frames: int, _time: object, _status: object) -> None:
        # Called in PortAudio's own thread, with memory that it will reuse.
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(waiting.put_nowait, heard[:, 0].copy())

    try:
        stream = library.InputStream(
            samplerate=SAMPLE_RATE_HZ,
            channels=1,
            dtype="float32",
            blocksize=FRAME_SAMPLES,
            callback=on_frame,
        )
        stream.__enter__()
    except library.PortAudioError as exc:
        raise EnvironmentMissingError(
            f"the microphone cannot be opened: {exc}",
            hint="See `python -m sounddevice` for the devices that PortAudio knows.",
        ) from exc
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            frame = asyncio.ensure_future(waiting.get())
            await asyncio.wait({frame, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not frame.done():
                frame.cancel()
                return
            if waiting.qsize() > _MOST_WAITING:
                raise TransferError(
                    "the microphone is a minute ahead of the server",
                    hint="The server or the network is too slow.",
                )
            yield frame.result()
    finally:
        stopped.cancel()
        stream.__exit__(None, None, None)
