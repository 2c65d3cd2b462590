"""What collectors put around the lines of a server: found, taken off, and cut lines put together.

A log is unwrapped before its dialect is looked at. The collector's own time is kept only for lines
that bear none: such a line comes out as `\\x1e<time>\\x1e<line>`, which `reader` understands.
Several programs in one log are kept apart by `name | `, as docker compose writes them.

Sources: docker `json-file` and 16 KiB splits (moby daemon/logger), CRI logging format (Kubernetes
design docs), `kubectl logs --help`, systemd.journal-fields(7) and journalctl(1) `-o`, RFC 3164 and
5424, rsyslog's default templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dsmops.logs.blocks import MAX_LINE_BYTES
from dsmops.logs.records import LEVELS

AUTO, NONE, LATER = "auto", "none", "later"
"""`LATER` is the part of a log that was bare up to here: what `AUTO` is after its first lines."""
_LINES_TO_DETECT = 200
"""After so many bare lines only a line that is surely wrapped is unwrapped, and those after it."""

_ISO = rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:?\d\d)"
_COLOUR = rb"(?:\x1b\[[0-9;]*m)*"
_RECORD = re.compile(
    _COLOUR + rb'(?:20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d|\[20\d\d-\d\d-\d\d |\{"timestamp":)'
)
"""The beginning of a line that bears a time of its own."""
_LEVEL = "|".join(LEVELS).encode()


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A line out of its wrapper.

    `key` says which lines its parts belong to, where it is `partial`.
    """

    text: bytes
    time: datetime | None = None
    program: str | None = None
    """Of syslog and the journal, where several programs may write to one log."""
    service: str | None = None
    partial: bool = False
    key: str = ""
    is_padded: bool | None = None
    """Whether exactly one space is before the text, where the wrapper may put one there."""

    def bears_time(self) -> bool:
        """Return whether the line bears a time of its own."""
        return _RECORD.match(self.text, 1 if self.is_padded else 0) is not None


Open = Callable[[bytes], Wrapped | None]


def _docker_json(raw: bytes) -> Wrapped | None:
    """`{"log":"...\\n","stream":"stderr","time":"2025-11-15T08:39:03.595169123Z"}`.

    Fluent Bit writes the same of CRI logs, without the line end and with `"logtag":"F"`.
    """
    if not raw.startswith((b'{"log":', b'{"stream":', b'{"time":', b'{"attrs":')):
        return None
    found = _object(raw)
    if found is None or not isinstance(found.get("log"), str) or "time" not in found:
        return None
    text = found["log"].encode("utf-8", "surrogatepass")
    return Wrapped(
        text.removesuffix(b"\n"),
        _iso(str(found["time"])),
        partial=found.get("logtag") == "P" if "logtag" in found else not text.endswith(b"\n"),
        key=str(found.get("stream")),
    )


_CRI = re.compile(rb"(" + _ISO + rb") (stdout|stderr) ([FP])(?::\S*)?(?: (.*))?", re.DOTALL)


def _containerd(raw: bytes) -> Wrapped | None:
    """`2025-11-15T08:39:03.595169123Z stderr F line`, `P` where the line goes on."""
    found = _CRI.fullmatch(raw)
    if found is None:
        return None
    return Wrapped(
        found[4] or b"",
        _iso(found[1].decode()),
        partial=found[3] == b"P",
        key=found[2].decode(),
    )


_POD = re.compile(rb"\[pod/([^\]\s]{1,300})\] (?:(" + _ISO + rb") )?(.*)", re.DOTALL)


def _kubectl(raw: bytes) -> Wrapped | None:
    """`[pod/stt-0/server] line` of `--prefix`, with `--timestamps` a time before the line."""
    found = _POD.fullmatch(raw)
    if found is None:
        return None
    stamp, text = found[2], found[3]
    if stamp and not _is_stamped_by_collector(text):
        stamp, text = None, raw[found.start(2) :]
    time = _iso(stamp.decode()) if stamp else None
    return Wrapped(text, time, service=f"pod/{found[1].decode()}")


_STAMPED = re.compile(rb"(" + _ISO + rb") (.*)", re.DOTALL)
_COMPOSE = re.compile(
    _COLOUR + rb"([A-Za-z0-9][\w.@/-]{0,120}) *\|(?:\x1b\[[0-9;]*m)* (" + _ISO + rb") (.*)",
    re.DOTALL,
)


