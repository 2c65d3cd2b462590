"""Whole runs: where output goes, that it is whole, and that a file in sections is the file in one
go.
"""

import errno
import gzip
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import zstandard

from dsmops.errors import InputError, SourceError
from dsmops.logs import (
    Clock,
    Filter,
    FormatReport,
    Formatter,
    Redactor,
    Style,
    format_log,
    plan_output,
    sections,
)
from tests.logs.oracle import Options, Oracle
from tests.logs.server_logs import START, Event, ansi, compose, local_time, plain, server_log, step
from tests.support.processes import open_pipes

KEY = b"a key for tests only"


def run(
    source: Path | str,
    output: Path | str | None = None,
    *,
    zone: str = "UTC",
    key: bytes | None = KEY,
    jsonl: bool = False,
) -> FormatReport:
    return format_log(
        str(source),
        None if output is None else str(output),
        style=Style(Clock(ZoneInfo(zone)), jsonl=jsonl),
        key=key,
    )


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.stt.2025-11-15"
    path.write_text("\n".join(server_log(random.Random(1), 200)) + "\n", encoding="utf-8")
    return path


# --- where the output goes ------------------------------------------------------------------------


def test_a_raw_folder_is_left_by_one_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from the real place of the file: from inside the folder, through a link, and not for a
    folder of another name.
    """
    raw = tmp_path / "moshi-logs" / "raw"
    raw.mkdir(parents=True)
    (raw / "log.x").write_text("")
    assert plan_output(str(raw / "log.x"), None) == tmp_path / "moshi-logs" / "log.x"
    monkeypatch.chdir(raw)
    assert plan_output("log.x", None) == tmp_path / "moshi-logs" / "log.x"
    (tmp_path / "current").symlink_to(raw / "log.x")
    assert plan_output(str(tmp_path / "current"), None) == tmp_path / "moshi-logs" / "log.x"
    (tmp_path / "log.y").write_text("")
    assert plan_output(str(tmp_path / "log.y"), None) == tmp_path / "friendly-log.y"


def test_streams_stay_streams() -> None:
    """Standard input goes to standard output, and `-o -` is standard output for a file too."""
    assert plan_output("-", None) is None
    assert plan_output("log.x", "-") is None
    assert plan_output("-", "out") == Path("out")
    assert plan_output("log.x", None, following=True) is None


def test_pipes_and_devices_go_to_standard_output(tmp_path: Path) -> None:
    """`format-log <(zcat log.gz)` has no place beside its input.

    Nothing is made in /dev or /proc.
    """
    os.mkfifo(tmp_path / "pipe")
    assert plan_output(str(tmp_path / "pipe"), None) is None
    assert plan_output("/dev/null", None) is None
    assert plan_output(str(tmp_path / "pipe"), "out") == Path("out")


def test_the_input_is_never_the_output(log: Path, tmp_path: Path) -> None:
    """Not by the same name, nor by a hard or symbolic link; the input is as it was."""
    before = log.read_bytes()
    os.link(log, tmp_path / "hard")
    (tmp_path / "soft").symlink_to(log)
    for output in (log, tmp_path / "hard", tmp_path / "soft", tmp_path / "." / log.name):
        with pytest.raises(InputError, match="would overwrite"):
            run(log, output)
    assert log.read_bytes() == before


def test_a_missing_input_leaves_the_output_as_it_was(tmp_path: Path) -> None:
    """Nothing is opened for writing before there is something to read."""
    (tmp_path / "out").write_text("old")
    with pytest.raises(SourceError):
        run(tmp_path / "none", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_failing_run_leaves_nothing_behind(log: Path, tmp_path: Path) -> None:
    """Compressed data that ends too early, half-way through: the old output stays, and no partial
    file is left.
    """
    packed = tmp_path / "log.gz"
    packed.write_bytes(gzip.compress(log.read_bytes() * 50)[:-10])
    (tmp_path / "out").write_text("old")
    with pytest.raises(InputError, match="cut off"):
        run(packed, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "old"
    assert not list(tmp_path.glob(".*partial"))


def test_names_decide_about_compression(log: Path, tmp_path: Path) -> None:
    """Output named .gz or .zst is compressed, and holds what a plain one would."""
    run(log, tmp_path / "out")
    run(log, tmp_path / "out.gz")
    run(log, tmp_path / "out.zst")
    expected = (tmp_path / "out").read_bytes()
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()) == expected
    assert (
        zstandard.ZstdDecompressor().decompressobj().decompress((tmp_path / "out.zst").read_bytes())
        == expected
    )


def test_a_device_is_written_and_not_replaced(log: Path, tmp_path: Path) -> None:
    """A pipe or device as output stays what it is."""
    report = run(log, "/dev/null")
    assert report.written_bytes > 0
    assert Path("/dev/null").is_char_device()


def test_the_report_counts_what_was_there(tmp_path: Path) -> None:
    """Lines, events, lines of no dialect, hits by rule, and bytes; an empty log is a log."""
    path = tmp_path / "log"
    secret = Event(
        START, "INFO", "moshi_server", "src/main.rs", 1, "query", {"auth_id": '"abcdef"'}
    )
    path.write_text("\n".join([plain(secret), "Caused by:", "printed", ansi(secret)]))
    report = run(path, tmp_path / "out")
    assert (report.lines, report.records, report.unparsed_lines, report.records_written) == (
        4,
        2,
        1,
        2,
    )
    assert report.redactions == {"key": 2}
    assert (report.read_bytes, report.written_bytes) == (
        path.stat().st_size,
        (tmp_path / "out").stat().st_size,
    )
    path.write_text("")
    assert run(path, tmp_path / "out").lines == 0
    assert run(path, tmp_path / "out", key=None).redactions is None
    assert (tmp_path / "out").read_bytes() == b""


# --- sections -------------------------------------------------------------------------------------


@pytest.fixture
def _small_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files of a few kilobytes, as if there were four processors."""
    monkeypatch.setattr(sections, "SECTION_BYTES", 5000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    # Servers of other tests may have left idle threads in this process, beside which the tool
    # itself would not fork.
    monkeypatch.setattr(threading, "active_count", lambda: 1)


LOGS = {
    "step lines": [
        ansi(step(random.Random(2), START + timedelta(seconds=index), index))
        for index in range(400)
    ],
    "mixed": list(server_log(random.Random(2), 400)),
    "upstream": list(server_log(random.Random(3), 400, dialects=iter(["ansi"] * 400), steps=0.5)),
    "containers": [
        compose(ansi)(step(random.Random(2), START, index))
        if index % 3
        else ansi(step(random.Random(2), START, index))
        for index in range(300)
    ],
    "local time": [
        (local_time if index % 2 else ansi)(
            step(random.Random(2), START + timedelta(minutes=index), index)
        )
        for index in range(300)
    ],
    "a key block": [
        line
        for index in range(200)
        for line in (
            ansi(step(random.Random(2), START, index)),
            *["-----BEGIN PRIVATE KEY-----"] * (index == 80),
            "aWxl",
        )
    ],
    "no record": ["printed"] * 3000,
}
LOGS["clocks go back"] = [
    (local_time if index % 2 else ansi)(
        step(
            random.Random(2),
            START.replace(month=11, day=2, hour=4) + timedelta(minutes=index),
            index,
        )
    )
    for index in range(300)
]


@pytest.mark.slow
@pytest.mark.usefixtures("_small_sections")
@pytest.mark.parametrize("name", LOGS)
def test_a_file_in_parts_is_the_file_in_one_go(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever passes from one part to the next, bytes and counts are those of the plain way.

    Filters and JSON Lines too.
    """
    taken = []
    take = Formatter.take
    monkeypatch.setattr(
        Formatter, "take", lambda self, part: (taken.append(part), take(self, part))[1]
    )
    path = tmp_path / "log"
    path.write_bytes("\n".join(LOGS[name]).encode())
    assert len(sections.plan_sections(str(path))) == (1 if name == "no record" else 4)
    oracle = Oracle(Options(zone=ZoneInfo("America/New_York"), key=KEY))
    expected = oracle.format(path.read_bytes())
    report = run(path, tmp_path / "out", zone="America/New_York")
    assert len(taken) == {"step lines": 3, "upstream": 3, "local time": 3, "containers": 0}.get(
        name, len(taken)
    )
    assert (tmp_path / "out").read_bytes() == expected
    assert report.redactions == dict(sorted(oracle.counts.items()))
    assert report.lines == len(LOGS[name])
    assert report.read_bytes == path.stat().st_size
    style = Style(Clock(UTC), jsonl=True)
    format_log(
        str(path), str(tmp_path / "sections"), style=style, key=KEY, wanted=Filter(level="INFO")
    )
    with path.open("rb") as stream:
        whole = _in_one_go(stream.read(), Style(Clock(UTC), jsonl=True))
    assert (tmp_path / "sections").read_bytes() == whole


def _in_one_go(data: bytes, style: Style) -> bytes:
    formatter = Formatter(style, redactor=Redactor(KEY), wanted=Filter(level="INFO"))
    return formatter.feed(data) + formatter.flush()


@pytest.fixture
def in_parts(tmp_path: Path, _small_sections: None) -> Callable[[], None]:
    """Format a log in parts again, and compare with what came out when nothing was amiss."""
    path = tmp_path / "log"
    path.write_bytes("\n".join(LOGS["mixed"]).encode())
    run(path, tmp_path / "out")

    def again() -> None:
        run(path, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "out").read_bytes()

    return again


def test_a_part_that_fails_is_formatted_again(
    in_parts: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the other processes die the log is formatted all the same, and no process is left."""
    before = _children()
    monkeypatch.setattr(sections, "_work", lambda *_: os._exit(9))
    in_parts()
    assert _children() == before


def test_a_part_whose_process_cannot_start_is_formatted_here(
    in_parts: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system refuses all processes but the first; and no pipe is left open."""
    fork, forks = os.fork, []

    def refused() -> int:
        forks.append(1)
        if len(forks) > 1:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return fork()

    monkeypatch.setattr(os, "fork", refused)
    before = open_pipes()
    in_parts()
    assert len(forks) == 3
    assert open_pipes() <= before


def test_parts_are_formatted_where_ended_processes_are_not_kept(
    in_parts: Callable[[], None],
) -> None:
    """As with `trap '' CHLD` in the shell."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        in_parts()
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_no_signal_is_sent_to_a_process_that_the_system_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its number may be another process's by then."""
    sent: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: sent.append(pid))
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = sections.forked(lambda _: None)
        with pytest.raises(ChildProcessError):
            os.waitpid(child.pid, 0)  # until it has ended
        child.end()
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert not sent


def _children() -> set[str]:
    """The processes of this one that are alive or not yet waited for.

    Other tests' servers may be among them.
    """
    return {
        pid
        for task in Path("/proc/self/task").glob("*/children")
        for pid in task.read_text().split()
    }


@pytest.mark.usefixtures("_small_sections")
def test_a_file_that_is_replaced_meanwhile_is_an_error(tmp_path: Path) -> None:
    """A part is only read from the file that was cut into sections."""
    path = tmp_path / "log"
    path.write_bytes("\n".join(LOGS["mixed"]).encode())
    planned = sections.plan_sections(str(path))
    path.rename(tmp_path / "log.1")
    path.write_bytes(b"another")
    with pytest.raises(InputError, match="was replaced"):
        list(planned[1].chunks())


@pytest.mark.fault
def test_a_killed_run_leaves_the_old_output_and_the_next_one_succeeds(tmp_path: Path) -> None:
    """`kill -9` at several moments: the target is the old file or the complete new one, and no
    process goes on for long.
    """
    path, target = tmp_path / "log", tmp_path / "out"
    path.write_bytes("\n".join(LOGS["step lines"] * 3000).encode() + b"\n")
    run(path, tmp_path / "expected")
    expected = (tmp_path / "expected").read_bytes()
    target.write_bytes(b"old")
    command = [
        sys.executable,
        "-m",
        "dsmops",
        "format-log",
        str(path),
        "-o",
        str(target),
        "--tz",
        "UTC",
    ]
    for seconds in (0.2, 0.3, 0.4, 0.6, 0.8):
        with suppress(subprocess.TimeoutExpired):
            subprocess.run(
                command, capture_output=True, timeout=seconds, check=False
            )  # on its time limit the child is killed
        assert target.read_bytes() in (b"old", expected)
    run(path, target)
    assert target.read_bytes() == expected
    assert sorted(other.name for other in tmp_path.iterdir()) == ["expected", "log", "out"]
