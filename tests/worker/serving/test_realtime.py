"""`/v1/realtime`: sessions that transcribe, as OpenAI's own client sees them, unmodified."""

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from dsmops.audio import A_LAW, MU_LAW, read
from dsmops.worker.runtime.stt.interface import SttOutput
from dsmops.worker.serving.openai.realtime_input import InputAudio, default_settings, updated
from dsmops.worker.serving.openai.refusals import Refusal
from dsmops.worker.serving.settings import Limits
from tests.support.engines import EchoEngine
from tests.support.served_tiny import KEY as TINY_KEY
from tests.support.served_tiny import RECORDINGS, SPOKEN
from tests.support.workers import KEY, ThreadedServer, WorkerProcess

FRAME = 1920
DELAY = 2
"""Steps of `EchoModel`."""
A, B, C, PAD = 4, 5, 6, 3
WORD, PAUSE = 100, 101
"""Samples that make the engine begin a word, and tell a pause. Silence is padding."""


class Written(EchoEngine):
    """The token of a frame is its first sample, as 16 bits, but for `WORD` and `PAUSE`."""

    def __init__(self) -> None:
        super().__init__(heads=4)

    def step(self, pcm: NDArray[np.float32], exec_mask: NDArray[np.bool_]) -> SttOutput:
        asked = (pcm * 32_768).round()
        tokens = np.select([asked == WORD, asked == PAUSE, asked == 0], [0, PAD, PAD], asked)
        out = super().step(tokens.astype(np.float32), exec_mask)
        pauses = np.zeros((self.batch_size, 4), np.float32)
        pauses[:, :3] = asked[:, :1] == PAUSE
        return SttOutput(out.text_tokens, pauses, out.finite, 1.0)


def sound(*tokens: int) -> bytes:
    """Return frames of 16 bits that the engine writes as these tokens."""
    frames = np.zeros((len(tokens), FRAME), "<i2")
    frames[:, 0] = tokens
    return frames.tobytes()


class Session:
    """A session without any library of OpenAI's."""

    def __init__(self, server: ThreadedServer, query: str = "", **options: Any) -> None:
        url = f"{server.url.replace('http', 'ws', 1)}/v1/realtime{query}"
        headers = {"Authorization": f"Bearer {KEY}"} | options.pop("headers", {})
        self._opened = contextlib.ExitStack()
        self.ws: ClientConnection = self._opened.enter_context(
            connect(url, additional_headers=headers, **options)
        )

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *args: object) -> None:
        self._opened.close()

    def send(self, kind: str, **values: Any) -> None:
        self.ws.send(json.dumps({"type": kind, **values}))

    def append(self, data: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(data).decode())

    def receive(self) -> dict[str, Any]:
        message = self.ws.recv(20)
        assert isinstance(message, str)
        event = json.loads(message)
        assert event["event_id"].startswith("event_")
        return event

    def until(self, kind: str) -> list[dict[str, Any]]:
        events = [self.receive()]
        while not events[-1]["type"].endswith(kind):
            events.append(self.receive())
        return events


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedServer]:
    with ThreadedServer(open_engine=Written, slots=2) as running:
        yield running


@pytest.fixture
def session(server: ThreadedServer) -> Iterator[Session]:
    """A session whose turns the client ends."""
    with Session(server) as opened:
        assert opened.receive()["type"] == "session.created"
        taken = {"turn_detection": None}
        opened.send("session.update", session={"type": "transcription", "audio": {"input": taken}})
        assert opened.receive()["type"] == "session.updated"
        yield opened


def short(events: list[dict[str, Any]]) -> list[str]:
    """Return the last part of each event's type."""
    return [event["type"].rpartition(".")[2] for event in events]


@pytest.mark.slow
def test_a_committed_turn_is_completed_without_more_sound(session: Session) -> None:
    """Its last word too; the next turn has words of its own."""
    session.append(sound(PAD, PAD, WORD, A, B, PAD, WORD, C))
    session.send("input_audio_buffer.commit")
    events = session.until("completed")
    assert sorted(short(events)) == ["committed", "completed", "delta", "delta"]
    assert events[-1]["transcript"] == "ab c"
    assert events[-1]["usage"] == {"type": "duration", "seconds": 0.64}
    assert [event["delta"] for event in events if "delta" in event] == ["ab", " c"]
    assert len({event["item_id"] for event in events}) == 1

    session.append(sound(WORD, B))
    session.send("input_audio_buffer.commit")
    after = session.until("completed")
    assert after[-1]["transcript"] == "b"
    committed = next(event for event in after if event["type"].endswith("committed"))
    assert committed["previous_item_id"] == events[-1]["item_id"]


