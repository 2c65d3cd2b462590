"""Opening logs, compressed or not, and what goes wrong with them."""

import fcntl
import gzip
import io
import os
import resource
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from threading import Thread

import pytest
import zstandard

from dsmops.errors import InputError, SourceError
from dsmops.logs import can_follow, decompressed, open_source, sources
from dsmops.logs.blocks import BLOCK_BYTES
from dsmops.logs.follow import follow

TEXT = b"".join(b"line %d of a log\n" % number for number in range(20_000))


def read(source: str) -> bytes:
    with open_source(source) as chunks:
        return b"".join(chunks)


COMPRESSED = {
    "gzip": gzip.compress(TEXT),
    "two gzip members": gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:]),
    "zstd": zstandard.compress(TEXT),
    "two zstd frames": zstandard.compress(TEXT[:1000]) + zstandard.compress(TEXT[1000:]),
    "zstd after a frame to skip": b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + zstandard.compress(TEXT),
    "plain": TEXT,
}


@pytest.mark.parametrize("kind", COMPRESSED)
def test_content_is_known_by_its_first_bytes(kind: str, tmp_path: Path) -> None:
    """Whatever the name, gzip and zstd are unpacked, several members included, and anything else is
    taken as it is.
    """
    path = tmp_path / "log.x"
    path.write_bytes(COMPRESSED[kind])
    assert read(str(path)) == TEXT
    assert read(f"file://{path}") == TEXT
    assert b"".join(decompressed(io.BytesIO(COMPRESSED[kind]), "a stream")) == TEXT


@pytest.mark.parametrize("content", [b"", b"\x1f", b"\x28\xb5", b"a", b"ab\n"])
def test_short_files_are_read_whole(content: bytes, tmp_path: Path) -> None:
    """A file shorter than a magic number is a file like others."""
    (tmp_path / "log").write_bytes(content)
    assert read(str(tmp_path / "log")) == content


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_data_that_is_cut_off_is_an_error(kind: str, tmp_path: Path) -> None:
    """A compressed file without its end is named with its kind, not taken for a short log."""
    path = tmp_path / "log.x"
    path.write_bytes(COMPRESSED[kind][:-20])
    with pytest.raises(InputError, match=rf"log\.x: the {kind} data is cut off"):
        read(str(path))


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_damaged_data_is_an_error(kind: str, tmp_path: Path) -> None:
    """A compressed file with wrong bytes inside is named, and so is one with something else behind
    its end.
    """
    path = tmp_path / "log.x"
    damaged = bytearray(COMPRESSED[kind])
    damaged[20:60] = bytes(40)
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=rf"damaged {kind} data|cut off"):
        read(str(path))
    path.write_bytes(COMPRESSED[kind] + b"something else")
    with pytest.raises(InputError, match=f"damaged {kind} data"):
        read(str(path))


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """A missing file, a folder and an unknown scheme each get their own words."""
    with pytest.raises(SourceError, match="No such file"):
        read(str(tmp_path / "none"))
    with pytest.raises(InputError, match="is a folder"):
        read(str(tmp_path))
    with pytest.raises(SourceError, match="logs cannot be read from s3://"):
        read("s3://bucket/log")


@pytest.mark.slow
def test_standard_input_may_be_compressed() -> None:
    """`-` reads stdin, and looks at its first bytes too."""
    code = (
        "import sys; from dsmops.logs import open_source\nwith open_source('-') as chunks:"
        " sys.stdout.buffer.writelines(chunks)"
    )
    for content in (COMPRESSED["gzip"], TEXT):
        assert (
            subprocess.run(
                [sys.executable, "-c", code], input=content, capture_output=True, check=True
            ).stdout
            == TEXT
        )


# --- following ------------------------------------------------------------------------------------


class Pauses:
    """Stands in for the event that ends following: runs a step of the script at each pause, and is
    set when there is none left.
    """

    def __init__(self, *steps: object) -> None:
        self.steps = list(steps)
        self.over = False

    def is_set(self) -> bool:
        return self.over

    def wait(self, _: float) -> None:
        if not self.steps:
            self.over = True
        elif callable(step := self.steps.pop(0)):
            step()


def followed(path: Path, *steps: object) -> bytes:
    return b"".join(follow(path, Pauses(*steps)))  # type: ignore[arg-type]


