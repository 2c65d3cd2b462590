"""`dsmops format-log` as a user runs it."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.logs.server_logs import START, Event, ansi, plain, server_log
from tests.logs.wrapping import docker_json
from tests.support.cli import dsmops
from tests.support.processes import python

LINE = "[2025-11-15 08:39:03.595 AM UTC (+0000)] [INFO] [moshi_server] src/main.rs:475: message"
EVENT = Event(START, "INFO", "moshi_server", "src/main.rs", 475, "message")


@pytest.fixture
def log(tmp_path: Path) -> Path:
    raw = tmp_path / "logs" / "raw"
    raw.mkdir(parents=True)
    path = raw / "log.stt.2025-11-15"
    secret = Event(
        START,
        "ERROR",
        "moshi_server",
        "src/main.rs",
        565,
        "query",
        {"auth_id": 'Some("public_token")'},
    )
    path.write_text(
        "\n".join([ansi(EVENT), plain(secret), "", "Caused by:", "    no luck", "printed"]) + "\n"
    )
    return path


def test_a_log_becomes_the_friendly_one_beside_its_raw_folder(log: Path) -> None:
    """The line of the design, exactly; what was done is reported on stderr, and stdout stays
    empty.
    """
    run = dsmops("format-log", log, "--tz", "UTC")
    assert (run.code, run.stdout) == (0, "")
    lines = (log.parents[1] / log.name).read_text().splitlines()
    assert lines[0] == LINE
    assert lines[2:] == ["", "Caused by:", "    no luck", "printed"]
    assert "public_token" not in lines[1]
    assert "6 lines, 2 events, 1 line of no known format" in run.stderr
    assert "redacted: key 1" in run.stderr


def test_stdout_and_options(log: Path) -> None:
    """`-o -`, zones, 24 hours, no source, trimmed continuation, no redaction: each does what its
    help says.
    """
    run = dsmops(
        "format-log",
        log,
        "-o",
        "-",
        "--tz",
        "Europe/Paris",
        "--24h",
        "--no-source",
        "--strip-raw",
        "--no-redact",
    )
    lines = run.stdout.splitlines()
    assert lines[0] == "[2025-11-15 09:39:03.595 CET (+0100)] [INFO] [moshi_server] message"
    assert lines[1].endswith('query auth_id=Some("public_token")')
    assert lines[4] == "no luck"
    assert "not redacted" in run.stderr
    assert (
        dsmops(
            "format-log", log, "-o", "-", "--tz", "UTC", "--level", "error", "--quiet"
        ).stdout.count("\n")
        == 5
    )
    assert dsmops("format-log", log, "-o", "-", "--target", "moshi_server::none").stdout == ""
    assert dsmops("format-log", log, "-o", "-", "--since", "-3h").stdout == ""
    assert dsmops(
        "format-log", log, "-o", "-", "--tz", "UTC", "--until", "2025-11-15 08:39:04"
    ).stdout.startswith(LINE)


def test_what_is_no_log_is_said_to_be_none(log: Path, tmp_path: Path) -> None:
    """It is kept as it is, and the last line asks; of a log it does not."""
    (tmp_path / "notes").write_text("hello\nworld\n")
    assert "is this the right file?" in dsmops("format-log", tmp_path / "notes", "-o", "-").stderr
    assert (
        "is this the right file?"
        not in dsmops("format-log", log, "-o", "-", "--level", "trace", "--since", "-3h").stderr
    )


def test_the_local_zone_is_the_default(log: Path) -> None:
    """Without --tz stamps are in the zone of the environment."""
    run = dsmops("format-log", log, "-o", "-", env={"TZ": "America/New_York"})
    assert run.stdout.startswith("[2025-11-15 03:39:03.595 AM EST (-0500)] [INFO]")


def test_json_lines_hold_whole_events(log: Path) -> None:
    """--jsonl gives one object per event with its continuation; --json gives one document about the
    run when a file is written.
    """
    run = dsmops("format-log", log, "-o", "-", "--jsonl")
    first, second, third = map(json.loads, run.stdout.splitlines())
    assert (first["time"], first["line"], first["message"]) == (
        "2025-11-15T08:39:03.595169Z",
        475,
        "message",
    )
    assert second["continuation"] == ["", "Caused by:", "    no luck"]
    assert (third["format"], third["message"]) == ("text", "printed")
    document = dsmops("format-log", log, "--json").document
    assert document["schema"] == "dsmops.format-log/1"
    assert document["redactions"] == {"key": 1}
    assert document["output"] == str(log.parents[1] / log.name)
    assert document["lines"] == 6


def test_several_logs_and_folders_get_one_output_each(log: Path, tmp_path: Path) -> None:
    """A folder stands for the logs in it; captures and audio in it are left alone.

    One bad file does not keep the others.
    """
    folder = log.parent
    other = folder / "log.tts.2025-11-15"
    other.write_text(plain(EVENT) + "\n")
    for name in ("stt-asr-1.safetensors", "log.capture.json", "notes.txt", "voice.wav"):
        (folder / name).write_text("x")
    run = dsmops("format-log", folder, "--tz", "UTC")
    assert (run.code, run.stdout) == (0, "")
    assert sorted(path.name for path in folder.parent.iterdir() if path.is_file()) == [
        "log.stt.2025-11-15",
        "log.tts.2025-11-15",
    ]
    out = tmp_path / "out"
    (folder / "log.bad.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    run = dsmops("format-log", folder, other, "-o", f"{out}/", "--tz", "UTC", "--json")
    assert run.code == 3
    assert "cut off" in run.stderr
    assert [Path(file["input"]).name for file in run.document["files"]] == [log.name, other.name]
    assert (out / other.name).read_text() == LINE + "\n"
    for arguments, message in (
        ([log, other, "-o", "one"], "need a folder"),
        ([log, other, "--follow"], "takes one INPUT"),
        ([log, "--wrapper", "box"], "is not a wrapper"),
    ):
        run = dsmops("format-log", *arguments, cwd=tmp_path)
        assert run.code == 2
        assert message in " ".join(run.stderr.replace("│", " ").split())


def test_merged_logs_stand_in_the_order_of_time(tmp_path: Path) -> None:
    """Events of two servers by time, each with its causes and its server's name.

    Rotated files of one server without.
    """
    files = []
    for name, offset in (("log.stt.2025-11-15", 0), ("log.tts.2025-11-15", 1)):
        lines = []
        for index in range(3):
            time = START + timedelta(seconds=2 * index + offset)
            lines += [plain(replace(EVENT, time=time, message=f"{name} {index}")), "Caused by:"]
        (tmp_path / name).write_text("\n".join(lines) + "\n")
        files.append(tmp_path / name)
    run = dsmops("format-log", *files, "--merge", "--tz", "UTC")
    shown = run.stdout.splitlines()
    assert [line.split(": ")[-1] for line in shown[::2]] == [
        f"log.{name}.2025-11-15 {index}" for index in range(3) for name in ("stt", "tts")
    ]
    assert shown[0].startswith("log.stt | [2025-11-15 08:39:03.595 AM")
    assert shown[1] == "log.stt | Caused by:"
    assert "12 lines, 6 events" in run.stderr
    files[1].rename(tmp_path / "log.stt.2025-11-16")
    run = dsmops("format-log", files[0], tmp_path / "log.stt.2025-11-16", "--merge", "--jsonl")
    documents = [json.loads(line) for line in run.stdout.splitlines()]
    assert [document["service"] for document in documents] == [None] * 6
    assert [document["time"] for document in documents] == sorted(
        document["time"] for document in documents
    )
    assert documents[0]["continuation"] == ["Caused by:"]


@pytest.mark.slow
def test_collectors_are_seen_through_by_every_option(log: Path, tmp_path: Path) -> None:
    """--level, --jsonl, --follow and `doctor --log` work on the log of a container."""
    wrapped = tmp_path / "container.log"
    wrapped.write_text("\n".join(docker_json(log.read_text().splitlines())) + "\n")
    bare, shown = (
        dsmops("format-log", path, "-o", "-", "--tz", "UTC", "--level", "error").stdout
        for path in (log, wrapped)
    )
    assert shown.splitlines()[:4] == bare.splitlines()[:4]
    assert shown.endswith(" AM UTC (+0000)] [-] [-] printed\n")
    assert bare.count("\n") == 5
    document = json.loads(
        dsmops("format-log", wrapped, "-o", "-", "--jsonl").stdout.splitlines()[0]
    )
    assert document["message"] == "message"
    following = Following(wrapped)
    try:
        assert following.line() == LINE + "\n"
        assert following.interrupt()[0] == 130
    finally:
        following.process.kill()
    report = dsmops("doctor", "--log", wrapped, "--json", cwd=tmp_path).document
    assert "public-key-used" in json.dumps(report)
    assert "public_token" not in json.dumps(report)


def test_standard_input_goes_to_standard_output(log: Path) -> None:
    """`format-log -` is a filter, also for compressed input, and reads what comes as it comes."""
    for data in (log.read_bytes(), gzip.compress(log.read_bytes())):
        command = [*python(), "-m", "dsmops", "format-log", "-", "--tz", "UTC"]
        done = subprocess.run(command, input=data, capture_output=True, check=True)
        assert done.stdout.decode().splitlines()[0] == LINE


def test_formatting_twice_changes_nothing(log: Path) -> None:
    """The friendly log goes in and comes out as it is."""
    once = dsmops("format-log", log, "-o", "-", "--tz", "UTC").stdout
    friendly = log.parent / "log.once"
    friendly.write_text(once)
    assert dsmops("format-log", friendly, "-o", "-", "--tz", "UTC").stdout == once


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.log", "-o", "new/folder/out"], 3, "No such file"),
        (["."], 3, "is a folder"),
        (["s3://bucket/log"], 3, "cannot be read from s3://"),
        (["LOG", "-o", "LOG"], 3, "would overwrite the input"),
        (["LOG", "-o", "LOG/x"], 3, "is a file where a folder is needed"),
        (["LOG", "--tz", "Mars/Base"], 2, "is not a time zone"),
        (["LOG", "--tz", "Europe/Pariss"], 2, "Europe/Paris"),
        (["LOG", "--level", "loud"], 2, "use trace, debug, info, warn or error"),
        (["LOG", "--since", "soon"], 3, "is not a time"),
        (["LOG", "-o", "-", "--json"], 2, "name a file with -o"),
        (["LOG", "--follow", "-o", "out.gz"], 3, "cannot be compressed"),
        ([], 2, "Missing argument"),
    ],
)
def test_mistakes_get_one_clear_error(
    arguments: list[str], code: int, message: str, log: Path, tmp_path: Path
) -> None:
    """The right exit code, the thing at fault, and no traceback; nothing is written."""
    before = sorted(tmp_path.rglob("*"))
    run = dsmops("format-log", *(part.replace("LOG", str(log)) for part in arguments), cwd=tmp_path)
    assert run.code == code
    assert message in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_an_output_that_is_the_input_by_redirection_is_refused(log: Path) -> None:
    """`format-log - < log >> log` would feed itself; it is an error, and the log is as it was."""
    before = log.read_bytes()
    with log.open("rb") as source, log.open("ab") as target:
        command = [*python(), "-m", "dsmops", "format-log", "-"]
        done = subprocess.run(
            command,
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 3
    assert "would overwrite the input" in done.stderr
    assert log.read_bytes() == before


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    """`format-log LOG -o - | head -1` ends quietly."""
    path = tmp_path / "log"
    path.write_text("\n".join(server_log(random.Random(1), 20_000)))
    command = f'"{sys.executable}" -m dsmops format-log {path} -o - --quiet | head -1'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 1


class Following:
    """A running `format-log --follow` whose stdout is read line by line."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [
            *python(),
            "-m",
            "dsmops",
            "format-log",
            *map(str, arguments),
            "--follow",
            "--tz",
            "UTC",
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline

    def interrupt(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def test_following_goes_through_rotation_and_ends_with_ctrl_c(log: Path) -> None:
    """Lines come as they are written, through a rename and a truncation.

    Ctrl-C writes a last half line, sums up, and exits 130.
    """
    following = Following(log)
    try:
        assert following.line() == LINE + "\n"
        for _ in range(5):
            following.line()
        log.rename(log.with_name("log.1"))
        log.write_text(plain(EVENT) + "\n")
        assert following.line() == LINE + "\n"
        log.write_text("short\n")
        assert following.line() == "short\n"
        with log.open("a") as file:
            file.write("printed\nhalf a li")
        assert following.line() == "printed\n"
        code, out, err = following.interrupt()
    finally:
        following.process.kill()
    assert code == 130
    assert out == "half a li\n"
    assert "Traceback" not in err
    assert "events" in err


def test_following_goes_on_in_the_file_of_the_next_day(log: Path) -> None:
    """At midnight moshi-server begins a new file; it is followed, and stderr says so."""
    following = Following(log)
    try:
        for _ in range(6):
            following.line()
        log.with_name("log.stt.2025-11-16").write_text(plain(EVENT) + "\n")
        assert following.line() == LINE + "\n"
        code, _, err = following.interrupt()
    finally:
        following.process.kill()
    assert code == 130
    assert "log.stt.2025-11-16: a later date, goes on there" in err


def test_a_full_disk_behind_standard_output_is_named() -> None:
    """`> /dev/full` is one clear error, without a second one when Python ends."""
    command = [sys.executable, "-m", "dsmops", "format-log", "-", "--quiet"]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, input=b"one\n", stdout=full, stderr=subprocess.PIPE, timeout=60, check=False
        )
    assert done.returncode == 5
    assert (
        done.stderr.decode()
        .splitlines()[0]
        .startswith("error: no room left while writing standard output")
    )
    assert b"Exception ignored" not in done.stderr


def test_following_json_lines_does_not_hold_the_last_event_back(log: Path) -> None:
    """In a pause of the log the last event is complete, and is written."""
    following = Following(log, "--jsonl")
    try:
        documents = [json.loads(following.line()) for _ in range(3)]
        assert documents[-1]["message"] == "printed"
        assert following.interrupt()[0] == 130
    finally:
        following.process.kill()


def test_the_machines_key_is_made_in_the_state_folder(log: Path) -> None:
    """The first run makes a key for this user, later runs use it.

    With a key of the environment pseudonyms are others.
    """
    runs = [
        dsmops("format-log", log, "-o", "-", env=env).stdout
        for env in ({}, {}, {"DSMOPS_REDACTION_KEY": "another key of ours"})
    ]
    assert runs[0] == runs[1] != runs[2]
    assert (Path(os.environ["XDG_STATE_HOME"]) / "dsmops" / "redaction.key").is_file()
    assert dsmops("format-log", log, "-o", "-", env={"DSMOPS_REDACTION_KEY": "short"}).code == 3
