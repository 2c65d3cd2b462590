"""Disks are compared with what comes next, and ports are asked; real servers on loopback answer."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dsmops.findings import Severity
from dsmops.gpu import GpuReport
from dsmops.operations.doctor import Scope, diagnose
from dsmops.shipped import shipped_folder
from tests.operations.doctor.conftest import Play, found
from tests.support.tiny_checkpoint import write_tiny_server


def test_room_is_compared_with_what_comes_next(
    scope: Scope, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 needs the 1B model once more, converted; a log folder a day's worth."""
    usage = shutil.disk_usage(scope.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=500 << 20))
    report, config = play("t4_cloud"), write_tiny_server(scope.folder)
    seen = found(diagnose(replace(scope, configs=(config,)), report))
    assert "1.84 GiB" in seen["disk-too-small"].message
    assert seen["disk-low"].severity is Severity.WARNING


def test_what_a_speaking_config_takes_without_naming_it_is_counted(
    scope: Scope, bare: GpuReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ready config names a tokenizer; the server's script fetches weights, Mimi and config.json
    all the same.
    """
    usage = shutil.disk_usage(scope.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 << 30))
    seen = found(
        diagnose(replace(scope, configs=(shipped_folder("configs") / "config-tts.toml",)), bare)
    )
    assert "3.80 GiB" in seen["disk-too-small"].message
    assert (
        len([line for line in seen["hub-offline"].evidence if "kyutai/tts-1.6b-en_fr/" in line])
        == 4
    )
    assert seen["checkpoint-none"].hint == "hf download kyutai/tts-1.6b-en_fr"


def test_a_folder_that_may_not_be_written(
    scope: Scope, bare: GpuReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who owns it is said."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "belongs to user" in found(diagnose(scope, bare))["disk-not-writable"].evidence[0]


class _Handler(BaseHTTPRequestHandler):
    answers: dict[str, object]

    def do_GET(self) -> None:
        body = json.dumps(self.answers.get(self.path)).encode()
        self.send_response(200 if self.path in self.answers else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, object]], int]]:
    """Start a server that gives these JSON answers, and return its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(answers: dict[str, object]) -> int:
        handler = type("Handler", (_Handler,), {"answers": answers})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(
            target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("used", "name"), [("3", "port-server"), ("64", "port-server-full")])
def test_a_speech_server_on_the_port_is_asked(
    used: str, name: str, scope: Scope, bare: GpuReport, serve: Callable[..., int]
) -> None:
    """It says what it is and how many slots are taken; full may be dead, so the smoke test is
    named.
    """
    slots = [
        {
            "type": "batched_asr",
            "path": "/api/asr-streaming",
            "used_slots": used,
            "total_slots": "64",
        }
    ]
    port = serve(
        {
            "/api/build_info": {"git_describe": "dc0b3d1", "build_timestamp": "2025-07-21"},
            "/api/modules_info": slots,
        }
    )
    seen = found(diagnose(replace(scope, port=port), bare))[name]
    assert f"/api/asr-streaming: {used} of 64 slots used" in seen.evidence
    assert f"ws://127.0.0.1:{port}" in seen.hint
    assert any(f"pid {os.getpid()}" in line for line in seen.evidence)


def test_another_program_on_the_port(
    scope: Scope, bare: GpuReport, serve: Callable[..., int]
) -> None:
    """One that answers otherwise, one that never answers, and one that listens on another address
    only.
    """
    with socket.create_server(("127.0.0.2", 0)) as elsewhere:
        for port in (serve({}), elsewhere.getsockname()[1]):
            seen = found(diagnose(replace(scope, port=port), bare))["port-taken"]
            assert seen.severity is Severity.ERROR
            assert any(f"pid {os.getpid()}" in line for line in seen.evidence)
