"""`transcribe`: a recording through the embedded engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.audio import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    AudioSource,
    LevelMeter,
    Levels,
    Samples,
    frames,
    open_audio,
)
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import CheckpointError, DsmopsError
from dsmops.files import require_other_than
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.interruption import Interruption
from dsmops.progress import SILENT, Progress, waiting

if TYPE_CHECKING:
    from dsmops.dtypes import ComputeDType
    from dsmops.worker.models.stt import LoadedStt
    from dsmops.worker.runtime.stt.transcription import Transcript
    from dsmops.worker.runtime.stt.words import TimedWord, TurnEnd


@dataclass(frozen=True, slots=True)
class Transcription:
    """The transcript of a recording, by which model on what, and what it took.

    `audio_s` is the recording's own length. Times count from its start. `unsaid_prompt` is what the
    model had not written of the prompt's text when the recording ended: until it has, it writes
    nothing else.

    `speedup` is seconds of audio per second of computing, without loading; None without audio.
    Through a server, `model` is its address, `device` and `dtype` are None, and `compute_s` is the
    time until the last answer. `interrupted`: the recording was ended early, by the
    signal of that name, and this is its text until then. `incomplete`: the recording or the stream
    failed, and this is what came before. `warnings`: what of the recording is missing, or was not
    used.
    """

    audio: str
    audio_s: float
    model: str
    device: str | None
    dtype: str | None
    text: str
    words: tuple[TimedWord, ...]
    turns: tuple[TurnEnd, ...]
    has_vad: bool
    levels: Levels
    steps: int
    compute_s: float
    speedup: float | None
    unsaid_prompt: str = ""
    interrupted: bool = False
    signal: str | None = None
    incomplete: Incomplete | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Prompting:
    """Text and audio that the model is to take for what came before the recording."""

    text: str = ""
    audio: Path | None = None


def transcribe(
    source: Path | None,
    model: str,
    *,
    dtype: ComputeDType | None = None,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
    prompting: Prompting = Prompting(),
    timing: str = "server",
    target: Path | None = None,
    on_word: Callable[[str], None] = lambda _: None,
    progress: Progress = SILENT,
) -> Transcription:
    """Transcribe the recording in `source`, standard input when None, with the model `model` names.

    `model` is as for `find_stt`, `timing` one of the names of `WordTiming`. `target` is where the
    caller will write: a file of the model is refused. `on_word` gets each word of a live stream as
    it comes. Ctrl-C, SIGTERM or SIGHUP ends the recording there; what was read is transcribed, and
    `interrupted` says so. Where the recording or the device fails in the middle, the result holds
    the words until then and says why it is `incomplete`.

    Raises:
        InputError, SourceError: the recording, the prompt or the model cannot be used.
        CheckpointError: the model computes numbers that are not finite; its text means nothing.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation
            failed before the first word.
    """
    meter = LevelMeter()
    # Before the model, which takes long to load.
    with open_audio(source or "-") as audio:
        prompt_frames = _read_frames(prompting.audio) if prompting.audio else ()
        # torch is imported here, which takes a second or more.
        from dsmops.operations.models.stt import find_stt, load_stt_source

        with waiting(progress, f"Opening {model}"):
            found = find_stt(model, progress=progress)
        require_other_than(target, astuple(found.files), "a file of the model itself")
        with waiting(progress, f"Loading {model}"):
            loaded = load_stt_source(found, dtype=dtype, cpu=cpu, quantised=quantised)

        from dsmops.worker.runtime.stt.engine import SttEngine
        from dsmops.worker.runtime.stt.transcription import (
            Recording,
            SttPrompt,
            WordTiming,
            run_recordings,
        )
        from dsmops.worker.runtime.stt.words import SttWord

        engine = SttEngine(loaded, batch_size=1)
        interruption = Interruption()
        recording = Recording(
            interruption.until(read_frames(audio, meter, progress)),
            loaded.config,
            loaded.tokenizer,
            loaded.frame_samples,
            prompt=SttPrompt(prompting.text, prompt_frames),
            timing=WordTiming(timing),
        )
        total_s = None if audio.duration_s is None else ceil(audio.duration_s)
        progress.start(f"Transcribing {audio.name}", total_s, "s of audio")
        incomplete: Incomplete | None = None
        try:
            with interruption:
                for update in run_recordings(engine, [recording], overlapping=not audio.is_live):
                    for event in update.events if audio.is_live else ():
                        if isinstance(event, SttWord):
                            on_word(event.text)
        except DsmopsError as exc:
            recording.close()
            if not recording.transcript().words:
                raise
            incomplete = Incomplete.because(exc)
        finally:
            progress.finish()
    transcript = recording.transcript()
    require_finite(transcript.figures.non_finite_steps, transcript.figures.steps, loaded)
    return transcription_of(
        audio.name,
        meter.levels,
        transcript,
        loaded,
        found.name,
        compute_s=transcript.figures.compute_s,
        interruption=interruption,
        incomplete=incomplete,
        warnings=tuple(audio.warnings),
    )


def transcription_of(
    audio: str,
    levels: Levels,
    transcript: Transcript,
    loaded: LoadedStt,
    model: str,
    *,
    compute_s: float,
    interruption: Interruption | None = None,
    incomplete: Incomplete | None = None,
    warnings: tuple[str, ...] = (),
) -> Transcription:
    """Return the result of a recording that went through the embedded engine."""
    return Transcription(
        audio=audio,
        audio_s=levels.duration_s,
        model=model,
        device=str(loaded.device),
        dtype=loaded.dtype,
        text=transcript.text,
        words=transcript.words,
        turns=transcript.turns,
        has_vad=loaded.config.lm.extra_heads is not None,
        levels=levels,
        unsaid_prompt=transcript.unsaid_prompt,
        steps=transcript.figures.steps,
        compute_s=compute_s,
        speedup=levels.duration_s / compute_s if compute_s else None,
        interrupted=interruption is not None and interruption.has_come,
        signal=interruption.name if interruption is not None else None,
        incomplete=incomplete,
        warnings=warnings,
    )


def require_finite(non_finite_steps: int, steps: int, model: LoadedStt) -> None:
    """Check that a run's logits were numbers.

    Raises:
        CheckpointError: in some steps they were not.
    """
    if non_finite_steps:
        raise CheckpointError(
            f"{non_finite_steps} of {steps} steps gave NaN or infinity in {model.dtype}: "
            "the text would mean nothing",
            hint="`dsmops verify --numerics` shows in which layer it begins; --dtype f32 shows "
            "whether the weights themselves are damaged.",
            code="model.not_finite",
        )


def _read_frames(path: Path) -> tuple[Samples, ...]:
    with open_audio(path) as audio:
        return tuple(frames(audio.blocks()))


def read_frames(audio: AudioSource, meter: LevelMeter, progress: Progress) -> Iterator[Samples]:
    """Yield the frames of a recording. `meter` gets its samples, `progress` its seconds."""

    def measured() -> Iterator[Samples]:
        samples = 0
        # In pieces of a frame's length, by which silence is judged.
        for block in audio.blocks(FRAME_SAMPLES / SAMPLE_RATE_HZ):
            meter.add(block)
            progress.advance((samples + len(block)) // SAMPLE_RATE_HZ - samples // SAMPLE_RATE_HZ)
            samples += len(block)
            yield block

    return frames(measured())
