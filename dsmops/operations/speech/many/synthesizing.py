"""`synthesize --output-dir`: many texts through all slots of one engine."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NotRequired, TypedDict

from dsmops.audio import SAMPLE_RATE_HZ, Samples, Written, require_writable, write
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import DsmopsError, FileAccessError, InputError, RemoteError
from dsmops.extras import require_worker
from dsmops.files import open_regular, os_errors
from dsmops.operations.models.tts import TtsSource, find_tts, load_tts_source
from dsmops.operations.speech.evaluation import GPU_BATCH_SIZE
from dsmops.operations.speech.many.ahead import OPEN_AHEAD
from dsmops.operations.speech.many.inputs import opened
from dsmops.operations.speech.many.outputs import Outputs, open_outputs, open_run
from dsmops.operations.speech.many.run_folder import RunFolder
from dsmops.operations.speech.many.text_listing import (
    ListedText,
    list_texts,
    longest_texts_first,
    require_any_text,
)
from dsmops.operations.speech.many.work import (
    WHOLE,
    Failed,
    Shard,
    Work,
    allow_open_files,
)
from dsmops.operations.speech.synthesis import Requests, SynthesisSettings, script_of
from dsmops.operations.speech.texts import MOST_TEXT_BYTES, decoded_text
from dsmops.progress import SILENT, Progress, waiting

if TYPE_CHECKING:
    from dsmops.dtypes import ComputeDType
    from dsmops.worker.models.tokenizer import TextTokenizer
    from dsmops.worker.models.tts import LoadedTts
    from dsmops.worker.runtime.tts.interface import TtsRequest
    from dsmops.worker.runtime.tts.machine import TtsEntry
    from dsmops.worker.runtime.tts.synthesis import Script, ScriptUpdate

SYNTHESIS_RUN = "dsmops.synthesis-run/1"
DEFAULT_SEED = 0
"""One for all texts, so that a run that is continued makes the sound that it would have made."""


class SynthesisRunSettings(TypedDict):
    """The settings on which all results in the folder of a run over texts depend.

    What a manifest says of one text is left out: such settings make it another text.
    """

    model: str
    dtype: str
    weights: str
    kv: str
    voices: str
    voice_folder: str
    seed: int
    cfg: str
    temperature: str
    codebooks: str
    bucket: NotRequired[str]
    """Where the results are, if not in the folder."""


_CPU_BATCH_SIZE = 1
"""A step of more rows rounds otherwise, which changes one sample in some hundreds by one of 65,536
levels: with one row a text's file is the same, to the byte, in every run."""


@dataclass(frozen=True, slots=True)
class SynthesisRun:
    """What a run did.

    `texts` were listed for this process. Of them `done_before` were finished by an earlier run or
    meanwhile by another process, `in_work_elsewhere` are in work in another process, `synthesized`
    and `failures` are this process's. `audio_s` is the length of the sound, `elapsed_s` the time it
    took without loading, `speedup` the ratio, None without sound, `step_share` the share of the
    time in which the engine computed. `skipped`: each character of the texts once that the model's
    tokenizer does not know. `device`, `dtype` and `batch_size` are None where nothing was
    left to do.
    """

    folder: str
    model: str
    texts: int
    done_before: int
    in_work_elsewhere: int
    synthesized: int
    words: int
    audio_s: float
    elapsed_s: float
    speedup: float | None
    failures: tuple[Failed, ...] = field(metadata={"items": {"file": "text"}})
    skipped: str = ""
    step_share: float | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class SynthesisJob:
    """What a run synthesizes, into which `folder`, with which `model`. It can be pickled.

    With `bucket`, `s3://BUCKET/PREFIX`, sound goes there, and `folder` has the leases. `inputs` and
    `form` are as for `list_texts`. A seed of `settings` that is None is
    `DEFAULT_SEED`.
    """

    inputs: tuple[str, ...]
    folder: Path
    model: str
    form: str = "wav"
    settings: SynthesisSettings = SynthesisSettings()  # noqa: RUF009 frozen
    dtype: ComputeDType | None = None
    cpu: bool = False
    quantised: Quantised = PLAIN
    batch_size: int | None = None
    shard: Shard = WHOLE
    bucket: str | None = None

    @property
    def target(self) -> str:
        """Where sound goes, as people write it."""
        return self.bucket or str(self.folder)

    @property
    def seed(self) -> int:
        """The seed of every text that has none of its own."""
        return DEFAULT_SEED if self.settings.seed is None else self.settings.seed

    def texts(self) -> list[ListedText]:
        """Return the texts of this shard, in no special order.

        Raises:
            SourceError, InputError, FileAccessError, CredentialsError, RemoteError: as
                `list_texts`, or none is there, or the library here does not write a format.
        """
        listed = list_texts(self.inputs, self.form)
        require_any_text(listed)
        for ending in {one.name.rpartition(".")[2] for one in listed}:
            require_writable(self.folder / f"any.{ending}")
        return self.shard.of(listed)

    def open_folder(self) -> RunFolder:
        """Open the run folder. Raises as `open_run`."""
        settings = self.settings
        run_settings = SynthesisRunSettings(
            model=self.model,
            dtype=self.dtype.value if self.dtype else "best",
            weights=self.quantised.weights or "as stored",
            kv=self.quantised.kv,
            voices=", ".join(settings.voices) or "the model's",
            voice_folder=settings.voice_folder or "the model's",
            seed=self.seed,
            cfg=_shown(settings.cfg),
            temperature=_shown(settings.temperature),
            codebooks=_shown(settings.n_q),
        )
        return open_run(self.folder, self.bucket, run_settings, SYNTHESIS_RUN)

    def open_outputs(self) -> Outputs:
        """Return where sound is kept."""
        return open_outputs(self.folder, self.bucket)


