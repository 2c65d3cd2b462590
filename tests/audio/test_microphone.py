"""The microphone, with a stand-in for the library that talks to the sound card."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dsmops.audio import FRAME_SAMPLES, Samples
from dsmops.audio.microphone import microphone
from dsmops.errors import EnvironmentMissingError, ExtraMissingError


class _PortAudioError(Exception):
    pass


def _library(play: Callable[[Callable[..., None]], None] | None) -> ModuleType:
    """Return a sounddevice whose stream calls `play` with the callback, in a thread of its own, or fails to open for None."""
    library = ModuleType("sounddevice")

    class InputStream:
        def __init__(
            self, *, samplerate: int, channels: int, dtype: str, blocksize: int, callback: Any
        ) -> None:
            assert (samplerate, channels, dtype, blocksize) == (24_000, 1, "float32", FRAME_SAMPLES)
            self._callback = callback

        def __enter__(self) -> InputStream:
            if play is None:
                raise _PortAudioError("no such device")
            self._thread = threading.Thread(target=play, args=(self._callback,))
            self._thread.start()
            return self

        def __exit__(self, *_: object) -> None:
            self._thread.join()
            library.closed = True  # type: ignore[attr-defined]

    library.InputStream = InputStream  # type: ignore[attr-defined]
    library.PortAudioError = _PortAudioError  # type: ignore[attr-defined]
    library.closed = False  # type: ignore[attr-defined]
    return library


def _hear(count: int) -> list[Samples]:
    async def listen() -> list[Samples]:
        stop, heard = asyncio.Event(), list[Samples]()
        async for frame in microphone(stop):
            heard.append(frame)
            if len(heard) == count:
                stop.set()
        return heard

    return asyncio.run(listen())


def test_frames_come_in_order_as_copies_until_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """PortAudio reuses its buffer; what was yielded stays. The device is closed at the end."""

    def play(callback: Callable[..., None]) -> None:
        buffer = np.zeros((FRAME_SAMPLES, 1), np.float32)
        for number in range(5):
            buffer[:] = number
            callback(buffer, FRAME_SAMPLES, None, None)

    library = _library(play)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    heard = _hear(5)
    assert [float(frame[0]) for frame in heard] == [0, 1, 2, 3, 4]
    assert all(frame.shape == (FRAME_SAMPLES,) for frame in heard)
    assert library.closed


def test_no_microphone_and_no_library_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is a machine without a device, the other an extra to install."""
    monkeypatch.setitem(sys.modules, "sounddevice", _library(None))
    with pytest.raises(EnvironmentMissingError, match="no such device"):
        _hear(1)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ExtraMissingError) as missing:
        _hear(1)
    assert "dsmops[mic]" in missing.value.hint