def test_commits_beside_each_other_keep_their_words_apart(session: Session) -> None:
    for letter in (A, B, C):
        session.append(sound(WORD, letter, PAD))
        session.send("input_audio_buffer.commit")
    done = [session.until("completed")[-1] for _ in range(3)]
    assert [event["transcript"] for event in done] == ["a", "b", "c"]
    assert len({event["item_id"] for event in done}) == 3


def test_what_is_cleared_is_never_heard(session: Session) -> None:
    session.append(sound(WORD, A, PAD))
    session.send("input_audio_buffer.commit")
    session.append(sound(WORD, B, B, B))
    session.send("input_audio_buffer.clear")
    session.append(sound(WORD, C, PAD))
    session.send("input_audio_buffer.commit")
    events = session.until("completed") + session.until("completed")
    assert [event["transcript"] for event in events if "transcript" in event] == ["a", "c"]
    assert not any("b" in event.get("delta", "") for event in events)
    assert "cleared" in short(events)


def test_an_empty_turn_is_not_committed(session: Session) -> None:
    for data, code in [(b"", "input_audio_buffer_commit_empty"), (bytes(4798), "…_empty")]:
        session.append(data)
        session.send("input_audio_buffer.commit", event_id="mine")
        error = session.receive()["error"]
        assert error["code"].endswith(code.lstrip("…"))
        assert error["event_id"] == "mine"
    session.append(bytes(2))
    session.send("input_audio_buffer.commit")
    assert session.until("completed")[-1]["transcript"] == ""


def test_the_models_pauses_end_turns(server: ThreadedServer) -> None:
    """Once for each turn, with times of the client's sound, also behind silence of a commit."""
    with Session(server) as session:
        detection = session.receive()["session"]["audio"]["input"]["turn_detection"]
        assert (detection["type"], detection["silence_duration_ms"]) == ("server_vad", 2000)
        session.append(sound(PAD, PAD, PAD, WORD, A, PAD, PAD, PAUSE, PAUSE))
        events = session.until("completed")
        kinds = ["speech_started", "delta", "speech_stopped", "committed", "completed"]
        assert short(events) == kinds
        assert events[0]["audio_start_ms"] == (4 - DELAY) * 80
        assert events[2]["audio_end_ms"] == 640
        assert events[-1]["transcript"] == "a"
        assert len({event["item_id"] for event in events}) == 1

        session.append(sound(PAD, WORD, B, PAD))
        session.send("input_audio_buffer.commit")
        assert session.until("completed")[-1]["transcript"] == "b"
        session.append(sound(PAD, PAD, WORD, C, PAD, PAUSE))
        last = session.until("completed")
        # 9 and 4 frames were sent before, and 4 + 2 frames of silence do not count.
        assert last[0]["audio_start_ms"] == (13 + 3 - DELAY) * 80
        assert last[2]["audio_end_ms"] == 19 * 80
        assert last[-1]["usage"]["seconds"] == pytest.approx(6 * 0.08)


def test_a_shorter_pause_takes_another_head(server: ThreadedServer) -> None:
    with Session(server) as session:
        session.receive()
        for asked_ms, taken_ms in [(600, 500), (1400, 1000), (9000, 3000), (None, 2000)]:
            detection = {"type": "server_vad", "silence_duration_ms": asked_ms}
            taken = {"turn_detection": detection}
            session.send(
                "session.update", session={"type": "transcription", "audio": {"input": taken}}
            )
            shown = session.receive()["session"]["audio"]["input"]["turn_detection"]
            assert shown["silence_duration_ms"] == taken_ms


def test_the_older_events_are_answered_in_kind(server: ThreadedServer) -> None:
    with Session(server, "?intent=transcription", headers={"OpenAI-Beta": "realtime=v1"}) as one:
        assert one.receive()["type"] == "transcription_session.created"
        one.send(
            "transcription_session.update",
            session={
                "input_audio_format": "g711_ulaw",
                "input_audio_transcription": {"model": "gpt-4o-transcribe", "language": "en"},
                "turn_detection": None,
            },
        )
        updated = one.receive()
        assert updated["type"] == "transcription_session.updated"
        assert updated["session"]["input_audio_format"] == "g711_ulaw"
        assert updated["session"]["turn_detection"] is None
        assert updated["session"]["input_audio_transcription"]["model"] == "asr"
        one.append(bytes([0xFF]) * 8000)
        one.send("input_audio_buffer.commit")
        seconds = one.until("completed")[-1]["usage"]["seconds"]
        assert seconds == pytest.approx(1.0, abs=0.01)


