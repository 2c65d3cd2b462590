"""Both clients against a server that closes and times out as the original moshi-server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from dsmops.audio import FRAME_SAMPLES
from dsmops.client import stt, tts
from dsmops.client.session import Patience
from dsmops.client.stt import CLOSING_FRAMES, LEAD_IN_FRAMES
from dsmops.client.window import FRAME_S
from dsmops.errors import TransferError
from dsmops.protocol import Audio, Step, TtsText, Word
from tests.support.original_server import KEY, TTS_DELAY, WORD_FRAMES, OriginalServer, Timing

SCALE = 1 / 60
SHORT = Timing().times(SCALE)
"""0.33 s without a frame, 2 s without a binary one, a ping after 0.17 s."""
LIVELY = Patience(silence_s=2, ping_s=5 * SCALE, idle_s=45 * SCALE)
"""The client's own times, shortened by the same factor."""
SLOW_STEP_S = 3 * FRAME_S * SCALE
"""Three times too slow, on a clock that runs 60 times as fast."""


async def silence(frames: int) -> AsyncIterator[NDArray[np.float32]]:
    for _ in range(frames):
        yield np.zeros(FRAME_SAMPLES, np.float32)


def transcribe(
    server: OriginalServer,
    frames: int,
    *,
    speed: float = 0.0,
    patience: Patience = LIVELY,
    send_ahead_s: float = 60.0,
) -> list[stt.Answer]:
    answers: list[stt.Answer] = []
    asyncio.run(
        stt.transcribe(
            server.url,
            silence(frames),
            answers.append,
            api_key=KEY,
            speed=speed,
            patience=patience,
            send_ahead_s=send_ahead_s,
        )
    )
    return answers


def words(answers: list[stt.Answer]) -> list[str]:
    return [answer.text for answer in answers if isinstance(answer, Word)]


