"""What a line of a log says, whichever dialect it was written in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

LEVELS = ("TRACE", "DEBUG", "INFO", "WARN", "ERROR")


@dataclass(frozen=True, slots=True)
class LogRecord:
    """One event: its first line taken apart, and the lines that belong to it as they were.

    A part that the dialect does not write is None. `format` names the dialect; `text` is a line of
    none, which has only a message.
    """

    format: str
    message: str
    time: datetime | None = None
    """In UTC, to the microsecond."""
    level: str | None = None
    target: str | None = None
    """Module path of the server, like `moshi_server::batched_asr`."""
    file: str | None = None
    line: int | None = None
    """Source file and line as the server wrote them. Builds by `cargo install` write absolute
    registry paths."""
    spans: str | None = None
    service: str | None = None
    """Container name that `docker compose` put in front."""
    continuation: tuple[str, ...] = ()
    """Causes, tracebacks and indented lines that follow."""
