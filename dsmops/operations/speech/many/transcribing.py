"""`transcribe --output-dir`: many recordings through all slots of one engine."""

from __future__ import annotations

import os
import resource
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.audio import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    LevelMeter,
    Samples,
    excerpt,
    frames,
    open_audio,
)
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import DsmopsError, FileAccessError, InputError
from dsmops.files import replace_atomically
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.operations.speech.evaluation import CPU_BATCH_SIZE, GPU_BATCH_SIZE
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.many.ahead import Ahead, DecodingThreads
from dsmops.operations.speech.many.listing import ListedRecording, list_recordings, require_any
from dsmops.operations.speech.many.run_folder import Note, RunFolder
from dsmops.operations.speech.transcription import Transcription, require_finite, transcription_of
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.dtypes import ComputeDType
    from dsmops.worker.models.stt import LoadedStt
    from dsmops.worker.runtime.stt.transcription import Recording

FORMATS = ("txt", "srt", "vtt", "json")
"""What a transcript can be written as, which is also the ending of its file."""
_DECODING_THREADS = max(2, os.cpu_count() or 1)
_OPEN_AHEAD = 2
"""Recordings that are opened before a slot is free for them."""


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `number` of `count` of all recordings, counted from 1. A recording's name decides."""

    number: int = 1
    count: int = 1

    def holds(self, recording: ListedRecording) -> bool:
        """Whether a recording is of this part."""
        return int(recording.key, 16) % self.count == self.number - 1


@dataclass(frozen=True, slots=True)
class FailedRecording:
    """A recording that could not be read, or only in part, and why."""

    audio: str
    error: str


@dataclass(frozen=True, slots=True)
class TranscriptionRun:
    """What a run did.

    `recordings` were listed for this process. Of them `done_before` were finished by an earlier
    run or meanwhile by another process, `in_work_elsewhere` are in work in another process,
    `transcribed` and `failures` are this process's. `audio_s` is the length of those, `elapsed_s`
    the time they took without loading, `speedup` the ratio, None without audio. `device`, `dtype`
    and `batch_size` are None where nothing was left to do.
    """

    folder: str
    model: str
    formats: tuple[str, ...]
    recordings: int
    done_before: int
    in_work_elsewhere: int
    transcribed: int
    words: int
    audio_s: float
    elapsed_s: float
    speedup: float | None
    failures: tuple[FailedRecording, ...]
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None


def transcribe_many(
    inputs: Sequence[str],
    folder: Path,
    model: str,
    *,
    formats: Sequence[str],
    render: Callable[[Transcription, str], str],
    dtype: ComputeDType | None = None,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
    timing: str = "server",
    batch_size: int | None = None,
    shard: Shard = Shard(),
    progress: Progress = SILENT,
) -> TranscriptionRun:
    """Transcribe what `inputs` name (see `list_recordings`) into files of `folder`.

    `formats` are of `FORMATS`, `render` gives the text of a transcript in one of them. What an
    earlier run has finished is left as it is, unless the recording has changed or an output is
    gone. A recording that cannot be read fails alone; the next run tries it again.

    Raises:
        InputError, SourceError: an input, the folder or the model cannot be used.
        CheckpointError: the model computes numbers that are not finite.
        DiskFullError: no room for an output. What is finished stays.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation
            failed.
    """
    listed = list_recordings(inputs)
    require_any(listed)
    recordings = [one for one in listed if shard.holds(one)]
    settings = {
        "model": model,
        "formats": ",".join(sorted(formats)),
        "dtype": dtype.value if dtype else "best",
        "timing": timing,
    }
    if quantised != PLAIN:
        settings |= {"weights": quantised.weights or "as stored", "kv": quantised.kv}
    with RunFolder(folder, settings) as run:
        run.done()
        again = set(run.missing_outputs(tuple(formats)))
        waiting = [one for one in recordings if one.key in again or one.key not in run.done()]
        work = _Work(run, tuple(formats), render, again, progress)
        done_before = len(recordings) - len(waiting)
        loaded = None
        engine_slots = None
        if waiting:
            found = find_stt(model, progress=progress)
            loaded = load_stt_source(found, dtype=dtype, cpu=cpu, quantised=quantised)
            if batch_size is None:
                batch_size = GPU_BATCH_SIZE if loaded.device.type == "cuda" else CPU_BATCH_SIZE
            engine_slots = min(batch_size, len(waiting))
            outputs = {folder / f"{one.name}.{ending}" for one in waiting for ending in formats}
            for path in astuple(found.files):
                if path in outputs:
                    raise InputError(
                        f"{path} is a file of the model itself",
                        hint="Write to another folder.",
                        code="file.same",
                    )
            progress.start(f"Transcribing into {folder}", len(waiting), "recordings")
            try:
                work.run(waiting, loaded, found.name, engine_slots, timing)
            finally:
                progress.finish()
    return TranscriptionRun(
        folder=str(folder),
        model=model,
        formats=tuple(formats),
        recordings=len(recordings),
        done_before=done_before + work.done_meanwhile,
        in_work_elsewhere=work.in_work_elsewhere,
        transcribed=work.transcribed,
        words=work.words,
        audio_s=work.audio_s,
        elapsed_s=work.elapsed_s,
        speedup=work.audio_s / work.elapsed_s if work.audio_s and work.elapsed_s else None,
        failures=tuple(sorted(work.failures, key=lambda failure: failure.audio)),
        device=str(loaded.device) if loaded else None,
        dtype=loaded.dtype if loaded else None,
        batch_size=engine_slots,
    )


