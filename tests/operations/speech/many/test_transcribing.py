"""Many recordings through the random tiny model: the words of each alone, in every order, once."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="the worker extra is not installed")

import torch

from dsmops.audio import LevelMeter, Samples, frames, open_audio, write
from dsmops.cli.views.transcription_run import of_ending
from dsmops.dtypes import ComputeDType
from dsmops.errors import DiskFullError, SourceError
from dsmops.operations.models import stt
from dsmops.operations.models.stt import SttSource
from dsmops.operations.speech.many import decoding, work
from dsmops.operations.speech.many.decoding import SourceFacts
from dsmops.operations.speech.many.executors import LocalProcesses, WorkerDevice
from dsmops.operations.speech.many.listing import ListedRecording
from dsmops.operations.speech.many.transcribing import (
    Job,
    TranscriptionRun,
    transcribe_many,
)
from dsmops.operations.speech.many.work import WHOLE, Shard
from dsmops.operations.speech.transcription import transcribe
from dsmops.progress import SILENT, SilentProgress
from dsmops.worker.models.stt_config import SttConfig, SttFiles
from dsmops.worker.runtime.stt.interface import SttOutput
from dsmops.worker.tiny.stt import LM, write_tiny_stt
from tests.support.engines import Letters

RATE_HZ = 24_000
COUNT = 7
LONG = os.environ.get("DSMOPS_TEST_LONG", "") not in ("", "0")
KILLS = int(os.environ.get("DSMOPS_TEST_KILLS", "1000" if LONG else "40"))
"""Processes that are killed, over ten times as many recordings."""
DECODING_KILLS = 60 if LONG else 12
"""The same with a model and with processes that decode, which take longer to start."""


class Told(SilentProgress):
    """Progress that keeps what is announced."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def announce(self, lines: Iterable[str]) -> None:
        self.lines += lines


RENDER = partial(of_ending, timestamps=True, vad=True)


def job(folder: Path, into: Path, *, batch_size: int = 3, shard: Shard = WHOLE) -> Job:
    return Job(
        (str(folder / "in"),),
        into,
        str(folder / "model"),
        ("txt", "json"),
        RENDER,
        dtype=ComputeDType.F32,
        cpu=True,
        batch_size=batch_size,
        shard=shard,
    )


def run(folder: Path, into: Path, *, batch_size: int = 3, **options: Any) -> TranscriptionRun:
    return transcribe_many(job(folder, into, batch_size=batch_size, **options))


