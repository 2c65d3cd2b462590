"""What collectors make of the lines of a server: one function each, from lines to lines.

Written from what the named programs do, independently of the code that takes it off again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta

Wrap = Callable[[Iterable[str]], Iterator[str]]

START = datetime(2025, 11, 15, 8, 39, 4, 123456, tzinfo=UTC)
SPLIT = 16 << 10


def times() -> Iterator[datetime]:
    time = START
    while True:
        time += timedelta(milliseconds=7)
        yield time


def nano(time: datetime) -> str:
    return f"{time:%Y-%m-%dT%H:%M:%S.%f}789Z"


def pieces(line: str, size: int) -> list[str]:
    return [line[at : at + size] for at in range(0, len(line), size)] or [""]


def docker_json(lines: Iterable[str], *, size: int = SPLIT) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        parts = pieces(line, size)
        for number, part in enumerate(parts):
            log = part + ("\n" if number == len(parts) - 1 else "")
            document = {"log": log, "stream": "stderr", "time": nano(time)}
            yield json.dumps(document, separators=(",", ":"), ensure_ascii=False)


def docker_json_small(lines: Iterable[str]) -> Iterator[str]:
    yield from docker_json(lines, size=11)


def docker_json_without_ends(lines: Iterable[str]) -> Iterator[str]:
    """What Fluentd makes of docker's lines."""
    for time, line in zip(times(), lines, strict=False):
        yield json.dumps({"stream": "stderr", "log": line, "time": nano(time)})


def fluent_bit(lines: Iterable[str], *, size: int = SPLIT) -> Iterator[str]:
    """What Fluent Bit makes of CRI lines."""
    for time, line in zip(times(), lines, strict=False):
        parts = pieces(line, size)
        for number, part in enumerate(parts):
            tag = "F" if number == len(parts) - 1 else "P"
            yield json.dumps({"time": nano(time), "stream": "stderr", "logtag": tag, "log": part})


def containerd(lines: Iterable[str], *, size: int = SPLIT) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        parts = pieces(line, size)
        for number, part in enumerate(parts):
            yield f"{nano(time)} stdout {'F' if number == len(parts) - 1 else 'P'} {part}"


def containerd_small(lines: Iterable[str]) -> Iterator[str]:
    yield from containerd(lines, size=11)


def podman(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%Y-%m-%dT%H:%M:%S.%f}000+00:00 stderr F {line}"


def docker_timestamps(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{nano(time)} {line}"


def journal_short(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%b %d %H:%M:%S} gpu-1 moshi-server[4711]: {line}"


def journal_short_iso(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%Y-%m-%dT%H:%M:%S}+0000 gpu-1 moshi-server[4711]: {line}"


def journal_short_iso_precise(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%Y-%m-%dT%H:%M:%S.%f}+00:00 gpu-1 moshi-server[4711]: {line}"


def journal_short_full(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%a %Y-%m-%d %H:%M:%S} UTC gpu-1 moshi-server[4711]: {line}"


def journal_short_unix(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time.timestamp():.6f} gpu-1 moshi-server[4711]: {line}"


def journal_short_monotonic(lines: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        yield f"[{number * 0.1:12.6f}] gpu-1 moshi-server[4711]: {line}"


def journal_json(lines: Iterable[str]) -> Iterator[str]:
    """An array of bytes where the message holds an escape, as journald writes it."""
    for time, line in zip(times(), lines, strict=False):
        micros = int(time.timestamp() * 1e6)
        message = list(line.encode()) if "\x1b" in line else line
        document = {
            "__REALTIME_TIMESTAMP": str(micros + 50),
            "_SOURCE_REALTIME_TIMESTAMP": str(micros),
            "_PID": "4711",
            "SYSLOG_IDENTIFIER": "moshi-server",
            "PRIORITY": "6",
            "MESSAGE": message,
        }
        yield json.dumps(document)


def journal_json_seq(lines: Iterable[str]) -> Iterator[str]:
    for line in journal_json(lines):
        yield f"\x1e{line}"


def rsyslog(lines: Iterable[str]) -> Iterator[str]:
    for line in journal_short_iso_precise(lines):
        yield line.replace("\x1b", "#033").replace("\t", "#011")


def rsyslog_traditional(lines: Iterable[str]) -> Iterator[str]:
    for line in journal_short(lines):
        yield line.replace("\x1b", "#033").replace("\t", "#011")


def journal_without_host(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{time:%b %d %H:%M:%S} moshi-server[4711]: {line}"


def rsyslog_5424(lines: Iterable[str]) -> Iterator[str]:
    """What RSYSLOG_SyslogProtocol23Format makes of local messages: two spaces before the text."""
    for line in rfc_5424(lines):
        head, _, text = line.partition(" - - ")
        yield f"{head} - -  {text}".replace("\x1b", "#033").replace("\t", "#011")


def rfc_5424(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"<134>1 {time:%Y-%m-%dT%H:%M:%S.%f}Z gpu-1 moshi-server 4711 - - {line}"


WRAPS: dict[str, Wrap] = {
    wrap.__name__: wrap
    for wrap in (
        docker_json, docker_json_small, fluent_bit, containerd, containerd_small, podman,
        docker_timestamps,
        journal_short, journal_short_iso, journal_short_iso_precise, journal_short_full,
        journal_short_unix, journal_short_monotonic, journal_json, journal_json_seq, rsyslog,
        rsyslog_traditional, rsyslog_5424, rfc_5424, journal_without_host,
    )
}  # fmt: skip
"""Collectors that say nothing of where a line came from: what comes out is what went in."""


def kubectl_prefix(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"[pod/stt-0/server] {line}"


def kubectl_prefix_timestamps(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"[pod/stt-0/server] {nano(time)} {line}"


def compose_timestamps(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"stt-1  | {nano(time)} {line}"


def docker_service(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        yield f"stt.1.k3jx0qv7e2wz@gpu-node    | {line}"


def docker_service_timestamps(lines: Iterable[str]) -> Iterator[str]:
    for time, line in zip(times(), lines, strict=False):
        yield f"{nano(time)} stt.1.k3jx0qv7e2wz@gpu-node    | {line}"


NAMED_WRAPS: dict[str, tuple[Wrap, str]] = {
    "kubectl --prefix": (kubectl_prefix, "pod/stt-0/server |"),
    "kubectl --prefix --timestamps": (kubectl_prefix_timestamps, "pod/stt-0/server |"),
    "docker compose logs --timestamps": (compose_timestamps, "stt-1 |"),
    "docker service logs --timestamps": (
        docker_service_timestamps,
        "stt.1.k3jx0qv7e2wz@gpu-node |",
    ),
    "docker service logs": (docker_service, "stt.1.k3jx0qv7e2wz@gpu-node    |"),
}
"""Collectors that name the container, and what that name becomes."""
