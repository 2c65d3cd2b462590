"""What a server writes: kept whole, looked at line by line, shown without secrets."""

import io
from pathlib import Path

import pytest

from dsmops.operations.smoke.output import Output

DEAD = (
    b"2026-01-02T03:04:05.000006Z ERROR moshi_server::utils: src/utils.rs:188: "
    b'task failed name="model_loop" err=out of luck'
)
STEP = (
    b"2026-01-02T03:04:05.000006Z  INFO moshi_server::batched_asr: src/batched_asr.rs:268: "
    b"\x1b[2m12.34ms\x1b[0m step_idx=%d with_data=1"
)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "log", (tmp_path / "log").open("wb", buffering=0))


def test_lines_are_seen_however_they_are_cut(output: Output) -> None:
    """Steps, a dead loop and known failures, byte by byte; the log is what came."""
    said = b"\n".join([STEP % 1, b"\xff\xfe", STEP % 2, DEAD, b"last"])
    for byte in said:
        output.take(bytes([byte]))
    output.end()
    assert output.raw_log.read_bytes() == said
    assert output.steps_ms == [12.34, 12.34]
    assert output.dead_loop is not None
    assert "out of luck" in output.dead_loop
    assert [seen.name for seen in output.failures()] == ["model-loop-dead"]
    assert (output.lines, output.last_words) == (5, "last")


@pytest.mark.slow
def test_a_failure_after_many_lines_is_found(output: Output) -> None:
    """Nothing is too late."""
    for _ in range(20):
        output.take((STEP % 1 + b"\n") * 15_000)
    output.take(b"CUDA_ERROR_OUT_OF_MEMORY\n")
    output.end()
    assert output.lines == 300_001
    assert [seen.name for seen in output.failures()] == ["gpu-out-of-memory"]


def test_a_line_without_end_takes_no_memory(output: Output) -> None:
    """It is looked at in pieces."""
    for _ in range(40):
        output.take(b"x" * 100_000)
    output.end()
    assert output.lines == 4_000_000 // 65_536 + 1
    assert len(output.last_words) <= 300


@pytest.mark.parametrize(
    "line",
    [
        b'Error: bad config authorized_ids = ["sk-SECRET-4711"]',
        b'error: auth_id: Some("sk-SECRET-4711") was refused',
    ],
)
def test_what_is_shown_has_no_secrets(output: Output, line: bytes) -> None:
    """The raw log has them; so only this user may read it."""
    output.take(line + b"\n")
    output.end()
    assert "SECRET" not in output.complaint + output.last_words
    assert b"SECRET" in output.raw_log.read_bytes()


def test_a_full_disk_does_not_stop_the_reading(tmp_path: Path) -> None:
    """The rest is looked at, and that the log is not whole is said."""

    class Full(io.BytesIO):
        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    output = Output(tmp_path / "log", Full())
    output.take(STEP % 1 + b"\n")
    output.take(STEP % 2 + b"\n")
    output.end()
    assert len(output.steps_ms) == 2
    assert "No space left" in output.problem


def test_complaints_go_before_last_words(output: Output) -> None:
    """The first line that begins with an error."""
    output.take(b"loading\nError: tokenizer.model\nstack backtrace:\n")
    output.end()
    assert output.complaint == "Error: tokenizer.model"
    assert output.last_words == "stack backtrace:"
