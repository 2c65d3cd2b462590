"""`transcribe --output-dir`: many recordings through all slots of one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from dsmops.errors import DsmopsError, FileAccessError, InputError, RemoteError
from dsmops.files import replace_atomically
from dsmops.operations.models.stt import SttSource, find_stt, load_stt_source
from dsmops.operations.speech.evaluation import CPU_BATCH_SIZE, GPU_BATCH_SIZE
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.many.ahead import WORKING_THREADS, Ahead, decoding_threads
from dsmops.operations.speech.many.inputs import opened
from dsmops.operations.speech.many.listing import (
    ListedRecording,
    list_recordings,
    longest_first,
    require_any,
)
from dsmops.operations.speech.many.run_folder import RunFolder, RunSettings
from dsmops.operations.speech.many.work import (
    WHOLE,
    Shard,
    Work,
    allow_open_files,
)
from dsmops.operations.speech.transcription import Transcription, require_finite, transcription_of
from dsmops.progress import SILENT, Progress
from dsmops.progress import waiting as waiting_for

if TYPE_CHECKING:
    from dsmops.dtypes import ComputeDType
    from dsmops.worker.models.stt import LoadedStt
    from dsmops.worker.runtime.stt.transcription import Recording

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
FORMATS = ("txt", "srt", "vtt", "json")
"""What a transcript can be written as, which is also the ending of its file."""


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
    the time they took without loading, `speedup` the ratio, None without audio, `step_share` the
    share of the time in which the engine computed. `device`, `dtype` and `batch_size` are None
    where nothing was left to do; for several devices `device` names all, and `batch_size` is the
    sum.
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
    step_share: float | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a run transcribes, into which `folder`, with which `model`. It can be pickled.

    `inputs` are as for `list_recordings`, `formats` of `FORMATS`; `render` gives the text of a
    transcript in one of them. `source` is the model where its files have been found already.
    """

    inputs: tuple[str, ...]
    folder: Path
    model: str
    formats: tuple[str, ...]
    render: Callable[[Transcription, str], str]
    dtype: ComputeDType | None = None
    cpu: bool = False
    quantised: Quantised = PLAIN
    timing: str = "server"
    batch_size: int | None = None
    shard: Shard = WHOLE
    source: SttSource | None = None

    def recordings(self) -> list[ListedRecording]:
        """Return the recordings of this shard, in no special order.

        Raises:
            SourceError, InputError, FileAccessError, CredentialsError, RemoteError: as
                `list_recordings`, or none is there.
        """
        listed = list_recordings(self.inputs)
        require_any(listed)
        return self.shard.of(listed)

    def open_folder(self) -> RunFolder:
        """Open the run folder. Raises as `RunFolder`."""
        settings = RunSettings(
            model=self.model,
            formats=",".join(sorted(self.formats)),
            dtype=self.dtype.value if self.dtype else "best",
            weights=self.quantised.weights or "as stored",
            kv=self.quantised.kv,
            timing=self.timing,
        )
        return RunFolder(self.folder, settings)


def transcribe_many(job: Job, *, progress: Progress = SILENT) -> TranscriptionRun:
    """Transcribe the recordings of `job` into files of its folder, in this process.

    What an earlier run has finished is left as it is, unless the recording has changed or an output
    is gone. A recording that cannot be read fails alone; the next run tries it again.

    Raises:
        InputError, SourceError: an input, the folder or the model cannot be used.
        CheckpointError: the model computes numbers that are not finite.
        DiskFullError: no room for an output. What is finished stays.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation
            failed.
    """
    recordings = job.recordings()
    with job.open_folder() as run:
        work = Work(run, recordings, [f".{ending}" for ending in job.formats], progress)
        engine = _Engine(job, work, progress)
        if work.waiting:
            try:
                engine.run(longest_first(work.waiting))
            finally:
                progress.finish()
    loaded, elapsed_s = engine.loaded, engine.elapsed_s
    return TranscriptionRun(
        folder=str(job.folder),
        model=job.model,
        formats=job.formats,
        recordings=len(recordings),
        done_before=work.done_before,
        in_work_elsewhere=work.in_work_elsewhere,
        transcribed=work.finished,
        words=work.words,
        audio_s=work.audio_s,
        elapsed_s=elapsed_s,
        speedup=work.audio_s / elapsed_s if work.audio_s and elapsed_s else None,
        step_share=engine.step_s / elapsed_s if elapsed_s else None,
        failures=tuple(FailedRecording(one.file, one.error) for one in work.failures),
        device=str(loaded.device) if loaded else None,
        dtype=loaded.dtype if loaded else None,
        batch_size=engine.slots,
    )