BAD: list[tuple[str | bytes, str]] = [
    ("{", "invalid_json"),
    ("[" * 5000, "invalid_json"),
    ("[]", "invalid_json"),
    (b"\x00\x01", "invalid_json"),
    ('{"type": "response.create"}', "invalid_value"),
    ('{"type": 3, "event_id": "\\ud800"}', "invalid_value"),
    ("{}", "invalid_value"),
    ('{"type": "input_audio_buffer.append"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_value"),
    ('{"type": "input_audio_buffer.append", "audio": "é"}', "invalid_value"),
    ('{"type": "session.update"}', "invalid_type"),
    ('{"type": "session.update", "session": {"type": "realtime"}}', "invalid_value"),
    ('{"type": "session.update", "session": {"audio": []}}', "invalid_type"),
    ('{"type": "session.update", "session": {"voice": "alloy"}}', "unknown_parameter"),
    ('{"type": "session.update", "session": {"include": ["x"]}}', ""),
]
for taken, code in [
    ({"format": {"type": "audio/opus"}}, "invalid_value"),
    ({"format": {"type": "audio/pcm", "rate": 16000}}, "invalid_value"),
    ({"turn_detection": {"type": "none"}}, "invalid_value"),
    ({"turn_detection": {"type": "server_vad", "silence_duration_ms": True}}, "invalid_value"),
    ({"transcription": {"model": "no-model"}}, "model_not_found"),
    ({"transcription": {"model": 1}}, "invalid_type"),
    ({"gain": 3}, "unknown_parameter"),
]:
    update = {"type": "session.update", "session": {"audio": {"input": taken}}}
    BAD.append((json.dumps(update), code))


def test_bad_events_are_answered_and_the_session_goes_on(session: Session) -> None:
    for message, code in BAD:
        session.ws.send(message)
        error = session.receive()
        assert error["type"] == "error", message
        assert (error["error"]["code"] or "") == code, (message, error)
        assert error["error"]["message"]
    session.append(sound(WORD, A))
    session.send("input_audio_buffer.commit")
    assert session.until("completed")[-1]["transcript"] == "a"


def test_sessions_are_refused_as_other_requests_are(server: ThreadedServer) -> None:
    """Without a key, for an unknown model, from a page of another site, and where all is full."""
    with pytest.raises(InvalidStatus, match="401"):
        Session(server, headers={"Authorization": "Bearer wrong"})
    with pytest.raises(InvalidStatus, match="404"):
        Session(server, "?model=no-model")
    with pytest.raises(InvalidStatus, match="403"):
        Session(server, origin="https://evil.example")
    with Session(server) as one, Session(server) as other:
        for session in (one, other):
            session.receive()
        with Session(server) as third:
            error = third.receive()["error"]
            assert (error["type"], error["code"]) == ("server_error", "full")
            with pytest.raises(ConnectionClosed) as caught:
                third.receive()
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1013


def test_a_browser_sends_its_key_as_a_subprotocol(server: ThreadedServer) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/realtime"
    with ThreadedServer(open_engine=Written, keys=["browser-key"]) as other:
        url = f"{other.url.replace('http', 'ws', 1)}/v1/realtime"
        protocols: Any = ["realtime", "openai-insecure-api-key.browser-key"]
        with connect(url, subprotocols=protocols) as ws:
            assert ws.subprotocol == "realtime"
            assert "session.created" in str(ws.recv())
        with pytest.raises(InvalidStatus, match="401"):
            connect(url, subprotocols=[*protocols[:1], *["openai-insecure-api-key.x"]])


@pytest.mark.slow
def test_a_session_without_sound_ends() -> None:
    """Although its client answers pings; events that bring no sound do not count."""
    limits = Limits(ping_s=0.05, no_audio_s=0.3)
    with ThreadedServer(open_engine=Written, limits=limits) as server, Session(server) as session:
        session.receive()
        session.append(sound(PAD))
        error = session.until("error")[-1]["error"]
        assert "no audio came" in error["message"]


def test_g711_is_decoded_as_libsndfile_does(tmp_path: Path) -> None:
    for table, subtype in [(MU_LAW, "ULAW"), (A_LAW, "ALAW")]:
        path = tmp_path / f"{subtype}.raw"
        path.write_bytes(bytes(range(256)))
        heard, _ = soundfile.read(
            path, samplerate=8000, channels=1, subtype=subtype, format="RAW", dtype="float32"
        )
        assert np.array_equal(heard, table)


@given(st.lists(st.integers(0, 7), max_size=8), st.binary(max_size=40))
def test_sound_may_be_cut_anywhere(cuts: list[int], data: bytes) -> None:
    whole = np.concatenate([np.zeros(0, np.float32), *InputAudio("audio/pcm").take(data)])
    taken, rest = InputAudio("audio/pcm"), data
    pieces = [np.zeros(0, np.float32)]
    for cut in cuts:
        pieces += taken.take(rest[:cut])
        rest = rest[cut:]
    pieces += taken.take(rest)
    assert np.array_equal(np.concatenate(pieces), whole)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["type", "audio", "input", "format", "turn_detection", "rate"]), inner
        )
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(["type", "audio", "include", "turn_detection"]), JSON))
def test_any_update_is_taken_or_refused(session: dict[str, Any]) -> None:
    for heads in (0, 4):
        for old in (False, True):
            with contextlib.suppress(Refusal):
                taken = updated(default_settings(heads), session, heads, old=old).settings
                assert InputAudio(taken.format).take(b"") == []