class _Source:
    """A recording on its way through the engine: its frames, and what was met while reading."""

    def __init__(self, listed: ListedRecording) -> None:
        self.listed = listed
        self.meter = LevelMeter()
        self.error: DsmopsError | None = None
        self.warnings: tuple[str, ...] = ()

    def frames(self) -> Iterator[Samples]:
        """Yield its frames. Where it cannot be read to its end, stop and remember why."""
        listed = self.listed
        try:
            with open_audio(listed.path) as audio:
                # In pieces of a frame's length, by which silence is judged.
                pieces = audio.blocks(FRAME_SAMPLES / SAMPLE_RATE_HZ)
                blocks = excerpt(pieces, listed.offset_s, listed.duration_s)
                yield from frames(self._measured(blocks))
                self.warnings = tuple(audio.warnings)
            if not self.meter.levels.duration_s:
                self.error = InputError(
                    f"{listed.path} ends before {listed.offset_s:.2f} s, where its part begins",
                    hint="Check the offset in the manifest.",
                    code="manifest.offset",
                )
        except (InputError, FileAccessError) as exc:
            self.error = exc

    def _measured(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self.meter.add(block)
            yield block


class _Work:
    """Takes recordings that no other process works on, and writes what the engine makes of them."""

    def __init__(
        self,
        run: RunFolder,
        formats: tuple[str, ...],
        render: Callable[[Transcription, str], str],
        again: set[str],
        progress: Progress,
    ) -> None:
        self._run = run
        self._formats = formats
        self._render = render
        self._again = again
        self._progress = progress
        self._running: dict[Recording, _Source] = {}
        self.done_meanwhile = self.in_work_elsewhere = self.transcribed = self.words = 0
        self.audio_s = self.elapsed_s = 0.0
        self.failures: list[FailedRecording] = []

    def run(
        self,
        waiting: Sequence[ListedRecording],
        loaded: LoadedStt,
        model: str,
        slots: int,
        timing: str,
    ) -> None:
        """Transcribe what is waiting, in its order."""
        from dsmops.worker.runtime.stt.engine import SttEngine
        from dsmops.worker.runtime.stt.transcription import (
            Recording,
            WordTiming,
            run_recordings,
        )

        _allow_open_files(4 * slots)
        engine = SttEngine(loaded, batch_size=slots)
        start_s = time.monotonic()
        with DecodingThreads(_DECODING_THREADS) as threads:

            def recordings() -> Iterator[Recording]:
                for source, ahead in self._opened_ahead(waiting, threads):
                    recording = Recording(
                        ahead,
                        loaded.config,
                        loaded.tokenizer,
                        loaded.frame_samples,
                        timing=WordTiming(timing),
                    )
                    self._running[recording] = source
                    yield recording

            try:
                for news in run_recordings(engine, recordings()):
                    if news.finished:
                        self._finish(news.recording, loaded, model)
            finally:
                self.elapsed_s = time.monotonic() - start_s

    def _opened_ahead(
        self, waiting: Sequence[ListedRecording], threads: DecodingThreads
    ) -> Iterator[tuple[_Source, Ahead[Samples]]]:
        opened: deque[tuple[_Source, Ahead[Samples]]] = deque()
        for listed in waiting:
            if not self._take(listed):
                continue
            source = _Source(listed)
            opened.append((source, threads.ahead(source.frames())))
            if len(opened) > _OPEN_AHEAD:
                yield opened.popleft()
        while opened:
            yield opened.popleft()

    def _take(self, listed: ListedRecording) -> bool:
        """Take the lease of a recording that is still to be done."""
        if not self._run.take(listed.key):
            self.in_work_elsewhere += 1
        elif listed.key in self._run.done() and listed.key not in self._again:
            self._run.give_back(listed.key)
            self.done_meanwhile += 1
        else:
            return True
        self._progress.advance(1)
        return False

    def _finish(self, recording: Recording, loaded: LoadedStt, model: str) -> None:
        source = self._running.pop(recording)
        transcript = recording.transcript()
        figures = transcript.figures
        require_finite(figures.non_finite_steps, figures.steps, loaded)
        error, listed = source.error, source.listed
        result = transcription_of(
            str(listed.path),
            source.meter.levels,
            transcript,
            loaded,
            model,
            compute_s=figures.share_s,
            incomplete=Incomplete.because(error) if error is not None else None,
            warnings=source.warnings,
        )
        if error is None or transcript.words:
            for ending in self._formats:
                path = self._run.path / f"{listed.name}.{ending}"
                with replace_atomically(path, durable=False) as file:
                    file.write(self._render(result, ending).encode())
        self._run.note(
            Note(
                listed.key,
                listed.name,
                result.audio,
                result.audio_s,
                len(result.words),
                error.message if error is not None else None,
            )
        )
        self._run.give_back(listed.key)
        self.audio_s += result.audio_s
        if error is None:
            self.transcribed += 1
            self.words += len(result.words)
        else:
            self.failures.append(FailedRecording(result.audio, error.message))
        self._progress.advance(1)


def _allow_open_files(count: int) -> None:
    """Raise the limit of open files, as far as the system lets us; each slot has one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
