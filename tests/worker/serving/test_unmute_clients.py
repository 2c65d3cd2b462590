"""The speech clients of Kyutai's Unmute against the worker, as clients of the same behaviour."""

import asyncio
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from dsmops.audio import read
from dsmops.shipped import shipped_folder
from tests.support.engines import EchoEngine
from tests.support.served_tiny import KEY, RECORDINGS, SPOKEN
from tests.support.unmute_clients import (
    FRAME,
    FRAME_S,
    STT_DELAY_S,
    AtCapacityError,
    UnmuteStt,
    UnmuteTts,
)
from tests.support.workers import KEY as ECHO_KEY
from tests.support.workers import ThreadedServer, WorkerProcess

PIECE = 480
"""Samples of a message: 20 ms, as they come from a browser."""
AT_ONCE = 4
"""Frames that a sender is ahead of the answers at most: about real time, without waiting for it."""


async def feed(client: UnmuteStt, pcm: NDArray[np.float32]) -> None:
    """Send audio in small pieces, hardly ahead of the steps."""
    for begin in range(0, len(pcm), PIECE):
        await client.send(pcm[begin : begin + PIECE])
        while client.steps < client.sent_samples // FRAME - AT_ONCE:
            await asyncio.sleep(0.001)


async def until(client: UnmuteStt, time_s: float) -> None:
    while client.current_s < time_s:
        await asyncio.sleep(0.001)


def run(talk: Any) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await talk

    asyncio.run(bounded())


@pytest.mark.slow
def test_a_turn_is_heard_flushed_and_followed_by_another(tiny_worker: WorkerProcess) -> None:
    """The pause head rises after the first sentence, and not within it; when the flush is over all
    words of it are there. Then the conversation goes on, and its end is a proper one.
    """
    pcm = read(RECORDINGS / SPOKEN["audio"])
    words, starts_s = SPOKEN["text"].split(), SPOKEN["word_starts_s"]
    gaps = [later - start for start, later in pairwise(starts_s)]
    first = int(np.argmax(gaps)) + 1  # words of the first sentence: the longest gap follows it
    cut = round((starts_s[first] - 0.4) * 24_000)

    async def talk() -> None:
        client = UnmuteStt(tiny_worker.url, KEY)
        await client.start()
        listening = asyncio.create_task(client.listen())
        assert client.words == []
        await feed(client, pcm[:cut])
        silence_frames = 0
        while client.pauses[-1] < 0.6 or not client.words:
            await feed(client, np.zeros(FRAME, np.float32))
            silence_frames += 1
            assert silence_frames < 60
        await until(client, await client.flush())
        assert client.words == words[:first]

        spoken_from = len(client.pauses)
        await feed(client, pcm[cut:])
        assert min(client.pauses[spoken_from:]) < 0.4  # The user may interrupt the assistant.
        await client.mark(17)
        await feed(client, np.zeros(12 * FRAME, np.float32))
        while not client.markers:
            await asyncio.sleep(0.001)
        assert client.words == words
        assert client.markers == [17]
        heard_s = client.sent_samples / 24_000 - STT_DELAY_S
        await until(client, heard_s - 2 * FRAME_S)
        await client.shut_down()
        await listening

    run(talk())


def test_a_full_server_is_taken_for_one_and_slots_come_back_at_once() -> None:
    """The first message says so. A client that shuts down makes room for the next."""
    with ThreadedServer(lambda: EchoEngine(1), slots=1) as server:

        async def talk() -> None:
            for _ in range(3):
                client = UnmuteStt(server.url, ECHO_KEY)
                await client.start()
                listening = asyncio.create_task(client.listen())
                with pytest.raises(AtCapacityError, match="no free channels"):
                    await UnmuteStt(server.url, ECHO_KEY).start()
                await client.send(np.zeros(FRAME, np.float32))
                while not client.steps:
                    await asyncio.sleep(0.001)
                await client.shut_down()
                await listening

        run(talk())


TEXT = ["Good", " morning", " my", " *friend*", ""]


async def answer(client: UnmuteTts) -> tuple[list[str], NDArray[np.float32]]:
    """Return what a client receives of an answer."""
    for piece in TEXT:
        await client.say(piece)
    await client.end()
    texts, pcm = [], [np.zeros(0, np.float32)]
    async for message in client.messages():
        if message["type"] == "Text":
            assert 0 <= message["start_s"] <= message["stop_s"]
            texts.append(message["text"])
        else:
            assert len(message["pcm"]) == FRAME
            pcm.append(np.array(message["pcm"], np.float32))
    return texts, np.concatenate(pcm)


@pytest.mark.slow
def test_an_answer_is_spoken_word_by_word(tiny_worker: WorkerProcess) -> None:
    """With the default voice and one by name, although `cfg_alpha` is in the query; the server
    closes when all is said.
    """

    async def talk() -> None:
        for voice in (None, "hibari-low"):
            client = UnmuteTts(tiny_worker.url, KEY, voice)
            await client.start()
            texts, pcm = await answer(client)
            assert texts == ["Good", "morning", "my", "friend"]
            assert 0.5 < len(pcm) / 24_000 < 10
            assert np.abs(pcm).max() > 0.05

    run(talk())


@pytest.mark.slow
def test_an_unknown_voice_is_an_error_at_the_start(tiny_worker: WorkerProcess) -> None:
    async def talk() -> None:
        name = "unmute-prod-website/no-such-voice.wav"
        with pytest.raises(AtCapacityError, match="no voice"):
            await UnmuteTts(tiny_worker.url, KEY, name).start()

    run(talk())


@pytest.mark.slow
def test_a_voice_of_the_clients_own_is_sent_before_ready(tiny_worker: WorkerProcess) -> None:
    """As the message that the voice cloning server gives, and the answer is spoken with it."""
    voices = shipped_folder("models") / "tiny" / "voices"
    file = next(path for path in voices.iterdir() if path.name.startswith("hibari."))
    latents = load_file(file)["speaker_wavs"]
    voice = msgpack.packb(
        {"type": "Voice", "embeddings": latents.ravel().tolist(), "shape": list(latents.shape)}
    )

    async def talk() -> None:
        client = UnmuteTts(tiny_worker.url, KEY)
        await client.start(voice)
        texts, pcm = await answer(client)
        assert texts == ["Good", "morning", "my", "friend"]
        assert np.abs(pcm).max() > 0.05

    run(talk())


@pytest.mark.slow
def test_an_interrupted_answer_makes_room_for_the_next(tiny_worker: WorkerProcess) -> None:
    """More often than there are slots."""

    async def talk() -> None:
        for _ in range(4):
            client = UnmuteTts(tiny_worker.url, KEY)
            await client.start()
            for _ in range(20):
                await client.say(" morning")
            async for message in client.messages():
                if message["type"] == "Audio":
                    await client.shut_down()
                    break

    run(talk())