def test_what_is_appended_comes_after_what_was_there(tmp_path: Path) -> None:
    """The file from its beginning, then what is written to it, half lines too."""
    path = tmp_path / "log"
    path.write_bytes(b"one\n")

    def append(data: bytes) -> None:
        with path.open("ab") as file:
            file.write(data)

    assert (
        followed(path, lambda: append(b"tw"), None, lambda: append(b"o\nthree\n"))
        == b"one\ntwo\nthree\n"
    )


def test_a_rename_is_followed_to_the_new_file(tmp_path: Path) -> None:
    """What was written to the old file up to its rename and after it is read first.

    A half line at its end gets a line end.
    """
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    old = path.open("ab", buffering=0)

    def rotate() -> None:
        old.write(b"late ")
        path.rename(tmp_path / "log.1")
        old.write(b"later")
        path.write_bytes(b"new\n")

    with old:
        assert followed(path, rotate) == b"old\nlate later\nnew\n"


def test_a_gap_between_two_files_is_waited_out(tmp_path: Path) -> None:
    """While no file has the name nothing ends, and the next file is read when it is there."""
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    moved = [lambda: path.rename(tmp_path / "log.1"), None, lambda: path.write_bytes(b"new\n")]
    assert followed(path, *moved) == b"old\nnew\n"


def test_a_truncated_file_is_read_anew(tmp_path: Path) -> None:
    """Copy-and-truncate rotation: what comes after the cut is read from the start, and a half line
    before it is ended.
    """
    path = tmp_path / "log"
    path.write_bytes(b"a long first line\nhalf")
    assert (
        followed(path, lambda: path.write_bytes(b"short\n")) == b"a long first line\nhalf\nshort\n"
    )
    path.write_bytes(b"x" * 50 + b"\n")
    assert (
        followed(path, lambda: os.truncate(path, 0), lambda: path.write_bytes(b"y\n"))
        == b"x" * 50 + b"\ny\n"
    )


def test_the_file_of_the_next_day_comes_next(tmp_path: Path) -> None:
    """A dated log is read to its end, then the next day's, day after day, and each is reported.

    Other names are other logs.
    """
    path = tmp_path / "log.stt.2025-11-15"
    path.write_bytes(b"one\n")
    others = [
        "log.stt.2025-11-14",
        "log.stt.2025-11-16.gz",
        "log.tts.2025-11-16",
        "friendly-log.stt.2025-11-16",
        "log.stt.2025-11-1x",
    ]
    for name in others:
        (tmp_path / name).write_bytes(b"another\n")
    told: list[str] = []

    def midnight() -> None:
        with path.open("ab") as file:
            file.write(b"half")
        (tmp_path / "log.stt.2025-11-16").write_bytes(b"two\n")
        (tmp_path / "log.stt.2025-11-18").write_bytes(b"three\n")

    steps = Pauses(None, midnight, lambda: path.rename(tmp_path / "away"))
    assert (
        b"".join(follow(path, steps, on_next=lambda new: told.append(new.name)))
        == b"one\nhalf\ntwo\nthree\n"
    )  # type: ignore[arg-type]
    assert told == ["log.stt.2025-11-16", "log.stt.2025-11-18"]


def test_a_dated_file_that_is_replaced_is_read_before_the_next_day(tmp_path: Path) -> None:
    """Nothing of a day is skipped because the next one has begun."""
    path = tmp_path / "log.stt.2025-11-15"
    path.write_bytes(b"one\n")

    def rotate() -> None:
        path.rename(tmp_path / "away")
        path.write_bytes(b"two\n")
        (tmp_path / "log.stt.2025-11-16").write_bytes(b"three\n")

    assert followed(path, rotate) == b"one\ntwo\nthree\n"


