"""Recent logs: known failures, first those since the server's last start."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from dsmops.config.values import resolve
from dsmops.errors import DsmopsError
from dsmops.files import os_errors, require_file
from dsmops.findings import Severity
from dsmops.logs import decompressed, parse, unwrapped
from dsmops.logs.compression import MAGIC_BYTES
from dsmops.logs.failures import FAILURES, FailureSeen, find_failures
from dsmops.logs.sources import is_compressed
from dsmops.logs.steps import FRAME_MS, StepTimes, read_steps
from dsmops.operations.doctor.findings import DoctorFinding, finding, ok
from dsmops.operations.doctor.site import Site
from dsmops.units import counted, size

_MOST_FILES = 5
_MOST_BYTES = 8 << 20
"""Of a longer log the end is read: hours of one stream, and a tenth of a second of work."""
_MOST_LINES = 200_000
_MOST_PARSED_LINES = 10_000
_FEWEST_STEPS = 25
"""Two seconds; the first steps of a server may be slow."""
_SLOW_SHARE = 0.05
"""One step in 20, as in the `step-time` check of `smoke-test`."""
_NAME = re.compile(r"log\.(?!smoke-test\.)[^/]+|[^/]+\.log(?:\.\d+)?")
"""Logs of smoke tests are excluded: they were judged there, and contain failures that the test
caused on purpose."""
_STARTED = re.compile(
    rb'^[^"\n]*main\.rs(?:\x1b\[\d*m|[\d: ])*(?:build_info|starting worker)', re.MULTILINE
)
"""The first lines of a server. What clients say stands in quotes, and cannot pass for them."""
_FOLDERS = (Path("logs"), Path("logs", "moshi-logs", "raw"))


def logs(site: Site) -> Iterator[DoctorFinding]:
    """Report known failures in the named logs, or in the newest ones of the usual folders."""
    folders, files = _places(site)
    if not files:
        yield finding(
            "log-none",
            Severity.NOTE,
            f"no log in {', '.join(map(str, folders))}",
            unseen="what went wrong before; name a log with --log",
        )
    for path in files:
        try:
            yield from _log(path, named=path in site.scope.logs)
        except DsmopsError as exc:
            severity = Severity.ERROR if path in site.scope.logs else Severity.WARNING
            yield finding(
                "log-unreadable",
                severity,
                f"a log cannot be read: {exc.message}",
                fix=exc.hint,
                unseen=f"what is in {path}",
            )


def _places(site: Site) -> tuple[list[Path], list[Path]]:
    """Return the folders to look into, and the logs to read.

    These are all named files, and the newest file of each folder.
    """
    named = site.scope.logs
    folders = [path for path in named if path.is_dir()]
    if not named:
        folders = [site.scope.folder / folder for folder in _FOLDERS]
        values = (config.values.get("log_dir") for config in site.configs)
        folders += [
            site.scope.folder / resolve(value, os.environ).text
            for value in values
            if isinstance(value, str)
        ]
    folders = list(dict.fromkeys(folders))
    newest = {path.resolve(): path for folder in folders for path in _newest(folder)}
    return folders, [path for path in named if not path.is_dir()] + list(newest.values())


def _newest(folder: Path) -> list[Path]:
    return sorted(_logs_in(folder), key=lambda path: path.stat().st_mtime, reverse=True)[
        :_MOST_FILES
    ]


def _logs_in(folder: Path) -> Iterator[Path]:
    with os_errors(folder):
        if folder.is_dir():
            yield from (
                path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_file()
            )


def _log(path: Path, *, named: bool) -> Iterator[DoctorFinding]:
    notes: list[str] = []
    data, is_end = _end_of(path, notes.append)
    for note in notes:
        yield finding("log-ratio", Severity.WARNING, note, fix="Find out what made this file.")
    data = unwrapped(data)
    started = max((match.start() for match in _STARTED.finditer(data)), default=0)
    start = data.rfind(b"\n", 0, started) + 1
    before, since = data[:start].split(b"\n"), data[start:].split(b"\n")
    where = f"{path}, the last {size(_MOST_BYTES)}" if is_end else str(path)
    now = {seen.name: seen for seen in find_failures(since)}
    for seen in now.values():
        yield _seen(seen, where, len(before) - 1, past=False)
    earlier = [seen for seen in find_failures(before) if seen.name not in now]
    for seen in earlier:
        yield _seen(seen, where, 0, past=True)
    steps = read_steps(since)
    if steps is not None and steps.steps >= _FEWEST_STEPS and steps.slow_share >= _SLOW_SHARE:
        yield _slow(steps, where, len(before) - 1)
    elif not (now or earlier):
        yield from _in_order(path, data, where, before + since, steps, named=named)


def _slow(steps: StepTimes, where: str, lines_before: int) -> DoctorFinding:
    """Return the finding of a server that falls behind: an error where half of its steps do."""
    since = f" since {steps.slow_since}" if steps.slow_since else ""
    when = since if steps.is_slow_at_end else f", the first{since.replace('since', 'at')}"
    return finding(
        "steps-slow",
        Severity.ERROR if steps.p50_ms > FRAME_MS else Severity.WARNING,
        f"{100 * steps.slow_share:.0f} % of {counted(steps.steps, 'step')} took longer than the 80"
        f" ms of a frame{when}: every stream falls behind",
        f"p50 {steps.p50_ms:.1f} ms, p95 {steps.p95_ms:.1f} ms; at most"
        f" {counted(steps.most_streams, 'stream')} had data in a slow step",
        f"{where}, line {steps.slow_line + lines_before}",
        fix="Lower batch_size to what `dsmops plan` names, and see what else uses card and CPU.",
    )


def _in_order(
    path: Path,
    data: bytes,
    where: str,
    lines: list[bytes],
    steps: StepTimes | None,
    *,
    named: bool,
) -> Iterator[DoctorFinding]:
    """Yield that a log is in order, or that it is not a server's."""
    if any(data.split()) and not any(
        record.format != "text" for record in parse(lines[-_MOST_PARSED_LINES:])
    ):
        yield finding(
            "log-foreign",
            Severity.WARNING if named else Severity.NOTE,
            f"{where}: no line of it is one that a server writes",
            fix="Name the file that the server's output went to.",
            unseen=f"what went wrong before: {path} is not a server's log",
        )
    else:
        yield ok(
            "log",
            f"{where}: no known failure",
            counted(data.count(b"\n") + bool(data) - data.endswith(b"\n"), "line"),
            f"{counted(steps.steps, 'step')}: p50 {steps.p50_ms:.1f} ms, p95 {steps.p95_ms:.1f} ms"
            if steps
            else "",
        )


