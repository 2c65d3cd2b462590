"""`evaluate`: a corpus through the embedded engine, and its word error rate."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import astuple, dataclass, replace
from enum import StrEnum
from io import BytesIO
from itertools import islice
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.audio import SAMPLE_RATE_HZ, Samples, excerpt, frames, open_audio
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import FileAccessError, InputError, SourceError
from dsmops.files import os_errors, require_other_than
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.many.ahead import (
    WORKING_THREADS,
    Ahead,
    decoding_threads,
    opened_ahead,
)
from dsmops.operations.speech.transcription import require_finite
from dsmops.progress import SILENT, Progress, waiting
from dsmops.scoring import (
    DATASETS,
    Corpus,
    Counts,
    Normalizer,
    Score,
    Utterance,
    compare,
    is_dataset,
    is_scored,
    normalizer,
    open_dataset,
    other_language,
    read_manifest,
    read_transcript,
    summarize,
)

if TYPE_CHECKING:
    from dsmops.dtypes import ComputeDType

GPU_BATCH_SIZE = 32
"""Slots on a CUDA device: what the published figures were taken with."""
CPU_BATCH_SIZE = 4
"""Slots on a CPU, where a step takes about as much longer as there are slots."""


class ScoringStatus(StrEnum):
    """What was done with an utterance.

    It was transcribed and scored, dropped because its reference has no words, or failed because its
    audio could not be read.
    """

    SCORED = "scored"
    DROPPED = "dropped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class UtteranceResult:
    """One utterance. Only a scored one has a hypothesis and figures, only a failed one an `error`.

    `audio_s` is how long the utterance is, `compute_s` its share of the engine's time. `warnings`:
    what of the recording is missing, or was not used.
    """

    audio: str
    status: ScoringStatus
    reference: str
    normalized_reference: str
    hypothesis: str | None = None
    normalized_hypothesis: str | None = None
    score: Score | None = None
    wer: float | None = None
    cer: float | None = None
    audio_s: float | None = None
    compute_s: float | None = None
    error: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """The corpus. Rates are over what was scored, None where nothing was.

    `wer` and `cer` are means of the utterances' rates, `corpus_wer` all errors over all words of
    the references. `speedup` is seconds of audio per second of computing.
    """

    utterances: int
    scored: int
    dropped: int
    failed: int
    words: Counts
    wer: float | None
    cer: float | None
    corpus_wer: float | None
    audio_s: float
    compute_s: float
    speedup: float | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was evaluated on what, in total and by utterance, in the corpus's order.

    For a finished transcript `model` is its path, and what nothing was computed on is None.
    `language` is what the references seem to be in where the rules for English do not fit them.
    `incomplete`: a server failed, and the utterances from then on were not transcribed.
    """

    manifest: str
    model: str
    device: str | None
    dtype: str | None
    batch_size: int | None
    normalizer: Normalizer
    totals: Totals
    files: tuple[UtteranceResult, ...]
    language: str | None = None
    incomplete: Incomplete | None = None


