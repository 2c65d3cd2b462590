"""The server in several processes: what clients see is the same, and what ends takes no more along
than it must.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from tests.support.split_server import CRASH_TOKEN, DEATH_TOKEN, SplitServer
from tests.support.stt_client import SttClient
from tests.support.tts_client import TTS_PATH, TtsClient, audio, words
from tests.support.workers import KEY, PATH, request
from tests.worker.serving.test_hostile_clients import wav
from tests.worker.serving.test_server_faults import ending, frames

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="front processes need Linux"),
]

HEADERS = {"kyutai-api-key": KEY}


@pytest.fixture(scope="module")
def server() -> Iterator[SplitServer]:
    """One that no test ends."""
    with SplitServer(slots=4) as running:
        yield running


def used_slots(url: str, module: int = 0) -> int:
    return int(json.loads(request(url, "GET", "/api/modules_info").body)[module]["used_slots"])


def wait_for_slots(url: str, count: int, module: int = 0) -> None:
    until_s = time.monotonic() + 10
    while used_slots(url, module) != count:
        assert time.monotonic() < until_s
        time.sleep(0.02)


def test_words_come_through_any_front(server: SplitServer) -> None:
    """Every conversation gets its own words and markers, whichever process has it."""
    with ExitStack() as stack:
        clients = [stack.enter_context(SttClient(server.url, KEY)) for _ in range(4)]
        for client in clients:
            client.audio(frames(3, 0, 4, 5, 3, 0))
            client.send({"type": "Marker", "id": 7})
            client.audio(frames(3, 3, 3))
        for client in clients:
            messages = client.until("Marker")
            assert [m["text"] for m in messages if m["type"] == "Word"] == ["ab"]
            assert [m["buffered_pcm"] for m in messages if m["type"] == "Step"][-1] >= 0
            assert messages[-1] == {"type": "Marker", "id": 7}
        assert used_slots(server.url) == 4
    wait_for_slots(server.url, 0)


@pytest.mark.slow
def test_init_and_many_frames_at_once(server: SplitServer) -> None:
    """More audio than a lane holds is stepped whole, and `Init` starts again."""
    with SttClient(server.url, KEY) as client:
        client.audio(frames(*[3] * 200), samples=1920 * 50)
        own = [client.receive()["type"] for _ in range(200)]
        assert own == ["Step"] * 200
        client.send({"type": "Init"})
        client.until("Ready")
        client.audio(frames(3, 0, 4, 3, 0, 3))
        assert client.until("Word")[-1]["text"] == "a"


def test_a_full_server_says_so(server: SplitServer) -> None:
    """Slots are counted over all fronts, and come back."""
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(SttClient(server.url, KEY))
        with SttClient(server.url, KEY, ready=False) as late:
            assert ending(late) == ([{"type": "Error", "message": "no free channels"}], 1013)
    wait_for_slots(server.url, 0)


def test_posts_are_served(server: SplitServer) -> None:
    """A file through a front gives words."""
    answer = request(server.url, "POST", PATH, body=wav(3), headers=HEADERS)
    assert (answer.status, json.loads(answer.body)) == (200, [])
    assert used_slots(server.url) == 0


@pytest.mark.slow
def test_speech_comes_through_any_front(server: SplitServer) -> None:
    """Over WebSocket and POST; tests/worker/runtime/tts/test_remote.py compares every sample."""
    with ExitStack() as stack:
        clients = [stack.enter_context(TtsClient(server.url, KEY)) for _ in range(4)]
        for client in clients:
            client.say("hello there my friend")
        for client in clients:
            messages = client.rest()
            assert [word for word, *_ in words(messages)] == ["hello", "there", "my", "friend"]
            assert len(audio(messages)) > 0
            assert client.close_code == 1000
    body = json.dumps({"text": "one two", "voice": ""}).encode()
    answer = request(
        server.url,
        "POST",
        TTS_PATH,
        body=body,
        headers=HEADERS | {"Content-Type": "application/json"},
    )
    assert answer.status == 200
    assert answer.body[:4] == b"RIFF"
    wait_for_slots(server.url, 0, module=1)


def test_voices_that_are_not_there_are_refused(server: SplitServer) -> None:
    """With the reason, and without a slot."""
    with TtsClient(server.url, KEY, voice="nobody") as client:
        assert client.rest()[-1]["type"] == "Error"
    assert used_slots(server.url, 1) == 0


@pytest.mark.slow
def test_counts_are_those_of_all_processes(server: SplitServer) -> None:
    """Whichever front is asked."""
    with SttClient(server.url, KEY) as client:
        client.audio(frames(3))
        client.receive()
    wait_for_slots(server.url, 0)
    for _ in range(6):
        assert request(server.url, "POST", PATH, body=b"").status == 401
    counts = {
        line
        for _ in range(6)
        for line in request(server.url, "GET", "/metrics").text.splitlines()
        if line.startswith("http_unauthorized")
    }
    assert len(counts) == 1
    text = request(server.url, "GET", "/metrics").text
    assert "asr_model_step_duration_count" in text
    assert 'asr_open_channels{handler="all"} 0.0' in text


@pytest.mark.slow
def test_health(server: SplitServer) -> None:
    """Ready is a step of the model in its own process."""
    assert request(server.url, "GET", "/livez").status == 200
    for _ in range(3):
        assert json.loads(request(server.url, "GET", "/readyz").body)["ready"] is True


def test_a_port_that_is_shared_is_still_taken(server: SplitServer) -> None:
    """A second worker of the same user does not get it."""
    from dsmops.errors import PortInUseError
    from dsmops.worker.serving.addresses import reserve

    host, port = server.url.removeprefix("http://").split(":")
    with pytest.raises(PortInUseError):
        reserve(host, int(port))


def test_a_dead_front_loses_its_connections_only() -> None:
    """Its slots are free at once, another takes its place, the others' clients go on."""
    with SplitServer(slots=16, fronts=2) as server, ExitStack() as stack:
        clients = [SttClient(server.url, KEY) for _ in range(16)]
        for client in clients:
            stack.callback(client.vanish)
        wait_for_slots(server.url, 16)
        os.kill(server.children("front")[0], signal.SIGKILL)
        server.until("a front process has ended; its connections are lost how=killed by SIGKILL")
        alive = 0
        for client in clients:
            try:
                client.audio(frames(3))
                alive += client.receive()["type"] == "Step"
            except (ConnectionClosed, OSError):
                continue
        assert 0 < alive < 16
        wait_for_slots(server.url, alive)
        until_s = time.monotonic() + 10
        while len(server.children("front")) < 2:
            assert time.monotonic() < until_s
        again = [stack.enter_context(SttClient(server.url, KEY)) for _ in range(16 - alive)]
        for client in again:
            client.audio(frames(3))
            assert client.receive()["type"] == "Step"
        text = request(server.url, "GET", "/metrics").text
        assert 'worker_front_restarts{handler="all"} 1.0' in text
        assert 'asr_open_channels{handler="all"} 16.0' in text


