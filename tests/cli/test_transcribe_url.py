"""`dsmops transcribe --url` as a user types it, against the worker."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.worker.tiny.stt import API_KEY, write_tiny_stt
from tests.support.cli import dsmops
from tests.support.processes import python
from tests.support.sound import encoded
from tests.support.workers import WorkerProcess

KEY = {"DSMOPS_API_KEY": API_KEY}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    folder = tmp_path_factory.mktemp("model")
    with WorkerProcess(folder, write_tiny_stt(folder).server_config, "--silent") as process:
        yield process


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(1)
    loudness = np.repeat(rng.random(41), 2400)[: 4 * 24_000]
    path = tmp_path_factory.mktemp("audio") / "clip.wav"
    path.write_bytes(
        encoded(
            (0.2 * loudness * rng.standard_normal(4 * 24_000)).astype(np.float32), encoding="FLOAT"
        )
    )
    return path


@pytest.mark.slow
def test_a_server_writes_down_what_is_said(worker: WorkerProcess, clip: Path) -> None:
    """Text, words in order within the recording, and one document that says which server it was."""
    document = dsmops(
        "transcribe", "--url", worker.url, "--rtf", "0", "--json", clip, env=KEY
    ).document
    assert document["schema"] == "dsmops.transcribe/1"
    assert document["audio_s"] == pytest.approx(4.0)
    assert document["model"].startswith("ws://127.0.0.1:")
    assert (document["device"], document["dtype"], document["interrupted"]) == (None, None, False)
    starts = [word["start_s"] for word in document["words"]]
    assert starts
    assert starts == sorted(starts)
    assert starts[-1] < 5
    assert document["text"] == " ".join(word["text"] for word in document["words"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--api-key", "wrong"), 4, "refused the key"),
        (("--cpu",), 2, "omit --cpu"),
        (("--dtype", "f16", "--prompt-text", "x"), 2, "omit --dtype and --prompt-text"),
        (("--rtf", "-1"), 2, "--rtf"),
        (("--rtf", "nan"), 2, "--rtf"),
        (("--rtf", "inf"), 2, "--rtf"),
        (("--mic",), 2, "name one AUDIO"),
    ],
)
def test_mistakes_are_told_in_words(
    worker: WorkerProcess, clip: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    """One error, and the key is not repeated."""
    ran = dsmops("transcribe", "--url", worker.url, *words, clip, env=KEY)
    assert ran.code == code
    assert said in ran.stderr
    assert API_KEY not in ran.stderr


@pytest.mark.slow
def test_words_come_while_a_pipe_runs(worker: WorkerProcess, clip: Path) -> None:
    """The pipe stays open until words are there; Ctrl-C ends the recording."""
    command = [*python(), "-m", "dsmops", "transcribe", "--url", worker.url, "--rtf", "0", "-"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **KEY},
    ) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(clip.read_bytes())
        running.stdin.flush()
        first = running.stdout.read(4)
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        running.wait(timeout=30)
    assert running.returncode == 130
    assert (first + rest).endswith(b"\n")
    assert first.strip()


@pytest.mark.slow
def test_a_server_that_is_not_there_is_a_remote_failure(clip: Path) -> None:
    """Exit 6, after a few tries."""
    ran = dsmops("transcribe", "--url", "ws://127.0.0.1:9", clip)
    assert ran.code == 6
    assert "cannot be reached" in ran.stderr


@pytest.mark.slow
def test_a_port_that_expects_tls_is_known_at_once(clip: Path, tmp_path: Path) -> None:
    """`ws://` there: one error that has the address to type, without further tries."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*_certificate(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        port = server.server_address[1]
        ran = dsmops("transcribe", "--url", f"127.0.0.1:{port}", clip)
    finally:
        server.shutdown()
        server.server_close()
    assert ran.code == 6
    assert f"--url wss://127.0.0.1:{port}/api/asr-streaming" in ran.stderr
    assert "the port expects TLS" in ran.stderr


def _certificate(folder: Path) -> tuple[Path, Path]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    command = [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-keyout", folder / "key", "-out", folder / "certificate"],
        check=True,
        capture_output=True,
    )
    return folder / "certificate", folder / "key"


def test_an_address_without_a_port_gets_the_usual_one_as_a_hint(clip: Path) -> None:
    """127.0.0.7 is this machine, and nothing listens on its port 80."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.7", 80), timeout=1):
        pytest.skip("something listens on port 80")
    ran = dsmops("transcribe", "--url", "127.0.0.7", clip)
    assert ran.code == 6
    assert "has no port, and nothing answers on 80" in ran.stderr
    assert "--url ws://127.0.0.7:8080" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_keeps_what_was_heard(
    worker: WorkerProcess, clip: Path, number: signal.Signals
) -> None:
    """The first one ends the recording there: text comes out, the exit code is the signal's, and
    the slot is free again.
    """
    line = [
        *python(),
        "-m",
        "dsmops",
        "transcribe",
        "--url",
        worker.url,
        "--rtf",
        "0.2",
        "--json",
        str(clip),
        "--api-key",
        API_KEY,
    ]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        # It listens at a fifth of real time: 20 s, of which it has sent something once the server
        # counts a slot.
        while '"used_slots": "0"' in _modules(worker):
            assert process.poll() is None
        process.send_signal(number)
        stdout, _ = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    document = json.loads(stdout)
    assert (document["interrupted"], document["signal"]) == (True, number.name)
    assert '"used_slots": "0"' in _modules(worker)


def _modules(worker: WorkerProcess) -> str:
    from tests.support.workers import request

    return request(worker.url, "GET", "/api/modules_info").text.replace('":"', '": "')
