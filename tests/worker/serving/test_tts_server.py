"""The text-to-speech module as its clients see it: the server itself with an engine without a
model, and a client that shares no code.
"""

import contextlib
import io
import itertools
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from datetime import UTC
from typing import Any
from urllib.parse import quote

import msgpack
import numpy as np
import pytest
import soundfile
import sphn
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus

from dsmops.errors import DeviceLostError, InputError
from dsmops.logs import Clock, parse
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.loop import MOST_EVENTS
from dsmops.worker.runtime.tts.machine import TtsPacing
from dsmops.worker.serving.settings import Limits, TtsSettings
from tests.support.tts_client import TTS_PATH, TtsClient, audio, words
from tests.support.tts_engines import BROKEN, TalkEngine
from tests.support.workers import KEY, Answer, ThreadedServer, request
from tests.worker.serving.test_server import wait_for_slots

pytestmark = pytest.mark.slow

TEXT = "hello there my friend how are you"
VOICES = {
    name: (np.full((6, 5), number, np.float32),) * 2
    for number, name in enumerate(("default.wav", "first.wav", "second.wav"), 1)
}
SECRET = "a secret of mine"
UNSAYABLE = "CAPITALS"
"""The engine's tokenizer has small letters only."""


def find_voice(name: str) -> tuple[NDArray[np.float32], ...]:
    try:
        return VOICES[name or "default.wav"]
    except KeyError:
        raise InputError(
            f"no voice is named {name}", hint=f"Near it: {', '.join(VOICES)}.", code="voice.unknown"
        ) from None


def speaking(
    engine: TalkEngine | None = None,
    *,
    slots: int = 2,
    limits: Limits = Limits(),  # noqa: B008 frozen
) -> ThreadedServer:
    """Return a server of one module, with an engine that asks for a word now and then."""
    made = engine or TalkEngine(slots)
    module = TtsSettings(
        "tts_py",
        TTS_PATH,
        lambda: made,
        find_voice,
        TtsRequest(),
        TtsPacing(),
        interleaved_text_only=2,
    )
    return ThreadedServer(module=module, limits=limits)


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    with speaking() as running:
        yield running


def said(
    server: ThreadedServer, *texts: str, form: str = "PcmMessagePack", **query: str
) -> list[dict[str, Any]]:
    with TtsClient(server.url, KEY, form=form, **query) as client:
        client.say(*(texts or (TEXT,)))
        messages = client.rest()
        assert client.close_code == 1000
    return messages


def test_words_go_in_and_sound_and_times_come_out(server: ThreadedServer) -> None:
    """Ready first.

    Every word once, in order, with times that follow each other; frames of 80 ms within what may be
    sent; a clean close.
    """
    messages = said(server)
    assert messages[0] == {"type": "Ready"}
    assert {message["type"] for message in messages[1:]} == {"Audio", "Text"}
    spoken = words(messages)
    assert [text for text, _, _ in spoken] == TEXT.split()
    assert all(stop == start for (_, _, stop), (_, start, _) in itertools.pairwise(spoken))
    assert all(len(message["pcm"]) == 1920 for message in messages if message["type"] == "Audio")
    assert next(list(message) for message in messages if message["type"] == "Text") == [
        "type",
        "text",
        "start_s",
        "stop_s",
    ]
    assert np.abs(audio(messages)).max() <= np.float32(0.99)
    assert spoken[-1][2] <= len(audio(messages)) / 24_000


def test_text_may_come_in_any_way(server: ThreadedServer) -> None:
    """As messages, text frames or both, in one piece or many, ended by a message or a byte: the
    same words.
    """
    expected = [text for text, _, _ in words(said(server))]
    for pieces in (TEXT.split(), ["hello there my ", "friend  how", "\nare you\n"]):
        assert [text for text, _, _ in words(said(server, *pieces))] == expected
    with TtsClient(server.url, KEY) as client:
        client.ws.send("hello there my friend")
        client.send({"text": "how are you", "type": "Text", "more": 1})
        client.send(b"\0")
        assert [text for text, _, _ in words(client.rest())] == expected
        assert client.close_code == 1000


def test_nothing_sounds_before_enough_text_is_there(server: ThreadedServer) -> None:
    """The model looks two words ahead; audio comes with the third, not only with the end."""
    with TtsClient(server.url, KEY) as client:
        assert client.receive() == {"type": "Ready"}
        client.send({"type": "Text", "text": "hello there"})
        with pytest.raises(TimeoutError):
            client.receive(0.1)
        client.send({"type": "Text", "text": "my dear old friend from the south how are you"})
        assert client.receive()["type"] in ("Audio", "Text")
        client.send({"type": "Eos"})
        client.rest()


