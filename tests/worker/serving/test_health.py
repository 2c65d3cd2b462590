"""What orchestrators ask: whether the process lives, and whether its models can step."""

from __future__ import annotations

import json
import threading

import pytest

from dsmops.worker.serving import module
from dsmops.worker.serving.settings import TtsSettings
from tests.support.engines import EchoEngine
from tests.support.stt_client import SttClient
from tests.support.workers import KEY, ThreadedServer, request
from tests.worker.serving.test_server_faults import frames
from tests.worker.serving.test_tts_server import speaking


@pytest.mark.slow
def test_a_ready_server_says_so() -> None:
    """Without a key, by GET and HEAD."""
    with ThreadedServer() as server:
        assert request(server.url, "GET", "/livez").body == b"ok\n"
        answer = request(server.url, "GET", "/readyz")
        assert answer.status == 200
        assert json.loads(answer.body) == {
            "ready": True,
            "modules": [{"name": "asr", "ready": True, "reason": None}],
        }
        assert request(server.url, "HEAD", "/readyz").status == 200


@pytest.mark.slow
@pytest.mark.parametrize("open_server", [ThreadedServer, speaking])
def test_an_idle_module_is_asked_for_a_step(
    monkeypatch: pytest.MonkeyPatch, open_server: type[ThreadedServer]
) -> None:
    """Readiness is a step of the model, without a client; streams and counters do not see it."""
    monkeypatch.setattr(module, "READY_STEP_S", 0.0)
    with open_server() as server:
        if isinstance(server.module, TtsSettings):
            server.module.open_engine().may_step_nobody = True  # type: ignore[attr-defined]
        loop = server._server._modules[0].loop  # type: ignore[attr-defined]
        before_s = loop.board.last_step_s
        assert request(server.url, "GET", "/readyz").status == 200
        assert loop.board.last_step_s > before_s
        assert "step_idx" not in server.log


@pytest.mark.slow
def test_a_module_that_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process lives, and is not ready."""
    monkeypatch.setattr(module, "READY_STEP_S", 0.0)
    monkeypatch.setattr(module, "READY_PATIENCE_S", 0.2)
    going = threading.Event()
    going.set()
    engine = EchoEngine(before_step=lambda _: going.wait(20) and None)
    with ThreadedServer(lambda: engine) as server, SttClient(server.url, KEY) as client:
        going.clear()
        client.audio(frames(5))
        answer = request(server.url, "GET", "/readyz")
        assert request(server.url, "GET", "/livez").status == 200
        going.set()
    assert answer.status == 503
    (found,) = json.loads(answer.body)["modules"]
    assert (found["name"], found["ready"]) == ("asr", False)
    assert "no step for" in found["reason"]