def evaluate(
    source: str,
    model: str,
    *,
    reference: Path | None = None,
    dtype: ComputeDType | None = None,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
    batch_size: int | None = None,
    limit: int | None = None,
    normal_form: Normalizer = Normalizer.ENGLISH,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Transcribe recordings, `batch_size` at a time, and compare with their references.

    `source` is a manifest (see `read_manifest`) or names a dataset (see `open_dataset`), of which
    the first `limit` utterances count. With `reference`, a text file, it is one recording; see
    `evaluate_transcript` for a finished transcript. `model` is as for `find_stt`. A recording that
    cannot be read fails alone. Slots are independent rows: how many there are changes the time, and
    the text no more than a device's rounding does. `target` is where the caller will write: a file
    of the model or a recording is refused.

    Raises:
        InputError, SourceError: the manifest or the model cannot be used, or no reference has
            words.
        CheckpointError: the model computes numbers that are not finite.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation
            failed.
    """
    normalize = normalizer(normal_form)
    corpus = open_corpus(source, reference, progress)
    count = corpus.count if limit is None else min(limit, corpus.count)
    with waiting(progress, f"Opening {model}"):
        found = find_stt(model, progress=progress)
    require_other_than(target, astuple(found.files), "a file of the model itself")
    with waiting(progress, f"Loading {model}"):
        loaded = load_stt_source(found, dtype=dtype, cpu=cpu, quantised=quantised)

    from dsmops.worker.runtime.stt.engine import SttEngine
    from dsmops.worker.runtime.stt.transcription import Recording, run_recordings

    if batch_size is None:
        batch_size = GPU_BATCH_SIZE if loaded.device.type == "cuda" else CPU_BATCH_SIZE
    engine = SttEngine(loaded, batch_size=min(batch_size, count))
    results: dict[int, UtteranceResult] = {}
    running: dict[Recording, tuple[int, UtteranceRun]] = {}

    def scored() -> Iterator[tuple[int, UtteranceRun]]:
        for number, utterance in enumerate(islice(corpus.utterances, limit)):
            require_not_a_recording(target, utterance)
            started = UtteranceRun(utterance, normalize)
            if is_scored(started.normalized_reference):
                yield number, started
            else:
                results[number] = started.dropped()
                progress.advance(1)

    def recordings(threads: Executor) -> Iterator[Recording]:
        def opened(
            one: tuple[int, UtteranceRun],
        ) -> tuple[Ahead[Samples], tuple[int, UtteranceRun]]:
            return Ahead(threads, one[1].frames()), one

        for ahead, one in opened_ahead(scored(), opened):
            recording = Recording(ahead, loaded.config, loaded.tokenizer, loaded.frame_samples)
            running[recording] = one
            yield recording

    progress.start(f"Evaluating on {corpus.name}", count, "recordings")
    try:
        with decoding_threads(WORKING_THREADS) as threads:
            for news in run_recordings(engine, recordings(threads), overlapping=True):
                if news.finished:
                    number, ended = running.pop(news.recording)
                    transcript = news.recording.transcript()
                    require_finite(
                        transcript.figures.non_finite_steps, transcript.figures.steps, loaded
                    )
                    results[number] = ended.result(transcript.text, transcript.figures.share_s)
                    progress.advance(1)
    finally:
        progress.finish()
    evaluation = evaluation_of(corpus, results, normal_form, model=found.name)
    return replace(
        evaluation, device=str(loaded.device), dtype=loaded.dtype, batch_size=engine.batch_size
    )


def evaluation_of(
    corpus: Corpus, results: Mapping[int, UtteranceResult], normal_form: Normalizer, *, model: str
) -> Evaluation:
    """Return the evaluation of a corpus from the results by their numbers.

    Raises:
        InputError: no reference has words.
    """
    files = tuple(results[number] for number in sorted(results))
    if all(file.status is ScoringStatus.DROPPED for file in files):
        raise InputError(
            f"{corpus.name}: no reference has words once normalised",
            hint="--normalizer basic or none keeps more of it.",
            code="manifest.nothing_to_score",
        )
    return Evaluation(
        manifest=corpus.name,
        model=model,
        device=None,
        dtype=None,
        batch_size=None,
        normalizer=normal_form,
        totals=_totals(files),
        files=files,
        language=_foreign_language(normal_form, files),
    )


def evaluate_transcript(
    transcript: Path, reference: Path, *, normal_form: Normalizer = Normalizer.ENGLISH
) -> Evaluation:
    """Compare a finished transcript (see `read_transcript`) with its reference, without a model.

    Raises:
        InputError, SourceError: one of them cannot be used, or the reference has no words.
    """
    normalize = normalizer(normal_form)
    text, wanted = read_transcript(transcript), read_transcript(reference)
    normalized_reference, normalized = normalize(wanted), normalize(text)
    if not is_scored(normalized_reference):
        raise InputError(
            f"{reference} has no words once normalised",
            hint="--normalizer basic or none keeps more of it.",
            code="manifest.nothing_to_score",
        )
    score = compare(normalized_reference, normalized)
    result = UtteranceResult(
        str(transcript),
        ScoringStatus.SCORED,
        wanted,
        normalized_reference,
        text,
        normalized,
        score,
        score.words.rate,
        score.characters.rate,
    )
    return Evaluation(
        manifest=str(reference),
        model=str(transcript),
        device=None,
        dtype=None,
        batch_size=None,
        normalizer=normal_form,
        totals=_totals([result]),
        files=(result,),
        language=_foreign_language(normal_form, [result]),
    )


def _foreign_language(normal_form: Normalizer, files: Sequence[UtteranceResult]) -> str | None:
    """Return the language of the references where the rules for English do not fit them."""
    if normal_form is not Normalizer.ENGLISH:
        return None
    return other_language(file.reference for file in files)


def _pair(recording: Path, reference: Path) -> Corpus:
    with os_errors(recording), recording.open("rb"):
        pass
    return Corpus(
        str(recording), 1, [Utterance(str(recording), recording, read_transcript(reference))]
    )


def require_not_a_recording(target: Path | None, utterance: Utterance) -> None:
    """Refuse to write over a recording; nothing of `target` is touched until the end."""
    if isinstance(utterance.audio, Path):
        require_other_than(target, [utterance.audio], "a recording of the manifest")


def open_corpus(source: str, reference: Path | None, progress: Progress) -> Corpus:
    """Return the manifest or dataset of that name or, with `reference`, the one recording.

    Raises:
        InputError, SourceError: it cannot be used, or is empty.
    """
    corpus = _open_corpus(source, progress) if reference is None else _pair(Path(source), reference)
    if not corpus.count:
        raise InputError(
            f"{corpus.name} is empty", hint="Name another split.", code="dataset.empty"
        )
    return corpus


def _open_corpus(name: str, progress: Progress) -> Corpus:
    if is_dataset(name):
        return open_dataset(name, progress=progress)
    path = Path(name)
    if not path.exists() and path.name == name:
        raise SourceError(
            f"{name} is not a file here, nor a dataset's alias",
            hint=f"Aliases: {', '.join(DATASETS)}.",
            code="manifest.missing",
        )
    return read_manifest(path)


class _NamedBytes(BytesIO):
    """A file in memory, with a name for errors."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


class UtteranceRun:
    """An utterance on its way through the engine."""

    def __init__(self, utterance: Utterance, normalize: Callable[[str], str]) -> None:
        self._utterance = utterance
        self._normalize = normalize
        self._samples = 0
        self._error: str | None = None
        self._warnings: tuple[str, ...] = ()
        self.normalized_reference = normalize(utterance.reference)

    def frames(self) -> Iterator[Samples]:
        """Yield the utterance. Where it cannot be read to its end, stop and remember why."""
        utterance = self._utterance
        audio = utterance.audio
        try:
            with open_audio(
                audio if isinstance(audio, Path) else _NamedBytes(audio, utterance.name)
            ) as source:
                blocks = excerpt(source.blocks(), utterance.offset_s, utterance.duration_s)
                yield from frames(self._counted(blocks))
                self._warnings = tuple(source.warnings)
            if not self._samples:
                self._error = (
                    f"{utterance.name} ends before {utterance.offset_s:.2f} s, where its utterance "
                    "begins"
                )
        except (InputError, FileAccessError) as exc:
            self._error = exc.message

    def _counted(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self._samples += len(block)
            yield block

    def dropped(self) -> UtteranceResult:
        """Return the result of an utterance that is not transcribed."""
        return self._result(ScoringStatus.DROPPED)

    def result(self, text: str, compute_s: float) -> UtteranceResult:
        """Return the result of an utterance that was transcribed as far as it could be read.

        `compute_s` is its share of the time.
        """
        if self._error is not None:
            return self.failed(self._error)
        normalized = self._normalize(text)
        score = compare(self.normalized_reference, normalized)
        return replace(
            self._result(ScoringStatus.SCORED),
            hypothesis=text,
            normalized_hypothesis=normalized,
            score=score,
            wer=score.words.rate,
            cer=score.characters.rate,
            audio_s=self._samples / SAMPLE_RATE_HZ,
            compute_s=compute_s,
            warnings=self._warnings,
        )

    def failed(self, error: str) -> UtteranceResult:
        """Return the result of an utterance that could not be transcribed."""
        return replace(self._result(ScoringStatus.FAILED), error=error)

    def _result(self, status: ScoringStatus) -> UtteranceResult:
        return UtteranceResult(
            self._utterance.name, status, self._utterance.reference, self.normalized_reference
        )


def _totals(files: Sequence[UtteranceResult]) -> Totals:
    states = Counter(file.status for file in files)
    summary = summarize([file.score for file in files if file.score is not None])
    audio_s = fsum(file.audio_s or 0.0 for file in files)
    compute_s = fsum(file.compute_s or 0.0 for file in files)
    return Totals(
        utterances=len(files),
        scored=states[ScoringStatus.SCORED],
        dropped=states[ScoringStatus.DROPPED],
        failed=states[ScoringStatus.FAILED],
        words=summary.words,
        wer=summary.wer,
        cer=summary.cer,
        corpus_wer=summary.corpus_wer,
        audio_s=audio_s,
        compute_s=compute_s,
        speedup=audio_s / compute_s if compute_s else None,
    )