def _seen(seen: FailureSeen, where: str, lines_before: int, *, past: bool) -> DoctorFinding:
    failure = FAILURES[seen.name]
    # A key in a log stays there whatever the server does next.
    over = past and not failure.is_secret
    return finding(
        seen.name,
        Severity.NOTE if over else failure.severity,
        f"{failure.meaning}" + ("; the server was started again since" if over else ""),
        f"{where}, line {seen.line + lines_before}"
        + (f", and {seen.count - 1:,} more" if seen.count > 1 else ""),
        seen.evidence,
        fix=failure.fix,
    )


def _end_of(path: Path, on_note: Callable[[str], object]) -> tuple[bytes, bool]:
    """Return a log, decompressed, and whether it was cut.

    Of a long log only the whole lines at its end are returned.

    Raises:
        InputError: it is a pipe or a device, or damaged compressed data.
        SourceError, FileAccessError: it is not there, or cannot be read.
    """
    require_file(path, "log")
    with os_errors(path), path.open("rb") as file:
        size_bytes = os.fstat(file.fileno()).st_size
        cut = size_bytes > _MOST_BYTES and not is_compressed(file.read(MAGIC_BYTES))
        file.seek(size_bytes - _MOST_BYTES if cut else 0)
        data = b""
        for chunk in decompressed(file, str(path), on_note=on_note):
            data += chunk
            if len(data) > 2 * _MOST_BYTES:
                data, cut = data[-_MOST_BYTES:], True
    if len(data) > _MOST_BYTES:
        data, cut = data[-_MOST_BYTES:], True
    while data.count(b"\n") > _MOST_LINES:
        data, cut = data[len(data) // 2 :], True
    return (data[data.find(b"\n") + 1 :] if cut else data), cut
