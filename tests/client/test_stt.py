"""The streaming speech-to-text client against scripted servers, correct and faulty."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from dsmops.audio import FRAME_SAMPLES
from dsmops.client.session import Patience
from dsmops.client.stt import CLOSING_FRAMES, LEAD_IN_FRAMES, Answer, transcribe
from dsmops.client.window import FRAME_S
from dsmops.errors import CredentialsError, InputError, TransferError
from dsmops.protocol import (
    Audio,
    EndWord,
    Error,
    Marker,
    Ready,
    Step,
    SttAnswer,
    Word,
    decode_stt_request,
    encode,
)

PATH = "/api/asr-streaming"
QUICK = Patience(
    connect_s=5, first_s=0.2, ready_s=0.4, silence_s=0.4, close_s=0.2, attempts=3, back_off_s=0.01
)
LEAD_IN_S = LEAD_IN_FRAMES * FRAME_S

Socket = web.WebSocketResponse
Script = Callable[["Played", Socket], Awaitable[None]]


@dataclass
class Played:
    """What a scripted server saw."""

    connections: int = 0
    messages: list[object] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    close_code: int | None = None

    @property
    def samples(self) -> int:
        return sum(len(message.pcm) for message in self.messages if isinstance(message, Audio))


async def send(socket: Socket, *messages: SttAnswer) -> None:
    for message in messages:
        await socket.send_bytes(encode(message))


async def read_to_marker(played: Played, socket: Socket) -> None:
    """Read until the marker and the audio behind it are there."""
    marked = False
    async for message in socket:
        if message.type is not WSMsgType.BINARY:
            break
        played.messages.append(decode_stt_request(message.data))
        if marked:
            return
        marked = isinstance(played.messages[-1], Marker)


async def well_behaved(played: Played, socket: Socket) -> None:
    await send(socket, Ready())
    await read_to_marker(played, socket)
    await send(
        socket,
        Step(3, (0.1, 0.2, 0.9, 0.0), 0),
        Word("hello", LEAD_IN_S + 0.4),
        EndWord(LEAD_IN_S + 0.8),
        Word("early", 0.2),
        Marker(0),
    )
    async for _ in socket:
        pass
    played.close_code = socket.close_code


def talk(
    script: Script,
    frames: AsyncIterator[NDArray[np.float32]] | None = None,
    *,
    path: str = PATH,
    listed: bool | None = True,
    speed: float = 0,
    stop: asyncio.Event | None = None,
) -> tuple[Played, list[Answer]]:
    """Run the client against a server that plays `script`; return what both saw."""
    played, answers = Played(), list[Answer]()

    async def handle(request: web.Request) -> web.StreamResponse:
        played.connections += 1
        played.keys.append(request.headers.get("kyutai-api-key"))
        if played.keys[-1] == "wrong":
            return web.Response(status=401)
        socket = Socket(timeout=0.2)
        await socket.prepare(request)
        await script(played, socket)
        return socket

    async def modules(request: web.Request) -> web.Response:
        return web.json_response(
            [{"type": "batched_asr", "path": PATH}] if listed else None if listed is None else []
        )

    async def both() -> None:
        app = web.Application()
        app.add_routes([web.get(PATH, handle), web.get("/api/modules_info", modules)])
        async with TestServer(app) as server:
            url = str(server.make_url(path)).replace("http", "ws", 1)
            key = "wrong" if script is refusing else "right"
            await transcribe(
                url,
                frames or speech(5),
                answers.append,
                api_key=key,
                speed=speed,
                stop=stop,
                patience=QUICK,
            )

    asyncio.run(both())
    return played, answers


async def speech(count: int) -> AsyncIterator[NDArray[np.float32]]:
    for number in range(count):
        yield np.full(FRAME_SAMPLES, number / 100, np.float32)


async def refusing(played: Played, socket: Socket) -> None: ...


def test_a_whole_recording_is_sent_and_ended_so_that_the_last_word_arrives() -> None:
    """Lead-in, audio, silence, marker, silence; answers on the recording's clock; a Close frame."""
    played, answers = talk(well_behaved)
    assert played.keys == ["right"]
    assert played.samples == (LEAD_IN_FRAMES + 5 + 2 * CLOSING_FRAMES) * FRAME_SAMPLES
    assert isinstance(played.messages[-2], Marker)
    assert [type(answer) for answer in answers] == [Step, Word, EndWord, Word]
    hello, end, early = answers[1:]
    assert isinstance(hello, Word)
    assert isinstance(end, EndWord)
    assert isinstance(early, Word)
    assert hello.start_time == pytest.approx(0.4)
    assert end.stop_time == pytest.approx(0.8)
    assert early.start_time == 0
    assert played.close_code == 1000


def test_a_server_that_never_finishes_the_closing_handshake_is_no_failure() -> None:
    """The original server drops the connection when it gets a Close frame."""

    async def original(played: Played, socket: Socket) -> None:
        await send(socket, Ready())
        await read_to_marker(played, socket)
        await send(socket, Marker(0))
        transport = socket._req.transport if socket._req is not None else None
        assert transport is not None
        transport.abort()

    talk(original)


def test_audio_is_paced_by_the_clock() -> None:
    """At 20 × real time 25 frames take a tenth of a second, however long each sending takes."""
    begin_s = time.monotonic()
    talk(well_behaved, speech(25), speed=20)
    assert time.monotonic() - begin_s >= 25 * FRAME_S / 20


