"""The loudspeaker, with a stand-in for the library that talks to the sound card."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from typer.testing import CliRunner

from dsmops.audio import Samples, play
from dsmops.cli.app import app
from dsmops.errors import EnvironmentMissingError, ExtraMissingError
from tests.support.sounddevice import FakeSounddevice


def _blocks(count: int) -> Iterator[Samples]:
    for number in range(count):
        yield np.full(1920, number / 10, np.float32)


def test_blocks_are_played_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the device is closed behind the last; a start from nothing is not late."""
    library = FakeSounddevice(late=(True, False, True, True))
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    assert play(_blocks(4)) == 2
    assert [len(block) for block in library.played] == [1920] * 4
    assert [float(block[0]) for block in library.played] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert library.closed


def test_a_device_of_another_rate_gets_that_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that does not convert is given its own rate and channels; all of the sound."""
    devices = (("Mic", 1, 0, 16_000), ("HDMI", 0, 8, 44_100))
    library = FakeSounddevice(converts=False, devices=devices)
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    play(_blocks(10), device="hdmi")
    assert library.opened == [(1, 44_100, 2)]
    assert sum(map(len, library.played)) == pytest.approx(44_100 * 0.8, abs=2)


def test_the_devices_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device list` of both commands, which then do nothing else."""
    devices = (("Mic", 1, 0, 16_000), ("HDMI", 0, 8, 44_100))
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice(devices=devices))
    for command in ("transcribe", "synthesize"):
        done = CliRunner().invoke(app, [command, "--device", "list"])
        assert done.exit_code == 0, done.output
        assert "  0   16000 Hz  Mic: microphone (default)" in done.stdout
        assert "  1   44100 Hz  HDMI: loudspeaker" in done.stdout


def test_a_device_that_is_not_there_is_known_before_the_first_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So the user does not wait for a model in vain."""
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice(opens=False))
    blocks = _blocks(1)
    with pytest.raises(EnvironmentMissingError, match="no such device") as caught:
        play(blocks)
    assert caught.value.hint
    assert len(list(blocks)) == 1


def test_a_device_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same words as one that never was."""
    monkeypatch.setitem(sys.modules, "sounddevice", FakeSounddevice(fails_at=2))
    with pytest.raises(EnvironmentMissingError, match="the device is gone"):
        play(_blocks(4))


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command to run."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ExtraMissingError) as missing:
        play(_blocks(1))
    assert "dsmops[mic]" in missing.value.hint
