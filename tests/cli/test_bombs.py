"""Content that a few bytes hold and gigabytes come out of: each command that reads logs ends, in
constant memory, and warns of the proportion.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest

SIZES = [
    pytest.param(320 << 20, marks=pytest.mark.slow, id="320 MiB"),
    pytest.param(6 << 30, marks=[pytest.mark.heavy, pytest.mark.timeout(1200)], id="6 GiB"),
]
"""The smaller ones have the same ratio, and just so much content that the warning comes."""
MOST_RSS_BYTES = 400 << 20
ESCAPES = b"\x1b[2mfoo\x1b[0m bar key=value\n"
LINE = b"[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: starting\n"


def _gzip_bomb(path: Path, content_bytes: int, line: bytes) -> None:
    """Write gigabytes of one line: the deflated block of a piece is repeated, as deflate allows."""
    piece = line * ((8 << 20) // len(line))
    count, crc = content_bytes // len(piece), 0
    deflater = zlib.compressobj(9, wbits=-15)
    data = deflater.compress(piece) + deflater.flush(zlib.Z_FULL_FLUSH)
    for _ in range(count):
        crc = zlib.crc32(piece, crc)
    size = count * len(piece) % (1 << 32)
    end = b"\x03\0" + crc.to_bytes(4, "little") + size.to_bytes(4, "little")
    path.write_bytes(b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + data * count + end)


def _zstd_bomb(path: Path, content_bytes: int) -> None:
    """Write gigabytes of empty lines in runs of one byte: 4 bytes for 128 KiB each (RFC 8878)."""
    run = (128 << 10 << 3 | 1 << 1).to_bytes(3, "little") + b"\n"
    path.write_bytes(b"\x28\xb5\x2f\xfd\0\x58" + run * (content_bytes >> 17) + b"\x01\0\0")


MEASURED = """
import pathlib, resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
pathlib.Path("peak").write_text(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""
"""Runs a command and writes its peak memory in KiB. A process begins with the memory of the one
that started it, and that of a long test run is more than any command may take."""

COMMANDS: dict[str, Sequence[str]] = {
    "format-log": ("format-log", "logs/BOMB", "-o", "/dev/null", "--tz", "UTC"),
    "publish-logs": ("publish-logs", "--source", "logs", "--bucket", "file:store", "--dry-run"),
    "log-report": ("log-report", "logs/BOMB"),
    "doctor": ("doctor", "--offline", "--log", "logs/BOMB"),
}


@pytest.mark.parametrize("content_bytes", SIZES)
@pytest.mark.parametrize("kind", ["gzip", "escapes", "zstd"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_bomb_ends_in_constant_memory_with_a_warning(
    name: str, kind: str, content_bytes: int, tmp_path: Path
) -> None:
    """Gigabytes out of a few hundred kB, through each command that reads logs."""
    if name == "log-report" and kind != "zstd":
        pytest.skip("60 million events are read one by one: a report of an hour")
    (tmp_path / "logs").mkdir()
    bomb = "log.stt.2025-11-15." + ("zst" if kind == "zstd" else "gz")
    if kind == "zstd":
        _zstd_bomb(tmp_path / "logs" / bomb, content_bytes)
    else:
        _gzip_bomb(tmp_path / "logs" / bomb, content_bytes, LINE if kind == "gzip" else ESCAPES)
    words = [word.replace("BOMB", bomb) for word in COMMANDS[name]]
    run = subprocess.run(
        [sys.executable, "-c", MEASURED, sys.executable, "-m", "dsmops", *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "DSMOPS_REDACTION_KEY": "0123456789abcdef", "NO_COLOR": "1"},
        check=False,
    )
    said = " ".join((run.stdout + run.stderr).split())
    assert run.returncode in (0, 1), said
    assert "is this a log?" in said
    peak = int((tmp_path / "peak").read_text()) << 10
    assert peak < MOST_RSS_BYTES
