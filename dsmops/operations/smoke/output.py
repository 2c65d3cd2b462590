"""The output of a server under test: kept as a raw log and read line by line, in bounded memory."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from dsmops.logs import Redactor
from dsmops.logs.failures import FAILURES, FailureSeen, find_failures
from dsmops.logs.plain_text import clean, decode

_MAX_LINE_BYTES = 64 << 10
"""The rest of a longer line counts as another line."""
_MAX_LOG_BYTES = 256 << 20
"""Hours of INFO lines. Later output is read, so that the server does not block, and dropped."""
_MAX_STEPS = 1_000_000
_SHOWN_CHARS = 300
_DEAD_LOOP = "model-loop-dead"
_STEP = re.compile(r"\b(\d+\.\d+)ms step_idx=")
_COMPLAINT = re.compile(r"error|thread '", re.IGNORECASE)


class Output:
    """Takes bytes as they come.

    `problem` says why the raw log is not complete, empty where it is. `steps_ms` are the times of
    the model's steps; `dead_loop` is the line that says that the model loop died. Lines are shown
    redacted.
    """

    def __init__(self, raw_log: Path, file: BinaryIO) -> None:
        self.raw_log = raw_log
        self.problem = ""
        self.lines = 0
        self.steps_ms: list[float] = []
        self.dead_loop: str | None = None
        self._file = file
        self._rest = b""
        self._left_bytes = _MAX_LOG_BYTES
        self._last = ""
        self._complaint = ""

    def take(self, piece: bytes) -> None:
        """Keep a piece and read the lines that it completes."""
        self._keep(piece)
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            self._look(line)
        while len(self._rest) > _MAX_LINE_BYTES:
            self._look(self._rest[:_MAX_LINE_BYTES])
            self._rest = self._rest[_MAX_LINE_BYTES:]

    def end(self) -> None:
        """Close the log. Call it once, after the last piece."""
        if self._rest:
            self._look(self._rest)
        self._file.close()

    @property
    def last_words(self) -> str:
        """The last line that is not blank, redacted."""
        return self._shown(self._last) or "no output"

    @property
    def complaint(self) -> str:
        """The first line that begins with an error, else the last line, redacted."""
        return self._shown(self._complaint) or self.last_words

    def failures(self) -> list[FailureSeen]:
        """Return the known failures in the raw log, in the order in which they first appear."""
        with self.raw_log.open("rb") as file:
            return find_failures(_lines(file))

    def _keep(self, piece: bytes) -> None:
        if self.problem:
            return
        if len(piece) > self._left_bytes:
            self.problem = f"{self.raw_log} holds only the first {_MAX_LOG_BYTES >> 20} MiB"
        kept = piece[: self._left_bytes]
        self._left_bytes -= len(kept)
        try:
            self._file.write(kept)
        except OSError as exc:
            self.problem = f"{self.raw_log} is not complete: {exc.strerror}"

    def _look(self, raw: bytes) -> None:
        line = clean(decode(raw[:_MAX_LINE_BYTES]))
        self.lines += 1
        if not line.strip():
            return
        self._last = line
        if not self._complaint and _COMPLAINT.match(line.lstrip()):
            self._complaint = line
        step = _STEP.search(line)
        if step and len(self.steps_ms) < _MAX_STEPS:
            self.steps_ms.append(float(step[1]))
        if self.dead_loop is None and FAILURES[_DEAD_LOOP].pattern.search(line):
            # Read again by `find_failures`, which ignores what clients sent, and redacts.
            self.dead_loop = next(
                (seen.evidence for seen in find_failures([raw]) if seen.name == _DEAD_LOOP), None
            )

    def _shown(self, line: str) -> str:
        return Redactor(secrets.token_bytes(16)).line(line.strip())[:_SHOWN_CHARS]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    pieces: Iterable[bytes] = iter(lambda: file.readline(_MAX_LINE_BYTES), b"")
    return (piece.rstrip(b"\n") for piece in pieces)
