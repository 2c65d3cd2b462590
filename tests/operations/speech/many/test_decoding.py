"""Recordings read in another process: the frames of reading them here, and a death in between."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from dsmops.audio import frames, open_audio, write
from dsmops.errors import CredentialsError, InputError, SourceError
from dsmops.operations.speech.many import decoding, inputs
from dsmops.operations.speech.many.ahead import PIECE_FRAMES
from dsmops.operations.speech.many.decoding import decoders
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
    assert not any(process._process.is_alive() for process in processes._processes)


@pytest.mark.slow
def test_a_decoder_that_dies_takes_only_what_it_had_in_hand(tmp_path: Path) -> None:
    """A library that crashes on a recording must not end a run of thousands."""
    long, short = recording(tmp_path, 40.0), recording(tmp_path, 1.0)
    with decoders(8) as processes:
        source = processes.open(long)
        reading = source.frames()
        next(reading)
        for process in processes._processes:
            process._process.kill()
            process._process.join()
        read = 1 + sum(1 for _ in reading)
        assert PIECE_FRAMES // 5 <= read < 40.0 / 0.08
        assert isinstance(source.facts.error, InputError)
        assert source.facts.error.code == "audio.decoder"
        assert "40.0.wav" in source.facts.error.message
        after = processes.open(short)
        assert len(list(after.frames())) == 13
        assert after.facts.error is None


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
        for process in processes._processes:
            process._process.kill()
            process._process.join()
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


def test_an_object_that_is_being_fetched_keeps_no_other_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first piece comes when it is there; those of a file meanwhile, from the same process."""
    there = threading.Event()
    real = inputs.opened

    @contextmanager
    def opened(file: str) -> Iterator[Path | BinaryIO]:
        if file.startswith("s3://"):
            assert there.wait(20)
            file = file.replace("s3://a-bucket", str(tmp_path))
        with real(file) as source:
            yield source

    monkeypatch.setattr(decoding, "opened", opened)
    here = recording(tmp_path, 21.0)
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=decoding.answer_all, args=[theirs])
    thread.start()

    def piece() -> tuple[int, bool]:
        number, count, _, is_last = ours.recv()
        decoding._receive(samples, np.empty((count, 1920), np.float32))
        return number, is_last

    with decoding._socket_of(ours) as samples:
        ours.send((1, here._replace(file="s3://a-bucket/21.0.wav")))
        ours.send((2, here))
        got = [piece()]
        while not got[-1][1]:
            ours.send((2, None))
            got.append(piece())
        there.set()
        first = piece()
    assert {number for number, _ in got} == {2}
    assert first == (1, False)
    ours.close()
    thread.join(20)
    assert not thread.is_alive()
