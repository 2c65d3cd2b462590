"""A corpus through a server: the same words as through one stream, and what a failure leaves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from dsmops.audio import write
from dsmops.errors import CredentialsError, TransferError
from dsmops.operations.speech.evaluation import ScoringStatus
from dsmops.operations.speech.remote_evaluation import evaluate_remotely
from tests.support.original_server import KEY, OriginalServer

REFERENCE = "w0 w1 w2 w3 w4 w5 w6"
"""Of a second of audio: the words that the stand-in finds in its 66 frames."""


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four recordings: one without a reference, one that is not there."""
    folder = tmp_path_factory.mktemp("corpus")
    for name in ("a", "b", "c"):
        write(folder / f"{name}.wav", [np.zeros(24_000, np.float32)])
    rows = [("a", REFERENCE), ("b", ""), ("c", f"{REFERENCE} again"), ("missing", REFERENCE)]
    path = folder / "manifest.jsonl"
    path.write_text(
        "\n".join(json.dumps({"audio": f"{name}.wav", "text": text}) for name, text in rows)
    )
    return path


@pytest.mark.parametrize("streams", [1, 3])
def test_words_are_compared_however_many_streams_there_are(manifest: Path, streams: int) -> None:
    """In the corpus's order; a recording that cannot be read fails alone."""
    with OriginalServer(slots=3, step_s=0.001) as server:
        found = evaluate_remotely(str(manifest), server.url, api_key=KEY, streams=streams)
    assert [file.status for file in found.files] == [
        ScoringStatus.SCORED,
        ScoringStatus.DROPPED,
        ScoringStatus.SCORED,
        ScoringStatus.FAILED,
    ]
    assert (found.files[0].wer, found.files[0].hypothesis) == (0, REFERENCE)
    assert found.totals.words.deletions == 1
    assert (found.model, found.incomplete) == (server.url, None)


def test_one_stream_that_breaks_off_is_one_failed_utterance(manifest: Path) -> None:
    """The corpus goes on, and the failure is named."""
    with OriginalServer(drop_at=30) as server:
        found = evaluate_remotely(str(manifest), server.url, api_key=KEY)
    assert [file.status for file in found.files].count(ScoringStatus.FAILED) == 3
    assert "before its text was complete" in (found.files[0].error or "")


def test_a_server_that_goes_away_leaves_what_it_answered(manifest: Path) -> None:
    """The rest is not sent, and the evaluation says why."""
    server = OriginalServer(slots=1, only_connections=1)
    with server:
        found = evaluate_remotely(str(manifest), server.url, api_key=KEY)
    assert found.files[0].status is ScoringStatus.SCORED
    assert found.incomplete is not None
    assert found.incomplete.code == "server.key"
    assert (found.files[3].error or "").startswith("not sent: ")


@pytest.mark.slow
def test_a_server_that_refuses_from_the_start_is_an_error(manifest: Path) -> None:
    """There is nothing to keep."""
    with OriginalServer() as server, pytest.raises(CredentialsError):
        evaluate_remotely(str(manifest), server.url, api_key="wrong")
    with pytest.raises(TransferError, match="cannot be reached"):
        evaluate_remotely(str(manifest), "ws://127.0.0.1:9", api_key=KEY, limit=1)
