"""Garbage collection beside serving: nothing to collect, and never while a frame waits."""

from __future__ import annotations

import base64
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest
from websockets.sync.client import connect

from dsmops.client.load.websocket import PING, client_frame
from dsmops.worker.runtime import collector as collector_module
from dsmops.worker.runtime.collector import Collector
from dsmops.worker.serving.token_keys import TokenSettings
from tests.support.attacks import Attacker
from tests.support.engines import EchoEngine
from tests.support.stt_client import SttClient
from tests.support.tts_client import TTS_PATH, TtsClient
from tests.support.workers import KEY, PATH, ThreadedServer, request
from tests.worker.serving.test_server_faults import ending, frames, used_slots
from tests.worker.serving.test_tts_server import speaking

pytestmark = pytest.mark.slow

CONVERSATIONS = 8
SECRET = "a secret of the auth server and this one"


def transcribe(server: ThreadedServer) -> None:
    with SttClient(server.url, KEY) as client:
        client.audio(frames(5, 6, 7))
        client.send({"type": "Marker", "id": 1})
        client.audio(frames(0, 0, 0, 0))
        while client.receive()["type"] != "Marker":
            pass


def send_nonsense(server: ThreadedServer) -> None:
    with SttClient(server.url, KEY) as client:
        client.send(b"\xc1")
        ending(client)


def hang_up(server: ThreadedServer) -> None:
    client = SttClient(server.url, KEY)
    client.audio(frames(5))
    client.ws.socket.close()


def flood_and_hang_up(server: ThreadedServer) -> None:
    """Leave thousands of unread messages behind."""
    with Attacker(server.url, KEY).websocket(PATH) as sock:
        sock.sendall(client_frame(PING, b"x" * 100) * 2_000)


def get_a_401(server: ThreadedServer) -> None:
    assert request(server.url, "GET", PATH).status in (400, 401)
    assert request(server.url, "POST", PATH, body=b"").status == 401


def synthesize(server: ThreadedServer) -> None:
    with TtsClient(server.url, KEY) as client:
        client.say("one two three")
        client.rest()


def post_text(server: ThreadedServer) -> None:
    body = json.dumps({"text": "one two", "voice": ""}).encode()
    headers = {"kyutai-api-key": KEY, "Content-Type": "application/json"}
    assert request(server.url, "POST", TTS_PATH, body=body, headers=headers).status == 200


def ask_for_an_unknown_voice(server: ThreadedServer) -> None:
    with TtsClient(server.url, KEY, voice="nobody") as client:
        client.rest()


def talk_in_realtime(server: ThreadedServer) -> None:
    url = f"{server.url.replace('http', 'ws', 1)}/v1/realtime"
    with connect(url, additional_headers={"Authorization": f"Bearer {KEY}"}) as ws:
        ws.send('{"type": "nonsense"}')
        audio = base64.b64encode(bytes(9600)).decode()
        ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
        ws.send('{"type": "input_audio_buffer.commit"}')
        while "completed" not in str(ws.recv()):
            pass


def send_tokens(server: ThreadedServer) -> None:
    for token in ("a.b.c", jwt.encode({"sub": "ada"}, SECRET, "HS256")):
        headers = {"Authorization": f"Bearer {token}"}
        assert request(server.url, "GET", "/v1/models", headers=headers).status == 401
    token = jwt.encode({"sub": "ada", "exp": time.time() + 60}, SECRET, "HS256")
    headers = {"Authorization": f"Bearer {token}"}
    assert request(server.url, "GET", "/v1/models", headers=headers).status == 200


def taking_tokens() -> ThreadedServer:
    return ThreadedServer(tokens=TokenSettings(secret=SECRET))


@contextmanager
def saved_garbage() -> Iterator[list[Any]]:
    """Yield a list that holds, after the block, what only a collection could free."""
    found: list[Any] = []
    gc.collect()
    yield found
    time.sleep(0.3)  # until the last closing handshakes are through
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        found += gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.mark.parametrize(
    ("open_server", "converse"),
    [
        (ThreadedServer, transcribe),
        (ThreadedServer, send_nonsense),
        (ThreadedServer, hang_up),
        (ThreadedServer, flood_and_hang_up),
        (ThreadedServer, get_a_401),
        (ThreadedServer, talk_in_realtime),
        (taking_tokens, send_tokens),
        (speaking, synthesize),
        (speaking, post_text),
        (speaking, ask_for_an_unknown_voice),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_conversations_leave_nothing_to_collect(
    open_server: Callable[[], ThreadedServer], converse: Callable[[ThreadedServer], None]
) -> None:
    """However a conversation ends, its connection, stream and request are freed at once."""
    with open_server() as server:
        converse(server)
        with saved_garbage() as garbage:
            for _ in range(CONVERSATIONS):
                converse(server)
    kinds = [f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in garbage]
    ours = sorted({kind for kind in kinds if kind.startswith(("dsmops.", "aiohttp."))})
    assert ours == []


@pytest.mark.slow
def test_no_collection_while_a_frame_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collections take place, and each of them when no stream has a frame."""
    monkeypatch.setattr(collector_module, "YOUNG_OBJECTS", 1)
    seen: list[bool] = []

    def note(phase: str, _: dict[str, int]) -> None:
        if phase == "start" and threading.current_thread().name.startswith("model-loop"):
            loop = server._server._modules[0].loop  # type: ignore[attr-defined]
            seen.append(not loop.rests)

    with ThreadedServer(lambda: EchoEngine(2)) as server:
        assert not gc.isenabled()
        gc.callbacks.append(note)
        try:
            for _ in range(CONVERSATIONS):
                transcribe(server)
        finally:
            gc.callbacks.remove(note)
        while used_slots(server) != "0":
            time.sleep(0.01)
    assert seen
    assert not any(seen)
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


class Idle:
    """A loop with nothing to do."""

    rests = True


def collections(call: Callable[[], None]) -> list[int]:
    """Return the generations that `call` collects."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    try:
        call()
    finally:
        gc.callbacks.remove(note)
    return seen


@pytest.mark.slow
def test_what_is_collected_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it once a minute, the young else, nothing while another loop has a frame."""
    monkeypatch.setattr(collector_module, "YOUNG_OBJECTS", 0)
    monkeypatch.setattr(collector_module, "FULL_EVERY_S", 0.0)
    monkeypatch.setattr(collector_module, "MOST_YOUNG_OBJECTS", 0)
    collector, one, other = Collector(), Idle(), Idle()
    collector.loops += [one, other]
    assert collections(collector.collect_idle) == []
    with collector.running():
        assert collections(collector.collect_idle) == [2]
        collector._full._next_s += 60
        assert collections(collector.collect_idle) == [1]
        other.rests = False
        assert collections(collector.collect_idle) == []
        assert collections(collector.collect_busy) == [0]
