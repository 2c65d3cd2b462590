"""Pipes, and sizes that cannot be, in place of logs and stored files: one clear error, in time."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dsmops.publish.manifest import MANIFESTS, Catalogue, record
from dsmops.publish.stores import open_store
from tests.publish.test_manifest import entry
from tests.support.cli import Run, dsmops

CLEAN = "[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: starting\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with two published logs in `store`."""
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "log.a").write_text(CLEAN)
    (logs / "log.b").write_text(CLEAN * 2)
    run("publish-logs", "--bucket", "file:store", "--source", "logs", cwd=tmp_path, code=0)
    return tmp_path


def run(*args: str, cwd: Path, code: int) -> Run:
    """Run a command within 30 s: each of these could wait forever."""
    done = dsmops(*args, cwd=cwd, timeout_s=30)
    assert done.code == code, done.stderr or done.stdout
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_a_pipe_in_place_of_a_log(tmp_path: Path) -> None:
    """Named to `format-log` it is an error with a hint; in a folder of logs it is left out."""
    (tmp_path / "logs").mkdir()
    os.mkfifo(tmp_path / "logs/log.a")
    (tmp_path / "logs/log.b").write_text(CLEAN)
    done = run("format-log", "logs/log.a", cwd=tmp_path, code=3)
    assert done.stderr.startswith("error: ")
    assert "hint: " in done.stderr
    done = run("publish-logs", "--bucket", "file:store", "--source", "logs", cwd=tmp_path, code=0)
    assert "1 file sent" in done.stdout


def test_a_pipe_as_the_target_of_a_pull(place: Path) -> None:
    """It fails alone; the other log arrives."""
    (place / "out").mkdir()
    os.mkfifo(place / "out/log.a")
    done = run("pull-logs", "--bucket", "file:store", "--output", "out", cwd=place, code=6)
    assert "a pipe or a device" in done.stdout + done.stderr
    assert (place / "out/log.b").read_text() == CLEAN * 2


def test_a_pipe_as_a_stored_body(place: Path) -> None:
    """It fails alone; the other log arrives."""
    body = min(
        (path for path in (place / "store/bodies").rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    body.unlink()
    os.mkfifo(body)
    done = run("pull-logs", "--bucket", "file:store", "--output", "out", cwd=place, code=6)
    assert "a pipe or a device" in done.stdout + done.stderr
    assert (place / "out/log.b").read_text() == CLEAN * 2


def test_a_manifest_of_40_gib(place: Path) -> None:
    """Nothing of it is read; it is named as damaged, and all that others name arrives."""
    huge = place / "store" / f"{MANIFESTS}20251115T083903Z-{'0' * 16}-{'ab' * 32}.json.gz"
    with huge.open("wb") as file:
        file.truncate(40 << 30)
    done = run("pull-logs", "--bucket", "file:store", "--output", "out", cwd=place, code=0)
    assert "larger than 256 MiB" in done.stdout + done.stderr
    assert (place / "out/log.a").read_text() == CLEAN
    run("publish-logs", "--bucket", "file:store", "--source", "logs", cwd=place, code=0)


def test_an_entry_of_8_eib(place: Path) -> None:
    """It fails alone, with its size and a hint."""
    impossible = entry("log.c", "c")._replace(size_bytes=2**63 - 1)
    store = open_store(f"file:{place / 'store'}")
    record(store, Catalogue(), [impossible], datetime(2025, 11, 15, tzinfo=UTC))
    done = run("pull-logs", "--bucket", "file:store", "--output", "out", cwd=place, code=6)
    assert "8388608 TiB" in done.stdout + done.stderr
    assert (place / "out/log.a").read_text() == CLEAN
