"""The whole way of a log, with the commands a user types: raw, formatted, published to two S3
servers, pulled back, byte for byte.
"""

from pathlib import Path

import pytest

from tests.support.cli import dsmops
from tests.support.s3_servers import S3Server

RAW_LINE = (
    "2025-11-15T08:39:{second:02}.595811Z  INFO moshi_server::batched_asr: src/batched_asr.rs:228:"
    " {message}\n"
)


def generated_raw_log() -> str:
    """A server's log of one client: start, the key in a query, steps, an error with its cause."""
    messages = [
        "starting asr loop 0",
        'batched-asr ws query query=AsrStreamingQuery { auth_id: Some("a-secret-key-17") }',
    ]
    messages += [f"{20 + step % 9}.{step:02}ms step_idx={step} with_data=1" for step in range(40)]
    lines = [
        RAW_LINE.format(second=index % 60, message=message)
        for index, message in enumerate(messages)
    ]
    return "".join(lines) + "\nCaused by:\n    Connection reset without closing handshake\n"


def tell(raw: Path, servers: list[S3Server], root: Path) -> None:
    """Format, publish, publish again, pull and compare, on each server; the raw log itself never
    leaves.
    """
    assert dsmops("format-log", raw, "--tz", "UTC").code == 0
    friendly = raw.parent.parent / raw.name
    content = friendly.read_bytes()
    assert b"a-secret-key-17" not in content
    pulled = []
    for server in servers:
        store = [
            "--bucket",
            server.new_bucket(),
            "--prefix",
            "stt/host-1",
            "--endpoint-url",
            server.url,
            "--json",
        ]
        first = dsmops("publish-logs", *store, "--source", friendly.parent, env=server.env)
        assert (first.code, first.document["counts"]["sent"], first.document["body_bytes"]) == (
            0,
            1,
            len(content),
        )
        assert first.document["skipped"] == {"raw": 1}
        second = dsmops("publish-logs", *store, "--source", friendly.parent, env=server.env)
        assert second.document["counts"]["unchanged"] == 1
        assert second.document["usage"]["requests"] == {
            "list": 1,
            "get": 1,
            "head": 0,
            "put": 0,
            "multipart": 0,
            "delete": 0,
        }
        output = root / f"pulled-{server.kind}"
        assert (
            dsmops("pull-logs", *store, "--output", output, env=server.env).document["counts"][
                "fetched"
            ]
            == 1
        )
        pulled.append((output / raw.name).read_bytes())
    assert pulled == [content] * len(servers)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    folder = tmp_path / "logs/moshi-logs/raw"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.slow
def test_a_generated_log_goes_round(
    raw: Path, moto: S3Server, rclone: S3Server, tmp_path: Path
) -> None:
    """A log with a key in it comes back from two independent servers as it was formatted, without
    the key.
    """
    (raw / "log.stt.2025-11-15").write_text(generated_raw_log())
    tell(raw / "log.stt.2025-11-15", [moto, rclone], tmp_path)


@pytest.mark.slow
def test_the_real_log_goes_round(
    raw: Path, moto: S3Server, rclone: S3Server, tmp_path: Path, shared_data: Path
) -> None:
    """The same with the real raw log of a Turing card."""
    (source,) = (shared_data / "logs").glob("log.*")
    (raw / source.name).write_bytes(source.read_bytes())
    tell(raw / source.name, [moto, rclone], tmp_path)
