"""A recording that a client has sent: what becomes of its decoder when the client hangs up."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile

from dsmops.audio import AudioSource
from dsmops.worker.serving.stt_recording import Recording


class SlowFile(io.BytesIO):
    """Counts its reads, each of which takes some milliseconds."""

    reads = 0

    def read(self, count: int | None = -1, /) -> bytes:
        self.reads += 1
        time.sleep(0.005)
        return super().read(count)


def wide_recording() -> SlowFile:
    """Return a second of 64 channels: one block of samples takes hundreds of reads."""
    file = SlowFile()
    soundfile.write(file, np.zeros((48_000, 64), np.float32), 48_000, format="WAV")
    file.seek(0)
    return file


def test_decoding_ends_when_the_client_hangs_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, and not on the thread of the event loop, which other clients need."""
    closed_by: list[int] = []
    blocks = AudioSource.blocks

    def watched(audio: AudioSource) -> Any:
        try:
            yield from blocks(audio)
        finally:
            closed_by.append(threading.get_ident())

    monkeypatch.setattr(AudioSource, "blocks", watched)
    file, transport = wide_recording(), SimpleNamespace(is_closing=lambda: False)
    stream = SimpleNamespace(is_full=False, fetch=lambda: (), push=lambda _: None, on_news=None)
    request = SimpleNamespace(transport=transport)
    recording = Recording(file, 60)

    async def hang_up() -> None:
        words = recording.words(cast(Any, stream), cast(Any, request))
        begun = asyncio.ensure_future(anext(words))
        while file.reads < 5:
            await asyncio.sleep(0.005)
        transport.is_closing = lambda: True
        with pytest.raises(ConnectionResetError):
            await begun
        reads = file.reads
        while not closed_by:
            await asyncio.sleep(0.005)
        assert file.reads <= reads + 1

    asyncio.run(asyncio.wait_for(hang_up(), 10))
    assert closed_by != [threading.get_ident()]
