"""Sound devices that PortAudio knows, and which of them a name means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dsmops.audio.libraries import quiet_libraries, sounddevice
from dsmops.errors import EnvironmentMissingError, InputError

Use = Literal["input", "output"]
_USES: dict[Use, str] = {"input": "microphone", "output": "loudspeaker"}


@dataclass(frozen=True, slots=True)
class SoundDevice:
    """A device, its channels each way, and the sample rate that it prefers."""

    number: int
    name: str
    input_channels: int
    output_channels: int
    rate_hz: int
    is_default_input: bool
    is_default_output: bool

    def channels(self, use: Use) -> int:
        """Return how many channels it has for this use."""
        return self.input_channels if use == "input" else self.output_channels


def list_devices() -> list[SoundDevice]:
    """Return the devices in the order of their numbers.

    Raises:
        ExtraMissingError: sounddevice is not installed, or lacks PortAudio.
        EnvironmentMissingError: there is none.
    """
    with quiet_libraries():
        return _list_devices(sounddevice("finding sound devices"))


def _list_devices(library: Any) -> list[SoundDevice]:
    try:
        default_input, default_output = library.default.device
        found = [
            SoundDevice(
                number,
                str(device["name"]),
                int(device["max_input_channels"]),
                int(device["max_output_channels"]),
                round(device["default_samplerate"]),
                number == default_input,
                number == default_output,
            )
            for number, device in enumerate(library.query_devices())
        ]
    except library.PortAudioError as exc:
        raise EnvironmentMissingError(f"PortAudio: {exc}", hint=_NONE_HINT) from exc
    if not found:
        raise EnvironmentMissingError("PortAudio finds no sound device", hint=_NONE_HINT)
    return found


_NONE_HINT = "Connect one. In a container or over SSH, use a file instead."


def find_device(name: str, use: Use, devices: Sequence[SoundDevice]) -> SoundDevice:
    """Return the device that a number, a name or a part of a name means.

    Raises:
        InputError: none for this use, or several.
    """
    usable = [device for device in devices if device.channels(use)]
    if name.isdecimal():
        matching = [device for device in usable if device.number == int(name)]
    else:
        wanted = name.casefold()
        matching = [device for device in usable if device.name.casefold() == wanted]
        matching = matching or [device for device in usable if wanted in device.name.casefold()]
    if len(matching) == 1:
        return matching[0]
    shown = ", ".join(f"{device.number}: {device.name}" for device in matching or usable)
    what = f"{len(matching)} {_USES[use]}s" if matching else f"no {_USES[use]}"
    raise InputError(
        f"{name!r} names {what}",
        hint=f"Choose one by its number: {shown or 'there is none'}.",
        code="audio.device",
    )


def open_stream(library: Any, use: Use, name: str | None, **options: Any) -> tuple[Any, int, int]:
    """Return an open stream of a device, its sample rate and its channels.

    24 kHz mono is tried first. A device that does not convert gets its own rate and channels.

    Raises:
        EnvironmentMissingError: it cannot be opened.
        InputError: `name` means no device, or several.
    """
    make = library.InputStream if use == "input" else library.OutputStream
    device = None if name is None else find_device(name, use, list_devices())
    number = None if device is None else device.number
    try:
        try:
            rate_hz, channels = 24_000, 1
            stream = make(
                device=number,
                samplerate=rate_hz,
                channels=channels,
                dtype="float32",
                blocksize=_block(use, rate_hz),
                **options,
            )
            stream.__enter__()
        except library.PortAudioError:
            device = device or _default(use)
            if device is None:
                raise
            rate_hz, channels = device.rate_hz, min(2, device.channels(use))
            stream = make(
                device=device.number,
                samplerate=rate_hz,
                channels=channels,
                dtype="float32",
                blocksize=_block(use, rate_hz),
                **options,
            )
            stream.__enter__()
    except library.PortAudioError as exc:
        raise EnvironmentMissingError(
            f"the {_USES[use]} cannot be opened: {exc}",
            hint="`--device list` shows the devices, --device chooses one.",
            code="audio.device",
        ) from exc
    return stream, rate_hz, channels


def _block(use: Use, rate_hz: int) -> int:
    """Return the samples of a block.

    A microphone gives frames of 80 ms. For a loudspeaker PortAudio chooses.
    """
    return round(0.08 * rate_hz) if use == "input" else 0


def _default(use: Use) -> SoundDevice | None:
    for device in list_devices():
        if (device.is_default_input if use == "input" else device.is_default_output) and (
            device.channels(use)
        ):
            return device
    return None
