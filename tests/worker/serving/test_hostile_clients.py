"""Clients that mean harm: the server stays open to others, and its log stays short."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

from dsmops.errors import InputError
from dsmops.worker.serving import admission, tally
from dsmops.worker.serving.admission import most_connections
from dsmops.worker.serving.settings import Limits
from dsmops.worker.serving.tts import refuse_long_name
from tests.support.engines import EchoEngine
from tests.support.stt_client import SttClient
from tests.support.tts_client import TTS_PATH, TtsClient
from tests.support.workers import KEY, PATH, Answer, ThreadedServer, request
from tests.worker.serving.test_server_faults import frames
from tests.worker.serving.test_tts_server import speaking

pytestmark = pytest.mark.slow

HEADERS = {"kyutai-api-key": KEY}


def connected(server: ThreadedServer, sent: bytes = b"") -> socket.socket:
    """Return a connection on which `sent` has gone out."""
    parts = urlsplit(server.url)
    raw = socket.create_connection((parts.hostname, parts.port), timeout=10)
    raw.sendall(sent)
    return raw


def is_cut(raw: socket.socket) -> bool:
    """Wait until the server cuts a connection; False where it answers instead."""
    try:
        return raw.recv(1) == b""
    except ConnectionError:
        return True


def wav(seconds: float) -> bytes:
    """Return silence as a FLAC file; hours of it are a few kilobytes."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 24_000, 1, "PCM_16", format="FLAC") as sound:
        block = np.zeros(24_000, np.int16)
        for _ in range(round(seconds)):
            sound.write(block)
    return file.getvalue()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX: "])
def test_a_connection_without_a_request_is_cut(sent: bytes) -> None:
    """Nothing, half a request line, half a header: cut after the deadline, a whole one is not."""
    with (
        ThreadedServer(limits=Limits(first_request_s=0.3)) as server,
        SttClient(server.url, KEY) as honest,
        connected(server, sent) as raw,
    ):
        assert is_cut(raw)
        honest.audio(frames(5))
        assert honest.receive()["type"] == "Step"
    assert "connections were cut: too many, or too slow count=1" in server.log


@pytest.mark.slow
def test_silent_connections_make_room_for_honest_ones() -> None:
    """At the cap the oldest connection without a request goes; conversations stay."""
    with ThreadedServer(limits=Limits(connections=6)) as server, ExitStack() as stack:
        honest = stack.enter_context(SttClient(server.url, KEY))
        silent = [stack.enter_context(connected(server)) for _ in range(20)]
        assert request(server.url, "GET", "/livez").status == 200
        honest.audio(frames(5))
        assert honest.receive()["type"] == "Step"
        assert is_cut(silent[0])
    lines = [line for line in server.log.splitlines() if "connections were cut" in line]
    assert 1 <= len(lines) <= 2


