"""The streaming text-to-speech client against scripted servers, correct and faulty."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from aiohttp import WSMsgType, web
from aiohttp.test_utils import TestServer

from dsmops.client.session import Patience
from dsmops.client.tts import WORDS_AHEAD, Answer, _pieces, synthesize
from dsmops.errors import CredentialsError, InputError, TransferError
from dsmops.protocol import (
    Audio,
    Eos,
    Error,
    OggOpus,
    Ready,
    Text,
    TtsAnswer,
    TtsText,
    decode_tts_request,
    encode,
)

PATH = "/api/tts_streaming"
QUICK = Patience(connect_s=5, ready_s=0.4, silence_s=0.4, close_s=0.2, attempts=3, back_off_s=0.01)

Socket = web.WebSocketResponse
Script = Callable[["Played", Socket], Awaitable[None]]


@dataclass
class Played:
    """What a scripted server saw."""

    connections: int = 0
    queries: list[dict[str, str]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ended: bool = False

    @property
    def words(self) -> list[str]:
        return " ".join(self.texts).split()


async def send(socket: Socket, *messages: TtsAnswer) -> None:
    for message in messages:
        await socket.send_bytes(encode(message))


def frame(value: float) -> Audio:
    return Audio(np.full(1920, value, np.float32))


async def say_words(played: Played, socket: Socket) -> None:
    """Say each word as it comes, in one frame, up to the end of the text."""
    await send(socket, Ready())
    async for message in socket:
        if message.type is not WSMsgType.BINARY:
            return
        match decode_tts_request(message.data):
            case Text(text=text):
                played.texts.append(text)
                for word in text.split():
                    number = len(played.words)
                    await send(
                        socket,
                        frame(number / 1e4),
                        TtsText(word, number * 0.08, number * 0.08 + 0.08),
                    )
            case Eos():
                played.ended = True
                return


async def well_behaved(played: Played, socket: Socket) -> None:
    await say_words(played, socket)
    await socket.close()


def talk(
    script: Script,
    *texts: str,
    path: str = PATH,
    key: str = "right",
    voice: str | None = None,
    patience: Patience = QUICK,
    see: Callable[[Played, list[Answer]], None] = lambda _played, _answers: None,
) -> tuple[Played, list[Answer]]:
    """Run the client against a server that plays `script`; return what both saw.

    `see` gets both after each answer.
    """
    played, answers = Played(), list[Answer]()

    async def handle(request: web.Request) -> web.StreamResponse:
        played.connections += 1
        played.queries.append(dict(request.query))
        played.keys.append(request.headers.get("kyutai-api-key"))
        if played.keys[-1] == "wrong":
            return web.Response(status=401)
        socket = Socket(timeout=0.2)
        await socket.prepare(request)
        await script(played, socket)
        return socket

    async def both() -> None:
        app = web.Application()
        app.add_routes([web.get(PATH, handle)])
        async with TestServer(app) as server:
            url = str(server.make_url(path)).replace("http", "ws", 1)
            async for answer in synthesize(
                url, texts or ("one two three",), voice=voice, api_key=key, patience=patience
            ):
                answers.append(answer)
                see(played, answers)

    asyncio.run(both())
    return played, answers


def test_a_text_is_sent_and_its_sound_and_words_come_back() -> None:
    """In order, to the clean close; the key in a header, voice and format in the query."""
    played, answers = talk(well_behaved, "one two", "three", voice="a/b c.wav")
    assert played.keys == ["right"]
    assert played.queries == [{"format": "PcmMessagePack", "voice": "a/b c.wav"}]
    assert (played.texts, played.ended) == (["one two", "three"], True)
    assert [answer.text for answer in answers if isinstance(answer, TtsText)] == [
        "one",
        "two",
        "three",
    ]
    assert [answer.pcm.shape for answer in answers if isinstance(answer, Audio)] == [(1920,)] * 3


def test_no_voice_is_the_servers_own() -> None:
    """Nothing is asked for."""
    assert talk(well_behaved)[0].queries == [{"format": "PcmMessagePack"}]


@pytest.mark.slow
def test_long_texts_go_out_in_pieces_that_cut_no_word_and_no_pause() -> None:
    """All of it, a pause's tag in one piece although there is a space in it."""
    words = [f"w{number}" if number % 7 else '<break time="0.5s"/>' for number in range(3000)]
    played, answers = talk(well_behaved, "\n".join(words))
    assert " ".join(played.texts).split() == " ".join(words).split()
    assert len(played.texts) > 10
    assert all(piece.count("<break") == piece.count("/>") for piece in played.texts)
    assert len([answer for answer in answers if isinstance(answer, Audio)]) == len(played.words)


@pytest.mark.slow
def test_text_waits_for_who_listens() -> None:
    """A server is never more than some minutes ahead of what was taken."""
    ahead: list[int] = []

    def see(played: Played, answers: list[Answer]) -> None:
        if isinstance(answers[-1], TtsText):
            ahead.append(len(played.words) - sum(isinstance(answer, TtsText) for answer in answers))

    played, _ = talk(well_behaved, "word " * 2000, see=see)
    assert len(played.words) == len(ahead) == 2000
    assert max(ahead) <= WORDS_AHEAD + 50


