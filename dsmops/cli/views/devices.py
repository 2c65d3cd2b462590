"""Sound devices as people choose them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dsmops.audio.devices import SoundDevice


def show_devices(devices: Iterable[SoundDevice]) -> Iterator[str]:
    """Yield a line per device: its number, its use, its rate and its name."""
    for device in devices:
        uses = [
            f"{use}{' (default)' if is_default else ''}"
            for use, channels, is_default in (
                ("microphone", device.input_channels, device.is_default_input),
                ("loudspeaker", device.output_channels, device.is_default_output),
            )
            if channels
        ]
        yield f"{device.number:3d}  {device.rate_hz:6d} Hz  {device.name}: {', '.join(uses)}"
