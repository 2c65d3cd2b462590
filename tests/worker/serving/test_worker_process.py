"""What an operator sees of a real worker: its log file, its signals, its exit code."""

from __future__ import annotations

import shutil
import signal
import time
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dsmops.worker.serving.logs import RETRY_S
from tests.bench.attacks import both_modules
from tests.bench.card import KEY
from tests.support.stt_client import SttClient
from tests.support.workers import PATH, WorkerProcess, request
from tests.worker.serving.test_server_faults import frames

pytestmark = pytest.mark.slow

SENT_KEY = "sk-a-key-that-a-page-has-sent"


def logged(folder: Path) -> str:
    """Return what is in the log file now."""
    return "".join(path.read_text("utf-8") for path in folder.rglob("log.*"))


def test_a_day_of_a_real_worker(tmp_path: Path) -> None:
    """Keys stay secret, the log file comes back, and SIGHUP lets a conversation end."""
    with WorkerProcess(tmp_path, both_modules(tmp_path, 2, tiny=True), is_own=True) as worker:
        for _ in range(20):
            assert request(worker.url, "POST", PATH, body=b"").status == 401
        url = worker.url.replace("http", "ws", 1) + PATH
        with pytest.raises(InvalidStatus):
            connect(url, subprotocols=[f"openai-insecure-api-key.{SENT_KEY}"])  # type: ignore[list-item]
        foreign = {"Origin": "http://evil.example", "kyutai-api-key": KEY}
        assert request(worker.url, "GET", "/metrics", headers=foreign).status == 403
        assert request(worker.url, "GET", "/livez").status == 200
        assert request(worker.url, "GET", "/readyz").status == 200
        with SttClient(worker.url, KEY) as client:
            file = next(tmp_path.rglob("log.*"))
            shutil.rmtree(file.parent)
            until_s = time.monotonic() + 3 * RETRY_S
            while not file.exists() and time.monotonic() < until_s:
                client.audio(frames(0))
                client.receive()
                time.sleep(0.2)
            assert file.exists()
            worker.process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            client.audio(frames(0))
            assert client.receive()["type"] == "Step"
        assert worker.end() == 0
    log = worker.errors
    assert log.count("requests without a known key were refused") in (1, 2, 3)
    assert "shutting down signal=SIGHUP" in log
    assert "shutting down signal=SIGHUP" in logged(tmp_path)
    for text in (log, logged(tmp_path)):
        assert SENT_KEY not in text
        assert KEY not in text
        assert "Traceback" not in text