def test_stopping_early_still_brings_what_was_said() -> None:
    """After `stop` no more audio goes out, and the end is played as ever."""
    stop = asyncio.Event()

    async def endless() -> AsyncIterator[NDArray[np.float32]]:
        for number in range(10_000):
            if number == 3:
                stop.set()
            yield np.zeros(FRAME_SAMPLES, np.float32)

    played, answers = talk(well_behaved, endless(), stop=stop)
    assert played.samples == (LEAD_IN_FRAMES + 3 + 2 * CLOSING_FRAMES) * FRAME_SAMPLES
    assert len(answers) == 4


def test_a_full_server_is_tried_again() -> None:
    """A slot that becomes free on the third try is taken, and no audio was lost on the others."""

    async def full_twice(played: Played, socket: Socket) -> None:
        if played.connections < 3:
            await send(socket, Error("no free channels"))
        else:
            await well_behaved(played, socket)

    played, answers = talk(full_twice)
    assert played.connections == 3
    assert len(answers) == 4
    assert played.samples == (LEAD_IN_FRAMES + 5 + 2 * CLOSING_FRAMES) * FRAME_SAMPLES


@pytest.mark.parametrize("listed", [False, None])
def test_a_module_that_never_says_ready_is_served_all_the_same(listed: bool | None) -> None:
    """Unbatched modules send nothing first and are not listed; an odd server has no list."""

    async def unbatched(played: Played, socket: Socket) -> None:
        await read_to_marker(played, socket)
        await send(socket, Word("hi", LEAD_IN_S), Marker(0))

    _, answers = talk(unbatched, listed=listed)
    assert len(answers) == 1


async def always_full(played: Played, socket: Socket) -> None:
    await send(socket, Error("no free channels"))


async def dead_loop(played: Played, socket: Socket) -> None:
    await asyncio.sleep(2)


async def silent(played: Played, socket: Socket) -> None:
    await send(socket, Ready())
    await read_to_marker(played, socket)
    await asyncio.sleep(2)


async def failing(played: Played, socket: Socket) -> None:
    await send(socket, Ready(), Error("the model gave no numbers"))


async def leaving(played: Played, socket: Socket) -> None:
    await send(socket, Ready())
    await socket.close(code=1011)


async def foreign(played: Played, socket: Socket) -> None:
    await socket.send_bytes(b"\x00")


@pytest.mark.parametrize(
    ("script", "path", "code", "said"),
    [
        (always_full, PATH, "server.full", "no slot is free"),
        (dead_loop, PATH, "server.not_ready", "its model loop does not run"),
        (silent, PATH, "server.silent", "stopped answering"),
        (failing, PATH, "server.ended", "the model gave no numbers"),
        (leaving, PATH, "server.ended", "with code 1011"),
        (foreign, PATH, "server.foreign", "a moshi-server does not send"),
        (well_behaved, "/elsewhere", "server.path", "nothing at that path"),
    ],
)
def test_each_way_of_failing_has_its_own_words(
    script: Script, path: str, code: str, said: str
) -> None:
    """One error with a hint, and it ends in seconds."""
    with pytest.raises(TransferError, match=said) as failed:
        talk(script, path=path)
    assert failed.value.code == code
    assert failed.value.hint


def test_a_refused_key_is_not_tried_again() -> None:
    """401 is about credentials."""
    with pytest.raises(CredentialsError, match="refused the key"):
        talk(refusing)


def test_a_server_that_is_not_there() -> None:
    """A closed port is tried a few times, then named."""
    with pytest.raises(TransferError, match="cannot be reached") as failed:
        asyncio.run(
            transcribe("ws://127.0.0.1:9" + PATH, speech(1), lambda _: None, patience=QUICK)
        )
    assert failed.value.code == "server.unreachable"


@pytest.mark.slow
@pytest.mark.parametrize("attempts", [1, 3])
def test_what_takes_a_connection_and_never_answers_is_waited_for_once(attempts: int) -> None:
    """Any other server's port, or one whose loop hangs: trying again would only wait again."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"ws://127.0.0.1:{listening.getsockname()[1]}{PATH}"
        with pytest.raises(TransferError, match="did not answer in") as failed:
            asyncio.run(
                transcribe(
                    url,
                    speech(1),
                    lambda _: None,
                    patience=replace(QUICK, upgrade_s=0.3, attempts=attempts),
                )
            )
        listening.settimeout(0.2)
        listening.accept()[0].close()
        with pytest.raises(TimeoutError):
            listening.accept()
    assert failed.value.code == "server.mute"
    assert failed.value.hint


@pytest.mark.slow
def test_a_server_that_stops_reading_is_given_up() -> None:
    """The system's buffers fill up, and no answer comes."""

    async def deaf(played: Played, socket: Socket) -> None:
        await send(socket, Ready())
        await asyncio.sleep(1)

    async def endless() -> AsyncIterator[NDArray[np.float32]]:
        while True:
            yield np.full(FRAME_SAMPLES * 100, 0.5, np.float32)

    with pytest.raises(TransferError, match="stopped answering") as failed:
        talk(deaf, endless())
    assert failed.value.code == "server.silent"


def test_audio_that_breaks_off_ends_the_stream() -> None:
    """What the recording raises is what the caller sees."""

    async def broken() -> AsyncIterator[NDArray[np.float32]]:
        yield np.zeros(FRAME_SAMPLES, np.float32)
        raise InputError("the file ends here")

    with pytest.raises(InputError, match="ends here"):
        talk(well_behaved, broken())
