"""`dsmops bench` as users type it: exit codes, documents, usage errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from dsmops.cli.app import app
from tests.support.cli import dsmops
from tests.support.original_server import KEY, OriginalServer

WIDE = ("--max-lag", "60000", "--min-kept", "0")
SHORT = ("--seconds", "1", "--warm-up", "0")


@pytest.fixture(scope="module")
def server() -> Iterator[OriginalServer]:
    with OriginalServer(slots=2) as server:
        yield server


@pytest.fixture(scope="module")
def result(server: OriginalServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result in a file, also shown as a table."""
    path = tmp_path_factory.mktemp("bench") / "old.json"
    url = f"127.0.0.1:{server.port}"
    run = dsmops(
        "bench", url, "--streams", "2", *SHORT, *WIDE, "-o", path, env={"DSMOPS_API_KEY": KEY}
    )
    assert run.code == 0, run.stderr
    assert "2 streams held every limit; more were not tried." in run.stdout
    assert "2 streams: p99 lag" in run.stderr
    assert "like 2 people" not in run.stdout
    assert "N streams are N connections." in run.stdout
    return path


@pytest.mark.slow
def test_the_document(result: Path) -> None:
    """The file holds the schema, the level and its figures; the key is nowhere in it."""
    text = result.read_text()
    document = json.loads(text)
    assert document["schema"] == "dsmops.bench/1"
    assert (document["kind"], document["knee"], document["comparison"]) == ("stt", 2, None)
    level = document["levels"][0]
    assert (level["streams"], level["opened"], level["verdict"]) == (2, 2, "held")
    # In one second each of two streams has 12 or 13 frames, by its phase.
    assert level["figures"]["frames_due"] in (24, 25, 26)
    assert level["figures"]["lag_ms"]["count"] == level["figures"]["frames_due"]
    assert level["errors"] == {}
    assert KEY not in text


@pytest.mark.slow
def test_a_comparison_and_json(server: OriginalServer, result: Path) -> None:
    """`--against` names each figure of both runs; a run of a second is too short to tell."""
    run = dsmops(
        *("bench", server.url, "--streams", "2", *SHORT, *WIDE, "--api-key", KEY, "--json"),
        *("--against", result),
    )
    assert run.code == 0, run.stderr
    changes = run.document["comparison"]["changes"]
    assert [change["figure"] for change in changes] == ["lag p50, ms", "lag p99, ms", "kept share"]
    assert {change["difference"]["beyond_noise"] for change in changes} == {None}


@pytest.mark.slow
def test_a_given_limit_that_fails_is_exit_code_1(server: OriginalServer) -> None:
    """Three streams and two slots: with `--max-errors` asked for, the answer is no."""
    args = ("bench", server.url, "--streams", "3", *SHORT, *WIDE, "--api-key", KEY)
    run = dsmops(*args, "--max-errors", "0")
    assert run.code == 1
    assert "no free channels" in run.stdout
    assert "No number of streams held every limit" in run.stdout


def test_a_key_that_is_refused_is_exit_code_4(server: OriginalServer) -> None:
    """As of the other clients."""
    run = dsmops("bench", server.url, "--streams", "1")
    assert run.code == 4
    assert run.stderr.startswith(f"error: {server.url} refused the key")


@pytest.mark.slow
def test_no_server_is_exit_code_6() -> None:
    """As of the other clients."""
    run = dsmops("bench", "ws://127.0.0.1:9", "--streams", "1")
    assert run.code == 6
    assert "hint:" in run.stderr


URL = "ws://127.0.0.1:9"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([URL, "--streams", "9..1"], "larger than the last"),
        ([URL, "--streams", "many"], "is not a number of streams"),
        ([URL, "--text", "hello"], "it needs --tts"),
        ([URL, "--voice", "a"], "it needs --tts"),
        ([URL, "--max-underruns", "0"], "it needs --tts"),
        ([URL, "--tts", "--audio", "a.wav"], "--tts sends texts"),
        ([URL, "--tts", "--max-lag", "9"], "speech-to-text only"),
        ([URL, "--seconds", "0"], "for a second at least"),
        ([URL, "--seconds", "nan"], "not a number of seconds"),
        ([URL, "-o", "out.txt"], "must end in"),
        ([URL, "--api-key", "a b"], "without spaces"),
        ([], "or give --engine"),
    ],
)
def test_usage_errors(words: list[str], said: str) -> None:
    """Options that exclude each other, and values that mean nothing, are exit code 2."""
    done = CliRunner().invoke(app, ["bench", *words], prog_name="dsmops")
    assert done.exit_code == 2
    assert said in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not a result"),
        ("[]", "its schema is not dsmops.bench/1"),
        ('{"schema": "dsmops.bench/1"}', "the key 'kind' is missing"),
        ('{"schema": "dsmops.bench/1", "kind": "tts", "levels": []}', "of kind tts"),
        ('{"schema": "dsmops.bench/1", "kind": "stt", "levels": [{"streams": 1}]}', "'series'"),
        ('{"schema": "dsmops.bench/1", "kind": "stt", "levels": 5}', "not a result"),
    ],
)
def test_an_older_result_that_is_none(content: str, said: str, tmp_path: Path) -> None:
    """It is refused before the load starts, and the message says why."""
    from dsmops.errors import InputError
    from dsmops.operations.bench import read_old

    old: Any = tmp_path / "old.json"
    old.write_text(content)
    with pytest.raises(InputError, match="not a result") as caught:
        read_old(old, "stt")
    assert said in caught.value.message
