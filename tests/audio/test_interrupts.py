"""Ctrl-C while libsndfile reads: cffi drops what is raised in the functions that it calls."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from dsmops.audio import open_audio
from dsmops.audio.segments import SegmentReader
from tests.support.sound import piped_wav, sweep

RATE_HZ = 24_000


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Both ends of a pipe, with a second of audio in it and no end."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as target:
        os.set_blocking(target.fileno(), False)
        target.write(piped_wav(sweep(RATE_HZ, 1.0)))
        target.flush()
        yield source, target


def interrupt_after_reads(monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """Send the signal in the function that libsndfile calls, when it has read some samples."""
    read = SegmentReader.read

    def interrupted(self: SegmentReader, count: int) -> bytes:
        data = read(self, count)
        if self.tell() > 10_000:
            signal.raise_signal(number)
        return data

    monkeypatch.setattr(SegmentReader, "read", interrupted)


def test_ctrl_c_in_a_callback_ends_the_reading(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    content = piped_wav(sweep(RATE_HZ, 1.0))
    with open_audio(io.BytesIO(content)) as audio:
        interrupt_after_reads(monkeypatch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            list(audio.blocks())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "cffi" not in capfd.readouterr().err


def test_a_pipe_that_gives_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, pipe: tuple[BinaryIO, BinaryIO]
) -> None:
    """The signal comes between two waits, when the handler may not raise."""
    with open_audio(pipe[0]) as audio:
        interrupt_after_reads(monkeypatch, signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            list(audio.blocks(0.08))


def test_the_handler_is_called_while_a_pipe_is_waited_for(
    pipe: tuple[BinaryIO, BinaryIO],
) -> None:
    """All that came was read. A timer sends the signal while nothing more comes."""
    seconds = 0.0

    def stop(*_: object) -> None:
        raise SystemExit("waited long enough")

    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    before_term = signal.signal(signal.SIGTERM, stop)
    try:
        with open_audio(pipe[0]) as audio, pytest.raises(SystemExit, match="long enough"):
            for block in audio.blocks(0.08):
                seconds += len(block) / RATE_HZ
                if seconds > 0.7:
                    signal.setitimer(signal.ITIMER_REAL, 0.2)
        assert signal.getsignal(signal.SIGTERM) is stop
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGTERM, before_term)
    assert seconds > 0.7


def test_a_handler_that_restores_another_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    came = []

    def on_first(number: int, _: object) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, on_first)
    try:
        with open_audio(io.BytesIO(piped_wav(sweep(RATE_HZ, 1.0)))) as audio:
            interrupt_after_reads(monkeypatch, signal.SIGINT)
            blocks = audio.blocks()
            with pytest.raises(KeyboardInterrupt):  # by the second one
                list(blocks)
        assert came == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
