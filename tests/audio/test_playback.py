"""The loudspeaker, with a stand-in for the library that talks to the sound card."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from dsmops.audio import Samples, play
from dsmops.errors import EnvironmentMissingError, ExtraMissingError


class _PortAudioError(Exception):
    pass


def _library(
    *, late: tuple[bool, ...] = (), fails_at: int | None = None, opens: bool = True
) -> tuple[ModuleType, list[Samples]]:
    """Return a sounddevice, and what it plays. `late` says for each block whether the device had run dry before it."""
    library = ModuleType("sounddevice")
    played: list[Samples] = []

    class OutputStream:
        def __init__(self, *, samplerate: int, channels: int, dtype: str) -> None:
            assert (samplerate, channels, dtype) == (24_000, 1, "float32")

        def __enter__(self) -> OutputStream:
            if not opens:
                raise _PortAudioError("no such device")
            return self

        def __exit__(self, *_: object) -> None:
            played.append(np.zeros(0, np.float32))

        def write(self, block: Samples) -> bool:
            if len(played) == fails_at:
                raise _PortAudioError("the device is gone")
            assert block.shape[1] == 1
            played.append(block[:, 0])
            return late[len(played) - 1] if late else False

    library.OutputStream = OutputStream  # type: ignore[attr-defined]
    library.PortAudioError = _PortAudioError  # type: ignore[attr-defined]
    return library, played


def _blocks(count: int) -> Iterator[Samples]:
    for number in range(count):
        yield np.full(1920, number / 10, np.float32)


def test_blocks_are_played_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the device is closed behind the last; a start from nothing is not late."""
    library, played = _library(late=(True, False, True, True))
    monkeypatch.setitem(sys.modules, "sounddevice", library)
    assert play(_blocks(4)) == 2
    assert [len(block) for block in played] == [1920] * 4 + [0]
    assert [float(block[0]) for block in played[:4]] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_device_that_is_not_there_is_known_before_the_first_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So nobody waits for a model in vain."""
    monkeypatch.setitem(sys.modules, "sounddevice", _library(opens=False)[0])
    blocks = _blocks(1)
    with pytest.raises(EnvironmentMissingError, match="no such device") as caught:
        play(blocks)
    assert caught.value.hint
    assert len(list(blocks)) == 1


def test_a_device_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same words as one that never was."""
    monkeypatch.setitem(sys.modules, "sounddevice", _library(fails_at=2)[0])
    with pytest.raises(EnvironmentMissingError, match="the device is gone"):
        play(_blocks(4))


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command to run."""
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ExtraMissingError) as missing:
        play(_blocks(1))
    assert "dsmops[mic]" in missing.value.hint
