"""Logs come out of their wrappers as they went in, whatever the collector and wherever they are
cut.
"""

import json
import random
from datetime import UTC
from pathlib import Path

import pytest

from dsmops.logs import Clock, Filter, Formatter, Redactor, Style, parse, unwrapped
from dsmops.logs.blocks import cut_blocks
from dsmops.logs.wrappers import WRAPPERS
from tests.logs.server_logs import CAUSES, DIALECTS, START, Event, other, server_log, step
from tests.logs.wrapping import (
    NAMED_WRAPS,
    WRAPS,
    docker_json,
    docker_json_without_ends,
    journal_json,
    rsyslog_5424,
)

KEY = b"a key for tests only"


def formatted(
    lines: list[str],
    *,
    size: int = 1 << 20,
    wrapper: str = "auto",
    jsonl: bool = False,
    level: str = "",
    bulk_from_bytes: int = 1 << 60,
) -> str:
    formatter = Formatter(
        Style(Clock(UTC), jsonl=jsonl),
        redactor=Redactor(KEY),
        wanted=Filter(level or None),
        wrapper=wrapper,
        bulk_from_bytes=bulk_from_bytes,
    )
    data = "".join(line + "\n" for line in lines).encode()
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    out = b"".join(map(formatter.feed, cut_blocks(chunks)))
    return (out + formatter.flush()).decode()


def log_lines(dialect: str, seed: int = 1) -> list[str]:
    """Lines that bear a time of their own, and what continues them."""
    rng = random.Random(seed)
    lines = []
    for index in range(60):
        event = step(rng, START, index) if rng.random() < 0.5 else other(rng, START)
        lines.append(DIALECTS[dialect](event))
        if event.level == "ERROR":
            lines += CAUSES
    lines.append(
        DIALECTS[dialect](Event(START, "INFO", "moshi_server", "src/main.rs", 9, "x" * 17_000))
    )
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["ansi", "json_lines", "friendly"])
@pytest.mark.parametrize("name", WRAPS)
def test_what_comes_out_is_what_went_in(name: str, dialect: str) -> None:
    """The formatted log of a wrapped log is that of the bare one, byte for byte, also as JSON Lines
    and cut into small chunks.
    """
    lines = log_lines(dialect)
    wrapped = list(WRAPS[name](lines))
    for jsonl in (False, True):
        expected = formatted(lines, jsonl=jsonl, wrapper="none")
        assert formatted(wrapped, jsonl=jsonl) == expected
        assert formatted(wrapped, jsonl=jsonl, size=1000) == expected


@pytest.mark.slow
@pytest.mark.parametrize("bulk_from_bytes", [0, 1 << 60])
@pytest.mark.parametrize("name", WRAPS)
def test_a_wrapper_may_begin_and_end_anywhere(name: str, bulk_from_bytes: int) -> None:
    """Joined logs: bare for long, then wrapped, then in another wrapper, then bare again."""
    bare, lines = log_lines("ansi", 1) * 12, log_lines("ansi", 2)
    joined = [*bare, *WRAPS[name](lines), *WRAPS["containerd"](lines), *bare]
    for jsonl in (False, True):
        expected = formatted([*bare, *lines, *lines, *bare], jsonl=jsonl, wrapper="none")
        for size in (1 << 20, 1000):
            found = formatted(joined, jsonl=jsonl, size=size, bulk_from_bytes=bulk_from_bytes)
            assert found == expected
    text = "".join(line + "\n" for line in joined).encode()
    assert b"stderr F" not in unwrapped(text)


@pytest.mark.parametrize("name", NAMED_WRAPS)
def test_a_container_that_is_named_is_named_before_each_line(name: str) -> None:
    """Where the collector says whose line it is, the name stays, as docker compose writes it."""
    wrap, prefix = NAMED_WRAPS[name]
    lines = log_lines("ansi")
    expected = formatted(lines, wrapper="none").splitlines()
    assert formatted(list(wrap(lines))).splitlines() == [
        f"{prefix} {line}".rstrip() for line in expected
    ]


def test_the_collectors_time_is_used_where_a_line_has_none() -> None:
    """A print bears no time: it gets the collector's, in its zone and in JSON.

    Causes stay with their event.
    """
    bare = DIALECTS["plain"](Event(START, "ERROR", "moshi_server", "src/main.rs", 7, "bad"))
    lines = list(docker_json([bare, "Caused by:", "    0: reset", "loading voices"]))
    shown = formatted(lines).splitlines()
    assert shown[1:3] == ["Caused by:", "    0: reset"]
    assert shown[3] == "[2025-11-15 08:39:04.151 AM UTC (+0000)] [-] [-] loading voices"
    again = formatted(shown)
    assert again.splitlines() == shown
    documents = [json.loads(line) for line in formatted(lines, jsonl=True).splitlines()]
    assert documents[0]["continuation"] == ["Caused by:", "    0: reset"]
    assert documents[1]["time"] == "2025-11-15T08:39:04.151456Z"
    assert (documents[1]["format"], documents[1]["level"]) == ("text", None)


