"""The worker's log in moshi-server's format, so that the same tools read both.

One record is one line, on stdout and in a file for each day.

    2025-11-15T08:39:13.344657Z  INFO moshi_server: src/main.rs:0: starting server

Targets and source files are those under which moshi-server says the same; the line is 0, since no
line of those files said it. Colours are its own too: always in the file and on a terminal, unless
`NO_COLOR` is set. Keys and words never get here.

A thread of its own writes, so that a slow disk does not slow a step. When more than `_MOST_WAITING`
records wait, further ones are dropped and counted in a later line.

Source: tracing-subscriber 0.3.19 `fmt`, tracing-appender 0.2.3.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import re
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TextIO

from dsmops.errors import DsmopsError
from dsmops.files import os_errors

_logger = logging.getLogger(__name__)
_MOST_WAITING = 10_000
RETRY_S = 10.0
"""Pause between two checks that the file is still there and can be written."""


class Level(IntEnum):
    """How much is written: records of this level and above."""

    OFF = 0
    ERROR = 1
    WARN = 2
    INFO = 3
    DEBUG = 4
    TRACE = 5

    @classmethod
    def parse(cls, text: str) -> Level:
        """Return the level of a `--log` value: a name in any case, or 0 to 5.

        Raises:
            ValueError: it is neither.
        """
        try:
            return cls(int(text)) if text.strip().isdigit() else cls[text.strip().upper()]
        except (KeyError, ValueError):
            raise ValueError(
                f"{text!r} is not a log level; use off, error, warn, info, debug, trace, or 0 to 5"
            ) from None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record comes from: a Rust module and its source file."""

    target: str
    file: str


MAIN = Origin("moshi_server", "src/main.rs")
BATCHED_ASR = Origin("moshi_server::batched_asr", "src/batched_asr.rs")
ASR = Origin("moshi_server::asr", "src/asr.rs")
PY = Origin("moshi_server::py_module", "src/py_module.rs")
UTILS = Origin("moshi_server::utils", "src/utils.rs")


class Shown(str):
    """A field's text that is written as it is; any other string is written quoted."""

    __slots__ = ()


Field = str | int
_COLOURS = {Level.ERROR: 31, Level.WARN: 33, Level.INFO: 32, Level.DEBUG: 34, Level.TRACE: 35}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Record:
    """One line, with the lines that continue it. `time_ns` is since the epoch."""

    time_ns: int
    level: Level
    origin: Origin
    message: str
    fields: dict[str, Field]
    continuation: Sequence[str] = ()

    def render(self, *, colour: bool) -> str:
        """Return the text, line end included. Control characters from elsewhere are spelled out."""
        second, rest = divmod(self.time_ns, 10**9)
        stamp = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1000:06}Z"
        dim, italic, level, end = (
            ("\x1b[2m", "\x1b[3m", f"\x1b[{_COLOURS[self.level]}m", "\x1b[0m")
            if colour
            else ("", "", "", "")
        )
        head = f"{dim}{stamp}{end} {level}{self.level.name:>5}{end} "
        head += (
            f"{dim}{self.origin.target}{end}{dim}:{end} "
            f"{dim}{self.origin.file}{end}{dim}:{end}{dim}0:{end}"
        )
        fields = [
            f"{italic}{name}{end}{dim}={end}{_shown(value)}" for name, value in self.fields.items()
        ]
        lines = [
            " ".join([head, *filter(None, [_one_line(self.message)]), *fields]),
            *map(_one_line, self.continuation),
        ]
        return "\n".join(lines) + "\n"


def _shown(value: Field) -> str:
    if isinstance(value, str) and not isinstance(value, Shown):
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return _one_line(str(value))


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda match: f"\\u{{{ord(match[0]):x}}}", text)


def causes(exc: BaseException) -> list[str]:
    """Return the continuation lines that name the causes of an exception; none without a cause."""
    chain: list[str] = []
    cause = exc.__cause__
    while cause is not None:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__
    if not chain:
        return []
    numbered = (
        [f"    {text}" for text in chain]
        if len(chain) == 1
        else [f"    {number}: {text}" for number, text in enumerate(chain)]
    )
    return ["", "Caused by:", *numbered]


