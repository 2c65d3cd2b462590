"""The loudspeaker: sound as it comes. Needs the package sounddevice, which comes with the extra `mic`, and PortAudio."""

from __future__ import annotations

from collections.abc import Iterable

from dsmops.audio.libraries import sounddevice
from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples
from dsmops.errors import EnvironmentMissingError


def play(blocks: Iterable[Samples]) -> int:
    """Play 24 kHz mono audio on the system's default device, each block as soon as it is there, and return when all has sounded.

    Returns how often the device had nothing to play because a block came late. The device is opened
    before the first block is asked for.

    Raises:
        ExtraMissingError: sounddevice is not installed, or lacks PortAudio.
        EnvironmentMissingError: there is no such device, or it cannot be opened, or is lost.
    """
    library = sounddevice("playing sound")
    late = 0
    try:
        with library.OutputStream(samplerate=SAMPLE_RATE_HZ, channels=1, dtype="float32") as stream:
            for number, block in enumerate(blocks):
                # The device starts empty: only what comes after the first block can be late.
                late += bool(stream.write(block.reshape(-1, 1))) and number > 0
    except library.PortAudioError as exc:
        raise EnvironmentMissingError(
            f"the loudspeaker cannot be used: {exc}",
            hint="See `python -m sounddevice` for the devices that PortAudio knows.",
        ) from exc
    return late
