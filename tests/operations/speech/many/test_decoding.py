"""Recordings read in another process: the frames of reading them here, and a death in between."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from dsmops.audio import LevelMeter, frames, open_audio, write
from dsmops.errors import CredentialsError, FileAccessError, InputError, ResourceError, SourceError
from dsmops.operations.speech.many import decoding, inputs
from dsmops.operations.speech.many.ahead import PIECE_FRAMES
from dsmops.operations.speech.many.decoding import SourceFacts, decoders
from dsmops.operations.speech.many.listing import ListedRecording, list_recordings

RATE_HZ = 24_000


def recording(folder: Path, seconds: float) -> ListedRecording:
    """A recording of noise."""
    folder.mkdir(exist_ok=True)
    samples = np.random.default_rng(1).normal(0, 0.1, round(seconds * RATE_HZ)).astype(np.float32)
    path = folder / f"{seconds}.wav"
    write(path, [samples])
    (listed,) = list_recordings((str(path),))
    return listed


@pytest.mark.slow
def test_frames_are_those_of_reading_here(tmp_path: Path) -> None:
    """Several at once, also where a piece ends with the recording."""
    whole_pieces = PIECE_FRAMES * 2 * 0.08
    seconds = (0.05, 3.21, 33.3, whole_pieces * 0.9, whole_pieces)
    listed = [recording(tmp_path, one) for one in seconds]
    with decoders(8) as processes:
        sources = [processes.open(one) for one in listed]
        heard = [np.stack(list(source.frames())) for source in sources]
    for one, source, got in zip(listed, sources, heard, strict=True):
        with open_audio(Path(one.file)) as audio:
            np.testing.assert_array_equal(got, np.stack(list(frames(audio.blocks()))))
        assert source.facts.error is None
        assert source.fed_frames == len(got)
        assert source.facts.levels.duration_s == source.facts.duration_s == audio.duration_s
    assert not any(one.process._process.is_alive() for one in processes.all)


@pytest.mark.slow
def test_a_decoder_that_dies_takes_only_what_it_had_in_hand(tmp_path: Path) -> None:
    """A library that crashes on a recording must not end a run of thousands."""
    long, short = recording(tmp_path, 40.0), recording(tmp_path, 1.0)
    with decoders(8) as processes:
        source = processes.open(long)
        reading = source.frames()
        next(reading)
        for one in processes.all:
            one.process._process.kill()
            one.process._process.join()
        read = 1 + sum(1 for _ in reading)
        assert PIECE_FRAMES // 5 <= read < 40.0 / 0.08
        assert isinstance(source.facts.error, InputError)
        assert source.facts.error.code == "audio.decoder"
        assert "40.0.wav" in source.facts.error.message
        after = processes.open(short)
        assert len(list(after.frames())) == 13
        assert after.facts.error is None


def _die(*_: object) -> None:
    os._exit(7)


def _hang_up(connection: Connection, _: int) -> None:
    connection.close()
    signal.pause()


def _send_nonsense(connection: Connection, _: int) -> None:
    connection.send("started")
    connection.recv()
    connection.send("nonsense")
    signal.pause()


def _die_with_a_piece_sent(connection: Connection, _: int) -> None:
    connection.send("started")
    number, _ = connection.recv()
    connection.send((number, PIECE_FRAMES, SourceFacts(LevelMeter().levels, None), False))
    with decoding._socket_of(connection) as samples:
        samples.sendall(np.ones((PIECE_FRAMES, 1920), np.float32).data)
    os._exit(7)


def _fail(connection: Connection, open_files: int) -> None:
    def fail(_: Connection) -> None:
        raise LookupError("of a test")

    decoding.answer_all = fail
    decoding._serve(connection, open_files)


@pytest.mark.slow
def test_processes_that_die_at_their_start_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not recording by recording: nothing is wrong with these."""
    starts = 0
    real = decoding._Process

    def started(open_files: int) -> decoding._Process:
        nonlocal starts
        starts += 1
        return real(open_files)

    monkeypatch.setattr(decoding, "_serve", _die)
    monkeypatch.setattr(decoding, "_Process", started)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    listed = recording(tmp_path, 1.0)
    with decoders(8) as processes, pytest.raises(ResourceError, match="3 times") as raised:
        for _ in range(20):
            list(processes.open(listed).frames())
    assert raised.value.exit_code == 5
    assert raised.value.code == "audio.decoder_start"
    assert starts == 3


