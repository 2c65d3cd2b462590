"""`up`, `status`, `down`: a server in the background, from nothing, and back to nothing."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest
from typer.testing import CliRunner

from dsmops.cli.app import app
from dsmops.errors import TargetBusyError
from dsmops.operations.up.control import Server, look
from dsmops.operations.up.record import (
    ServerRecord,
    folder,
    only_one,
    read_record,
    started,
    write_record,
)
from tests.support.cli import dsmops
from tests.support.served_tiny import RECORDINGS, SPOKEN
from tests.support.workers import request


@pytest.fixture
def ended() -> Iterator[None]:
    """End the server of this test's state folder, whatever becomes of the test."""
    yield
    dsmops("down")


@pytest.mark.slow
def test_from_nothing_to_words_and_back(ended: None, tmp_path: Path) -> None:
    """One command gives a server that has made a step, a key, a page and commands that work; a
    second finds the same server; `down` leaves nothing.
    """
    secret = "a secret of the auth server and this one"
    command = ("up", "--model", "tiny", "--port", "0", "--jwt-secret", secret, "--json")
    up = dsmops(*command, timeout_s=120, cwd=tmp_path)
    assert up.code == 0, up.stderr
    server = up.document
    assert server["ready"] is True
    assert server["is_new"] is True
    assert [one["id"] for one in server["models"]] == ["tiny", "tiny-tts"]
    assert request(server["url"], "GET", "/").text.startswith("<!doctype html>")

    transcribe = server["commands"][0].replace("talk.mp3", str(RECORDINGS / SPOKEN["audio"]))
    assert dsmops(*transcribe.split()[1:]).stdout.split() == SPOKEN["text"].split()

    # A token does what the key does, and its caller is in the log; the secret is in no argument.
    token = jwt.encode({"sub": "ada", "exp": time.time() + 600}, secret, "HS256")
    with_token = transcribe.replace(server["api_key"], token).split()[1:]
    assert dsmops(*with_token).stdout.split() == SPOKEN["text"].split()
    config = tomllib.loads(Path(server["config"]).read_text("utf-8"))
    logs = list((Path(server["config"]).parent / config["log_dir"]).glob("log.*"))
    assert 'caller="ada"' in re.sub(r"\x1b\[\d+m", "", logs[0].read_text("utf-8"))
    assert secret not in Path(f"/proc/{server['pid']}/cmdline").read_text()

    again = dsmops("up")
    assert again.code == 0, again.stderr
    assert f"process {server['pid']}" in again.stdout
    assert dsmops("up", "--model", "stt-1b-en_fr").code == 5
    elsewhere = dsmops("up", "--port", "1")
    assert (elsewhere.code, elsewhere.stdout) == (5, "")
    assert f"listens on {server['url']}, not on port 1" in elsewhere.stderr

    status = dsmops("status", "--json")
    assert status.code == 0
    assert status.document["pid"] == server["pid"]
    assert server["api_key"] not in status.stdout

    assert dsmops("down").code == 0
    assert started(server["pid"]) == ""
    assert dsmops("status").code == 1
    kept = (folder() / "config.toml").read_text("utf-8")
    assert server["api_key"] in kept  # and the next `up` uses it again


def test_nothing_runs() -> None:
    assert dsmops("status", "--json").document["running"] is False
    down = dsmops("down")
    assert (down.code, down.stdout) == (0, "no server runs\n")


@pytest.mark.slow
def test_a_failure_to_start_is_the_servers_own_error() -> None:
    failed = dsmops("up", "--model", "tiny", "--addr", "203.0.113.1", timeout_s=120)
    assert failed.code == 3
    assert "203.0.113.1 is not an address of this machine" in failed.stderr
    assert read_record() is None


def killed_while_loading() -> ServerRecord:
    """Return the server of an `up` that was killed before its server was ready."""
    command = [sys.executable, "-m", "dsmops", "up", "--model", "tiny", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as up:
        until_s = time.monotonic() + 60
        while (record := read_record()) is None:
            assert up.poll() is None, up.stderr and up.stderr.read().decode()
            assert time.monotonic() < until_s
            time.sleep(0.02)
        up.kill()
    assert record.url == ""
    return record


@pytest.mark.slow
def test_an_up_that_is_killed_while_loading_leaves_a_known_server(ended: None) -> None:
    """`status` shows it, `down` ends it, and another `up` waits for it."""
    record = killed_while_loading()
    status = dsmops("status", "--json")
    assert status.code == 1
    assert (status.document["running"], status.document["pid"]) == (True, record.pid)
    down = dsmops("down")
    assert (down.code, started(record.pid)) == (0, "")
    assert f"process {record.pid}" in down.stdout

    record = killed_while_loading()
    again = dsmops("up", "--json", timeout_s=120)
    assert again.code == 0, again.stderr
    assert again.document["ready"] is True
    assert (again.document["is_new"], again.document["pid"]) == (False, record.pid)
    assert dsmops("status").code == 0

    os.kill(record.pid, signal.SIGKILL)
    while started(record.pid):
        time.sleep(0.02)
    killed = dsmops("status")
    assert killed.code == 1
    assert f"process {record.pid}" in killed.stdout
    assert record.log in killed.stdout
    assert dsmops("down").stdout == "no server runs\n"
    assert str(record.pid) not in dsmops("status").stdout


def test_a_state_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which folder, and how to name another."""
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    for command in (("up", "--model", "tiny"), ("down",)):
        failed = dsmops(*command)
        assert failed.code == 5
        assert "error: the state folder /dev/null/dsmops/up cannot be written" in failed.stderr
        assert "hint: Set XDG_STATE_HOME" in failed.stderr


def test_keys_that_check_no_token_are_told_before_anything_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_text("{}")
    failed = dsmops("up", "--model", "tiny", "--jwt-keys", "jwks.json", cwd=tmp_path)
    assert failed.code == 3
    assert "error: jwks.json cannot check tokens: key 1 is not for RS256" in failed.stderr
    assert "hint: " in failed.stderr
    assert read_record() is None


def test_another_process_with_the_same_number_is_not_the_server() -> None:
    """The system uses numbers of processes again: `down` must end nothing that it did not start."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        folder().mkdir(parents=True)
        write_record(ServerRecord(other.pid, "0", "http://x", "c", "l", (), "2026-01-01T00:00:00Z"))
        assert read_record() is None
        # What became of the server is not known: its number is now that of another process.
        assert "it ended, was killed, or the machine restarted); its log is l" in look().reason
        assert dsmops("down").stdout == "no server runs\n"
        assert other.poll() is None
        write_record(
            ServerRecord(
                os.getpid(), started(os.getpid()), "http://x", "c", "l", (), "2026-01-01T00:00:00Z"
            )
        )
        assert read_record() is not None
        other.kill()


def test_another_model_and_another_port_are_told_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The user asked for both, and mends both in one go."""
    server = Server(running=True, ready=True, url="http://127.0.0.1:8080", models=({"id": "tiny"},))
    monkeypatch.setattr("dsmops.operations.up.control.start", lambda *_, **__: server)
    arguments = ["up", "--model", "stt-1b-en_fr", "--port", "1"]
    refused = CliRunner().invoke(app, arguments)
    assert isinstance(refused.exception, TargetBusyError)
    assert str(refused.exception) == (
        "the server that runs does not serve stt-1b-en_fr and listens on http://127.0.0.1:8080,"
        " not on port 1"
    )


def test_two_at_once_are_refused() -> None:
    with only_one():
        refused = dsmops("down")
    assert refused.code == 5
    assert "at work" in refused.stderr
