"""Records to lines: the friendly form for people, JSON Lines for programs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field

from dsmops.logs.clock import Clock
from dsmops.logs.records import LogRecord

SCHEMA = "dsmops.log-record/1"


@dataclass(frozen=True, slots=True)
class Style:
    """How lines look: the zone and hours of `clock`, with or without source, JSON instead.

    `strip_raw` trims lines without a stamp.
    """

    clock: Clock = field(default_factory=Clock)
    source: bool = True
    strip_raw: bool = False
    jsonl: bool = False


def render(record: LogRecord, style: Style) -> str:
    """Return a record with its continuation lines as text, without a line end.

    `[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: message`, or
    one JSON object.
    """
    if style.jsonl:
        return _json(record)
    prefix = f"{record.service} | " if record.service else ""
    lines = (
        render_line(record, style),
        *(render_text(line, style) for line in record.continuation),
    )
    return "\n".join(f"{prefix}{line}".rstrip() for line in lines)


def render_line(record: LogRecord, style: Style) -> str:
    """Return the first line of a record. One without a time is its message."""
    if record.time is None:
        return render_text(record.message, style)
    source = ""
    if style.source and record.file:
        file = from_crate_on(record.file)
        source = f"{file}:{record.line}:" if record.line is not None else f"{file}:"
    head = f"{style.clock.stamp(record.time)} [{record.level or '-'}] [{record.target or '-'}]"
    return " ".join(
        filter(None, (head, source, record.spans and f"{record.spans}:", record.message))
    )


_REGISTRY = re.compile(r"\S*/registry/src/[^/\s]+/(?=[^/\s]+-\d)")


def from_crate_on(path: str) -> str:
    """Return a path into cargo's registry from the crate on: `moshi-server-0.6.4/src/main.rs`."""
    return _REGISTRY.sub("", path) if "/registry/src/" in path else path


def render_text(text: str, style: Style) -> str:
    """Return a line that bears no stamp."""
    return text.lstrip() if style.strip_raw else text


def _short_file(file: str | None) -> dict[str, str]:
    short = from_crate_on(file or "")
    return {} if short == (file or "") else {"short_file": short}


def _json(record: LogRecord) -> str:
    document = {
        "schema": SCHEMA,
        "time": record.time
        and record.time.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "level": record.level,
        "target": record.target,
        "file": record.file,
        **_short_file(record.file),
        "line": record.line,
        "spans": record.spans,
        "message": record.message,
        "continuation": record.continuation,
        "service": record.service,
        "format": record.format,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))