def noise(folder: Path, count: int, seconds: tuple[float, float]) -> None:
    rng = np.random.default_rng(5)
    for number in range(count):
        samples = rng.normal(0, 0.2, round(RATE_HZ * rng.uniform(*seconds))).astype(np.float32)
        (folder / f"{number % 3}").mkdir(parents=True, exist_ok=True)
        write(folder / f"{number % 3}" / f"{number}.wav", [samples], durable=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and a folder of recordings of different lengths."""
    folder = tmp_path_factory.mktemp("many")
    write_tiny_stt(folder / "model")
    noise(folder / "in", COUNT, (0.3, 1.6))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, str]:
    """The text of each recording, transcribed by itself."""
    return {
        path.relative_to(folder / "in").with_suffix("").as_posix(): RENDER(
            transcribe(path, str(folder / "model"), dtype=ComputeDType.F32, cpu=True), "txt"
        )
        for path in (folder / "in").rglob("*.wav")
    }


def texts(into: Path) -> dict[str, str]:
    return {
        path.relative_to(into).with_suffix("").as_posix(): path.read_text()
        for path in into.rglob("*.txt")
    }


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_each_has_the_words_that_it_has_alone(
    folder: Path, alone: dict[str, str], tmp_path: Path, batch_size: int
) -> None:
    """Whatever the number of slots, to the byte; the JSON too, but for the time it took."""
    done = run(folder, tmp_path / "out", batch_size=batch_size)
    assert texts(tmp_path / "out") == alone
    assert (done.transcribed, done.failures, done.batch_size) == (COUNT, (), min(batch_size, COUNT))
    whole = json.loads((tmp_path / "out" / "1" / "1.json").read_text())
    single = json.loads(
        RENDER(
            transcribe(
                folder / "in" / "1" / "1.wav",
                str(folder / "model"),
                dtype=ComputeDType.F32,
                cpu=True,
            ),
            "json",
        )
    )
    timed = {"audio", "compute_s", "speedup"}
    assert {k: v for k, v in whole.items() if k not in timed} == {
        k: v for k, v in single.items() if k not in timed
    }


@pytest.mark.slow
def test_progress_tells_how_much_audio_is_through(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also within a recording, of which only one is in work; it never goes back."""
    monkeypatch.setattr(work, "_SHOW_EVERY_S", 0.0)
    gauged: list[tuple[float, str]] = []
    finished = 0

    class Gauged(SilentProgress):
        def gauge(self, share: float, figures: str) -> None:
            gauged.append((share, figures))

        def advance(self, amount: int) -> None:
            nonlocal finished
            finished += amount

    done = transcribe_many(job(folder, tmp_path / "out", batch_size=1), progress=Gauged())
    shares = [share for share, _ in gauged]
    assert shares == sorted(shares)
    assert len(set(shares)) > 3 * COUNT
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1.0
    assert finished == COUNT
    seconds, rest = gauged[-1][1].split(" s of audio, ")
    # The last frame of each is filled up.
    assert 0 <= float(seconds) + 0.05 - done.audio_s < 0.1 + 0.08 * COUNT
    assert rest.endswith(" × real time")


@pytest.mark.slow
def test_an_output_that_another_process_makes_again_is_not_made_twice(
    folder: Path, tmp_path: Path
) -> None:
    """Both saw that it is gone; the second finds it there once the first has finished it."""
    run(folder, tmp_path / "out")
    gone = tmp_path / "out" / "1" / "1.txt"
    text = gone.read_text()
    gone.unlink()

    class Other(SilentProgress):
        def start(self, *_: object) -> None:
            gone.write_text(text)

    done = transcribe_many(job(folder, tmp_path / "out"), progress=Other())
    assert (done.transcribed, done.done_before) == (0, COUNT)


@pytest.mark.slow
def test_what_is_done_needs_neither_audio_nor_model(folder: Path, tmp_path: Path) -> None:
    """The model is gone and the audio is rubbish; the second run reads names, sizes and times."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert run(tmp_path, tmp_path / "out").transcribed == COUNT
    shutil.rmtree(tmp_path / "model")
    for path in (tmp_path / "in").rglob("*.wav"):
        status = path.stat()
        path.write_bytes(bytes(status.st_size))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = run(tmp_path, tmp_path / "out")
    assert (again.transcribed, again.done_before, again.device) == (0, COUNT, None)


@pytest.mark.slow
def test_only_what_changed_is_done_again(
    folder: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    """A recording that is new in its place, an output that was removed, one that failed before."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    good = (tmp_path / "in" / "0" / "0.wav").read_bytes()
    (tmp_path / "in" / "0" / "0.wav").write_bytes(b"no audio")
    first = run(tmp_path, tmp_path / "out")
    assert first.transcribed == COUNT - 1
    assert "0.wav: not readable as audio" in first.failures[0].error
    (tmp_path / "in" / "0" / "0.wav").write_bytes(good)
    (tmp_path / "out" / "1" / "1.txt").unlink()
    os.utime(tmp_path / "in" / "2" / "2.wav")
    second = run(tmp_path, tmp_path / "out")
    assert (second.transcribed, second.done_before, second.failures) == (3, COUNT - 3, ())
    assert texts(tmp_path / "out") == alone


@pytest.mark.slow
def test_shards_are_all_of_it_and_nothing_twice(
    folder: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    runs = [run(folder, tmp_path / "out", shard=Shard(number, 3)) for number in (1, 2, 3)]
    assert sum(one.recordings for one in runs) == sum(one.transcribed for one in runs) == COUNT
    assert texts(tmp_path / "out") == alone


CPU = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_processes_share_the_work(folder: Path, alone: dict[str, str], tmp_path: Path) -> None:
    """One for each device; together they do each recording once."""
    devices = [WorkerDevice(f"cpu:{number}", CPU) for number in (0, 1)]
    done = LocalProcesses(devices).run(job(folder, tmp_path / "out", batch_size=2), SILENT)
    assert (done.transcribed, done.done_before, done.failures) == (COUNT, 0, ())
    assert texts(tmp_path / "out") == alone
    assert len(_notes(tmp_path)) <= 2


@pytest.mark.slow
def test_a_lost_device_leaves_its_work_to_the_others(
    folder: Path, alone: dict[str, str], tmp_path: Path
) -> None:
    """Its process is killed, as the kernel kills one that takes too much memory."""
    devices = [WorkerDevice(f"cuda:{number}", CPU) for number in (0, 1)]
    told = Told()
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(
            LocalProcesses(devices).run, job(folder, tmp_path / "out", batch_size=2), told
        )
        while not (children := multiprocessing.active_children()):
            time.sleep(0.01)
        os.kill(int(children[0].pid or 0), signal.SIGKILL)
        done = result.result()
    assert texts(tmp_path / "out") == alone
    assert done.transcribed == COUNT
    (line,) = told.lines
    assert line.endswith("ended with exit code -9")


@pytest.mark.slow
def test_a_damaged_recording_keeps_its_words_and_is_told(folder: Path, tmp_path: Path) -> None:
    """It fails, and what came before the damage is written, marked incomplete."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "in" / "long.flac"
    rng = np.random.default_rng(1)
    write(path, [rng.normal(0, 0.2, RATE_HZ * 20).astype(np.float32)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    done = run(tmp_path, tmp_path / "out")
    (failure,) = done.failures
    assert "damaged after" in failure.error
    assert "[incomplete: " in (tmp_path / "out" / "long.txt").read_text()


def test_a_mistyped_folder_is_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    """And no folder is made for a run of nothing."""
    with pytest.raises(SourceError, match="in"):
        run(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Echo:
    """In place of a model and its engine: a step takes some milliseconds, and a row's token follows
    from the loudness of its frame alone.
    """

    device, dtype, tokenizer, frame_samples = "cpu", ComputeDType.F32, Letters(), 1920
    config = SttConfig(LM, 10_000.0, text_delay_steps=2)
    step_s = 0.006

    def __init__(self, _: object = None, batch_size: int = 1) -> None:
        self.batch_size = batch_size

    def new_frames(self) -> NDArray[np.float32]:
        return np.zeros((self.batch_size, self.frame_samples), np.float32)

    def reset(self, slots: object) -> None:
        pass

    def launch(self, pcm: NDArray[np.float32], *_: object) -> Any:
        time.sleep(self.step_s)
        tokens = 3 + (np.abs(pcm).mean(1) * 200).astype(np.int64) % 20
        rows = self.batch_size
        output = SttOutput(tokens, np.zeros((rows, 4), np.float32), np.ones(rows, np.bool_), 1.0)
        return SimpleNamespace(wait=lambda: output)


class Here:
    """In place of the processes that decode: a recording is read in this one."""

    def __init__(self, listed: ListedRecording) -> None:
        self.listed, self.weight_done = listed, 0.0
        with open_audio(listed.path) as audio:
            self._frames = list(frames(audio.blocks()))
        meter = LevelMeter()
        meter.add(np.concatenate(self._frames))
        self.facts = SourceFacts(meter.levels, None)

    def frames(self) -> list[Samples]:
        return self._frames


@contextmanager
def decoding_here(_: int) -> Iterator[Any]:
    yield SimpleNamespace(open=Here)


@pytest.fixture
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave all of a run but decoding and the network, which only take time."""
    files = SttFiles(Path("lm"), Path("mimi"), Path("tokenizer"))
    source = SttSource("echo", files, Echo.config, None)
    monkeypatch.setattr(stt, "find_stt", lambda *_, **__: source)
    monkeypatch.setattr(
        stt,
        "load_stt_source",
        lambda *_, **__: SimpleNamespace(
            device=torch.device("cpu"),
            dtype=Echo.dtype,
            config=Echo.config,
            tokenizer=Echo.tokenizer,
            frame_samples=Echo.frame_samples,
        ),
    )
    monkeypatch.setattr(decoding, "decoders", decoding_here)
    monkeypatch.setattr("dsmops.worker.runtime.stt.engine.SttEngine", Echo)


@pytest.mark.fault
@pytest.mark.timeout(60 + 2 * KILLS)
@pytest.mark.usefixtures("without_model")
def test_killed_many_times_nothing_is_lost_or_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run folder under many kills: listing, leases, outputs, notes and processes are real."""
    with monkeypatch.context() as patched:
        patched.setattr(Echo, "step_s", 0.0)
        noise(tmp_path / "in", 10 * KILLS, (0.05, 0.2))
        run(tmp_path, tmp_path / "quiet", batch_size=64)
    _kill_and_check(tmp_path, KILLS)


@pytest.mark.fault
@pytest.mark.timeout(60 + 15 * DECODING_KILLS)
def test_killed_at_any_moment_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    """The same with a model, and with processes that decode."""
    write_tiny_stt(tmp_path / "model")
    noise(tmp_path / "in", 10 * DECODING_KILLS, (0.05, 0.2))
    run(tmp_path, tmp_path / "quiet", batch_size=8)
    _kill_and_check(tmp_path, DECODING_KILLS)


def _kill_and_check(folder: Path, kills: int) -> None:
    """Kill two processes at a time, again and again: in the end all is there, with the words of a
    quiet run, and only what was in hand was done again.
    """
    rng = random.Random(3)
    killed = 0
    for _ in range(kills // 2):
        children = [_start(folder, slots=4) for _ in range(2)]
        _await_work(folder, children[0])
        for child in children:
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert killed > 0.9 * kills, f"{kills - killed} of {kills} had ended before they were killed"
    run(folder, folder / "out", batch_size=4)
    quiet = texts(folder / "quiet")
    assert texts(folder / "out") == quiet
    notes = [
        json.loads(line)["key"] for file in _notes(folder) for line in file.read_text().splitlines()
    ]
    assert len(notes) == len(set(notes)) == len(quiet)
    assert len({file.name.split("-")[-2] for file in _notes(folder)}) > 2, "kills hit no work"
    assert not list((folder / "out").rglob("*.dsmops-partial"))


def _await_work(folder: Path, child: int) -> None:
    """Wait until a process has finished a recording, or has nothing to do."""
    options = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while os.waitid(os.P_PID, child, options) is None:
        if any(f"-{child}-" in file.name for file in _notes(folder)):
            return
        time.sleep(0.01)


def _notes(folder: Path) -> list[Path]:
    return list((folder / "out" / ".dsmops-run" / "notes").glob("*"))


def _start(folder: Path, slots: int) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            run(folder, folder / "out", batch_size=slots)
            code = 0
        finally:
            os._exit(code)
    return child


@pytest.mark.fault
def test_a_full_disk_ends_the_run_and_loses_nothing(
    folder: Path, alone: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the space ends, in a transcript or in a note; with space the run goes on."""
    real, ends = os.write, 0
    for most in range(200, 9_000, 1_700):
        into, written = tmp_path / str(most), 0

        def write_some(fd: int, data: Any, most: int = most) -> int:
            nonlocal written
            if written + len(data) > most:
                # A full disk takes a part first.
                part = most - written
                written = most
                if part > 0:
                    return real(fd, data[:part])
                raise OSError(28, "No space left on device")
            written += len(data)
            return real(fd, data)

        with monkeypatch.context() as patched:
            patched.setattr("os.write", write_some)
            try:
                run(folder, into)
            except DiskFullError:
                ends += 1
        assert texts(into).items() <= alone.items()
        run(folder, into)
        assert texts(into) == alone
    assert ends >= 3


@pytest.mark.slow
def test_a_recording_that_may_not_be_read_fails_alone(folder: Path, tmp_path: Path) -> None:
    """A disk that fails, a link that leads nowhere, a folder or a pipe in its place."""
    good = folder / "in" / "0" / "0.wav"
    names = {"good": good, "loop": tmp_path / "loop.wav", "memory": Path("/proc/self/mem")}
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    os.mkfifo(tmp_path / "pipe.wav")
    names["pipe"] = tmp_path / "pipe.wav"
    rows = [{"id": name, "audio": str(path)} for name, path in names.items()]
    (tmp_path / "m.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    one = replace(job(folder, tmp_path / "out"), inputs=(str(tmp_path / "m.jsonl"),))
    done = transcribe_many(one)
    assert done.transcribed == 1
    assert {failure.file for failure in done.failures} == {
        str(path) for name, path in names.items() if name != "good"
    }
