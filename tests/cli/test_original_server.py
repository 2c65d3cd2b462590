"""`transcribe --url` and `synthesize --url` against a server that closes as the original does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from dsmops.audio import read, write
from tests.support.cli import dsmops
from tests.support.original_server import KEY, TTS_DELAY, OriginalServer

ENV = {"DSMOPS_API_KEY": KEY}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty seconds of noise."""
    path = tmp_path_factory.mktemp("audio") / "noise.wav"
    noise = np.random.default_rng(1).standard_normal(20 * 24_000) * 0.1
    write(path, [noise.astype(np.float32)])
    return path


def test_a_text_is_written_whole(tmp_path: Path) -> None:
    """Each run: the server resets the connection right behind its last sound."""
    with OriginalServer("Py") as server:
        for number in range(3):
            out = tmp_path / f"{number}.wav"
            ran = dsmops("synthesize", "--url", server.url, "one two three", out, env=ENV)
            assert (ran.code, ran.stderr.count("error")) == (0, 0)
            assert ran.stdout == f"{out}: 3 words in 0.7 s\n"
            assert len(read(out)) == 3 * 3 * 1920


def test_sound_before_a_failure_is_written_and_marked(tmp_path: Path) -> None:
    """The file holds it, the document says why it is not all, and the exit code is 6."""
    out = tmp_path / "out.wav"
    with OriginalServer("Py", drop_at=30) as server:
        ran = dsmops("synthesize", "--url", server.url, "--json", "word " * 20, out, env=ENV)
    assert ran.code == 6
    assert len(read(out)) == (30 - TTS_DELAY) * 1920
    assert ran.document["incomplete"]["code"] == "server.ended"
    assert "before its speech was complete" in json.loads(ran.stderr)["error"]["message"]


def test_a_server_that_fails_before_any_sound_leaves_no_file(tmp_path: Path) -> None:
    """One error, exit code 6."""
    with OriginalServer("Py", drop_at=3) as server:
        ran = dsmops("synthesize", "--url", server.url, "word " * 20, tmp_path / "out.wav", env=ENV)
    assert ran.code == 6
    assert list(tmp_path.iterdir()) == []


def test_words_before_a_failure_are_written_and_marked(recording: Path, tmp_path: Path) -> None:
    """As the sound of a text is: in the file, on the summary line and in the exit code."""
    out = tmp_path / "out.txt"
    url = ("transcribe", "--url")
    with OriginalServer(drop_at=100) as server:
        ran = dsmops(*url, server.url, "--rtf", "0", "-o", out, recording, env=ENV)
        assert ran.code == 6
        assert ran.stdout.endswith(", incomplete\n")
        assert "error: " in ran.stderr
        assert out.read_text().split()[:9] == [f"w{number}" for number in range(9)]
        document = dsmops(*url, server.url, "--rtf", "0", "--json", recording, env=ENV).document
    assert document["incomplete"]["code"] == "server.ended"
    assert document["text"].startswith("w0 w1 ")