@pytest.mark.slow
def test_where_all_talk_a_further_one_is_refused() -> None:
    """No client that is being served loses the connection to a newcomer."""
    with ThreadedServer(limits=Limits(connections=2)) as server, ExitStack() as stack:
        clients = [stack.enter_context(SttClient(server.url, KEY)) for _ in range(2)]
        with connected(server, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n") as raw:
            assert is_cut(raw)
        for client in clients:
            client.audio(frames(5))
            assert client.receive()["type"] == "Step"


def test_connections_leave_descriptors_for_files() -> None:
    """The cap lies below the limit of open files."""
    import resource

    most = most_connections()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == resource.RLIM_INFINITY or 0 < most < soft


def test_unknown_keys_are_counted_and_logged_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line at once, one for the rest of the interval, and all of them in the metrics."""
    monkeypatch.setattr(tally.Tally.__init__, "__kwdefaults__", {"every_s": 0.5})
    with ThreadedServer() as server:
        for _ in range(30):
            assert request(server.url, "POST", PATH, body=b"").status == 401
        metrics = request(server.url, "GET", "/metrics").text
        assert 'http_unauthorized{handler="all"} 30' in metrics
        deadline = time.monotonic() + 10
        while counted(server.log) != 30 and time.monotonic() < deadline:
            time.sleep(0.02)
    lines = [line for line in server.log.splitlines() if "known key" in line]
    assert counted(server.log) == 30
    assert len(lines) < 15
    assert " WARN moshi_server: src/main.rs:0: requests without a known key" in lines[0]


def counted(log: str) -> int:
    """Return how many refused requests the log has counted."""
    return sum(
        int(line.rpartition("count=")[2]) for line in log.splitlines() if "known key" in line
    )


def test_an_audio_bomb_is_refused_before_it_takes_a_slot() -> None:
    """A small file of many hours gets 413; nothing of it is computed."""
    engine = EchoEngine(2)
    bomb = wav(300)
    assert len(bomb) < 100_000
    with ThreadedServer(lambda: engine, limits=Limits(post_audio_s=60)) as server:
        answer = request(server.url, "POST", PATH, body=bomb, headers=HEADERS)
    assert (answer.status, answer.text) == (
        413,
        "the recording is longer than 60 s\nSend it in parts, or stream it.\n",
    )
    assert engine.resets == []
    assert "returning client error 413" in server.log


@pytest.mark.slow
def test_a_bomb_whose_header_lies_is_cut_while_it_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoded seconds count, not what the file says of itself."""
    monkeypatch.setattr("dsmops.worker.serving.stt_recording.Recording.check", lambda _: None)
    with ThreadedServer(limits=Limits(post_audio_s=5)) as server:
        answer = request(server.url, "POST", PATH, body=wav(60), headers=HEADERS)
        assert answer.status == 413
        assert request(server.url, "POST", PATH, body=wav(2), headers=HEADERS).status == 200


@contextmanager
def posts(server: ThreadedServer, count: int) -> Iterator[list[tuple[int, Answer]]]:
    """Send posts one after the other without waiting; yields their answers as they come."""
    answers: list[tuple[int, Answer]] = []

    def post(number: int) -> None:
        answers.append((number, request(server.url, "POST", PATH, body=wav(10), headers=HEADERS)))

    threads = []
    for number in range(count):
        threads.append(threading.Thread(target=post, args=(number,)))
        threads[-1].start()
        deadline = time.monotonic() + 10
        while waiting_posts(server) <= number and time.monotonic() < deadline:
            time.sleep(0.01)
    yield answers
    for thread in threads:
        thread.join()


def waiting_posts(server: ThreadedServer) -> int:
    return server._server._modules[0].desk.waiting  # type: ignore[attr-defined]


def test_posts_get_slots_in_order_of_arrival() -> None:
    """The slot goes from one to the next; a WebSocket that tries meanwhile waits for its turn."""
    with ThreadedServer(lambda: EchoEngine(1)) as server:
        with SttClient(server.url, KEY) as holder, posts(server, 5) as answers:
            holder.ws.close()
        assert [number for number, _ in answers] == [0, 1, 2, 3, 4]
        assert {answer.status for _, answer in answers} == {200}


def test_too_many_posts_are_refused() -> None:
    """What waits is bounded: 503, and when to come back."""
    with (
        ThreadedServer(lambda: EchoEngine(1), limits=Limits(waiting_posts=2)) as server,
        SttClient(server.url, KEY) as holder,
    ):
        # One post for the slot, so to speak, and two that wait.
        with posts(server, 3) as answers:
            refused = request(server.url, "POST", PATH, body=wav(10), headers=HEADERS)
            assert (refused.status, refused.headers["retry-after"]) == (503, "10")
            holder.ws.close()
        assert {answer.status for _, answer in answers} == {200}


def test_a_post_that_hangs_up_leaves_the_queue() -> None:
    """The slot goes to the next one."""
    with ThreadedServer(lambda: EchoEngine(1)) as server:
        with SttClient(server.url, KEY):
            body = wav(10)
            head = (
                f"POST {PATH} HTTP/1.1\r\nHost: x\r\nkyutai-api-key: {KEY}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            with connected(server, head.encode() + body):
                while not waiting_posts(server):
                    time.sleep(0.01)
            while waiting_posts(server):
                time.sleep(0.01)
        assert request(server.url, "POST", PATH, body=wav(10), headers=HEADERS).status == 200


@pytest.mark.slow
def test_a_long_voice_name_is_cut() -> None:
    """In the answer and in the log; it is never looked for."""
    name = "x" * 50_000
    with speaking() as server:
        body = json.dumps({"text": "one", "voice": name}).encode()
        headers = HEADERS | {"Content-Type": "application/json"}
        answer = request(server.url, "POST", TTS_PATH, body=body, headers=headers)
        assert answer.status == 400
        assert len(answer.text) < 300
        with TtsClient(server.url, KEY, voice="y" * 5_000) as client:
            assert client.rest()[-1]["type"] == "Error"
    assert max(map(len, server.log.splitlines())) < 500


def test_a_long_voice_name_is_not_decoded() -> None:
    """Where the name comes first or last, with spaces or escapes; other long bodies are read."""
    for body in (
        b'{"voice":"' + b"v" * 9_000 + b'", "text": "one"}',
        b'{"text": "say \\"voice\\": \\"x", "voice" : "' + b"v" * 9_000,
    ):
        with pytest.raises(InputError, match="no voice 'vvv"):
            refuse_long_name(body)
    for body in (
        json.dumps({"text": "one", "voice": "\U0001f600" * 255}).encode(),
        json.dumps({"text": '"voice": "' * 2_000, "voice": "x"}).encode(),
        json.dumps({"text": "one " * 5_000}).encode(),
        b'{"voice": null, "text": "' + b"v" * 9_000 + b'"}',
    ):
        refuse_long_name(body)


@pytest.mark.slow
def test_a_key_in_a_subprotocol_is_not_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """Libraries would warn about an unknown subprotocol, and name it."""
    with ThreadedServer() as server:
        head = (
            f"GET {PATH}?auth_id={KEY.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            "Sec-WebSocket-Protocol: a-secret-key\r\n\r\n"
        )
        with connected(server, head.encode()) as raw:
            assert raw.recv(100).startswith(b"HTTP/1.1 101")
    printed = capfd.readouterr()
    assert "a-secret-key" not in printed.err + printed.out + server.log


@pytest.mark.parametrize(
    ("origin", "allowed", "status"),
    [
        ("http://evil.example", (), 403),
        ("null", (), 403),
        ("http://evil.example", ("https://evil.example",), 403),
        ("https://good.example", ("https://good.example",), 200),
        ("http://any.example", ("*",), 200),
        ("http://{host}", (), 200),
        (None, (), 200),
    ],
)
def test_pages_of_other_sites_are_refused(
    origin: str | None, allowed: tuple[str, ...], status: int
) -> None:
    """Browsers say whose page asks; the server's own pages and clients without pages are served."""
    with ThreadedServer(allowed_origins=allowed) as server:
        host = server.url.removeprefix("http://")
        headers = {} if origin is None else {"Origin": origin.format(host=host)}
        assert request(server.url, "GET", "/metrics", headers=headers).status == status


def test_a_flood_on_one_connection_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelined requests are answered at a bounded rate, counted and logged; others go on."""
    monkeypatch.setattr(admission, "REQUESTS_AT_ONCE", 5.0)
    monkeypatch.setattr(admission, "REQUESTS_PER_S", 4.0)
    asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 200
    with ThreadedServer() as server, SttClient(server.url, KEY) as honest:
        with connected(server, asked) as raw:
            honest.audio(frames(5, 5, 5))
            for _ in range(3):
                assert honest.receive()["type"] == "Step"
            raw.settimeout(0.5)
            received = b""
            until_s = time.monotonic() + 1.5
            while time.monotonic() < until_s:
                with contextlib.suppress(TimeoutError):
                    received += raw.recv(1 << 16)
            assert 5 <= received.count(b"HTTP/1.1 200") < 60
        assert "http_throttled" in request(server.url, "GET", "/metrics").text
    assert "requests had to wait: too many came" in server.log


def test_hanging_up_of_a_terminal_drains() -> None:
    """SIGHUP lets conversations end as SIGTERM does."""
    with ThreadedServer(drain_s=10) as server:
        with SttClient(server.url, KEY) as client:
            server._event_loop.call_soon_threadsafe(server._server.stop, signal.SIGHUP)
            time.sleep(0.3)
            client.audio(frames(5))
            assert client.receive()["type"] == "Step"
        server.join()
    assert server.ended is not None
    assert server.ended.signal is signal.SIGHUP
