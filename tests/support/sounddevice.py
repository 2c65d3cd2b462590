"""A stand-in for the package sounddevice: no machine of a test has a sound card."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from dsmops.audio import Samples

Playing = Callable[[Callable[..., None], int, int], None]
"""What a microphone gives: called with the callback, the rate and the channels, in a thread."""


class PortAudioError(Exception):
    """The library's own error."""


class FakeSounddevice(ModuleType):
    """`devices` as PortAudio lists them: (name, inputs, outputs, rate). Each opens at its own rate
    and channels, and also at 24 kHz mono where `converts`.
    """

    def __init__(
        self,
        *,
        plays: Playing | None = None,
        late: tuple[bool, ...] = (),
        fails_at: int | None = None,
        opens: bool = True,
        converts: bool = True,
        devices: tuple[tuple[str, int, int, int], ...] = (("Built-in", 2, 2, 48_000),),
    ) -> None:
        super().__init__("sounddevice")
        self.PortAudioError = PortAudioError
        self.closed = False
        self.opened: list[tuple[int | None, int, int]] = []
        self.played: list[Samples] = []
        self._devices, self._converts, self._opens = devices, converts, opens
        self._plays, self._late, self._fails_at = plays, late, fails_at
        self.default = type("default", (), {"device": (0, 0) if devices else (-1, -1)})

    def query_devices(self) -> list[dict[str, Any]]:
        keys = ("name", "max_input_channels", "max_output_channels", "default_samplerate")
        return [dict(zip(keys, device, strict=True)) for device in self._devices]

    def open(self, device: int | None, rate_hz: int, channels: int, inputs: bool) -> None:
        """Fail as PortAudio does where a device cannot be opened so."""
        if not self._opens:
            raise PortAudioError("no such device")
        _, input_channels, output_channels, own_hz = self._devices[device or 0]
        fits = rate_hz == own_hz and channels <= (input_channels if inputs else output_channels)
        if not (fits or (self._converts and (rate_hz, channels) == (24_000, 1))):
            raise PortAudioError("Invalid sample rate")
        self.opened.append((device, rate_hz, channels))

    @property
    def InputStream(self) -> Callable[..., _Stream]:  # noqa: N802 the library's name
        return lambda **options: _Stream(self, inputs=True, **options)

    @property
    def OutputStream(self) -> Callable[..., _Stream]:  # noqa: N802
        return lambda **options: _Stream(self, inputs=False, **options)


class _Stream:
    def __init__(
        self,
        library: FakeSounddevice,
        *,
        inputs: bool,
        device: int | None,
        samplerate: int,
        channels: int,
        dtype: str,
        blocksize: int,
        callback: Callable[..., None] | None = None,
    ) -> None:
        assert dtype == "float32"
        assert blocksize == (round(0.08 * samplerate) if inputs else 0)
        self._library, self._callback = library, callback
        self._device, self._rate_hz, self._channels = device, samplerate, channels
        self._inputs = inputs
        self._thread: threading.Thread | None = None

    def __enter__(self) -> _Stream:
        self._library.open(self._device, self._rate_hz, self._channels, self._inputs)
        if self._callback is not None and self._library._plays is not None:
            self._thread = threading.Thread(
                target=self._library._plays, args=(self._callback, self._rate_hz, self._channels)
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()
        self._library.closed = True

    def write(self, block: Samples) -> bool:
        played = self._library.played
        if len(played) == self._library._fails_at:
            raise PortAudioError("the device is gone")
        assert block.shape[1] == self._channels
        played.append(np.asarray(block[:, 0]))
        late = self._library._late
        return late[len(played) - 1] if late else False