def whole_text(frames: int, server: OriginalServer) -> list[str]:
    """The words that the server writes for so many frames, up to its last marker."""
    steps = LEAD_IN_FRAMES + frames + CLOSING_FRAMES
    return [f"w{number}" for number in range(steps // WORD_FRAMES + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("heads", [4, 0])
def test_every_word_of_a_slow_server_arrives(heads: int) -> None:
    """Also when all was sent long before the text is complete.

    Sending takes no time, and the steps take longer than the limit without a binary frame.
    """
    with OriginalServer(heads=heads, step_s=SLOW_STEP_S, timing=SHORT) as server:
        answers = transcribe(server, 600)
    assert words(answers)[: len(whole_text(600, server))] == whole_text(600, server)
    assert server.seen.dropped == []
    assert server.seen.client_pings > 5
    assert server.seen.empty_audio > 0
    assert (sum(isinstance(answer, Step) for answer in answers) > 600) == (heads > 0)


def test_a_module_without_ready_and_without_limits_is_served() -> None:
    """Type `Asr`, with and without pause detection."""
    for heads in (4, 0):
        with OriginalServer("Asr", heads=heads) as server:
            answers = transcribe(server, 100, patience=replace(LIVELY, first_s=0.1))
        assert words(answers)[: len(whole_text(100, server))] == whole_text(100, server)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("patience", "reason"),
    [
        (Patience(silence_s=2, ping_s=60), "recv loop short timeout"),
        (Patience(silence_s=2, ping_s=5 * SCALE, idle_s=60), "recv loop long timeout"),
    ],
)
def test_a_client_that_does_not_keep_itself_alive_is_dropped(
    patience: Patience, reason: str
) -> None:
    """The stand-in is as unkind as the original: both limits hold, and no Close frame comes."""
    with (
        OriginalServer(step_s=SLOW_STEP_S, timing=SHORT) as server,
        pytest.raises(TransferError, match="dropped without a Close frame"),
    ):
        transcribe(server, 600, patience=patience)
    assert server.seen.dropped == [reason]


@pytest.mark.slow
@pytest.mark.parametrize("heads", [4, 0])
def test_audio_goes_out_in_a_window(heads: int) -> None:
    """The server never holds more than the window and the closing silence; nothing is lost."""
    with OriginalServer(heads=heads, step_s=0.0005) as server:
        answers = transcribe(server, 1500, send_ahead_s=10)
    assert words(answers)[-1] == whole_text(1500, server)[-1]
    closing_s = 2 * CLOSING_FRAMES * FRAME_S
    assert 5 < server.seen.most_waiting_s <= 10 + closing_s + 2 * FRAME_S
    # Markers say where a server is that sends no Step, and they are not sent for nothing.
    assert len(server.seen.markers) > 40 if not heads else len(server.seen.markers) < 10


def test_what_came_before_a_drop_is_kept() -> None:
    """The answers are with the caller, and the error says that the text is not complete."""
    answers: list[stt.Answer] = []
    with OriginalServer(drop_at=100) as server, pytest.raises(TransferError) as failed:
        asyncio.run(stt.transcribe(server.url, silence(300), answers.append, api_key=KEY, speed=0))
    assert failed.value.code == "server.ended"
    assert "before its text was complete" in failed.value.message
    assert len(words(answers)) >= 9


def synthesize(
    server: OriginalServer, text: str, *, patience: Patience | None = None
) -> tuple[list[tts.Answer], TransferError | None]:
    """Return what the client got, and the error that ended it."""
    answers: list[tts.Answer] = []

    async def run() -> None:
        async for answer in tts.synthesize(server.url, [text], api_key=KEY, patience=patience):
            answers.append(answer)  # noqa: PERF401 what came before a failure counts

    try:
        asyncio.run(run())
    except TransferError as exc:
        return answers, exc
    return answers, None


@pytest.mark.parametrize("close_frame", [True, False])
def test_a_text_that_ends_with_a_reset_is_complete(close_frame: bool) -> None:
    """Ten times in ten: all words and all sound, with a Close frame before the reset or not.

    Words are counted as the server counts them: a colon separates, a dash alone is not a word.
    """
    with OriginalServer("Py", close_frame=close_frame) as server:
        for _ in range(10):
            answers, failure = synthesize(server, "one:two (three) – four " * 5)
            assert failure is None
            assert sum(isinstance(answer, TtsText) for answer in answers) == 20
            assert sum(isinstance(answer, Audio) for answer in answers) == 60


def test_a_text_that_breaks_off_is_told_from_a_whole_one() -> None:
    """Without a Close frame, and with words still to come, the sound so far is not all of it."""
    with OriginalServer("Py", drop_at=40) as server:
        answers, failure = synthesize(server, "word " * 30)
    assert failure is not None
    assert "before its speech was complete" in failure.message
    assert sum(isinstance(answer, Audio) for answer in answers) == 40 - TTS_DELAY


@pytest.mark.slow
def test_a_client_whose_text_takes_long_keeps_itself_alive() -> None:
    """The server drops it after 30 s without a frame, and it pings only while it sends no sound."""
    lively, mute = Patience(silence_s=2, ping_s=5 * SCALE), Patience(silence_s=2, ping_s=60)
    with OriginalServer("Py", step_s=0.01, timing=SHORT) as server:
        answers, failure = synthesize(server, "word " * 40, patience=lively)
        assert failure is None
        assert sum(isinstance(answer, Audio) for answer in answers) == 120
        assert server.seen.dropped == []
        assert synthesize(server, "word " * 40, patience=mute)[1] is not None
        assert server.seen.dropped == ["recv loop short timeout"]


def test_a_full_server_is_told_by_its_message() -> None:
    """An error, a Close frame without a code and a reset; both kinds of module."""
    for module in ("BatchedAsr", "Py"):
        with OriginalServer(module, slots=0) as server:
            quick = Patience(attempts=2, back_off_s=0.01)
            with pytest.raises(TransferError, match="is full: no slot is free"):
                if module == "Py":
                    raise synthesize(server, "word", patience=quick)[1] or AssertionError
                transcribe(server, 10, patience=quick)
            assert server.seen.connections == 2
