"""The dialects: one class each, with `parse(text, clock) -> LogRecord | None`.

`FORMATS` lists them by how specific they are; no line is of two. A new dialect is a class here, a
line in `FORMATS` and a golden log. Text comes without colours, control characters and line end; see
`reader`.

Sources: tracing-subscriber 0.3.19 `fmt` (full and JSON formats), moshi-server 0.6.4 `main.rs`, the
fork's `logging.rs`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from dsmops.logs.clock import FRIENDLY_STAMP, STAMP, Clock
from dsmops.logs.plain_text import clean
from dsmops.logs.records import LEVELS, LogRecord

_LEVEL = rf"(?P<level>{'|'.join(LEVELS)})"
_TARGET = r"(?P<target>[A-Za-z_]\w*(?:::\w+)*)"
_SOURCE = r"(?P<file>\S+\.rs):(?P<line>0|[1-9]\d{0,8})"


_ICONS = "·●✓⚠✕"
"""In the order of `LEVELS`."""


class Format(Protocol):
    """A dialect.

    `parse` returns the record that a line begins, or None when the line is not of this dialect.
    """

    name: str

    def parse(self, text: str, clock: Clock) -> LogRecord | None: ...


class Tracing:
    """The format of tracing: `TIME  INFO [span{..}: ]target: src/main.rs:475: message`.

    A time is `2025-11-15T08:39:03.595169Z`. Lines of `validate` have no source. The fork writes
    `2025-12-02 01:36:42.113` for the time.
    """

    name = "tracing"
    _START = re.compile(rf"{STAMP} +{_LEVEL} (?P<rest>.*)", re.ASCII)
    _REST = re.compile(
        rf"(?:(?P<spans>.*?): )??{_TARGET}: {_SOURCE}:(?: (?P<message>.*))?", re.ASCII
    )
    _NO_SOURCE = re.compile(rf"{_TARGET}: (?P<message>.*)", re.ASCII)

    def parse(self, text: str, clock: Clock) -> LogRecord | None:
        start = self._START.fullmatch(text)
        if start is None:
            return None
        rest = self._REST.fullmatch(start["rest"]) or self._NO_SOURCE.fullmatch(start["rest"])
        return (
            None
            if rest is None
            else _record(self.name, clock, start, {**rest.groupdict(), "level": start["level"]})
        )


class Friendly:
    """What `render` writes: formatting a formatted log changes nothing but zone and options."""

    name = "friendly"
    _LINE = re.compile(
        rf"{FRIENDLY_STAMP} \[(?:-|(?P<level>[A-Z]{{1,9}}))\] \[(?:-"
        rf"|(?P<target>[^\]]*))\](?: (?:{_SOURCE}:(?: |$))?(?P<message>.*))?",
        re.ASCII,
    )

    def parse(self, text: str, clock: Clock) -> LogRecord | None:
        line = self._LINE.fullmatch(text)
        return None if line is None else _record(self.name, clock, line, line.groupdict())


class Icons:
    """The fork's console: `time ICON LEVEL [target] [span: ..file.rs:475] message`.

    In the smallest style only time, icon and message.
    """

    name = "icons"
    # In the compact style no target is written. A first word with `::` or `_` is one, `listening`
    # is not.
    _LINE = re.compile(
        rf"{STAMP} (?P<icon>[{_ICONS}]) (?:{_LEVEL} (?:(?=\S*(?:_"
        rf"|::)){_TARGET} (?:(?P<spans>(?:\S+: )*){_SOURCE} )?)?)?(?P<message>.*)",
        re.ASCII,
    )

    def parse(self, text: str, clock: Clock) -> LogRecord | None:
        line = self._LINE.fullmatch(text)
        if line is None:
            return None
        parts = line.groupdict()
        parts["level"] = line["level"] or LEVELS[_ICONS.index(line["icon"])]
        parts["spans"] = (line["spans"] or "").removesuffix(": ").replace(": ", ":")
        return _record(self.name, clock, line, parts)


class JsonLines:
    """The fork's `--json`: one object a line.

    Its fields become `name=value`, as the full format would have written them.
    """

    name = "json"
    _STAMP = re.compile(STAMP, re.ASCII)
    _KNOWN = frozenset(
        {"timestamp", "level", "fields", "target", "filename", "line_number", "span", "spans"}
    )

    def parse(self, text: str, clock: Clock) -> LogRecord | None:
        if not (text.startswith("{") and text.endswith("}")):
            return None
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return None
        stamp = self._STAMP.fullmatch(str(found.get("timestamp")))
        if (
            stamp is None
            or found.get("level") not in LEVELS
            or not isinstance(found.get("fields"), dict)
        ):
            return None
        fields = {
            **found["fields"],
            **{name: value for name, value in found.items() if name not in self._KNOWN},
        }
        message = str(fields.pop("message", ""))
        lines = [
            clean(line)
            for line in " ".join(filter(None, [message, _shown_fields(fields)])).split("\n")
        ]
        spans = found.get("spans") or [found.get("span")]
        number = found.get("line_number")
        parts = {
            "level": found["level"],
            "target": clean(str(found.get("target") or "")),
            "file": clean(str(found.get("filename") or "")),
            "line": number if type(number) is int else None,
            "spans": clean(":".join(map(_shown_span, filter(None, spans))))
            if isinstance(spans, list)
            else None,
            "message": lines[0],
        }
        record = _record(self.name, clock, stamp, parts)
        return record and replace(record, continuation=tuple(lines[1:]))


FORMATS: tuple[Format, ...] = (Friendly(), JsonLines(), Icons(), Tracing())
DIALECTS = frozenset(dialect.name for dialect in FORMATS)


def _record(
    name: str, clock: Clock, stamp: re.Match[str], parts: Mapping[str, Any]
) -> LogRecord | None:
    """Return the record of a line taken apart, or None when its time does not exist (30 February).

    Empty parts are absent ones.
    """
    time = clock.instant(stamp["minute"], stamp["seconds"], stamp["tail"])
    if time is None:
        return None
    return LogRecord(
        format=name,
        message=parts.get("message") or "",
        time=time,
        level=parts["level"] or None,
        target=parts.get("target") or None,
        file=parts.get("file") or None,
        line=int(parts["line"]) if parts.get("line") else None,
        spans=parts.get("spans") or None,
    )


# What Rust's Debug prints, which the full format writes as it is.
_DEBUG_OUTPUT = re.compile(r'["\[({]|[A-Z]\w*[ ({]')


def _shown_fields(fields: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={_shown(name, value)}" for name, value in fields.items())


def _shown(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    plain = name in ("err", "error") or not re.search(r"\s", value) or _DEBUG_OUTPUT.match(value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _shown_span(span: Any) -> str:
    if not isinstance(span, dict):
        return json.dumps(span, ensure_ascii=False)
    fields = _shown_fields({name: value for name, value in span.items() if name != "name"})
    return f"{span.get('name', '')}{{{fields}}}" if fields else str(span.get("name", ""))
