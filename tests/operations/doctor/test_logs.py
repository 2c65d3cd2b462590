"""Failures are found in real logs, since the last start."""

from __future__ import annotations

import gzip
import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from dsmops.findings import Severity
from dsmops.gpu import GpuReport
from dsmops.operations.doctor import DoctorFinding, Scope, diagnose
from dsmops.operations.doctor.logs import _MOST_BYTES
from tests.support.tiny_checkpoint import CONFIG, write_tiny_server

STEP = (
    b"2025-11-15T08:39:16.139607Z  INFO moshi_server::batched_asr: src/batched_asr.rs:290: 28.77ms"
    b" step_idx=12 with_data=1\n"
)
START = (
    b"2025-11-15T08:39:03.595811Z  INFO moshi_server: src/main.rs:475: build_info=BuildInfo {"
    b' git_describe: "dc0b3d1" }\n'
)
DEAD = (
    b"2025-11-15T08:39:08.139607Z ERROR moshi_server::utils: src/utils.rs:197: task failed"
    b' name="model_loop" err=DriverError(CUDA_ERROR_NOT_FOUND, "named symbol not found")\n'
)
KEY = (
    b"2025-11-15T08:39:16.139607Z  INFO moshi_server: src/main.rs:1: batched-asr ws query"
    b' query=Query { auth_id: Some("0b4c-hidden") }\n'
)


def log_findings(scope: Scope, gpu: GpuReport) -> dict[str, DoctorFinding]:
    area = next(area for area in diagnose(scope, gpu).areas if area.name == "logs")
    return {each.code: each for each in area.findings}


def test_failures_count_since_the_last_start(scope: Scope, bare: GpuReport) -> None:
    """A model loop that died is an error; once the server was started again it is history, but a
    key in the log stays one.
    """
    (scope.folder / "logs").mkdir()
    log = scope.folder / "logs" / "log.stt.2025-11-15"
    log.write_bytes(START + KEY + DEAD + STEP)
    seen = log_findings(scope, bare)
    assert seen["model-loop-dead"].severity is Severity.ERROR
    assert seen["model-loop-dead"].evidence[0] == f"{log}, line 3"
    log.write_bytes(START + KEY + DEAD + START + STEP)
    seen = log_findings(scope, bare)
    assert seen["model-loop-dead"].severity is Severity.NOTE
    assert seen["key-in-log"].severity is Severity.WARNING
    assert "0b4c" not in repr(seen)


def test_a_client_cannot_make_failures_history(scope: Scope, bare: GpuReport) -> None:
    """A text to be spoken that reads like a server's first line is not a start; a start in colours
    is.
    """
    log = scope.folder / "log.stt"
    said = (
        b"2025-11-15T08:40:00.000000Z  INFO moshi_server: src/main.rs:7: handling tts query Q {"
        b' text: "main.rs:475: build_info=" }\n'
    )
    log.write_bytes(START + DEAD + said)
    assert (
        log_findings(replace(scope, logs=(log,)), bare)["model-loop-dead"].severity
        is Severity.ERROR
    )
    dim, italic, end = b"\x1b[2m", b"\x1b[3m", b"\x1b[0m"
    colours = (
        dim
        + b"src/main.rs"
        + end
        + dim
        + b":"
        + end
        + dim
        + b"475:"
        + end
        + b" "
        + italic
        + b"build_info"
        + end
        + b"=B\n"
    )
    log.write_bytes(START + DEAD + colours)
    assert (
        log_findings(replace(scope, logs=(log,)), bare)["model-loop-dead"].severity is Severity.NOTE
    )