def _shown(number: float | None) -> str:
    return "the model's" if number is None else f"{number:g}"


def synthesize_many(job: SynthesisJob, *, progress: Progress = SILENT) -> SynthesisRun:
    """Synthesize the texts of `job` into files of its folder, in this process.

    What an earlier run has finished is left as it is, unless the text, its voice, its seed or its
    format has changed or its file is gone. A text that cannot be used fails alone; the next run
    tries it again. A text's sound is that of `synthesize` with the same seed: to the byte with one
    text at a time, and as far as rounding goes with more.

    Raises:
        InputError, SourceError: an input, the folder or the model cannot be used.
        CheckpointError: the model computes numbers that are not finite.
        DiskFullError: no room for an output. What is finished stays.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation
            failed.
    """
    require_worker("synthesizing")
    texts = job.texts()
    with job.open_folder() as run, job.open_outputs() as outputs:
        # The name of a text's output has its ending already.
        work = Work(run, outputs, texts, [""], progress)
        engine = _Engine(job, work, outputs, progress)
        if work.waiting:
            engine.run(longest_texts_first(work.waiting))
    return SynthesisRun(
        folder=job.target,
        model=job.model,
        texts=len(texts),
        synthesized=work.finished,
        skipped="".join(engine.skipped),
        **work.figures(engine),
    )


class _Output:
    """A file of sound that a thread writes while the engine makes it, and puts into a bucket."""

    def __init__(
        self, threads: Executor, listed: ListedText, outputs: Outputs, of_words: int
    ) -> None:
        self.listed = listed
        self.words = 0
        self._of_words = of_words
        self._blocks: queue.SimpleQueue[Samples | _StoppedError | None] = queue.SimpleQueue()
        self._written: Future[Written] = threads.submit(self._write, outputs)

    @property
    def weight_done(self) -> float:
        """What of its text's weight is said."""
        return self.listed.weight * self.words / self._of_words

    def _write(self, outputs: Outputs) -> Written:
        with outputs.file(self.listed.name) as path:
            return write(path, self._coming(), durable=False)

    def _coming(self) -> Iterator[Samples]:
        while (block := self._blocks.get()) is not None:
            if isinstance(block, _StoppedError):
                raise block
            yield block

    def add(self, pcm: Samples) -> None:
        """Write more. Raises what ended the thread that writes."""
        if self._written.done():
            self._written.result()
        self._blocks.put(pcm)

    def end(self) -> None:
        """Say that this is all."""
        self._blocks.put(None)

    def abandon(self) -> None:
        """Let the thread end without leaving a file."""
        self._blocks.put(_StoppedError())

    @property
    def is_written(self) -> bool:
        """Whether the file is there, or failed."""
        return self._written.done()

    def written(self) -> Written:
        """Wait for the file, and return what was written. Raises as `write`."""
        return self._written.result()


class _StoppedError(Exception):
    """The run has ended before the sound."""