_SERVICE_LOGS = re.compile(rb"(" + _ISO + rb") ([A-Za-z0-9][\w.@/-]{0,120}) +\| (.*)", re.DOTALL)


def _timestamps(raw: bytes) -> Wrapped | None:
    """`2025-11-15T08:39:03.595169123Z line` of `docker logs -t` and `kubectl logs --timestamps`."""
    found = _STAMPED.fullmatch(raw)
    if found is None or not _is_stamped_by_collector(found[2]):
        return None
    return Wrapped(found[2], _iso(found[1].decode()))


def _compose(raw: bytes) -> Wrapped | None:
    """`stt-1  | 2025-11-15T08:39:03.595169123Z line` of `docker compose logs --timestamps`.

    `docker service logs --timestamps` writes the time first.
    """
    if found := _SERVICE_LOGS.fullmatch(raw):
        return Wrapped(found[3], _iso(found[1].decode()), service=found[2].decode())
    found = _COMPOSE.fullmatch(raw)
    if found is None or not _is_stamped_by_collector(found[3]):
        return None
    return Wrapped(found[3], _iso(found[2].decode()), service=found[1].decode())


def _is_stamped_by_collector(text: bytes) -> bool:
    """Return whether the text after a time is a line of its own.

    Otherwise it is the level of that time's line.
    """
    return re.match(rb" *(?:" + _LEVEL + rb") ", text) is None


_NAME = rb"[^\s:\[\]]{1,100}"
# `journalctl --no-hostname` leaves the program, which a process number then tells from other words.
_TAG = rb"(?:[^\s:\[\]]{1,255} (" + _NAME + rb")(?:\[\d{1,10}\])?|(" + _NAME + rb")\[\d{1,10}\]):"
_SYSLOG = re.compile(
    rb"(?:<\d{1,3}>)?(?:([A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d{1,6})?)|("
    + _ISO
    + rb")|[A-Z][a-z]{2} (20\d\d-\d\d-\d\d \d\d:\d\d:\d\d) [A-Z]\w{1,5}"
    + rb"|(\d{10}\.\d{6})|\[ {0,8}\d{1,9}\.\d{6}\])"
    rb" (?!(?:" + _LEVEL + rb") )" + _TAG + rb"(?: (.*))?",
    re.DOTALL,
)
_RFC_5424 = re.compile(
    rb"<\d{1,3}>1 ("
    + _ISO
    + rb"|-) \S{1,255} (\S{1,48}) \S{1,128} \S{1,32} (?:-|\[.*?\])(?: (?:\xef\xbb\xbf)?(.*))?",
    re.DOTALL,
)
_ESCAPED = re.compile(rb"#(0[0-3][0-7]|177)")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def _syslog(raw: bytes) -> Wrapped | None:
    """`Nov 15 08:39:03 host program[77]: line`, and what journalctl and rsyslog write as time."""
    if found := _RFC_5424.fullmatch(raw):
        text = _unescaped(found[3] or b"")
        return Wrapped(
            text,
            _iso(found[1].decode()),
            _decoded(found[2]),
            is_padded=re.match(rb" (?! )", text) is not None if text else None,
        )
    found = _SYSLOG.fullmatch(raw)
    if found is None:
        return None
    if found[1]:
        time = _yearless(found[1].decode())
    elif found[2]:
        time = _iso(found[2].decode())
    elif found[3]:
        time = _iso(found[3].decode().replace(" ", "T"))
    else:
        time = datetime.fromtimestamp(float(found[4]), UTC) if found[4] else None
    return Wrapped(_unescaped(found[7] or b""), time, _decoded(found[5] or found[6]))


def _unescaped(text: bytes) -> bytes:
    """Return a message with control characters as they were: rsyslog writes ESC as `#033`."""
    return _ESCAPED.sub(lambda match: bytes((int(match[1], 8),)), text) if b"#" in text else text


def _journald_json(raw: bytes) -> Wrapped | None:
    """One object a line of `journalctl -o json`.

    MESSAGE is an array of bytes where it has colours.
    """
    text = raw.removeprefix(b"\x1e").removeprefix(b"data: ")
    if not text.startswith(b"{") or b'"MESSAGE"' not in text:
        return None
    found = _object(text)
    if found is None or "MESSAGE" not in found:
        return None
    message = found["MESSAGE"]
    if isinstance(message, list):
        if all(isinstance(item, int) for item in message):
            line = bytes(item % 256 for item in message)
        else:
            line = "\n".join(map(str, message)).encode("utf-8", "surrogatepass")
    else:
        line = ("" if message is None else str(message)).encode("utf-8", "surrogatepass")
    micros = found.get("_SOURCE_REALTIME_TIMESTAMP") or found.get("__REALTIME_TIMESTAMP")
    time = None
    if micros and str(micros).isdigit():
        time = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=min(int(micros), 4 * 10**15))
    program = found.get("CONTAINER_NAME") or found.get("SYSLOG_IDENTIFIER") or found.get("_COMM")
    return Wrapped(
        line,
        time,
        str(program) if program else None,
        partial=found.get("CONTAINER_PARTIAL_MESSAGE") == "true",
        key=str(program),
    )


