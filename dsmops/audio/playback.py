"""The loudspeaker: sound as it comes. Needs the extra `mic` (sounddevice, PortAudio)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dsmops.audio.devices import open_stream
from dsmops.audio.libraries import quiet_libraries, sounddevice
from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples
from dsmops.audio.resampling import Resampler
from dsmops.errors import EnvironmentMissingError


def play(blocks: Iterable[Samples], *, device: str | None = None) -> int:
    """Play 24 kHz mono audio, each block as soon as it is there, and return when all was played.

    `device` is a name or a number, None for the system's default; it may have any rate. Returns how
    often the device had nothing to play because a block came late. The device is opened before the
    first block is asked for.

    Raises:
        ExtraMissingError: sounddevice is not installed, or lacks PortAudio.
        EnvironmentMissingError: the device is missing, cannot be opened, or is lost.
        InputError: `device` is not one loudspeaker.
    """
    with quiet_libraries():
        return _play(sounddevice("playing sound"), blocks, device)


def _play(library: Any, blocks: Iterable[Samples], device: str | None) -> int:
    stream, rate_hz, channels = open_stream(library, "output", device)
    resampler = Resampler(SAMPLE_RATE_HZ, rate_hz)
    late = 0
    try:
        for number, block in enumerate(blocks):
            for piece in resampler.take(block):
                values = piece.reshape(-1, 1).repeat(channels, axis=1)
                # The device starts empty: only what comes after the first block can be late.
                late += bool(stream.write(values)) and number > 0
        for piece in resampler.finish():
            stream.write(piece.reshape(-1, 1).repeat(channels, axis=1))
    except library.PortAudioError as exc:
        raise EnvironmentMissingError(
            f"the loudspeaker cannot be used: {exc}",
            hint="`--device list` shows the devices, --device chooses one.",
            code="audio.device",
        ) from exc
    finally:
        # Waits until all was played.
        stream.__exit__(None, None, None)
    return late