@pytest.mark.parametrize("form", ["Pcm", "OggOpus", "OggOpusMessagePack", None])
def test_every_format_carries_the_same_sound(
    server: ThreadedServer, form: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare or in messages, as samples or as Ogg/Opus, which is also what comes where no format is
    named.
    """
    monkeypatch.setattr("dsmops.worker.serving.tts.secrets.randbits", lambda _bits: 7)
    expected = audio(said(server, voice="first.wav"))
    with TtsClient(server.url, KEY, form=form, voice="first.wav") as client:
        client.say(TEXT)
        received = client.raw_rest()
    if form == "Pcm":
        assert {len(piece) for piece in received} == {4 * 1920}
        assert np.array_equal(np.frombuffer(b"".join(received), "<f4"), expected)
        return
    if form == "OggOpusMessagePack":
        assert "Text" in {msg["type"] for msg in unpacked(received)}
        received = [bytes(msg["data"]) for msg in unpacked(received) if msg["type"] == "OggOpus"]
    assert received[0].startswith(b"OggS")
    assert b"OpusHead" in received[0]
    assert all(page.startswith(b"OggS") for page in received)
    samples, rate = soundfile.read(io.BytesIO(b"".join(received)), dtype="float32")
    assert len(samples) / rate == len(expected) / 24_000


def unpacked(frames: list[bytes]) -> list[dict[str, Any]]:
    return [msgpack.unpackb(frame) for frame in frames]


def test_a_frame_of_opus_is_complete_with_the_frame(server: ThreadedServer) -> None:
    """A player has every sample that was sent so far: no page waits for the next frame."""
    with TtsClient(server.url, KEY, form="OggOpus") as client:
        reader = sphn.OpusStreamReader(24_000)
        client.say(TEXT)
        decoded = [len(reader.append_bytes(page)) for page in client.raw_rest()]
    assert decoded == [1920] * len(decoded)


def test_voices_differ_and_an_unknown_one_is_an_error(server: ThreadedServer) -> None:
    """A name chooses the voice, none or an empty one the default.

    One that is not there is refused with its neighbours.
    """
    default = engine_voice(server)
    assert default(None) == default("") == 1
    assert default("second.wav") == 3
    for form in ("PcmMessagePack", "Pcm"):
        with TtsClient(server.url, KEY, form=form, voice="nobody.wav") as client:
            received = client.raw_rest()
            assert client.close_code == 1007
            assert client.ws.close_reason is not None
            assert "no voice is named nobody.wav" in client.ws.close_reason
        assert [msg["message"] for msg in unpacked(received)] == (
            ["no voice is named nobody.wav\nNear it: default.wav, first.wav, second.wav."]
            if form == "PcmMessagePack"
            else []
        )
    wait_for_slots(server.url, 0, within_s=1)


def engine_voice(server: ThreadedServer) -> Callable[[str | None], float]:
    """Return what tells with which voice the engine was asked to speak."""
    assert isinstance(server.module, TtsSettings)
    engine = server.module.open_engine()
    assert isinstance(engine, TalkEngine)

    def voice(name: str | None) -> float:
        with TtsClient(server.url, KEY, **({} if name is None else {"voice": name})) as client:
            assert client.receive() == {"type": "Ready"}
            return float(engine.requests[engine.resets[-1]].voices[0][0, 0])

    return voice


def test_a_client_may_bring_its_own_voice(server: ThreadedServer) -> None:
    """As latents, before the first text.

    Afterwards it is refused, as is one whose shape does not hold its numbers.
    """
    assert isinstance(server.module, TtsSettings)
    engine = server.module.open_engine()
    assert isinstance(engine, TalkEngine)
    voice = {"type": "Voice", "embeddings": [7.0] * 30, "shape": [1, 6, 5]}
    with TtsClient(server.url, KEY) as client:
        client.send(voice)
        client.say(TEXT)
        assert [text for text, _, _ in words(client.rest())] == TEXT.split()
    voices = engine.requests[engine.resets[-1]].voices
    assert [latents.shape for latents in voices] == [(6, 5)]
    assert (voices[0] == 7).all()
    with TtsClient(server.url, KEY) as client:
        client.send({"type": "Text", "text": TEXT})
        client.send(voice)
        assert "after the text had begun" in client.rest()[-1]["message"]
        assert client.close_code == 1007
    with TtsClient(server.url, KEY) as client:
        client.send({"type": "Text", "text": "<break"})
        client.send(voice)
        assert "after the text had begun" in client.rest()[-1]["message"]
    with TtsClient(server.url, KEY) as client:
        client.send({**voice, "shape": [6, 6]})
        assert "does not hold" in client.rest()[-1]["message"]


def test_the_end_before_any_text_is_the_end(server: ThreadedServer) -> None:
    """Nothing sounds, the slot is free, the close is clean."""
    assert said(server, "") == [{"type": "Ready"}]
    wait_for_slots(server.url, 0, within_s=1)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\xc1 not MessagePack", "not a message"),
        ({"type": "Nonsense"}, "Nonsense"),
        ({"type": "Text"}, "text"),
        ({"type": "Text", "text": b"\xff\xfe"}, "not a message"),
        ({"type": "Text", "text": "x" * 300_000}, "too long"),
        ({"type": "Text", "text": '<break time="1..2s"/>'}, "not a pause"),
        ({"type": "Voice", "embeddings": [float("nan")], "shape": [1]}, "not a finite"),
        ({"type": "Voice", "embeddings": b"\0" * 40, "shape": [10]}, "not an array"),
    ],
    ids=["garbage", "unknown", "no text", "no utf-8", "long", "pause", "nan", "bin"],
)
def test_bad_messages_end_their_sender_with_a_reason(
    server: ThreadedServer, sent: dict[str, object] | bytes, reason: str
) -> None:
    """An Error that says why, 1007, the slot back; a neighbour speaks on."""
    with TtsClient(server.url, KEY) as neighbour, TtsClient(server.url, KEY) as client:
        neighbour.send({"type": "Text", "text": TEXT})
        client.send(sent)
        messages = client.rest()
        assert client.close_code == 1007
        assert messages[-1]["type"] == "Error"
        assert reason in messages[-1]["message"]
        neighbour.send({"type": "Eos"})
        assert [text for text, _, _ in words(neighbour.rest())] == TEXT.split()


def test_neighbours_are_not_heard(server: ThreadedServer) -> None:
    """What a client receives depends on its own text alone, whatever client begins, ends or
    vanishes beside it.
    """

    def words_and_frames() -> tuple[list[str], int]:
        messages = said(server)
        return [text for text, _, _ in words(messages)], len(audio(messages)) % 1920

    alone = words_and_frames()
    with TtsClient(server.url, KEY) as other:
        other.send({"type": "Text", "text": TEXT * 5})
        assert words_and_frames() == alone
    assert words_and_frames() == alone


def test_a_full_server_says_so() -> None:
    """An Error where the format has messages, and 1013 everywhere.

    A slot that is given back can be had at once.
    """
    with speaking(slots=1) as server:
        with TtsClient(server.url, KEY) as client:
            client.receive()
            with TtsClient(server.url, KEY) as late:
                assert late.rest() == [{"type": "Error", "message": "no free channels"}]
                assert late.close_code == 1013
            with TtsClient(server.url, KEY, form="Pcm") as late:
                assert late.raw_rest() == []
                assert late.close_code == 1013
        wait_for_slots(server.url, 0, within_s=1)
        assert said(server)
    assert "ERROR moshi_server::py_module: src/py_module.rs:0: no free channels" in server.log


def test_keys_and_queries_are_checked_before_anything_else(server: ThreadedServer) -> None:
    """401 for keys, in the query too.

    400 for an unknown format and for what is named twice, even without a key.
    """
    with TtsClient(server.url, None, path=TTS_PATH, auth_id=KEY) as client:
        assert client.receive() == {"type": "Ready"}
    for key, query in (("wrong", {}), (None, {}), ("wrong", {"auth_id": KEY})):
        with pytest.raises(InvalidStatus, match="401"):
            TtsClient(server.url, key, **query)
    with pytest.raises(InvalidStatus, match="400"):
        TtsClient(server.url, None, form="pcm")
    for repeated in ("voice=a&voice=b", "format=Pcm&format=Pcm", "auth_id=a&auth_id=b"):
        with pytest.raises(InvalidStatus, match="400"):
            TtsClient(server.url, KEY, path=f"{TTS_PATH}?{repeated}&x=", form=None)
    answer = request(server.url, "GET", TTS_PATH, headers={"kyutai-api-key": KEY})
    assert answer.status == 400


def test_a_client_that_only_listens_is_kept_and_one_that_is_gone_is_not() -> None:
    """Pings go out while sound does, and who answers them is there.

    Who answers nothing loses its slot.
    """
    limits = Limits(ping_s=0.05, tts_silence_s=0.4, close_s=0.2)

    def slow_step(_step: int) -> None:
        threading.Event().wait(0.02)

    with speaking(TalkEngine(before_step=slow_step), limits=limits) as server:
        with TtsClient(server.url, KEY) as client:
            client.say(TEXT * 3)
            assert len(audio(client.rest())) / 1920 * 0.02 > limits.tts_silence_s, (
                "it must have taken longer than the limit"
            )
            assert client.close_code == 1000
        host, port = server.url.removeprefix("http://").split(":")
        upgrade = (
            f"GET {TTS_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
            "websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nkyutai-api-key: {KEY}\r\n\r\n"
        ).encode()
        with socket.create_connection((host, int(port))) as mute:
            mute.sendall(upgrade)
            wait_for_slots(server.url, 1, within_s=5)
            wait_for_slots(server.url, 0, within_s=5)
    assert "recv loop short timeout bidx=0" in server.log


@pytest.mark.parametrize("reset", [True, False])
def test_a_client_that_vanishes_leaves_no_slot_behind(server: ThreadedServer, reset: bool) -> None:
    """Also in the middle of a long text, within a second; its neighbour speaks to the end."""
    with TtsClient(server.url, KEY) as neighbour:
        neighbour.send({"type": "Text", "text": TEXT})
        gone = TtsClient(server.url, KEY)
        gone.send({"type": "Text", "text": f"{TEXT} " * 500})
        gone.receive()
        if reset:
            gone.ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.ws.close_socket()
        wait_for_slots(server.url, 1, within_s=2)
        neighbour.send({"type": "Eos"})
        assert [text for text, _, _ in words(neighbour.rest())] == TEXT.split()


def test_who_reads_nothing_is_not_spoken_to_for_ever() -> None:
    """The stream stops when its sound piles up, and the slot comes back when the client has not
    read for long.
    """
    engine = TalkEngine(1)
    with speaking(engine, limits=Limits(stalled_s=0.3, close_s=0.2)) as server:
        client = TtsClient(server.url, KEY)
        client.ws.recv_bufsize = 1
        client.ws.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.send({"type": "Text", "text": f"{TEXT} " * 2000})
        wait_for_slots(server.url, 1, within_s=5)
        wait_for_slots(server.url, 0, within_s=20)
        client.ws.close_socket()
        assert engine.steps < 20 * MOST_EVENTS
    assert "the client read nothing for 0.3 s" in server.log


def test_numbers_that_are_not_finite_end_their_stream_alone(server: ThreadedServer) -> None:
    """An Error and 1011; the neighbour speaks on."""
    with TtsClient(server.url, KEY) as neighbour, TtsClient(server.url, KEY) as client:
        neighbour.send({"type": "Text", "text": TEXT})
        client.say(f"one {BROKEN} two three")
        messages = client.rest()
        assert "not finite" in messages[-1]["message"]
        assert client.close_code == 1011
        neighbour.send({"type": "Eos"})
        assert [text for text, _, _ in words(neighbour.rest())] == TEXT.split()


def test_a_dead_model_loop_ends_the_server_with_its_reason() -> None:
    """Clients are closed with 1011, and the error of exit code 5 comes out."""
    fuse = threading.Event()

    def before_step(_step: int) -> None:
        if fuse.is_set():
            raise DeviceLostError("the GPU failed: gone")

    with speaking(TalkEngine(before_step=before_step)) as server:
        with TtsClient(server.url, KEY) as client:
            client.receive()
            fuse.set()
            client.say(TEXT)
            assert "gone" in client.rest()[-1]["message"]
            assert client.close_code == 1011
        server.join()
    assert isinstance(server.failure, DeviceLostError)
    assert 'task failed name="model_loop"' in server.log


def post(
    server: ThreadedServer,
    body: object,
    *,
    key: str | None = KEY,
    kind: str = "application/json",
    path: str = TTS_PATH,
) -> Answer:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Content-Type": kind, **({"kyutai-api-key": key} if key else {})}
    return request(server.url, "POST", path, body=data, headers=headers)


def test_a_posted_text_comes_back_as_a_wav(server: ThreadedServer) -> None:
    """16 bits, mono, 24 kHz, of a length that its header leaves open, sent as it comes."""
    answer = post(server, {"text": TEXT, "voice": "first.wav"})
    assert (answer.status, answer.headers["content-type"], answer.headers["transfer-encoding"]) == (
        200,
        "audio/wav",
        "chunked",
    )
    header = struct.unpack("<4sI4s4sIHHIIHH4sI", answer.body[:44])
    assert header == (
        b"RIFF",
        0xFFFFFFFF,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        24_000,
        48_000,
        2,
        16,
        b"data",
        0xFFFFFFFF,
    )
    samples = np.frombuffer(answer.body[44:], "<i2")
    assert len(samples) % 1920 == 0
    assert len(samples) >= 20 * 1920
    assert np.abs(samples).max() <= 0.99 * 32768 + 1
    wait_for_slots(server.url, 0, within_s=1)


def test_posts_are_refused_with_a_reason(server: ThreadedServer) -> None:
    """401, 413, 415, 422 as the original.

    400 for what cannot be said, which it says with another voice or not at all.
    """
    query = {"text": TEXT, "voice": ""}
    assert post(server, query, key=None).status == 401
    assert post(server, query, key=None, path=f"{TTS_PATH}?auth_id={quote(KEY)}").status == 401
    assert post(server, query, kind="text/plain").status == 415
    assert post(server, b"{").status == 400
    assert post(server, {"text": TEXT}).status == 422
    assert post(server, {"text": 1, "voice": ""}).status == 422
    assert post(server, [1]).status == 422
    assert post(server, {"text": "x" * 2_100_000, "voice": ""}).status == 413
    for body, reason in (
        ({"text": TEXT, "voice": "nobody.wav"}, "no voice is named nobody.wav"),
        ({"text": " ", "voice": ""}, "no words"),
        ({"text": "<break time='1s'/>", "voice": ""}, "begins no pause"),
    ):
        answer = post(server, body)
        assert answer.status == 400
        assert reason in answer.text
    assert post(server, {"text": f"{BROKEN} {TEXT}", "voice": ""}).status == 500
    wait_for_slots(server.url, 0, within_s=1)


def test_a_post_whose_sender_leaves_gives_its_slot_back(server: ThreadedServer) -> None:
    """The work stops when no client waits for it."""
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({"text": f"{TEXT} " * 2000, "voice": ""}).encode()
    head = (
        f"POST {TTS_PATH} HTTP/1.1\r\nHost: x\r\nkyutai-api-key: {KEY}\r\nContent-Type: "
        "application/json\r\n"
    )
    with socket.create_connection((host, int(port))) as sock:
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        assert used(server) == "1"
    wait_for_slots(server.url, 0, within_s=2)


def test_a_post_that_nobody_reads_is_cut() -> None:
    """Its slot is free again, and the log says why."""
    with speaking(slots=1, limits=Limits(stalled_s=0.3, close_s=0.2)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps({"text": f"{TEXT} " * 5000, "voice": ""}).encode()
        head = (
            f"POST {TTS_PATH} HTTP/1.1\r\nHost: x\r\nkyutai-api-key: {KEY}\r\nContent-Type: "
            "application/json\r\n"
        )
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            assert sock.recv(100).startswith(b"HTTP/1.1 200")
            wait_for_slots(server.url, 0, within_s=20)
    assert "the client read nothing for 0.3 s" in server.log


def test_a_body_that_stops_or_cannot_be_unpacked_is_refused() -> None:
    """408 and 400, and no traceback in the log."""
    with speaking(limits=Limits(body_s=0.2)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = (
            f"POST {TTS_PATH} HTTP/1.1\r\nHost: x\r\nkyutai-api-key: {KEY}\r\nContent-Type: "
            "application/json\r\n"
        )
        for rest, status in (
            ("Transfer-Encoding: chunked\r\n\r\n5\r\nab", b"408"),
            ("Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", b"400"),
        ):
            with socket.create_connection((host, int(port)), timeout=10) as sock:
                sock.sendall(f"{head}{rest}".encode())
                assert sock.recv(100).startswith(b"HTTP/1.1 " + status)
    assert "Traceback" not in server.log


def test_pings_whose_answers_nobody_reads_hold_no_slot() -> None:
    """Who floods the server with pings and never reads is dropped."""
    with speaking(slots=1, limits=Limits(stalled_s=0.3, close_s=0.2)) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((host, int(port)))
            sock.settimeout(1)
            sock.sendall(
                f"GET {TTS_PATH} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: "
                "websocket\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nkyutai-api-key: "
                f"{KEY}\r\n\r\n".encode()
            )
            wait_for_slots(server.url, 1, within_s=5)
            with contextlib.suppress(OSError):
                while True:
                    sock.sendall((b"\x89\xfd\0\0\0\0" + bytes(125)) * 1000)
            wait_for_slots(server.url, 0, within_s=5)


def used(server: ThreadedServer) -> str:
    info = json.loads(request(server.url, "GET", "/api/modules_info").body)
    assert info == [
        {
            "type": "py",
            "path": TTS_PATH,
            "script": "tts.py",
            "used_slots": info[0]["used_slots"],
            "total_slots": "2",
        }
    ]
    slots: str = info[0]["used_slots"]
    return slots


def test_unknown_characters_are_skipped_and_counted(server: ThreadedServer) -> None:
    """The words around them are synthesized; a POST says how many in its header, the log too."""
    answer = post(server, {"text": "one TWO three", "voice": ""})
    assert answer.status == 200
    assert "3 characters that the tokenizer does not know were skipped" in answer.headers["warning"]
    with TtsClient(server.url, KEY) as client:
        client.say("one TWO three")
        assert [text for text, _, _ in words(client.rest())] == ["one", "three"]
    server.stop()
    server.join()
    assert server.log.count("characters that the tokenizer does not know were skipped") == 2
    assert "TWO" not in server.log


def test_metrics_and_log_are_those_of_the_original(server: ThreadedServer) -> None:
    """Families of the Py module after their first use, its log lines, and neither keys nor texts in
    either.
    """
    assert "py_" not in request(server.url, "GET", "/metrics").text
    assert used(server) == "0"
    said(server, SECRET, voice="first.wav")
    with TtsClient(server.url, None, auth_id=KEY) as client:
        client.receive()
        client.send({"type": "Text", "text": "one two three four"})
        client.receive()
    post(server, {"text": SECRET, "voice": ""})
    assert post(server, {"text": UNSAYABLE, "voice": ""}).status == 400
    with TtsClient(server.url, KEY) as client:
        client.say(UNSAYABLE)
        assert [message["type"] for message in client.rest()] == ["Ready"]
    wait_for_slots(server.url, 0, within_s=1)
    exposition = request(server.url, "GET", "/metrics").text
    assert 'py_connect{handler="all"} 5.0' in exposition
    assert 'py_open_channels{handler="all"} 0.0' in exposition
    assert "py_model_connection_num_steps_count 5.0" in exposition
    assert 'py_model_connection_num_steps_bucket{le="62.5"}' in exposition
    assert 'py_model_step_duration_bucket{le="0.015"}' in exposition
    for counter in ("py_total_steps", "py_active_steps", "py_could_have_run_steps"):
        assert f'# TYPE {counter} counter\n{counter}{{handler="all"}}' in exposition
    server.stop()
    server.join()
    messages = [event.message for event in parse(server.log.encode().splitlines(), Clock(UTC))]
    for line in (
        "starting-up the py model loop",
        "handling py streaming query",
        "py query query=PyStreamingQuery { auth_id: None, format: PcmMessagePack, voice: "
        'Some("first.wav") }',
        'py query query=PyStreamingQuery { auth_id: Some("<redacted>"), format: '
        "PcmMessagePack, voice: None }",
        "batched-py channel bidx=0",
        "received end of stream bidx=0",
        "tts finished batch_idx=0 first_audio_ms=",
        'task completed successfully name="recv_loop"',
        'handling py streaming post query Json(TtsQuery { text: "<redacted>", voice: "" })',
        "py handle-query",
        "batched-py channel batch_idx=0",
    ):
        assert any(line in message for message in messages), line
    assert SECRET not in server.log
    assert UNSAYABLE not in server.log
    assert "the text cannot be synthesized (text.empty)" in server.log
    assert KEY not in server.log


def test_draining_lets_speech_end() -> None:
    """After SIGTERM the text that came is said to its end; who would begin is refused."""
    with speaking() as server, TtsClient(server.url, KEY) as client:
        server.drain_s = 5.0
        client.receive()
        client.send({"type": "Text", "text": TEXT})
        client.receive()
        client.send({"type": "Eos"})
        assert [text for text, _, _ in words(client.rest())][-1:] == ["you"]


def test_who_is_still_speaking_at_the_end_is_told() -> None:
    """An Error and 1001."""
    with speaking() as server, TtsClient(server.url, KEY) as client:
        client.receive()
        server.stop()
        with pytest.raises(ConnectionClosed):
            while client.receive() != {"type": "Error", "message": "the server is shutting down"}:
                pass
            client.receive()
        assert client.close_code == 1001