@pytest.mark.slow
def test_words_that_a_server_does_not_count_hold_nothing_up() -> None:
    """A server that reports no words gets all the text all the same."""

    async def wordless(played: Played, socket: Socket) -> None:
        await send(socket, Ready())
        async for message in socket:
            match decode_tts_request(message.data):
                case Text(text=text):
                    played.texts.append(text)
                case Eos():
                    break
        await send(socket, frame(0.5))
        await socket.close()

    played, answers = talk(wordless, "word " * (WORDS_AHEAD + 20), patience=Patience(silence_s=5))
    assert [type(answer) for answer in answers] == [Audio]
    assert len(played.words) == WORDS_AHEAD + 20


def test_the_originals_close_without_a_code_is_the_end() -> None:
    """moshi-server sends a Close frame with nothing in it."""

    async def original(played: Played, socket: Socket) -> None:
        await say_words(played, socket)
        transport = socket._req.transport if socket._req is not None else None
        assert transport is not None
        transport.write(b"\x88\x00")
        await socket.receive()

    assert len(talk(original)[1]) == 6


def test_a_full_server_is_tried_again() -> None:
    """A slot that becomes free on the third try is taken, and all is said."""

    async def full_twice(played: Played, socket: Socket) -> None:
        if played.connections < 3:
            await send(socket, Error("no free channels"))
            await socket.close(code=1013)
        else:
            await well_behaved(played, socket)

    played, answers = talk(full_twice)
    assert (played.connections, len(answers)) == (3, 6)


async def always_full(played: Played, socket: Socket) -> None:
    await send(socket, Error("no free channels"))


async def full_without_a_word(played: Played, socket: Socket) -> None:
    await socket.close(code=1013)


async def dead_loop(played: Played, socket: Socket) -> None:
    await asyncio.sleep(2)


async def falls_silent(played: Played, socket: Socket) -> None:
    await say_words(played, socket)
    await asyncio.sleep(2)


async def refusing(played: Played, socket: Socket) -> None:
    await send(socket, Error("this server has no voice 'x'\nNear names: y."))
    await socket.close(code=1007)


async def failing(played: Played, socket: Socket) -> None:
    await send(socket, Ready(), frame(0.1), Error("the model gave no numbers"))
    await socket.close(code=1011)


async def leaving(played: Played, socket: Socket) -> None:
    await say_words(played, socket)
    await socket.close(code=1011)


async def cut(played: Played, socket: Socket) -> None:
    await send(socket, Ready(), frame(0.1), TtsText("word", 0.0, 0.08))
    await socket.receive()
    transport = socket._req.transport if socket._req is not None else None
    assert transport is not None
    transport.abort()


async def ending_early(played: Played, socket: Socket) -> None:
    await send(socket, Ready())
    await socket.receive()
    await socket.close()


async def foreign(played: Played, socket: Socket) -> None:
    await socket.send_bytes(b"OggS")


async def without_ready(played: Played, socket: Socket) -> None:
    await send(socket, frame(0.1))


async def in_opus(played: Played, socket: Socket) -> None:
    await send(socket, Ready(), OggOpus(b"OggS"))
    await socket.receive()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "path", "code", "said"),
    [
        (always_full, PATH, "server.full", "no slot is free"),
        (full_without_a_word, PATH, "server.full", "no slot is free"),
        (dead_loop, PATH, "server.not_ready", "its model loop does not run"),
        (falls_silent, PATH, "server.silent", "stopped answering"),
        (failing, PATH, "server.ended", "the model gave no numbers"),
        (leaving, PATH, "server.ended", "with code 1011"),
        (cut, PATH, "server.ended", "dropped without a Close frame"),
        (ending_early, PATH, "server.ended", "before its speech was complete"),
        (foreign, PATH, "server.foreign", "a moshi-server does not send"),
        (without_ready, PATH, "server.foreign", "without Ready"),
        (in_opus, PATH, "server.foreign", "Opus"),
        (well_behaved, "/elsewhere", "server.path", "nothing at that path"),
    ],
)
def test_each_way_of_failing_has_its_own_words(
    script: Script, path: str, code: str, said: str
) -> None:
    """One error with a hint, and it ends in seconds."""
    with pytest.raises(TransferError, match=said) as failed:
        talk(script, "word " * 600, path=path)
    assert failed.value.code == code
    assert failed.value.hint


def test_what_the_user_asked_for_and_cannot_have_is_an_input_error() -> None:
    """Close code 1007 says so, after the server's own reason and advice; one attempt is enough."""
    with pytest.raises(InputError, match=r"has no voice 'x'$") as refused:
        talk(refusing, "word")
    assert (refused.value.code, refused.value.hint, refused.value.exit_code) == (
        "server.refused",
        "Near names: y.",
        3,
    )


def test_a_text_full_of_broken_tags_is_cut_in_no_time() -> None:
    """No tag is searched for to the end of the text from each place where one begins."""
    text = "<break " * 150_000
    assert " ".join(_pieces([text])).split() == text.split()


def test_a_refused_key_is_not_tried_again() -> None:
    """401 is about credentials."""
    with pytest.raises(CredentialsError, match="refused the key"):
        talk(well_behaved, key="wrong")