def test_lines_of_docker_without_their_ends_are_not_one_line() -> None:
    """What collects docker's objects may drop the line end, which marks a line as complete."""
    record = DIALECTS["ansi"](Event(START, "INFO", "moshi_server", "src/main.rs", 7, "hello"))
    panic = ["thread 'main' panicked at src/a.rs:1:2:", "boom", "note: run with x"]
    lines = [record, *panic, record]
    texts = [
        line.split("[-] ")[-1]
        for line in formatted([*docker_json_without_ends(lines)]).splitlines()
    ]
    assert texts[1:4] == panic
    assert len(texts) == 5
    lines = log_lines("ansi")
    wrapped = list(docker_json_without_ends(lines))
    assert (
        unwrapped("".join(f"{line}\n" for line in wrapped).encode())
        == "".join(f"{line}\n" for line in lines).encode()
    )


def test_padding_is_known_where_a_log_begins_in_a_backtrace() -> None:
    """What rsyslog put before each text goes from the first line with a time on."""
    record = DIALECTS["ansi"](Event(START, "INFO", "moshi_server", "src/main.rs", 7, "hello"))
    wrapped = list(rsyslog_5424(["   0: rust_begin_unwind", record, record]))
    shown = formatted(wrapped).splitlines()
    assert shown[1:] == formatted([record, record], wrapper="none").splitlines()


def test_other_programs_of_a_syslog_are_named() -> None:
    """In a journal of several programs the server's lines come bare, those of others with their
    name.
    """
    line = DIALECTS["ansi"](Event(START, "INFO", "moshi_server", "src/main.rs", 7, "hello"))
    lines = [
        "Nov 15 08:39:03 gpu-1 systemd[1]: Started moshi.",
        f"Nov 15 08:39:03 gpu-1 moshi-server[7]: {line}",
        "Nov 15 08:39:04 gpu-1 kernel: NVRM: Xid (PCI:0000:65:00): 79",
    ]
    shown = formatted(lines).splitlines()
    assert shown[0].startswith("systemd | [")
    assert shown[1].startswith("[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO]")
    assert shown[2].startswith("kernel | [")
    assert shown[2].endswith("NVRM: Xid (PCI:0000:65:00): 79")


def test_a_bare_log_is_not_taken_for_a_wrapped_one(shared_data: Path) -> None:
    """Nothing is unwrapped of real and generated logs, however they begin."""
    files = [*(shared_data / "logs").iterdir(), *(shared_data / "real-server" / "logs").iterdir()]
    for file in files:
        assert unwrapped(file.read_bytes()) == file.read_bytes()
    data = "\n".join([*server_log(random.Random(3), 600), ""]).encode()
    assert unwrapped(data) == data


def test_a_wrapper_can_be_forced_and_refused() -> None:
    """Where detection cannot know, `--wrapper` does; `none` leaves everything as it is."""
    lines = ["2025-11-15T08:39:04.000000001Z loading", "2025-11-15T08:39:05Z done"]
    assert formatted(lines).splitlines() == lines
    assert formatted(lines, wrapper="timestamps").splitlines() == [
        "[2025-11-15 08:39:04.000 AM UTC (+0000)] [-] [-] loading",
        "[2025-11-15 08:39:05.000 AM UTC (+0000)] [-] [-] done",
    ]
    wrapped = list(docker_json(["a"]))
    assert formatted(wrapped, wrapper="none").splitlines() == wrapped
    assert set(WRAPPERS) >= {"docker-json", "containerd", "kubectl", "journald-json", "syslog"}


def test_damaged_wrappers_lose_nothing() -> None:
    """A line that is cut, or is not a line of the collector, stays as it is.

    Parts without an end come out.
    """
    lines = list(docker_json(["one", "two"]))
    damaged = [lines[0], lines[1][:20], "free text", json.dumps({"log": "rest", "time": "x"})]
    shown = formatted(damaged).splitlines()
    assert shown[0].endswith("[-] [-] one")
    assert shown[1:] == [lines[1][:20], "free text", "rest"]
    assert formatted(['{"log":7,"time":""}', '{"MESSAGE":null}', "{}"]).count("\n") == 3