@pytest.mark.slow
@pytest.mark.parametrize("serve", [_die, _hang_up])
def test_a_process_that_dies_at_its_start_takes_no_recording_with_it(
    serve: Callable[[Connection, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor one whose pipe closes before it has died."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    listed = recording(tmp_path, 1.0)
    with ExitStack() as stack:
        with monkeypatch.context() as patched:
            patched.setattr(decoding, "_serve", serve)
            processes = stack.enter_context(decoders(8))
        sources = [processes.open(listed) for _ in range(5)]
        assert [len(list(source.frames())) for source in sources] == [13] * 5
        assert [source.facts.error for source in sources] == [None] * 5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("serve", [_send_nonsense, _fail])
def test_a_bug_in_a_decoder_is_shown_and_ends_no_run(
    serve: Callable[[Connection, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """On either side of the pipe."""
    monkeypatch.setattr(decoding, "_serve", serve)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with decoders(8) as processes:
        source = processes.open(recording(tmp_path, 1.0))
        assert list(source.frames()) == []
        assert source.facts.error is not None
        assert source.facts.error.code == "audio.decoder"
    if serve is _fail:
        assert "LookupError: of a test" in capfd.readouterr().err


@pytest.mark.slow
def test_what_a_decoder_sent_before_it_died_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "_serve", _die_with_a_piece_sent)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with decoders(8) as processes:
        source = processes.open(recording(tmp_path, 21.0))
        # Dead, with its piece on the way.
        processes.all[0].process._process.join()
        assert len(list(source.frames())) == PIECE_FRAMES
        assert source.facts.error is not None
        assert source.facts.error.code == "audio.decoder"


@pytest.mark.slow
def test_why_one_cannot_be_read_comes_with_its_end(tmp_path: Path) -> None:
    (tmp_path / "none.wav").write_bytes(b"RIFF")
    (listed,) = list_recordings((str(tmp_path / "none.wav"),))
    gone = recording(tmp_path, 1.0)
    Path(gone.file).unlink()
    with decoders(8) as processes:
        for one, kind in ((listed, InputError), (gone, SourceError)):
            source = processes.open(one)
            assert list(source.frames()) == []
            assert isinstance(source.facts.error, kind)


@pytest.mark.slow
def test_an_idle_decoder_that_died_harms_nothing(tmp_path: Path) -> None:
    with decoders(8) as processes:
        for one in processes.all:
            one.process._process.kill()
            one.process._process.join()
        source = processes.open(recording(tmp_path, 20.0))
        assert len(list(source.frames())) == 250
        assert source.facts.error is None


@pytest.mark.slow
def test_what_keeps_all_from_being_read_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials are missing for all of them."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    listed = recording(tmp_path, 1.0)._replace(file="s3://a-bucket/1.wav")
    with decoders(8) as processes:
        source = processes.open(listed)
        with pytest.raises(CredentialsError):
            list(source.frames())


_Pieces = Callable[[], tuple[int, bool, SourceFacts]]


@contextmanager
def answering() -> Iterator[tuple[Connection, _Pieces]]:
    """Answer in a thread: the connection, and what receives the next piece."""
    ours, theirs = multiprocessing.Pipe()

    def answer() -> None:
        with theirs:
            decoding.answer_all(theirs)

    thread = threading.Thread(target=answer)
    thread.start()
    with decoding._socket_of(ours) as samples:

        def piece() -> tuple[int, bool, SourceFacts]:
            assert ours.poll(10)
            number, count, facts, is_last = ours.recv()
            decoding._receive(samples, np.empty((count, 1920), np.float32))
            return number, is_last, facts

        try:
            yield ours, piece
        finally:
            samples.shutdown(socket.SHUT_RDWR)
            ours.close()
            thread.join(20)
    assert not thread.is_alive()


def open_instead(monkeypatch: pytest.MonkeyPatch, other: Callable[[str], str]) -> None:
    """Open what `other` makes of a recording's name."""

    @contextmanager
    def opened(file: str) -> Iterator[Path | BinaryIO]:
        with inputs.opened(other(file)) as source:
            yield source

    monkeypatch.setattr(decoding, "opened", opened)


def test_an_object_that_is_being_fetched_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first piece comes when it is there; those of a file meanwhile, from the same process."""
    there = threading.Event()

    def here_in_the_end(file: str) -> str:
        assert not file.startswith("s3://") or there.wait(20)
        return file.replace("s3://a-bucket", str(tmp_path))

    open_instead(monkeypatch, here_in_the_end)
    here = recording(tmp_path, 21.0)
    with answering() as (ours, piece):
        ours.send((1, here._replace(file="s3://a-bucket/21.0.wav")))
        ours.send((2, here))
        got = [piece()]
        while not got[-1][1]:
            ours.send((2, None))
            got.append(piece())
        there.set()
        number, is_last, _ = piece()
    assert {number for number, *_ in got} == {2}
    assert (number, is_last) == (1, False)


def test_a_disk_that_fails_for_one_recording_fails_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the system's error comes as it is."""

    def fail_at_one(file: str) -> str:
        if file == "bad.wav":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return file

    open_instead(monkeypatch, fail_at_one)
    good = recording(tmp_path, 1.0)
    with answering() as (ours, piece):
        ours.send((1, good._replace(file="bad.wav")))
        ours.send((2, good))
        got = [piece() for _ in range(2)]
    assert [(number, is_last) for number, is_last, _ in got] == [(1, True), (2, True)]
    errors = [facts.error for *_, facts in got]
    assert isinstance(errors[0], FileAccessError)
    assert errors[1] is None