def test_only_files_can_be_followed(tmp_path: Path) -> None:
    """Pipes, devices and standard input end by themselves, and Ctrl-C ends them at once."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "log").write_bytes(b"")
    assert can_follow(str(tmp_path / "log"))
    assert can_follow(f"file://{tmp_path}/log")
    assert not any(
        can_follow(source)
        for source in (
            "-",
            "/dev/null",
            str(tmp_path / "pipe"),
            str(tmp_path),
            str(tmp_path / "none"),
        )
    )


def test_what_cannot_be_followed_is_refused(tmp_path: Path) -> None:
    """A missing file is an error at the start, and a compressed one does not grow."""
    with pytest.raises(SourceError):
        followed(tmp_path / "none")
    path = tmp_path / "log.gz"
    path.write_bytes(COMPRESSED["gzip"])
    with pytest.raises(InputError, match="does not grow"):
        followed(path)


def _zstd_bomb(gib: int) -> bytes:
    """A frame of runs of one byte: 4 bytes for 128 KiB each, as RFC 8878 allows."""
    block = (128 << 10 << 3 | 1 << 1).to_bytes(3, "little") + b"\n"
    last = (0 << 3 | 0 << 1 | 1).to_bytes(3, "little")
    return b"\x28\xb5\x2f\xfd\x00\x58" + block * (gib << 13) + last


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_read_in_constant_memory_and_warned_of(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces stay small however much a few bytes hold, and one note names the proportion."""
    monkeypatch.setattr("dsmops.logs.compression.RatioGuard.least_bytes", 16 << 20)
    path = tmp_path / "log.x"
    if kind == "gzip":
        deflater = zlib.compressobj(9, wbits=31)
        data = b"".join(deflater.compress(b"\n" * (1 << 20)) for _ in range(32))
        path.write_bytes(data + deflater.flush())
    else:
        path.write_bytes(_zstd_bomb(1))
    notes: list[str] = []
    largest = total = 0
    with open_source(str(path), on_note=notes.append) as chunks:
        for chunk in chunks:
            largest, total = max(largest, len(chunk)), total + len(chunk)
    assert total in (32 << 20, 1 << 30)
    assert largest <= BLOCK_BYTES
    assert len(notes) == 1
    assert "is this a log?" in notes[0]


def test_a_pause_of_its_writer_ends_a_read_of_a_pipe() -> None:
    """What comes without a pause is gathered. A line of a log that is still being written comes
    out at once, though a block has room for more.
    """
    out, into = os.pipe()
    pipe = sources._Pipe(out, b"li")
    try:
        assert pipe.read(BLOCK_BYTES) == b"li"
        os.write(into, b"ne\n")
        assert pipe.read(BLOCK_BYTES) == b"ne\n"
        writer = Thread(target=lambda: (os.write(into, TEXT), os.close(into)))
        writer.start()
        pieces = list(iter(lambda: pipe.read(BLOCK_BYTES), b""))
        writer.join()
        assert b"".join(pieces) == TEXT
        assert pipe.read(4) == b""
    finally:
        pipe.close()


def test_standard_input_that_does_not_block_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where nothing is there yet, as after another program changed the pipe that both share,
    and where many files are open.
    """
    out, into = os.pipe()
    os.set_blocking(out, False)
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, min(most, 2048)), most))
    try:
        with suppress(OSError):  # A limit below it holds for the whole machine.
            high = fcntl.fcntl(out, fcntl.F_DUPFD, 1024)
            os.close(out)
            out = high
        with open(out, encoding="utf-8") as stdin, monkeypatch.context() as patch:
            patch.setattr("sys.stdin", stdin)

            def write() -> None:
                time.sleep(0.05)
                os.write(into, b"one\n")
                time.sleep(0.05)
                os.write(into, b"two\n")
                os.close(into)

            writer = Thread(target=write)
            writer.start()
            try:
                assert read("-") == b"one\ntwo\n"
            finally:
                writer.join()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))


def test_a_named_pipe_without_a_writer_ends_with_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO in place of a log blocks no command forever; with a writer it is read."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    monkeypatch.setattr("dsmops.logs.sources._FIFO_WAIT_S", 0.1)
    with pytest.raises(InputError, match="no process writes to it"):
        read(str(path))
    writer = Thread(target=path.write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    monkeypatch.setattr("dsmops.logs.sources._FIFO_WAIT_S", 30.0)
    assert read(str(path)) == b"one\ntwo\n"
    writer.join()


def test_headers_of_compressed_data_are_handed_over(tmp_path: Path) -> None:
    """The name, comment and extra field of gzip, and frames that zstd skips."""
    named = gzip.compress(b"x\n")
    header = named[:3] + b"\x1c" + named[4:10] + b"\x05\x00extra" + b"name\0" + b"comment\0"
    skipped = b"\x5a\x2a\x4d\x18" + (6).to_bytes(4, "little") + b"hidden"
    for data, expected in (
        (header + named[10:], [b"extra", b"name", b"comment"]),
        (skipped + zstandard.compress(b"x\n") + skipped, [b"hidden", b"hidden"]),
    ):
        found: list[bytes] = []
        content = b"".join(decompressed(BytesIO(data), "log", on_header=found.append))
        assert (content, found) == (b"x\n", expected)