WRAPPERS: dict[str, Open] = {
    "docker-json": _docker_json,
    "containerd": _containerd,
    "kubectl": _kubectl,
    "journald-json": _journald_json,
    "syslog": _syslog,
    "compose": _compose,
    "timestamps": _timestamps,
}
"""By the name for `--wrapper`. The first that fits opens a line. Sources are in the docstrings."""


_UNMISTAKABLE = ("docker-json", "containerd", "journald-json")


class Unwrapper:
    """Takes the wrapper off the lines of one log, in order.

    Where blocks are cut does not matter.
    """

    def __init__(self, wrapper: str = AUTO) -> None:
        self._open: Open | None = WRAPPERS.get(wrapper)
        self._may_change = wrapper in (AUTO, LATER)
        self._lines_left = _LINES_TO_DETECT if wrapper == AUTO else 0
        self._parts: dict[str, tuple[list[Wrapped], int]] = {}
        """The parts of lines whose end has not come, and how many bytes they have."""
        self._omits_ends = False
        """Whether what collects docker's lines drops their line ends, which mark a line as
        complete: a line that bears a time of its own came after one without an end."""
        self._program: str | None = None
        """The program whose lines bear a time of their own: the server. Others are named."""
        self._is_padded: bool | None = None
        """Whether each text has a space before it: rsyslog's RFC 5424 template keeps the space
        after the tag of what came in as RFC 3164. A line that bears a time of its own tells; before
        one comes, the first line."""

    @property
    def active(self) -> bool:
        """Whether lines of this log are, or among its first lines may turn out to be, wrapped."""
        return self._open is not None or self._lines_left > 0

    @property
    def is_open(self) -> bool:
        """Whether a wrapper was found, so that what follows depends on it."""
        return self._open is not None

    def begins_at(self, raw: bytes) -> bool:
        """Return whether a wrapper begins at a line of a log that was bare so far.

        The line and those after it are then to be fed here.
        """
        if not self._may_change or self.active:
            return False
        self._open, self._is_padded = self._other_wrapper(raw.removesuffix(b"\r")), None
        return self._open is not None

    def _other_wrapper(self, raw: bytes) -> Open | None:
        """Return the wrapper that a line is in for certain.

        No server writes its form by itself, or it is around a line of a server.
        """
        if raw.startswith(b"\x1b") and b"|" not in raw:
            return None  # Of all wrappers only compose writes colours, and then a bar.
        for wrapper, opener in WRAPPERS.items():
            found = opener(raw) if opener is not self._open else None
            if found and (wrapper in _UNMISTAKABLE or found.bears_time()):
                return opener
        return None

    def feed(self, block: bytes) -> bytes:
        """Return the lines of a block out of their wrapper."""
        if not self.active:
            return block
        out: list[bytes] = []
        lines = block.split(b"\n")
        for number, raw in enumerate(lines[:-1] if block.endswith(b"\n") else lines):
            if self._open is None and self._lines_left == 0:
                return b"".join((*out, b"\n".join(lines[number:])))
            out += self._line(raw)
        return b"".join(out)

    def feed_all(self, block: bytes) -> bytes:
        """Return the lines of a block out of their wrapper, also where it begins in the middle."""
        out: list[bytes] = []
        lines = block.split(b"\n")
        ended = block.endswith(b"\n")
        for number, raw in enumerate(lines[:-1] if ended else lines):
            if self.active or self.begins_at(raw):
                out += self._line(raw)
            else:
                out.append(raw + b"\n" if ended or number < len(lines) - 1 else raw)
        return b"".join(out)

    def flush(self) -> bytes:
        """Return the parts of lines whose end has not come."""
        waiting, self._parts = self._parts, {}
        return b"".join(self._shown(_joined(parts)) for parts, _ in waiting.values())

    def _line(self, raw: bytes) -> list[bytes]:
        found = self._opened(raw)
        if found is None:
            return [raw + b"\n"]
        if found.is_padded is not None:
            if self._is_padded is None or found.bears_time():
                self._is_padded = found.is_padded
            if self._is_padded:
                found = replace(found, text=found.text.removeprefix(b" "))
        parts, length = self._parts.pop(found.key, ([], 0))
        out: list[bytes] = []
        if self._open is _docker_json:
            if parts and found.bears_time():
                # The lines before were no parts of this one.
                out = [*map(self._shown, parts if found.partial else [_joined(parts)])]
                parts, length = [], 0
                self._omits_ends = found.partial
            elif not found.partial:
                self._omits_ends = False
            if self._omits_ends:
                return [*out, self._shown(found)]
        parts.append(found)
        length += len(found.text)
        if found.partial and length < MAX_LINE_BYTES:
            self._parts[found.key] = parts, length
            return out
        return [*out, self._shown(_joined(parts))]

    def _opened(self, raw: bytes) -> Wrapped | None:
        if self._open is not None:
            line = raw.removesuffix(b"\r")
            found = self._open(line)
            # A time before a line may be the beginning of another wrapper.
            unsure = found is None or (self._open is _timestamps and not _RECORD.match(found.text))
            if unsure and self._may_change and (other := self._other_wrapper(line)):
                # Logs of two collectors, one after the other.
                self._open, self._is_padded = other, None
                found = other(line)
            return found
        self._lines_left -= 1
        for wrapper, opener in WRAPPERS.items():
            found = opener(raw.removesuffix(b"\r"))
            # A time before a line that bears none may be the line's own.
            sure = wrapper not in ("timestamps", "compose") or (found and _RECORD.match(found.text))
            if found is not None and sure:
                self._open = opener
                return found
        return None

    def _shown(self, found: Wrapped) -> bytes:
        service = found.service
        if found.program and found.program != self._program:
            if self._program is None and _RECORD.match(found.text):
                self._program = found.program
            else:
                service = found.program
        prefix = f"{service} | ".encode() if service else b""
        stamp = b""
        if found.time is not None:
            stamp = b"\x1e" + f"{found.time:%Y-%m-%dT%H:%M:%S.%f}Z".encode() + b"\x1e"
        return b"".join(
            (b"" if _RECORD.match(line) or not line.strip() else stamp) + prefix + line + b"\n"
            for line in found.text.split(b"\n")
        )