class _Engine:
    """Loads the model, and writes what it makes of the texts."""

    def __init__(
        self, job: SynthesisJob, work: Work[ListedText], outputs: Outputs, progress: Progress
    ) -> None:
        self._job = job
        self._work = work
        self._outputs = outputs
        self._progress = progress
        self._running: dict[Script, _Output] = {}
        self._ending: list[_Output] = []
        self.loaded: LoadedTts | None = None
        self.slots: int | None = None
        self._samples = 0
        self.skipped: dict[str, None] = {}
        """Characters that the tokenizer does not know, each once, in their order."""
        self.elapsed_s = self.step_s = 0.0

    def run(self, texts: Sequence[ListedText]) -> None:
        """Load the model and synthesize these texts, in this order."""
        job, progress = self._job, self._progress
        with waiting(progress, f"Opening {job.model}"):
            source = find_tts(job.model, progress=progress)
        self._work.require_no_output_of(astuple(source.files))
        requests = Requests(source, job.settings, progress)
        # A voice that all texts have is looked for before the model is loaded.
        requests.make((), job.seed)
        # From then on the bar is the run's.
        requests.progress = SILENT

        from dsmops.worker.models.device import best_device, best_dtype
        from dsmops.worker.models.tokenizer import TextTokenizer
        from dsmops.worker.runtime.tts.engine import TtsEngine
        from dsmops.worker.runtime.tts.synthesis import run_scripts

        cpu = job.cpu or source.defaults.cpu
        dtype = job.dtype or best_dtype(best_device(cpu=cpu))
        cfg = source.defaults.cfg if job.settings.cfg is None else job.settings.cfg
        with waiting(progress, "Loading the model"):
            self.loaded = loaded = load_tts_source(
                source, dtype=dtype, n_q=job.settings.n_q, cpu=cpu, quantised=job.quantised
            )
            on_card = loaded.device.type == "cuda"
            most = job.batch_size or (GPU_BATCH_SIZE if on_card else _CPU_BATCH_SIZE)
            self.slots = min(most, len(texts))
            guidance = not source.config.distilled and cfg != 1
            engine = TtsEngine(loaded, self.slots, guidance=guidance)
        allow_open_files(4 * self.slots)
        prepared = _Prepared(job, source, requests, TextTokenizer(source.files.tokenizer))
        self._work.begin(f"Synthesizing into {job.target}", "texts")
        try:
            with self._threads(self.slots) as threads:
                scripts = self._scripts(texts, prepared, threads)
                pacing = source.defaults.pacing()
                for update in run_scripts(engine, scripts, pacing=pacing, overlapping=True):
                    self._take(update)
                    self._finish(wait=False)
                    self._work.show(self._audio_s, self._weights_done)
                self._finish(wait=True)
        finally:
            self.elapsed_s = self._work.elapsed_s
            progress.finish()

    @contextmanager
    def _threads(self, slots: int) -> Iterator[Executor]:
        """Give threads: one for each file that is being written, and some that read texts."""
        threads = ThreadPoolExecutor(2 * slots + OPEN_AHEAD + 2, thread_name_prefix="text")
        try:
            yield threads
        finally:
            for output in self._running.values():
                output.abandon()
            threads.shutdown(cancel_futures=True)

    def _scripts(
        self, texts: Sequence[ListedText], prepared: _Prepared, threads: Executor
    ) -> Iterator[Script]:
        """Yield each text that no other process works on, as the engine takes it."""
        from dsmops.worker.runtime.tts.synthesis import Script

        def read(one: ListedText) -> tuple[ListedText, Future[_Ready]]:
            return one, threads.submit(prepared.read, one)

        for listed, ready in self._work.opened_ahead(texts, read):
            try:
                entries, request, skipped = ready.result()
            except (InputError, FileAccessError, RemoteError) as exc:
                self._work.finish(listed, audio_s=0.0, words=0, error=exc.message)
                continue
            self.skipped.update(dict.fromkeys(skipped))
            script = Script(entries, request)
            self._running[script] = _Output(
                threads,
                listed,
                self._outputs,
                sum(bool(entry.tokens) for entry in entries),
            )
            yield script

    def _audio_s(self) -> float:
        return self._samples / SAMPLE_RATE_HZ

    def _weights_done(self) -> Iterator[float]:
        return (output.weight_done for output in self._running.values())

    def _take(self, update: ScriptUpdate) -> None:
        from dsmops.worker.runtime.tts.utterance import TtsAudio

        output = self._running[update.script]
        for event in update.events:
            if isinstance(event, TtsAudio):
                output.add(event.pcm)
                self._samples += len(event.pcm)
            else:
                output.words += 1
        if update.finished:
            del self._running[update.script]
            output.end()
            self._ending.append(output)
            self.step_s += update.script.share_s

    def _finish(self, *, wait: bool) -> None:
        """Note the files that are written; with `wait` all of them."""
        for output in list(self._ending):
            if wait or output.is_written:
                written = output.written()
                self._ending.remove(output)
                self._work.finish(
                    output.listed, audio_s=written.duration_s, words=output.words, error=None
                )


_Ready = tuple[Sequence["TtsEntry"], "TtsRequest", str]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Reads texts and makes of them what the engine gets."""

    job: SynthesisJob
    source: TtsSource
    requests: Requests
    tokenizer: TextTokenizer

    def read(self, listed: ListedText) -> _Ready:
        """Return a text's words, its request, and the characters that are skipped.

        Raises:
            InputError, FileAccessError, RemoteError, CredentialsError: it cannot be used or read,
                or its voice cannot.
        """
        text = listed.text
        with _naming(listed.file):
            if text is None:
                text = _text_in(listed.file)
            elif not text.strip():
                decoded_text(b"", listed.file)
            seed = self.job.seed if listed.seed is None else listed.seed
            request = self.requests.make(listed.voices, seed)
            entries, skipped = script_of(
                text,
                self.tokenizer,
                voices=len(self.requests.names(listed.voices)),
                padding_between=self.source.defaults.padding_between,
                strict=self.job.settings.strict,
            )
        return entries, request, skipped


def _text_in(file: str) -> str:
    with opened(file) as content:
        if isinstance(content, Path):
            with os_errors(content), open_regular(content) as found:
                return decoded_text(found.read(MOST_TEXT_BYTES + 1), file)
        return decoded_text(content.read(MOST_TEXT_BYTES + 1), file)


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Let errors of the block say in which text they are."""
    try:
        yield
    except DsmopsError as exc:
        if file not in exc.message:
            exc.message = f"{file}: {exc.message}"
        raise
