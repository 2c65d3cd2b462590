"""Server logs of every dialect, made from a random source: for fuzzing, for the seeded corpus and
for benchmarks.

The dialects are written here from their description, independently of the code that reads them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

START = datetime(2025, 11, 15, 8, 39, 3, 595169, tzinfo=UTC)


@dataclass(frozen=True)
class Event:
    """What a server logs. Field values are written as they are, as Rust's Debug left them."""

    time: datetime
    level: str
    target: str
    file: str
    line: int
    message: str
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return " ".join(
            [self.message, *(f"{name}={value}" for name, value in self.fields.items())]
        ).strip()


Dialect = Callable[[Event], str]

COLOURS = {"INFO": 32, "WARN": 33, "ERROR": 31, "DEBUG": 34, "TRACE": 35}


def dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m"


def ansi(event: Event) -> str:
    """The file and console format of moshi-server."""
    stamp = event.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    fields = [f"\x1b[3m{name}\x1b[0m{dim('=')}{value}" for name, value in event.fields.items()]
    message = " ".join(filter(None, [event.message, *fields]))
    return (
        f"{dim(stamp)} \x1b[{COLOURS[event.level]}m{event.level:>5}\x1b[0m "
        f"{dim(event.target)}{dim(':')} "
        f"{dim(event.file)}{dim(':')}{dim(f'{event.line}:')} {message}"
    )


def plain(event: Event) -> str:
    """The same with NO_COLOR."""
    stamp = event.time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{stamp} {event.level:>5} {event.target}: {event.file}:{event.line}: {event.text}"


def spans(event: Event) -> str:
    """The same at debug level, inside two spans."""
    return plain(event).replace(
        f" {event.target}: ",
        f' request{{method=GET uri="/api: x"}}:session{{id=7}}: {event.target}: ',
        1,
    )


def registry_path(event: Event) -> str:
    """The colours of a server built by `cargo install`, at another line."""
    folder = "/usr/local/cargo/registry/src/index.crates.io-1949cf8c6b5b557f/moshi-server-0.6.4/"
    return ansi(
        Event(
            event.time,
            event.level,
            event.target,
            folder + event.file,
            event.line + 7,
            event.message,
            event.fields,
        )
    )


def local_stamp(event: Event) -> str:
    here = event.time.astimezone(ZoneInfo("America/New_York"))
    return here.strftime("%Y-%m-%d %H:%M:%S.") + f"{here.microsecond // 1000:03d}"


def local_time(event: Event) -> str:
    """The fork's file format: local time without a zone."""
    return (
        f"{local_stamp(event)} {event.level:>5} {event.target}: {event.file}:{event.line}:"
        f" {event.text}"
    )


def json_lines(event: Event) -> str:
    """The fork's `--json`."""
    fields = {"message": event.message} if event.message else {}
    numbers = {
        name: int(value) if value.isdigit() else value for name, value in event.fields.items()
    }
    document = {
        "timestamp": local_stamp(event),
        "level": event.level,
        "fields": {**fields, **numbers},
        "target": event.target,
        "filename": event.file,
        "line_number": event.line,
    }
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False)


ICONS = {"TRACE": "·", "DEBUG": "●", "INFO": "✓", "WARN": "⚠", "ERROR": "✕"}


def pretty(event: Event) -> str:
    """The fork's console, in colour."""
    code = COLOURS[event.level]
    return (
        f"{local_stamp(event)} \x1b[{code}m{ICONS[event.level]} {event.level}\x1b[0m"
        f" \x1b[2m{event.target}\x1b[0m {event.text}"
    )


def verbose(event: Event) -> str:
    file = event.file.rpartition("/")[2]
    return (
        f"{local_stamp(event)} {ICONS[event.level]} {event.level} {event.target} session:"
        f" {file}:{event.line} {event.text}"
    )


def compact(event: Event) -> str:
    return f"{local_stamp(event)} {ICONS[event.level]} {event.level} {event.text}"


def icon_only(event: Event) -> str:
    return f"{local_stamp(event)} {ICONS[event.level]} {event.text}"


def friendly(event: Event) -> str:
    """A line that was formatted before, in another zone."""
    here = event.time.astimezone(ZoneInfo("Asia/Kolkata"))
    stamp = (
        here.strftime("%Y-%m-%d %I:%M:%S.")
        + f"{here.microsecond // 1000:03d} {here:%p %Z} ({here:%z})"
    )
    return f"[{stamp}] [{event.level}] [{event.target}] {event.file}:{event.line}: {event.text}"


def friendly_24h(event: Event) -> str:
    stamp = (
        event.time.strftime("%Y-%m-%d %H:%M:%S.")
        + f"{event.time.microsecond // 1000:03d} UTC (+0000)"
    )
    return f"[{stamp}] [{event.level}] [{event.target}] {event.file}:{event.line}: {event.text}"


def compose(inner: Dialect, name: str = "stt-1") -> Dialect:
    """What `docker compose logs` makes of a dialect."""

    def in_container(event: Event) -> str:
        return f"{name:<8} | {inner(event)}"

    return in_container


DIALECTS: dict[str, Dialect] = {
    "ansi": ansi,
    "plain": plain,
    "spans": spans,
    "registry_path": registry_path,
    "local_time": local_time,
    "json_lines": json_lines,
    "pretty": pretty,
    "verbose": verbose,
    "compact": compact,
    "icon_only": icon_only,
    "friendly": friendly,
    "friendly_24h": friendly_24h,
    "compose_ansi": compose(ansi),
    "compose_plain": compose(plain, "tts-1"),
    "compose_json": compose(json_lines, "stt.gpu_2"),
}