def unwrapped(data: bytes, wrapper: str = AUTO) -> bytes:
    """Return the lines of a whole log out of their wrapper, without the collector's times."""
    unwrapper = Unwrapper(wrapper)
    found = unwrapper.feed_all(data) + unwrapper.flush()
    return _TIME.sub(b"", found) if b"\x1e" in found else found


def is_wrapped(head: bytes) -> bool:
    """Return whether a log that begins with whole lines `head` is in a wrapper."""
    unwrapper = Unwrapper()
    lines = head.split(b"\n")[:_LINES_TO_DETECT]
    return any(unwrapper._opened(raw) is not None for raw in lines)


def _joined(parts: list[Wrapped]) -> Wrapped:
    """Return the line of these parts, with the time of the first."""
    return replace(parts[-1], text=b"".join(part.text for part in parts), time=parts[0].time)


_TIME = re.compile(rb"^\x1e20[0-9T:.-]{24}Z\x1e", re.MULTILINE)


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "replace")


def _iso(stamp: str) -> datetime | None:
    """Return an RFC 3339 time in UTC, to the microsecond; None for a time that does not exist."""
    head, dot, tail = stamp.partition(".")
    if dot:
        zone = re.search(r"[Z+-].*", tail)
        digits = tail[: zone.start()] if zone else tail
        stamp = f"{head}.{digits[:6].ljust(6, '0')}{zone[0] if zone else ''}"
    try:
        time = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)


def _yearless(stamp: str) -> datetime | None:
    """Return `Nov 15 08:39:03` in this machine's zone, in the last year where it is past."""
    month, _, rest = stamp.partition(" ")
    now = datetime.now().astimezone()
    day, _, clock = rest.strip().partition(" ")
    for year in (now.year, now.year - 1):
        try:
            text = f"{year}-{_MONTHS.index(month) + 1:02d}-{int(day):02d}T{clock.strip()}"
            time = datetime.fromisoformat(text).astimezone()
        except ValueError:
            continue
        if time <= now + timedelta(days=1):
            return time.astimezone(UTC)
    return None
