"""A text through a server: the sound reaches the sink, the words keep their times, a failure is
reported.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.audio import Samples, read, write
from dsmops.errors import InputError, SourceError
from dsmops.operations.speech.remote_synthesis import synthesize_remotely
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.machine import TtsPacing
from dsmops.worker.serving.settings import TtsSettings
from tests.support.engines import EchoEngine
from tests.support.tts_client import TTS_PATH
from tests.support.tts_engines import TalkEngine
from tests.support.workers import KEY, PATH, ThreadedServer
from tests.worker.serving.test_server import wait_for_slots


class Heard:
    """A sink that remembers, and may leave off."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.blocks: list[Samples] = []
        self._most = most

    def __call__(self, blocks: Iterator[Samples]) -> None:
        for block in blocks:
            self.blocks.append(block)
            if len(self.blocks) == self._most:
                return


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    """A server with one slot, whose engine is not a model."""

    def find_voice(name: str) -> tuple[Samples, ...]:
        if name:
            raise SourceError(
                f"this server has no voice {name!r}", hint="It has none.", code="voice.unknown"
            )
        return ()

    module = TtsSettings(
        "tts_py", TTS_PATH, lambda: TalkEngine(1), find_voice, TtsRequest(), TtsPacing(), 2
    )
    with ThreadedServer(module=module) as running:
        yield running


@pytest.mark.slow
def test_a_server_says_it_block_by_block(server: ThreadedServer, tmp_path: Path) -> None:
    """Into any sink; the words come with their times."""
    synthesis = synthesize_remotely(
        "hello there my friend",
        partial(write, tmp_path / "a.flac"),
        server.url,
        api_key=KEY,
        target=tmp_path / "a.flac",
    )
    assert [word.text for word in synthesis.words] == ["hello", "there", "my", "friend"]
    assert (synthesis.output, synthesis.model) == (
        tmp_path / "a.flac",
        f"{server.url.replace('http', 'ws')}{TTS_PATH}",
    )
    assert len(read(tmp_path / "a.flac")) == round(synthesis.audio_s * 24_000)
    assert synthesis.first_audio_ms is not None
    assert synthesis.device is None


def test_a_sink_that_leaves_off_ends_the_conversation(server: ThreadedServer) -> None:
    """The slot is free, no thread is left, whatever was still to come."""
    heard = Heard(most=5)
    synthesize_remotely("hello there my friend " * 2000, heard, server.url, api_key=KEY)
    assert len(heard.blocks) == 5
    wait_for_slots(server.url, 0, within_s=5)
    assert not [thread for thread in threading.enumerate() if thread.name == "speech-client"]


def test_a_sink_that_fails_is_what_is_told(server: ThreadedServer) -> None:
    """Not what its failing did to the conversation."""

    def full(blocks: Iterator[Samples]) -> None:
        next(blocks)
        raise InputError("the disk is full")

    with pytest.raises(InputError, match="the disk is full"):
        synthesize_remotely("hello there my friend " * 200, full, server.url, api_key=KEY)
    wait_for_slots(server.url, 0, within_s=5)


def test_a_server_that_refuses_leaves_no_file(server: ThreadedServer, tmp_path: Path) -> None:
    """Its reason is the error."""
    with pytest.raises(InputError, match="has no voice 'nobody'"):
        synthesize_remotely(
            "hello", partial(write, tmp_path / "a.wav"), server.url, voice="nobody", api_key=KEY
        )
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_hears_cannot_be_made_to_speak(tmp_path: Path) -> None:
    """What it cannot read is reported, with where to look for the path that was meant."""
    with (
        ThreadedServer(EchoEngine) as hearing,
        pytest.raises(InputError, match="not a message of this protocol") as caught,
    ):
        synthesize_remotely(
            "hello", partial(write, tmp_path / "a.wav"), hearing.url + PATH, api_key=KEY
        )
    assert "/api/modules_info lists" in caught.value.hint
    assert list(tmp_path.iterdir()) == []