def step(rng: random.Random, time: datetime, index: int) -> Event:
    """The line a server writes for each model step."""
    fields = {"step_idx": str(index), "with_data": str(rng.randint(1, 64))}
    return Event(
        time,
        "INFO",
        "moshi_server::batched_asr",
        "src/batched_asr.rs",
        268,
        f"{rng.uniform(4, 180):.2f}ms",
        fields,
    )


def other(rng: random.Random, time: datetime) -> Event:
    """Any other line without a secret in it."""
    server, asr, utils = "moshi_server", "moshi_server::batched_asr", "moshi_server::utils"
    choices: list[tuple[str, str, str, int, str, dict[str, str]]] = [
        (
            "INFO",
            server,
            "src/main.rs",
            549,
            "starting worker",
            {"num_workers": str(rng.randint(1, 128))},
        ),
        (
            "INFO",
            server,
            "src/main.rs",
            576,
            f"listening on http://0.0.0.0:{rng.randint(1024, 65535)}",
            {},
        ),
        (
            "INFO",
            server,
            "src/main.rs",
            475,
            "",
            {
                "build_info": (
                    f'BuildInfo {{ git_hash: "{rng.getrandbits(160):040x}", rustc: "1.85.0" }}'
                )
            },
        ),
        ("INFO", asr, "src/batched_asr.rs", 228, f"starting asr loop {rng.choice([2, 64])}", {}),
        ("INFO", server, "src/main.rs", 884, "handling batched asr-streaming query", {}),
        (
            "INFO",
            asr,
            "src/batched_asr.rs",
            565,
            "batched-asr ws query",
            {"query": "AsrStreamingQuery { auth_id: None }"},
        ),
        (
            "INFO",
            asr,
            "src/batched_asr.rs",
            584,
            "batched-asr channel",
            {"batch_idx": str(rng.randint(0, 63))},
        ),
        (
            "INFO",
            asr,
            "src/batched_asr.rs",
            301,
            "received marker",
            {"bid": str(rng.randint(0, 63)), "id": str(rng.randint(0, 9))},
        ),
        (
            "INFO",
            "moshi_server::lm",
            "src/lm.rs",
            90,
            "sampled text token",
            {"text_token": str(rng.randint(0, 8000))},
        ),
        (
            "INFO",
            utils,
            "src/utils.rs",
            217,
            "task completed successfully",
            {"name": '"send_loop"'},
        ),
        (
            "DEBUG",
            "tower_http::trace::on_request",
            "src/on_request.rs",
            80,
            "started processing request",
            {},
        ),
        (
            "WARN",
            "moshi_server::lm",
            "src/lm.rs",
            120,
            f"unexpected msg type {rng.randint(0, 9)}",
            {},
        ),
        ("ERROR", asr, "src/batched_asr.rs", 570, "no free channels", {}),
        (
            "ERROR",
            utils,
            "src/utils.rs",
            218,
            "task failed",
            {"name": '"model_loop"', "err": "DriverError(CUDA_ERROR_NOT_FOUND)"},
        ),
        (
            "INFO",
            server,
            "src/main.rs",
            600,
            "voice",
            {"path": '"expresso/p329_022.wav.1e68beda@240.safetensors"'},
        ),
        ("INFO", server, "src/main.rs", 601, "cudnn 9.1.0.70, driver 550.54.15, moshi 0.2.13", {}),
    ]
    level, target, file, line, message, fields = rng.choice(choices)
    return Event(time, level, target, file, line, message, fields)


BUILD_INFO = (
    'BuildInfo { git_hash: "3f2a9bc4d5e6f7081920a1b2c3d4e5f60718293a", rustc_version: "1.91.1",'
    ' debug: "false" }'
)
CAUSES = [
    "",
    "Caused by:",
    "    0: WebSocket protocol error: Connection reset without closing handshake",
    "    1: Connection reset",
]
TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/opt/moshi/tts.py", line 212, in step',
    "    frame = self.mimi.decode(codes)",
    "RuntimeError: CUDA error: no kernel image is available",
]
PRINTS = [
    "loading tts model",
    "tts ready  ",
    "Fetching 3 files:  33%|###3      | 1/3 [00:01<00:02]",
    "warm-up é ✓ done",
    "  indented",
    "\tx",
]


def server_log(
    rng: random.Random,
    lines: int,
    *,
    start: datetime = START,
    gap_ms: int = 80,
    steps: float = 0.9,
    dialects: Iterator[str] | None = None,
) -> Iterator[str]:
    """Yield about so many lines of a log: runs of one dialect, mostly steps, with causes,
    tracebacks and prints between them.
    """
    time, index = start, rng.randint(0, 10**6)
    name = "ansi"
    for _ in range(lines):
        if dialects is None and rng.random() < 0.1:
            name = rng.choice(sorted(DIALECTS))
        elif dialects is not None:
            name = next(dialects)
        time += timedelta(microseconds=rng.randint(1, 2000 * gap_ms))
        index += 1
        if rng.random() < steps:
            yield DIALECTS[name](step(rng, time, index))
            continue
        event = other(rng, time)
        yield DIALECTS[name](event)
        prefix = "stt-1    | " if name.startswith("compose") else ""
        if event.level == "ERROR" and rng.random() < 0.7:
            yield from (prefix + line for line in CAUSES)
        elif rng.random() < 0.2:
            yield from (prefix + line for line in TRACEBACK)
        elif rng.random() < 0.3:
            yield prefix + rng.choice(PRINTS)