class DailyFile:
    """`<folder>/log.<instance>.<UTC date>`, appended to; another file after midnight."""

    def __init__(self, folder: Path, instance: str) -> None:
        """Make the folder, and open today's file.

        Raises:
            FileAccessError, DiskFullError, SourceError: that failed.
        """
        self._folder, self._instance = folder, instance
        self._path, self._file = self._open(time.time_ns())

    def path(self, time_ns: int) -> Path:
        """Return the file of this time."""
        return (
            self._folder
            / f"log.{self._instance}.{datetime.fromtimestamp(time_ns // 10**9, UTC):%Y-%m-%d}"
        )

    def write(self, time_ns: int, text: str) -> None:
        if self.path(time_ns).name != self._path.name:
            self._file.close()
            self._path, self._file = self._open(time_ns)
        self._file.write(text)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def reopen(self, time_ns: int) -> None:
        """Open the file again, and make its folder where it is gone.

        Raises:
            DsmopsError: that failed.
        """
        with contextlib.suppress(OSError):
            self._file.close()
        self._path, self._file = self._open(time_ns)

    @property
    def is_gone(self) -> bool:
        """Whether the file that is written to has no name any more, or its name is another's."""
        try:
            named = self._path.stat()
        except OSError:
            return True
        open_file = os.fstat(self._file.fileno())
        return (named.st_dev, named.st_ino) != (open_file.st_dev, open_file.st_ino)

    def _open(self, time_ns: int) -> tuple[Path, TextIO]:
        with os_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        path = self.path(time_ns)
        with os_errors(path):
            return path, path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")


class Log(ABC):
    """Takes records from any thread."""

    def info(self, origin: Origin, message: str, **fields: Field) -> None:
        self.write(Level.INFO, origin, message, fields)

    def warn(self, origin: Origin, message: str, **fields: Field) -> None:
        self.write(Level.WARN, origin, message, fields)

    def error(
        self, origin: Origin, message: str, continuation: Sequence[str] = (), **fields: Field
    ) -> None:
        self.write(Level.ERROR, origin, message, fields, continuation)

    def write(
        self,
        level: Level,
        origin: Origin,
        message: str,
        fields: dict[str, Field],
        continuation: Sequence[str] = (),
    ) -> None:
        """Write a record, later."""
        self.put(Record(time.time_ns(), level, origin, message, fields, continuation))

    @abstractmethod
    def put(self, record: Record) -> None:
        """Write a record, later; drop it when too many wait."""


class ServerLog(Log):
    """Writes to a file and the console. `close` writes what waits.

    A file that cannot be written is tried again every `retry_s`, and one whose folder was removed
    is made again. Serving goes on meanwhile.
    """

    def __init__(
        self,
        level: Level,
        file: DailyFile | None,
        console: TextIO | None,
        *,
        no_color: bool,
        retry_s: float = RETRY_S,
    ) -> None:
        self._level = level
        self._retry_s = retry_s
        self._failed = False
        self._next_check_s = time.monotonic() + retry_s
        self._unflushed = self._missing = 0
        """Lines that may not have reached the disk yet, and lines that never will."""
        self._file, self._file_colour = file, not no_color
        self._console, self._console_colour = (
            console,
            not no_color and console is not None and console.isatty(),
        )
        self._waiting: queue.Queue[Record | None] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    @property
    def level(self) -> Level:
        """The level up to which records are written."""
        return self._level

    def put(self, record: Record) -> None:
        if record.level > self._level:
            return
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._waiting.put(None)
        self._thread.join()
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()

    def _write_all(self) -> None:
        while (record := self._waiting.get()) is not None:
            self._write(record)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._write(
                    Record(
                        time.time_ns(),
                        Level.WARN,
                        MAIN,
                        f"{dropped} log lines were dropped: the disk is too slow",
                        {},
                    )
                )
            if self._waiting.empty():
                self._flush()
        self._flush()

    def _write(self, record: Record) -> None:
        self._write_file(record)
        try:
            if self._console is not None:
                self._console.write(record.render(colour=self._console_colour))
        except OSError:
            self._console = None

    def _write_file(self, record: Record) -> None:
        if self._file is None:
            return
        if time.monotonic() >= self._next_check_s:
            self._check_file(record.time_ns)
        if self._failed:
            self._missing += 1
            return
        self._unflushed += 1
        try:
            self._file.write(record.time_ns, record.render(colour=self._file_colour))
        except (OSError, DsmopsError) as exc:
            self._lose_file(exc)

    def _flush(self) -> None:
        try:
            if self._file is not None and not self._failed:
                self._file.flush()
                self._unflushed = 0
        except OSError as exc:
            self._lose_file(exc)
        try:
            if self._console is not None:
                self._console.flush()
        except OSError:
            # The reader of the pipe has left.
            self._console = None

    def _check_file(self, time_ns: int) -> None:
        """Open the file again where that is needed."""
        self._next_check_s = time.monotonic() + self._retry_s
        if self._file is None or not (self._failed or self._file.is_gone):
            return
        try:
            self._file.reopen(time_ns)
            if self._missing:
                lost = f"{self._missing} log lines are missing here: the file could not be written"
                line = Record(time_ns, Level.WARN, MAIN, lost, {})
                self._file.write(time_ns, line.render(colour=self._file_colour))
            self._file.flush()
        except (OSError, DsmopsError) as exc:
            self._lose_file(exc)
        else:
            self._failed, self._missing, self._unflushed = False, 0, 0

    def _lose_file(self, exc: Exception) -> None:
        # Serving goes on: a full disk must not end conversations.
        if not self._failed:
            _logger.warning("the log file cannot be written at present: %s", exc)
        self._failed = True
        self._missing += self._unflushed
        self._unflushed = 0