@pytest.mark.slow
def test_a_long_log_is_read_from_its_end(scope: Scope, bare: GpuReport) -> None:
    """Old failures beyond the limit are not looked at; what was named is read whatever it is
    called, compressed too.
    """
    log = scope.folder / "server-output"
    log.write_bytes(DEAD + STEP * (_MOST_BYTES // len(STEP) + 1) + b"no free channels\n")
    for path in (log, log.with_suffix(".gz")):
        if path != log:
            path.write_bytes(gzip.compress(log.read_bytes(), 1))
        seen = log_findings(replace(scope, logs=(path,)), bare)
        assert seen.keys() == {"no-free-channels"}
        assert "the last 8.00 MiB" in seen["no-free-channels"].evidence[0]


def test_every_folder_that_was_named_is_looked_into(scope: Scope, bare: GpuReport) -> None:
    """However many newer logs lie in another one."""
    old, new = scope.folder / "a", scope.folder / "b"
    for folder in (old, new):
        folder.mkdir()
    (old / "log.stt.2025-11-15").write_bytes(START + DEAD)
    os.utime(old / "log.stt.2025-11-15", (0, 0))
    for day in range(10, 20):
        (new / f"log.stt.2025-12-{day}").write_bytes(START + STEP)
    assert "model-loop-dead" in log_findings(replace(scope, logs=(old, new)), bare)


def test_lines_are_counted(scope: Scope, bare: GpuReport) -> None:
    """With or without an end of the last one."""
    log = scope.folder / "log.stt"
    for content in (START, START.rstrip()):
        log.write_bytes(content)
        assert log_findings(replace(scope, logs=(log,)), bare)["log-ok"].evidence == ("1 line",)


def test_what_is_no_log_is_not_found_to_be_in_order(scope: Scope, bare: GpuReport) -> None:
    """Any bytes and other programs' words: a warning where it was named, a note where it only lay
    there. A failure in it still counts.
    """
    foreign = scope.folder / "logs" / "log.stt.2025-11-15"
    foreign.parent.mkdir()
    for content in (
        random.Random(1).randbytes(50_000),
        b"hello\nworld\n",
        b"\n".join(b"row %d" % row for row in range(20_000)),
    ):
        foreign.write_bytes(content)
        assert log_findings(scope, bare)["log-foreign"].severity is Severity.NOTE
        assert (
            log_findings(replace(scope, logs=(foreign,)), bare)["log-foreign"].severity
            is Severity.WARNING
        )
    foreign.write_bytes(b"hello\nno free channels\n")
    assert log_findings(scope, bare).keys() == {"no-free-channels"}
    foreign.write_bytes(b"")
    assert log_findings(scope, bare).keys() == {"log-ok"}


def test_logs_that_cannot_be_read(scope: Scope, bare: GpuReport) -> None:
    """Absent, damaged, a device: an error where it was named."""
    (scope.folder / "log.gz").write_bytes(gzip.compress(DEAD)[:-9])
    for path in (scope.folder / "absent", scope.folder / "log.gz", Path("/dev/null")):
        assert (
            log_findings(replace(scope, logs=(path,)), bare)["log-unreadable"].severity
            is Severity.ERROR
        )


def test_the_log_folder_of_a_config_is_looked_into(scope: Scope, bare: GpuReport) -> None:
    """Its newest logs, by their names; other files are left alone."""
    config = write_tiny_server(scope.folder)
    folder = scope.folder / "records"
    config.write_text(CONFIG.replace('log_dir = "logs"', 'log_dir = "records"'))
    folder.mkdir()
    (folder / "log.tiny.2025-11-15").write_bytes(START + STEP)
    (folder / "tiny-asr-1.safetensors").write_bytes(DEAD)
    assert log_findings(replace(scope, configs=(config,)), bare).keys() == {"log-ok"}


FROM = "moshi_server::batched_asr: moshi-server/src/batched_asr.rs:268"
SLOW = f"""\
2026-11-30T02:11:03.720830Z  INFO {FROM}: 240.45ms step_idx=0 with_data=1
2026-11-30T02:11:03.982088Z  INFO {FROM}: 241.05ms step_idx=1 with_data=1
2026-11-30T02:11:04.176174Z  INFO {FROM}: 193.64ms step_idx=2 with_data=3
"""
"""From the log of the real server on two CPU cores, slower than real time."""


def steps_of(times_ms: list[float], minute: int = 0) -> bytes:
    """Return step lines of these lengths, one a second."""
    return b"".join(
        f"2026-11-30T03:{minute + second // 60:02}:{second % 60:02}.458972Z  INFO"
        f" moshi_server::batched_asr: src/batched_asr.rs:268: {ms:.2f}ms step_idx={second}"
        f" with_data={second % 4}\n".encode()
        for second, ms in enumerate(times_ms)
    )


def test_steps_slower_than_a_frame_are_a_finding(scope: Scope, bare: GpuReport) -> None:
    """Share, p50, p95, since when and how many streams had data: an error where half of the steps
    are slow, a warning from one in 20 on.
    """
    log = scope.folder / "log.stt"
    named = replace(scope, logs=(log,))
    log.write_bytes(START + SLOW.encode() * 10)
    slow = log_findings(named, bare)["steps-slow"]
    assert slow.severity is Severity.ERROR
    assert slow.message.startswith("100 % of 30 steps took longer than the 80 ms of a frame since")
    assert "2026-11-30T02:11:03" in slow.message
    assert slow.evidence[0].startswith("p50 240.4 ms, p95 241.1 ms; at most 3 streams")
    assert slow.evidence[1] == f"{log}, line 2"
    assert slow.runbook == "capacity-and-close-codes.md#steps-slow"
    log.write_bytes(START + steps_of([20.0] * 60 + [100.0] * 20))
    slow = log_findings(named, bare)["steps-slow"]
    assert slow.severity is Severity.WARNING
    assert "25 % of 80 steps" in slow.message
    assert slow.evidence[1] == f"{log}, line 62"


def test_steps_in_time_are_no_finding(scope: Scope, bare: GpuReport) -> None:
    """A few slow steps, a start that is over, and a client that writes step lines do not count;
    what is in order is shown with its figures.
    """
    log = scope.folder / "log.stt"
    named = replace(scope, logs=(log,))
    claim = b'2026-11-30T03:00:00.1Z  INFO moshi_server: src/tts.rs:1: query text="x 900.00ms'
    claim += b" step_idx=1 with_data=1\n"
    in_time = steps_of([20.0] * 99 + [300.0])
    log.write_bytes(START + SLOW.encode() * 10 + START + in_time + claim * 50)
    seen = log_findings(named, bare)
    assert "steps-slow" not in seen
    assert seen["log-ok"].evidence[1] == "100 steps: p50 20.0 ms, p95 20.0 ms"


def test_json_and_coloured_step_lines_count_too(scope: Scope, bare: GpuReport) -> None:
    """The dialects of forks and of a console say the same."""
    line = (
        b'{"timestamp":"2025-11-15 03:39:16.139","level":"INFO","fields":{"message":"128.77ms",'
        b'"step_idx":12,"with_data":1},"target":"moshi_server::batched_asr"}\n'
    )
    dim, off = b"\x1b[2m", b"\x1b[0m"
    coloured = (
        b"2026-11-30T03:40:01.458972Z INFO moshi_server::batched_asr: src/batched_asr.rs:268:"
    )
    coloured = dim + coloured + off + b" 168.07ms \x1b[3mstep_idx" + off + dim + b"=" + off + b"0"
    coloured += b" \x1b[3mwith_data" + off + dim + b"=" + off + b"1\n"
    for dialect in (line, coloured):
        log = scope.folder / "log.stt"
        log.write_bytes(dialect * 30)
        slow = log_findings(replace(scope, logs=(log,)), bare)["steps-slow"]
        assert "100 % of 30 steps" in slow.message


def test_clients_dropped_by_either_limit_and_errors_at_start_are_findings(
    scope: Scope, bare: GpuReport
) -> None:
    """20 s without a frame and 120 s without audio are two findings; `Error:` has a finding of its
    own where no other one explains it.
    """
    log = scope.folder / "log.stt"
    head = b"2026-11-30T02:11:29.285615Z  INFO moshi_server::batched_asr: src/batched_asr.rs:607: "
    log.write_bytes(
        START
        + head
        + b"recv loop short timeout batch_idx=0\n"
        + head
        + b"recv loop long timeout batch_idx=1\n"
    )
    seen = log_findings(replace(scope, logs=(log,)), bare)
    assert "20 s" in seen["client-silent"].message
    assert "120 s" in seen["client-without-audio"].message
    log.write_bytes(START + b"Error: invalid type: map, expected a string\n")
    assert "server-error" in log_findings(replace(scope, logs=(log,)), bare)
    log.write_bytes(START + b'Error: DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")\n')
    seen = log_findings(replace(scope, logs=(log,)), bare)
    assert "gpu-out-of-memory" in seen
    assert "server-error" not in seen