DEATHS = [
    ["thread 'main' panicked at src/main.rs:12:5:", "called `unwrap()` on an `Err`", "note: run with `RUST_BACKTRACE=1`"],
    ["thread 'tokio-runtime-worker' (4711) panicked at /a/b.rs:1:2:", "boom", "stack backtrace:", "   0: rust_begin_unwind"],
    ["Error: DriverError(CUDA_ERROR_OUT_OF_MEMORY)", "", "Caused by:", "    0: x", "Stack backtrace:", "   0: <unknown>"],
    ["thread 'main' (7) panicked at /a/b.rs:1:2:", "boom", "stack backtrace:", "   0: rust_begin_unwind", "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace."],
    ["thread 'main' has overflowed its stack"],
    ["memory allocation of 1073741824 bytes failed"],
    ["Segmentation fault (core dumped)"],
    ["./run.sh: line 3:  4711 Segmentation fault      (core dumped) moshi-server worker"],
    ["./run.sh: line 3:  4711 Killed                  moshi-server worker"],
    ["Aborted"],
    ["free(): invalid pointer"],
    ["terminate called after throwing an instance of 'c10::Error'", "  what():  CUDA error"],
    ["/pytorch/aten/Indexing.cu:1236: f: block: [0,0,0], thread: [1,0,0] Assertion `a < b` failed."],
    ["moshi: cache.c:12: get: Assertion `x' failed."],
    ["CUDA error: device-side assert triggered", "CUDA kernel errors might be asynchronously reported"],
    ["Fatal Python error: Segmentation fault", "", "Current thread 0x00007f2a (most recent call first):", "  File \"x.py\", line 1 in f", "", "Thread 0x00007f2b [moshi] (most recent call first):", "  <no Python frame>", "", "Extension modules: numpy.core (total: 1)"],
    ["terminate called after throwing an instance of 'c10::Error'", "  what():  CUDA error: unspecified launch failure", "Exception raised from c10_cuda_check_implementation at ../c10/cuda/CUDAException.cpp:43 (most recent call first):", "frame #0: c10::Error::Error(c10::SourceLocation, std::string) + 0x80 (0x7f in libc10.so)"],
    ["moshi-server: error while loading shared libraries: libpython3.12.so.1.0: cannot open shared object file: No such file or directory"],
    ["moshi-server[4711]: segfault at 0 ip 0000560d2 sp 00007ffd error 4 in moshi-server[560d2+1000]"],
    ["NVRM: Xid (PCI:0000:65:00): 79, pid=4711, name=moshi-server, GPU has fallen off the bus."],
    ["moshi.service: Main process exited, code=killed, status=9/KILL"],
    ["moshi.service: A process of this unit has been killed by the OOM killer."],
    ["stt-1 exited with code 137"],
    ["*** buffer overflow detected ***: terminated"],
    ["Traceback (most recent call last):", '  File "a.py", line 1, in f', "RuntimeError: CUDA error", "Compile with `TORCH_USE_CUDA_DSA`"],
]  # fmt: skip


@pytest.mark.parametrize("death", DEATHS, ids=lambda death: death[0][:30])
@pytest.mark.parametrize("wrap", [None, docker_json, journal_json])
def test_what_kills_a_server_is_one_event_of_level_error(death: list[str], wrap: object) -> None:
    """`--level error` keeps it with all its lines, between quiet lines, bare and in wrappers.

    JSON Lines has it once.
    """
    quiet = DIALECTS["plain"](Event(START, "INFO", "moshi_server", "src/main.rs", 7, "fine"))
    lines = [quiet, *death, quiet]
    lines = list(wrap(lines)) if callable(wrap) else lines
    shown = formatted(lines, level="ERROR").splitlines()
    assert [line.split("[-] ")[-1] for line in shown][1:] == death[1:]
    assert shown[0].endswith(death[0])
    documents = [json.loads(line) for line in formatted(lines, jsonl=True).splitlines()]
    assert [document["message"] for document in documents] == ["fine", death[0], "fine"]
    assert documents[1]["level"] == "ERROR"
    assert documents[1]["continuation"] == death[1:]


def test_a_registry_path_is_shown_from_the_crate_on() -> None:
    """Every line of a server that cargo installed; JSON Lines keeps both."""
    path = "/home/op/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/moshi-server-0.6.4/src/main.rs"
    line = f"2025-11-15T08:39:03.595169Z  INFO moshi_server: {path}:475: hello"
    assert formatted([line]).endswith("[moshi_server] moshi-server-0.6.4/src/main.rs:475: hello\n")
    document = json.loads(formatted([line], jsonl=True))
    assert document["short_file"] == "moshi-server-0.6.4/src/main.rs"
    assert document["file"].endswith("b557f/moshi-server-0.6.4/src/main.rs")


def test_parse_gives_the_records_of_a_wrapped_log() -> None:
    """The records of `parse` are those of the bare log once it is unwrapped."""
    lines = log_lines("ansi")
    data = "\n".join(WRAPS["docker_json"](lines)).encode()
    bare = list(parse([line.encode() for line in lines], Clock(UTC)))
    assert list(parse(unwrapped(data).split(b"\n")[:-1], Clock(UTC))) == bare