@pytest.mark.parametrize(
    ("token", "reason"), [(DEATH_TOKEN, "oops"), (CRASH_TOKEN, "killed by SIGSEGV")]
)
def test_a_dead_model_ends_the_service_with_its_reason(token: int, reason: str) -> None:
    """Every client gets the reason, the exit code is 5."""
    with SplitServer(slots=2) as server:
        with SttClient(server.url, KEY) as one, SttClient(server.url, KEY) as other:
            one.audio(frames(token))
            for client in (one, other):
                messages, code = ending(client)
                assert code == 1011
                assert reason in messages[-1]["message"]
        assert server.end() == 5
        assert reason in server.lines
        assert 'task failed name="model_loop"' in server.lines


def test_a_dead_device_takes_its_streams_only() -> None:
    """Slots add up over devices; what is left serves on and says what is missing."""
    with SplitServer(slots=2, devices=2) as server, ExitStack() as stack:
        info = json.loads(request(server.url, "GET", "/api/modules_info").body)
        assert info[0]["total_slots"] == "4"
        clients = [stack.enter_context(SttClient(server.url, KEY)) for _ in range(4)]
        clients[0].audio(frames(DEATH_TOKEN))
        messages, code = ending(clients[0])
        assert (code, messages[-1]["type"]) == (1011, "Error")
        server.until("a device is lost")
        told = 1
        for client in clients[1:]:
            try:
                client.audio(frames(3))
                told += client.receive()["type"] == "Error"
            except (ConnectionClosed, OSError):
                told += 1
        assert told == 2
        document = json.loads(request(server.url, "GET", "/readyz").body)
        assert document["ready"] is True
        lost = [device for device in document["devices"] if not device["ready"]]
        assert len(lost) == 1
        assert "oops" in lost[0]["reason"]
        info = json.loads(request(server.url, "GET", "/api/modules_info").body)
        assert info[0]["total_slots"] == "2"
        assert (
            'worker_devices_lost{handler="all"} 1.0' in request(server.url, "GET", "/metrics").text
        )
        assert lost[0]["name"] in server.lines


def test_sigterm_lets_conversations_end() -> None:
    """New connections are refused meanwhile; exit code 0, and no process is left."""
    with SplitServer(drain_s=20) as server:
        with SttClient(server.url, KEY) as client:
            server.process.terminate()
            host, port = server.url.removeprefix("http://").split(":")
            until_s = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection((host, int(port))).close()
                except OSError:
                    break
                assert time.monotonic() < until_s
            client.audio(frames(3))
            assert client.receive()["type"] == "Step"
        children = [*server.children("front"), *server.children("model")]
        assert server.end() == 0
    assert not [pid for pid in children if Path(f"/proc/{pid}/cmdline").exists()]


def test_ctrl_c_reaches_all_and_ends_at_once() -> None:
    """The supervisor alone answers a signal for the whole group: reason to clients, code 130."""
    with SplitServer(drain_s=20) as server, SttClient(server.url, KEY) as client:
        for pid in [*server.children("front"), *server.children("model"), server.process.pid]:
            os.kill(pid, signal.SIGINT)
        assert ending(client) == (
            [{"type": "Error", "message": "the server is shutting down"}],
            1001,
        )
        assert server.end() == 130


def test_children_end_with_their_supervisor() -> None:
    """Even where it is killed."""
    with SplitServer() as server:
        children = [*server.children("front"), *server.children("model")]
        assert len(children) == 3
        server.process.kill()
        server.end()
        until_s = time.monotonic() + 10
        while any(_runs(pid) for pid in children):
            assert time.monotonic() < until_s
            time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
