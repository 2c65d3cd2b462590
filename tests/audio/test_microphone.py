"""The microphone, with a stand-in for the library that talks to the sound card."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import numpy as np
import pytest

from dsmops.audio import FRAME_SAMPLES, Samples
from dsmops.audio import microphone as module
from dsmops.audio.microphone import microphone
from dsmops.errors import EnvironmentMissingError, ExtraMissingError, InputError
from tests.support.sounddevice import FakeSounddevice, Playing


def install(monkeypatch: pytest.MonkeyPatch, library: FakeSounddevice) -> FakeSounddevice:
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    return library


def record(
    count: int, device: str | None = None, on_note: Callable[[str], None] = lambda _: None
) -> list[Samples]:
    """Return that many frames; the last one may be cut by the end."""

    async def run() -> list[Samples]:
        stop, recorded = asyncio.Event(), list[Samples]()
        async for frame in microphone(stop, device=device, on_note=on_note):
            recorded.append(frame)
            if len(recorded) == count:
                stop.set()
        return recorded

    return asyncio.run(run())


def tone(seconds: float, amplitude: float = 0.5) -> Playing:
    """Return what gives a tone of 440 Hz at any rate, in opposite phase on a second channel."""

    def plays(callback: Callable[..., None], rate_hz: int, channels: int) -> None:
        signs = np.array([1, -1], np.float32)[:channels]
        time_s = np.arange(round(seconds * rate_hz)) / rate_hz
        wave = (amplitude * np.sin(2 * np.pi * 440 * time_s)).astype(np.float32)
        block = round(0.08 * rate_hz)
        for start in range(0, len(wave), block):
            callback(wave[start : start + block, None] * signs, block, None, None)

    return plays


def test_frames_come_in_order_as_copies_until_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """PortAudio reuses its buffer; what was yielded stays. The device is closed at the end."""

    def plays(callback: Callable[..., None], _rate_hz: int, _channels: int) -> None:
        buffer = np.zeros((FRAME_SAMPLES, 1), np.float32)
        for number in range(5):
            buffer[:] = number + 1
            callback(buffer, FRAME_SAMPLES, None, None)

    library = install(monkeypatch, FakeSounddevice(plays=plays))
    recorded = record(5)
    assert [float(frame[0]) for frame in recorded] == [1, 2, 3, 4, 5]
    assert all(frame.shape == (FRAME_SAMPLES,) for frame in recorded)
    assert library.closed


@pytest.mark.parametrize("rate_hz", [8_000, 44_100, 48_000, 96_000])
def test_any_rate_and_channels_become_24_khz_mono(
    monkeypatch: pytest.MonkeyPatch, rate_hz: int
) -> None:
    """A device that does not convert is opened as it is. Opposite phase does not cancel."""
    devices = (("USB headset", 2, 0, rate_hz),)
    library = FakeSounddevice(plays=tone(1.2), converts=False, devices=devices)
    recorded = record(13, on_note=install(monkeypatch, library).played.append)
    assert library.opened == [(0, rate_hz, 2)]
    got = np.concatenate(recorded[1:12])
    assert np.abs(got).max() == pytest.approx(0.5, abs=0.02)
    crossings = np.count_nonzero(np.diff(np.sign(got)) > 0)
    assert crossings / (len(got) / 24_000) == pytest.approx(440, rel=0.02)


def test_a_device_is_chosen_by_number_name_or_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What names none or several is an error that lists them."""
    devices = (
        ("Speakers", 0, 2, 48_000),
        ("Webcam", 1, 0, 48_000),
        ("USB Audio A", 2, 2, 48_000),
        ("USB Audio B", 2, 2, 48_000),
    )
    for name, number in (("1", 1), ("webcam", 1), ("audio b", 3), ("USB Audio A", 2)):
        library = install(monkeypatch, FakeSounddevice(plays=tone(0.3), devices=devices))
        record(1, name)
        assert library.opened[0][0] == number
    for name, message in (
        ("usb", "'usb' names 2 microphones"),
        ("0", "'0' names no microphone"),
        ("gone", "'gone' names no microphone"),
    ):
        with pytest.raises(InputError, match=message) as caught:
            record(1, name)
        assert "2: USB Audio A" in caught.value.hint
    assert "1: Webcam" in caught.value.hint


def test_an_unplugged_microphone_ends_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """PortAudio then calls no more. What was recorded was yielded."""
    monkeypatch.setattr(module, "SILENCE_S", 0.2)
    install(monkeypatch, FakeSounddevice(plays=tone(0.16)))
    recorded: list[Samples] = []

    async def run() -> None:
        async for frame in microphone(asyncio.Event()):
            recorded.append(frame)  # noqa: PERF401 kept when it raises

    with pytest.raises(EnvironmentMissingError, match="was unplugged or stopped"):
        asyncio.run(run())
    assert len(recorded) == 2


def test_digital_silence_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A muted or unplugged device may go on with zeros: after 4 s a warning, within the 5 s that
    people wait.
    """
    assert module.SILENCE_S < 5
    notes: list[str] = []
    install(monkeypatch, FakeSounddevice(plays=tone(9.6, 0.0)))
    record(120, on_note=notes.append)
    assert len(notes) == 1
    assert "digital silence" in notes[0]


def test_no_microphone_and_no_library_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is a machine without a device, the other an extra to install."""
    install(monkeypatch, FakeSounddevice(opens=False))
    with pytest.raises(EnvironmentMissingError, match="no such device"):
        record(1)
    install(monkeypatch, FakeSounddevice(opens=False, devices=()))
    with pytest.raises(EnvironmentMissingError, match="finds no sound device"):
        record(1)
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ExtraMissingError) as missing:
        record(1)
    assert "dsmops[mic]" in missing.value.hint