def a_recording(silence_s: float) -> bytes:
    pcm = read(RECORDINGS / SPOKEN["audio"])
    return np.pad((pcm * 32_767).astype("<i2"), (0, round(silence_s * 24_000))).tobytes()


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key=TINY_KEY,
        websocket_base_url=f"{url.replace('http', 'ws', 1)}/v1",
    )


async def words_of(url: str, detection: dict[str, Any] | None, data: bytes) -> list[Any]:
    """Return the events until all words of the recording came, received by OpenAI's client."""
    events: list[Any] = []
    missing = len(SPOKEN["text"].split())
    async with (
        client_of(url) as client,
        client.realtime.connect(extra_query={"intent": "transcription"}) as connection,
        asyncio.timeout(60),
    ):
        taken: Any = {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": "whisper-1", "language": "en"},
            "turn_detection": detection,
        }
        await connection.session.update(
            session={"type": "transcription", "audio": {"input": taken}}
        )
        for begin in range(0, len(data), 48_000):
            piece = base64.b64encode(data[begin : begin + 48_000]).decode()
            await connection.input_audio_buffer.append(audio=piece)
        if detection is None:
            await connection.input_audio_buffer.commit()
        async for event in connection:
            events.append(event)
            if event.type.endswith("transcription.completed"):
                missing -= len(event.transcript.split())
            if missing <= 0 or event.type == "error":
                break
    return events


@pytest.mark.slow
@pytest.mark.parametrize(
    ("detection", "silence_s"), [(None, 0.0), ({"type": "server_vad"}, 4.0)], ids=["commit", "vad"]
)
def test_the_official_client_gets_the_words_of_the_trained_model(
    tiny_worker: WorkerProcess, detection: dict[str, Any] | None, silence_s: float
) -> None:
    events = asyncio.run(words_of(tiny_worker.url, detection, a_recording(silence_s)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["session.created", "session.updated"]
    done = [event.transcript for event in events if event.type.endswith("completed")]
    assert " ".join(done) == SPOKEN["text"]
    deltas = [event.delta for event in events if event.type.endswith(".delta")]
    assert "".join(deltas).replace(" ", "") == SPOKEN["text"].replace(" ", "")
    assert len(deltas) == len(SPOKEN["text"].split())
    started = [event for event in events if event.type.endswith("speech_started")]
    stopped = [event for event in events if event.type.endswith("speech_stopped")]
    if detection is None:
        assert (len(done), started, stopped) == (1, [], [])
        return
    # Two sentences with a pause between them.
    assert len(done) == len(started) == len(stopped) == 2
    assert len({event.item_id for event in events if event.type.endswith("completed")}) == 2
    starts_ms = [1000 * SPOKEN["word_starts_s"][at] for at in (0, len(done[0].split()))]
    for event, start_ms in zip(started, starts_ms, strict=True):
        assert event.audio_start_ms == pytest.approx(start_ms, abs=250)
    assert started[0].audio_start_ms < stopped[0].audio_end_ms
    assert stopped[0].audio_end_ms < stopped[1].audio_end_ms