class _Source:
    """A recording on its way through the engine: its frames, and what was met while reading."""

    def __init__(self, listed: ListedRecording) -> None:
        self.listed = listed
        self.meter = LevelMeter()
        self.error: DsmopsError | None = None
        self.warnings: tuple[str, ...] = ()
        self.fed_frames = 0
        self._duration_s = listed.duration_s

    @property
    def weight_done(self) -> float:
        """What of its weight went through the engine, 0 where its length is not known."""
        if not self._duration_s:
            return 0.0
        return self.listed.weight * min(self.fed_frames * FRAME_S / self._duration_s, 1.0)

    def frames(self) -> Iterator[Samples]:
        """Yield its frames. Where it cannot be read to its end, stop and remember why."""
        listed = self.listed
        try:
            with opened(listed.file) as source, open_audio(source) as audio:
                self._duration_s = self._duration_s or audio.duration_s
                # In pieces of a frame's length, by which silence is judged.
                pieces = audio.blocks(FRAME_S)
                blocks = excerpt(pieces, listed.offset_s, listed.duration_s)
                yield from frames(self._measured(blocks))
                self.warnings = tuple(audio.warnings)
            if not self.meter.levels.duration_s:
                self.error = InputError(
                    f"{listed.file} ends before {listed.offset_s:.2f} s, where its part begins",
                    hint="Check the offset in the manifest.",
                    code="manifest.offset",
                )
        except (InputError, FileAccessError, RemoteError) as exc:
            self.error = exc

    def _measured(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self.meter.add(block)
            yield block


class _Engine:
    """Loads the model, and writes what it makes of the recordings."""

    def __init__(self, job: Job, work: Work[ListedRecording], progress: Progress) -> None:
        self._job = job
        self._work = work
        self._progress = progress
        self._running: dict[Recording, _Source] = {}
        self.loaded: LoadedStt | None = None
        self.slots: int | None = None
        self._fed_frames = 0
        self.elapsed_s = self.step_s = 0.0

    def run(self, waiting: Sequence[ListedRecording]) -> None:
        """Load the model and transcribe what is waiting, in its order."""
        job = self._job
        with waiting_for(self._progress, f"Opening {job.model}"):
            found = job.source or find_stt(job.model, progress=self._progress)
        self._work.require_no_output_of(astuple(found.files))
        with waiting_for(self._progress, f"Loading {job.model}"):
            self.loaded = loaded = load_stt_source(
                found, dtype=job.dtype, cpu=job.cpu, quantised=job.quantised
            )

        from dsmops.worker.runtime.stt.engine import SttEngine
        from dsmops.worker.runtime.stt.transcription import (
            Recording,
            WordTiming,
            run_recordings,
        )

        on_card = loaded.device.type == "cuda"
        most = job.batch_size or (GPU_BATCH_SIZE if on_card else CPU_BATCH_SIZE)
        self.slots = min(most, len(waiting))
        allow_open_files(4 * self.slots)
        engine = SttEngine(loaded, batch_size=self.slots)
        self._work.begin(f"Transcribing into {job.folder}", "recordings")
        with decoding_threads(WORKING_THREADS) as threads:

            def opened_source(listed: ListedRecording) -> tuple[_Source, Ahead[Samples]]:
                source = _Source(listed)
                return source, Ahead(threads, source.frames())

            def recordings() -> Iterator[Recording]:
                for source, ahead in self._work.opened_ahead(waiting, opened_source):
                    recording = Recording(
                        self._fed(source, ahead),
                        loaded.config,
                        loaded.tokenizer,
                        loaded.frame_samples,
                        timing=WordTiming(job.timing),
                    )
                    self._running[recording] = source
                    yield recording

            try:
                for news in run_recordings(engine, recordings()):
                    if news.finished:
                        self._finish(news.recording, loaded, found.name)
            finally:
                self.elapsed_s = self._work.elapsed_s

    def _fed(self, source: _Source, frames: Iterable[Samples]) -> Iterator[Samples]:
        """Yield the frames of a recording as the engine takes them, and count them."""
        for frame in frames:
            source.fed_frames += 1
            self._fed_frames += 1
            self._work.show(self._audio_s, self._weights_done)
            yield frame

    def _audio_s(self) -> float:
        return self._fed_frames * FRAME_S

    def _weights_done(self) -> Iterator[float]:
        return (source.weight_done for source in self._running.values())

    def _finish(self, recording: Recording, loaded: LoadedStt, model: str) -> None:
        source = self._running.pop(recording)
        transcript = recording.transcript()
        figures = transcript.figures
        require_finite(figures.non_finite_steps, figures.steps, loaded)
        error, listed = source.error, source.listed
        result = transcription_of(
            listed.file,
            source.meter.levels,
            transcript,
            loaded,
            model,
            compute_s=figures.share_s,
            incomplete=Incomplete.because(error) if error is not None else None,
            warnings=source.warnings,
        )
        if error is None or transcript.words:
            for ending in self._job.formats:
                path = self._work.output(listed, f".{ending}")
                with replace_atomically(path, durable=False) as file:
                    file.write(self._job.render(result, ending).encode())
        self.step_s += figures.share_s
        self._work.finish(
            listed,
            audio_s=result.audio_s,
            words=len(result.words),
            error=error.message if error is not None else None,
        )
