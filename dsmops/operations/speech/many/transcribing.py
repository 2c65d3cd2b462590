"""`transcribe --output-dir`: many recordings through all slots of one engine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dsmops.dtypes import PLAIN, Quantised
from dsmops.operations.speech.many.listing import (
    ListedRecording,
    list_recordings,
    longest_first,
    require_any,
)
from dsmops.operations.speech.many.outputs import Outputs, open_outputs, open_run
from dsmops.operations.speech.many.run_folder import SCHEMA, RunFolder, RunSettings
from dsmops.operations.speech.many.work import (
    WHOLE,
    Failed,
    Shard,
    Work,
)
from dsmops.progress import SILENT, Progress
from dsmops.progress import waiting as waiting_for

if TYPE_CHECKING:
    from dsmops.audio import Samples
    from dsmops.dtypes import ComputeDType
    from dsmops.operations.models.stt import SttSource
    from dsmops.operations.speech.many.decoding import Decoders, Source
    from dsmops.operations.speech.transcription import Transcription
    from dsmops.worker.models.stt import LoadedStt
    from dsmops.worker.runtime.stt.transcription import Recording

FORMATS = ("txt", "srt", "vtt", "json")
"""What a transcript can be written as, which is also the ending of its file."""
_MOST_ENDING = 256
"""Recordings whose transcripts may still be on their way to a bucket."""


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
    failures: tuple[Failed, ...] = field(metadata={"items": {"file": "audio"}})
    step_share: float | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What a run transcribes, into which `folder`, with which `model`. It can be pickled.

    With `bucket`, `s3://BUCKET/PREFIX`, transcripts go there, and `folder` has the leases.

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
    bucket: str | None = None

    @property
    def target(self) -> str:
        """Where transcripts go, as people write it."""
        return self.bucket or str(self.folder)

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
        """Open the run folder. Raises as `open_run`."""
        settings = RunSettings(
            model=self.model,
            formats=",".join(sorted(self.formats)),
            dtype=self.dtype.value if self.dtype else "best",
            weights=self.quantised.weights or "as stored",
            kv=self.quantised.kv,
            timing=self.timing,
        )
        return open_run(self.folder, self.bucket, settings, SCHEMA)

    def open_outputs(self) -> Outputs:
        """Return where transcripts are kept."""
        return open_outputs(self.folder, self.bucket)


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
    with job.open_folder() as run, job.open_outputs() as outputs:
        endings = [f".{ending}" for ending in job.formats]
        work = Work(run, outputs, recordings, endings, progress)
        engine = _Engine(job, work, outputs, progress)
        if work.waiting:
            try:
                engine.run(longest_first(work.waiting))
            finally:
                progress.finish()
    return TranscriptionRun(
        folder=job.target,
        model=job.model,
        formats=job.formats,
        recordings=len(recordings),
        transcribed=work.finished,
        **work.figures(engine),
    )


class _Ending(NamedTuple):
    """A recording that is transcribed; `kept` ends when its transcripts are where they belong."""

    listed: ListedRecording
    audio_s: float
    words: int
    error: str | None
    kept: Sequence[Future[None]]


class _Engine:
    """Loads the model, and writes what it makes of the recordings."""

    def __init__(
        self, job: Job, work: Work[ListedRecording], outputs: Outputs, progress: Progress
    ) -> None:
        self._job = job
        self._work = work
        self._outputs = outputs
        self._progress = progress
        self._running: dict[Recording, Source] = {}
        self._ending: deque[_Ending] = deque()
        self.loaded: LoadedStt | None = None
        self.slots: int | None = None
        self._fed_frames = 0
        self.elapsed_s = self.step_s = 0.0

    def run(self, waiting: Sequence[ListedRecording]) -> None:
        """Load the model and transcribe what is waiting, in its order."""
        # Not where nothing is left to do: a run that is done must end fast.
        from dsmops.operations.speech.evaluation import GPU_BATCH_SIZE
        from dsmops.operations.speech.many.decoding import decoders

        # They start while the model is loaded.
        with decoders(self._job.batch_size or GPU_BATCH_SIZE) as decoding:
            self._run(waiting, decoding)

    def _run(self, waiting: Sequence[ListedRecording], decoding: Decoders) -> None:
        from dsmops.operations.models.stt import find_stt, load_stt_source
        from dsmops.operations.speech.evaluation import CPU_BATCH_SIZE, GPU_BATCH_SIZE

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
        engine = SttEngine(loaded, batch_size=self.slots)
        self._work.begin(f"Transcribing into {job.target}", "recordings")

        def recordings() -> Iterator[Recording]:
            for source in self._work.opened_ahead(waiting, decoding.open):
                recording = Recording(
                    self._fed(source),
                    loaded.config,
                    loaded.tokenizer,
                    loaded.frame_samples,
                    timing=WordTiming(job.timing),
                )
                self._running[recording] = source
                yield recording

        try:
            for news in run_recordings(engine, recordings(), overlapping=True):
                if news.finished:
                    self._finish(news.recording, loaded, found.name)
            self._note_kept(most_left=0)
        except BaseException:
            self._note_what_is_kept()
            raise
        finally:
            self.elapsed_s = self._work.elapsed_s

    def _fed(self, source: Source) -> Iterator[Samples]:
        """Yield the frames of a recording as the engine takes them, and count them."""
        for frame in source.frames():
            self._fed_frames += 1
            self._work.show(self._audio_s, self._weights_done)
            yield frame

    def _audio_s(self) -> float:
        from dsmops.operations.speech.many.decoding import FRAME_S

        return self._fed_frames * FRAME_S

    def _weights_done(self) -> Iterator[float]:
        return (source.weight_done for source in self._running.values())

    def _finish(self, recording: Recording, loaded: LoadedStt, model: str) -> None:
        from dsmops.operations.speech.incomplete import Incomplete
        from dsmops.operations.speech.transcription import require_finite, transcription_of

        source = self._running.pop(recording)
        transcript = recording.transcript()
        figures = transcript.figures
        require_finite(figures.non_finite_steps, figures.steps, loaded)
        facts, listed = source.facts, source.listed
        error = facts.error
        result = transcription_of(
            listed.file,
            facts.levels,
            transcript,
            loaded,
            model,
            compute_s=figures.share_s,
            incomplete=Incomplete.because(error) if error is not None else None,
            warnings=facts.warnings,
        )
        kept = [
            self._outputs.put(f"{listed.name}.{ending}", self._job.render(result, ending).encode())
            for ending in self._job.formats
            if error is None or transcript.words
        ]
        self.step_s += figures.share_s
        self._ending.append(
            _Ending(
                listed, result.audio_s, len(result.words), error.message if error else None, kept
            )
        )
        self._note_kept(most_left=_MOST_ENDING)

    def _note_kept(self, most_left: int) -> None:
        """Note the recordings whose transcripts are kept; wait until at most so many are left."""
        while self._ending and (
            len(self._ending) > most_left or all(one.done() for one in self._ending[0].kept)
        ):
            self._note(self._ending.popleft())

    def _note_what_is_kept(self) -> None:
        """Note, when a run ends early, all recordings whose transcripts are kept by now."""
        for one in self._ending:
            if all(
                kept.done() and not kept.cancelled() and not kept.exception() for kept in one.kept
            ):
                self._note(one)
        self._ending.clear()

    def _note(self, one: _Ending) -> None:
        """Raise why a transcript could not be kept."""
        for kept in one.kept:
            kept.result()
        self._work.finish(one.listed, audio_s=one.audio_s, words=one.words, error=one.error)
