"""What `format-log` has to write, said the slow and plain way: one line at a time, one thing after
another, nothing remembered but state.

It shares the tables with the package, redaction rules without their hints and escapes, and nothing
else.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from dsmops.logs.disguise import (
    CSV_CELL,
    DISGUISED,
    MESSAGE,
    MOST_WITHIN,
    PAYLOAD_TOKEN,
    TOKEN,
    has_more_views,
    meaning,
)
from dsmops.logs.reader import MOST_SERVICES
from dsmops.logs.redaction import MIN_VALUE_CHARS, MOST_PASSES, WITHIN
from dsmops.logs.rules import RULES
from dsmops.logs.rules.multiline import block_edits, next_block, opened_block
from dsmops.logs.rules.pem import PEM_LINES, pem_edits
from dsmops.logs.rules.rule import Edit, Rule

CONTINUES = ["Caused by:", "Stack backtrace:", "stack backtrace:", "note: run with `RUST_BACKTRACE"]
CONTINUES += ["During handling of the above exception", "CUDA kernel errors might be"]
CONTINUES += ["The above exception was the direct cause", "For debugging consider passing CUDA_"]
CONTINUES += ["Compile with `TORCH_USE_CUDA", "note: Some details are omitted, run with `RUST_"]
DEATHS = [
    r"thread '[^']*' (\(\d{1,9}\) )?panicked at ",
    r"Error: |memory allocation of \d{1,20} bytes failed",
    r"Segmentation fault( \(core dumped\).*|$)",
    r".*device-side assert triggered|CUDA error|(CRITICAL|FATAL|ERROR)[: ]|Exception in thread ",
]
LEVELS = ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]
PEM_EDGE = r"-{4,5} ?%s [A-Z0-9 ]{1,40}? ?-{4,5}"
PEM_OPEN = re.compile(
    rf"{PEM_EDGE % 'BEGIN'}(?!.*{PEM_EDGE % 'END'})|\bPrivate-Lines: \d", re.ASCII
)
TARGET = r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z0-9_]+)*"
SOURCE = r"(\S+\.rs):(0|[1-9][0-9]{0,8})"
STAMP = r"(20\d\d-\d\d-\d\d)[T ](\d\d:\d\d:[0-5]\d(?:\.\d{1,9})?)(Z|[+-]\d\d:\d\d|)"


@dataclass
class Options:
    zone: tzinfo | None = UTC
    hours24: bool = False
    source: bool = True
    strip_raw: bool = False
    key: bytes | None = None
    level: str | None = None
    targets: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass
class Start:
    """The first line of an event, taken apart."""

    time: datetime
    level: str
    target: str
    file: str
    number: str
    spans: str
    message: str
    more: list[str]


class Oracle:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.last_local: datetime | None = None
        self.kept: dict[str, bool] = {}
        self.wants: dict[str, bool] = {}
        self.in_time: dict[str, bool] = {}
        self.is_error: dict[str, bool] = {}
        self.inside_traceback: dict[str, bool] = {}
        self.services: set[str] = set()
        self.pem_left = 0
        self.block_kind = ""
        self.keys: dict[str, str] = {}
        self.counts: dict[str, int] = {}

    def format(self, data: bytes) -> bytes:
        lines = data.split(b"\n")
        if lines[-1] == b"":
            lines.pop()
        return "".join(shown + "\n" for line in lines for shown in self.line(line)).encode()

    def line(self, raw: bytes) -> list[str]:
        text = clean(readable(raw))
        prefix, service = "", ""
        start = self.start(text)
        if (
            start is None
            and (
                match := re.fullmatch(r"(([A-Za-z0-9][A-Za-z0-9_.@/-]{0,99}) +\|)(?: (.*))?", text)
            )
            and (match[2] in self.services or len(self.services) < MOST_SERVICES)
        ):
            prefix, service, text = match[1], match[2], match[3] or ""
            start = self.start(text)
        self.services.add(service)
        if not self.wanted(start, text, service):
            return []
        if start:
            start.file, start.spans, start.message = (
                self.redacted(part, stamped=True, message=part is start.message)
                for part in (start.file, start.spans, start.message)
            )
            shown = [
                self.friendly(start),
                *(self.trimmed(self.redacted(line)) for line in start.more),
            ]
        else:
            shown = [self.trimmed(self.redacted(text))]
        return [f"{prefix} {line}".rstrip() if prefix else line for line in shown]

    def trimmed(self, text: str) -> str:
        return text.lstrip() if self.options.strip_raw else text

    def friendly(self, start: Start) -> str:
        here = start.time.astimezone(self.options.zone)
        clock = here.strftime("%H:%M:%S" if self.options.hours24 else "%I:%M:%S")
        half = "" if self.options.hours24 else " AM" if here.hour < 12 else " PM"
        line = (
            f"[{here:%Y-%m-%d} {clock}.{here.microsecond // 1000:03d}{half} {here:%Z} ({here:%z})]"
            f" [{start.level}] [{start.target or '-'}]"
        )
        if self.options.source and start.file:
            file = re.sub(r"^\S*/registry/src/[^/\s]+/(?=[^/\s]+-\d)", "", start.file)
            line += f" {file}:" + (f"{start.number}:" if start.number else "")
        if start.spans:
            line += f" {start.spans}:"
        return f"{line} {start.message}" if start.message else line

    # --- dialects ---------------------------------------------------------------------------------

    def start(self, text: str) -> Start | None:
        for dialect in (self.friendly_line, self.json_line, self.icon_line, self.tracing_line):
            found = dialect(text)
            if found:
                return found
        return None

    def tracing_line(self, text: str) -> Start | None:
        match = re.fullmatch(rf"{STAMP} +({'|'.join(LEVELS)}) (.*)", text, re.ASCII)
        if not match:
            return None
        rest = match[5]
        # The target is the first module path that is followed by file and line; what is before it
        # is spans.
        for found in re.finditer(r"(?:^|: )(?=[A-Za-z_])", rest):
            tail = re.fullmatch(rf"({TARGET}): {SOURCE}:(?: (.*))?", rest[found.end() :], re.ASCII)
            if tail:
                return self.at(
                    match,
                    match[4],
                    tail[1],
                    (tail[2], tail[3]),
                    rest[: found.start()],
                    tail[4] or "",
                )
        tail = re.fullmatch(rf"({TARGET}): (.*)", rest, re.ASCII)
        return self.at(match, match[4], tail[1], ("", ""), "", tail[2]) if tail else None

    def icon_line(self, text: str) -> Start | None:
        match = re.fullmatch(rf"{STAMP} ([·●✓⚠✕]) (.*)", text, re.ASCII)
        if not match:
            return None
        level, target, source, spans, message = (
            LEVELS["·●✓⚠✕".index(match[4])],
            "",
            ("", ""),
            "",
            match[5],
        )
        if found := re.match(rf"({'|'.join(LEVELS)}) ", message):
            level, message = found[1], message[found.end() :]
            found = re.match(rf"({TARGET}) ", message, re.ASCII)
            if found and ("_" in found[1] or "::" in found[1]):
                target, message = found[1], message[found.end() :]
                if found := re.match(
                    r"((?:\S+: )*)([^\s]+\.rs):(0|[1-9][0-9]{0,8}) ", message, re.ASCII
                ):
                    spans = ":".join(found[1].split(": ")[:-1])
                    source, message = (found[2], found[3]), message[found.end() :]
        return self.at(match, level, target, source, spans, message)

    def friendly_line(self, text: str) -> Start | None:
        match = re.fullmatch(
            r"\[(20\d\d-\d\d-\d\d) (\d\d):(\d\d):([0-5]\d)\.(\d{3})(?: ([AP]M))? (\S{1,40})"
            r" \(([+-])(\d\d)(\d\d)\)\] "
            r"\[([A-Z]{1,9}|-)\] \[([^\]]*)\](?: (.*))?",
            text,
            re.ASCII,
        )
        if not match:
            return None
        hour = int(match[2])
        if match[6]:
            if not 1 <= hour <= 12:
                return None
            hour = hour % 12 + (12 if match[6] == "PM" else 0)
        try:
            offset = timedelta(hours=int(match[9]), minutes=int(match[10])) * (
                -1 if match[8] == "-" else 1
            )
            wall = datetime.fromisoformat(f"{match[1]} {hour:02d}:{match[3]}:{match[4]}.{match[5]}")
            time = wall.replace(tzinfo=timezone(offset)).astimezone(UTC)
        except ValueError:
            return None
        file, number, message = "", "", match[13] or ""
        if found := re.match(rf"{SOURCE}:(?: |$)", message, re.ASCII):
            file, number, message = found[1], found[2], message[found.end() :]
        return Start(
            time, match[11], "" if match[12] == "-" else match[12], file, number, "", message, []
        )

    def json_line(self, text: str) -> Start | None:
        try:
            document = json.loads(text) if text.startswith("{") and text.endswith("}") else None
        except (ValueError, RecursionError):
            return None
        if document is None:
            return None
        match = re.fullmatch(STAMP, str(document.get("timestamp")), re.ASCII)
        fields = document.get("fields")
        if not match or document.get("level") not in LEVELS or not isinstance(fields, dict):
            return None
        known = (
            "timestamp",
            "level",
            "fields",
            "target",
            "filename",
            "line_number",
            "span",
            "spans",
        )
        fields = fields | {name: value for name, value in document.items() if name not in known}
        words = [str(fields.pop("message", ""))]
        words += [" ".join(f"{name}={json_value(name, value)}" for name, value in fields.items())]
        lines = [clean(line) for line in " ".join(filter(None, words)).split("\n")]
        spans = document.get("spans") or [document.get("span")]
        shown_spans = (
            clean(":".join(json_span(span) for span in spans if span))
            if isinstance(spans, list)
            else ""
        )
        file, number = clean(str(document.get("filename") or "")), document.get("line_number")
        source = (file, str(number) if type(number) is int and number else "")
        return self.at(
            match,
            document["level"],
            clean(str(document.get("target") or "")),
            source,
            shown_spans,
            lines[0],
            lines[1:],
        )

    def at(
        self,
        stamp: re.Match[str],
        level: str,
        target: str,
        source: tuple[str, str],
        spans: str,
        message: str,
        more: Sequence[str] = (),
    ) -> Start | None:
        """Return the start with its time in UTC; None where that time does not exist."""
        seconds, _, fraction = stamp[2].partition(".")
        try:
            wall = datetime.fromisoformat(f"{stamp[1]} {seconds}").replace(
                microsecond=int(fraction[:6].ljust(6, "0"))
            )
            if stamp[3] == "Z":
                time = wall.replace(tzinfo=UTC)
            elif stamp[3]:
                time = datetime.fromisoformat(wall.isoformat() + stamp[3]).astimezone(UTC)
            else:
                time = self.local_to_utc(wall)
        except ValueError:
            return None
        return Start(time, level, target, *source, spans, message, list(more))

    def local_to_utc(self, wall: datetime) -> datetime:
        first = wall.replace(tzinfo=self.options.zone, fold=0).astimezone(UTC)
        second = wall.replace(tzinfo=self.options.zone, fold=1).astimezone(UTC)
        went_back = self.last_local is not None and first < self.last_local - timedelta(minutes=1)
        self.last_local = second if first < second and went_back else first
        return self.last_local

    # --- filters ----------------------------------------------------------------------------------

    def wanted(self, start: Start | None, text: str, service: str) -> bool:
        options = self.options
        level, target, time = (start.level, start.target, start.time) if start else ("", "", None)
        if level == "-":  # Plain text of which a collector told the time.
            level = ""
            time_kept = not (options.since and time < options.since) and not (
                options.until and time >= options.until
            )
            self.in_time[service] = time_kept
            self.kept[service] = time_kept and self.wants.get(
                service, not options.level and not options.targets
            )
        if start is None:
            traceback = text == "Traceback (most recent call last):"
            inside = self.inside_traceback.get(service, False)
            kills = not inside and any(re.match(pattern, text) for pattern in DEATHS)
            if kills or (traceback and not self.is_error.get(service, False)):
                level = "ERROR"
            goes_on = not text or text[0] in " \t" or any(map(text.startswith, CONTINUES))
            self.inside_traceback[service] = traceback or (inside and goes_on)
        else:
            self.inside_traceback[service] = False
        if level:
            self.is_error[service] = level == "ERROR"
        if not (options.level or options.targets or options.since or options.until):
            return True
        if not level:
            return self.kept.get(service, False)
        if time is not None:
            self.in_time[service] = not (options.since and time < options.since) and not (
                options.until and time >= options.until
            )
        in_time = self.in_time.get(service, not (options.since or options.until))
        wants = True
        if options.level and (
            level not in LEVELS or LEVELS.index(level) < LEVELS.index(options.level)
        ):
            wants = False
        if options.targets and not any(
            target == name or target.startswith(name + "::") for name in options.targets
        ):
            wants = False
        self.wants[service] = wants
        kept = in_time and wants
        self.in_time.setdefault(service, not (options.since or options.until))
        self.kept[service] = kept
        return kept

    # --- redaction --------------------------------------------------------------------------------

    def redacted(self, text: str, *, stamped: bool = False, message: bool = True) -> str:
        if self.options.key is None:
            return text
        if self.pem_left and message:
            is_part = ended = False
            for _ in range(MOST_WITHIN):
                shown = [(seen, *pem_edits(seen[0])) for seen in plain_lines_within(text)]
                shown = shown or [(unveiled(text), *pem_edits(unveiled(text)[0]))]
                seen, edits, ended = next((part for part in shown if part[1]), (None, [], False))
                text, is_part = edited(text, edits, seen) if seen else text, is_part or bool(edits)
                if ended or not edits:
                    break
            self.pem_left = 0 if ended else self.pem_left - is_part
        if self.block_kind and not stamped:
            kind = self.block_kind.removeprefix(WITHIN)
            within = WITHIN if kind != self.block_kind else ""
            seen = first_seen(text) if within else unveiled(text)
            edits = block_edits(kind, seen[0], self.pseudonym)
            following = next_block(kind, edits)
            self.block_kind = within + following if following else ""
            name = "text" if kind.startswith(("text", "scalar text")) else "key"
            if edits:
                self.counts[name] = self.counts.get(name, 0) + len(edits)
                text = edited(text, edits, seen)
        plain = unveiled(text)[0]
        if PEM_OPEN.search(plain):
            self.pem_left = PEM_LINES
        inner = [opened_block(seen[0]) for seen in plain_lines_within(text)[:1]]
        opened = [WITHIN + kind for kind in inner if kind]
        self.block_kind = next(filter(None, [*opened, opened_block(plain), self.block_kind]), "")
        self.keys = {}
        for _ in range(MOST_PASSES):
            before = sum(self.counts.values())
            number, seen_all = 0, plain_lines_within(text) + plain_views(text)
            while number < len(seen_all):
                for rule in RULES:
                    if number < len(seen_all):
                        after = self.by_rule(rule, text, seen_all[number])
                        if after != text:
                            text = after
                            seen_all = plain_lines_within(text) + plain_views(text)
                number += 1
            for rule in RULES:
                text = self.by_rule(rule, text, None)
            if sum(self.counts.values()) == before:
                break
        for value, shown in self.keys.items():
            if value in text:
                self.counts["key"] = self.counts.get("key", 0) + text.count(value)
                text = text.replace(value, shown)
        return text

    def by_rule(self, rule: Rule, text: str, seen: Seen | None) -> str:
        found = [
            rule.edit(match, self.remember)
            for match in rule.pattern.finditer(seen[0] if seen else text)
        ]
        edits = [edit for edit in found if edit is not None]
        if edits:
            self.counts[rule.name] = self.counts.get(rule.name, 0) + len(edits)
        if seen is None:
            for begin, end, instead in reversed(edits):
                text = text[:begin] + instead + text[end:]
            return text
        return edited(text, edits, seen) if edits else text

    def remember(self, kind: str, value: str) -> str:
        shown = self.pseudonym(kind, value)
        if kind == "key" and len(value) >= MIN_VALUE_CHARS:
            self.keys[value] = shown
        return shown

    def pseudonym(self, kind: str, value: str) -> str:
        digest = hmac.new(
            self.options.key or b"", f"{kind}\0{value}".encode("utf-8", "surrogatepass"), "sha256"
        ).hexdigest()
        return f"<{kind}:{digest[:8]}>"


def readable(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace").removeprefix("\ufeff")


def clean(text: str) -> str:
    while re.search(r"\x1b\[[0-9;]*m", text):
        text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub("\0{256,}", lambda hole: f"\\x00 ({len(hole[0])} times)", text.rstrip(" \t\r"))
    out = []
    for char in text.rstrip(" \t\r"):
        code = ord(char)
        turns = (
            code in range(0x202A, 0x202F)
            or code in range(0x2066, 0x206A)
            or code in (0x200E, 0x200F, 0x2028, 0x2029)
        )
        if (code < 0x20 and char != "\t") or 0x7F <= code < 0xA0:
            out.append(f"\\x{code:02x}")
        elif turns or 0xD800 <= code < 0xE000:
            out.append(f"\\u{code:04x}")
        else:
            out.append(char)
    return "".join(out)


def json_value(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    like_rust = value[:1] in ('"', "[", "(", "{") or re.match(r"[A-Z][A-Za-z0-9_]*[ ({]", value)
    return (
        value
        if name in ("err", "error") or like_rust or not re.search(r"\s", value)
        else json.dumps(value, ensure_ascii=False)
    )


def json_span(span: Any) -> str:
    if not isinstance(span, dict):
        return json.dumps(span, ensure_ascii=False)
    fields = " ".join(
        f"{name}={json_value(name, value)}" for name, value in span.items() if name != "name"
    )
    return f"{span.get('name', '')}" + (f"{{{fields}}}" if fields else "")


# --- disguise: each character with the place it came from -----------------------------------------

Seen = tuple[str, list[tuple[int, int]]]


def identity(text: str) -> Seen:
    return text, [(place, place + 1) for place in range(len(text))]


def unveiled(text: str) -> Seen:
    return resolved(text, TOKEN)


def first_seen(text: str) -> Seen:
    return next(iter(plain_lines_within(text)), unveiled(text))


def plain_lines_within(text: str) -> list[Seen]:
    """The innermost lines in JSON or cells of CSV, each without its disguise and with it."""
    lines: list[Seen] = []
    for seen in innermost(identity(text), 0)[:MOST_WITHIN]:
        bare = resolved_from(seen, TOKEN)
        lines += [seen] if bare[0] == seen[0] else [bare, seen]
    return lines


def innermost(seen: Seen, depth: int) -> list[Seen]:
    shown, places = seen
    cells = list(CSV_CELL.finditer(shown)) if '"{""' in shown else []
    at = shown.find("{")
    found = cells or (list(MESSAGE.finditer(shown, at)) if at >= 0 else [])
    found = found[:MOST_WITHIN] if depth < 4 else []
    if not found:
        return [seen] if depth else []
    first = [match for match in found if cells or not match["other"]]
    lines: list[Seen] = []
    for match in first + [match for match in found if match not in first]:
        out, where, at = "", [], match.start("inner")
        while at < match.end("inner"):
            width, char = 1, shown[at]
            if cells and char == '"':
                width = 2
            elif not cells and (spelled := re.match(r"\\(?:u[0-9a-fA-F]{4}|.)", shown[at:])):
                sign = spelled[0][1]
                width = len(spelled[0]) if sign in 'u"\\/tnrbf' else 1
                char = {"t": "\t"}.get(sign, " " if sign in "nrbf" else sign)
                if width == 6:
                    code = int(shown[at + 2 : at + 6], 16)
                    char = "" if 0xD800 <= code < 0xE000 else chr(code)
                elif sign == "u":
                    width, char = 1, "\\"
                char = char if width > 1 else "\\"
            if char:
                out += char
                where.append((places[at][0], places[at + width - 1][1]))
            at += width
        lines += innermost((out.rstrip(), where[: len(out.rstrip())]), depth + 1)
    return lines


def plain_views(text: str) -> list[Seen]:
    if not DISGUISED.search(text):
        return []
    found = [resolved(text, TOKEN)]
    if has_more_views(text):
        found += [resolved(text, PAYLOAD_TOKEN), overprinted(resolved(text, TOKEN, keep=True))]
    views: list[Seen] = []
    for seen in found:
        if seen[0] not in (text, *(shown for shown, _ in views)):
            views.append(seen)
    return views


def resolved(text: str, token: re.Pattern[str], *, keep: bool = False) -> Seen:
    return resolved_from(identity(text), token, keep=keep)


def resolved_from(seen: Seen, token: re.Pattern[str], *, keep: bool = False) -> Seen:
    shown, places = seen
    for _ in range(4):
        if not DISGUISED.search(shown):
            break
        out, where, at = [], [], 0
        while at < len(shown):
            match = token.match(shown, at)
            if match is None:
                out.append(shown[at])
                where.append(places[at])
                at += 1
                continue
            span = (places[at][0], max(stop for _, stop in places[at : match.end()]))
            instead = meaning(match)
            if keep and match.lastgroup == "gone" and "\r" in match[0]:
                instead = "\r"
            if match.lastgroup == "bytes":
                for number in re.finditer(r"\d+", match[0]):
                    begin, end = at + number.start(), at + number.end()
                    out.append(chr(int(number[0]) % 256))
                    where.append((places[begin][0], places[end - 1][1]))
            else:
                out += instead
                where += [span] * len(instead)
            at = match.end()
        if "".join(out) == shown:
            break
        shown, places = "".join(out), where
    return shown, places


def overprinted(seen: Seen) -> Seen:
    cells: list[tuple[str, tuple[int, int]]] = []
    column = 0
    for char, place in zip(*seen, strict=True):
        if char == "\r":
            column = 0
            continue
        cells[column : column + 1] = [(char, place)]
        column += 1
    return "".join(char for char, _ in cells), [place for _, place in cells]


def edited(text: str, edits: Sequence[Edit], seen: Seen) -> str:
    """Return a text with edits of what is seen of it made: what was written over goes too."""
    replaced: dict[int, str] = {}
    for begin, end, instead in edits:
        runs: list[list[int]] = []
        for start, stop in seen[1][begin:end]:
            follows = (
                runs
                and start >= runs[-1][0]
                and (start <= runs[-1][1] or not shows_between(seen, runs[-1][1], start))
            )
            if follows:
                runs[-1][1] = max(runs[-1][1], stop)
            else:
                runs.append([start, stop])
        for number, (start, stop) in enumerate(sorted(runs)):
            for place in range(start, stop):
                replaced[place] = ""
            replaced[start] = "" if number else instead
    return "".join(replaced.get(place, char) for place, char in enumerate(text))


def shows_between(seen: Seen, begin: int, end: int) -> bool:
    """Return whether the view is pieced together, so that a gap is not only what was removed."""
    return begin < end and seen[1] != sorted(seen[1])
