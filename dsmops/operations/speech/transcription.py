"""`transcribe`: a recording through the embedded engine."""

from __future__ import annotations

from collections.abc import Iterator
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
from dsmops.errors import CheckpointError
from dsmops.operations.models.files import require_spared
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.dtypes import DType
    from dsmops.worker.models.stt import SttModel
    from dsmops.worker.runtime.stt.words import TimedWord, TurnEnd


@dataclass(frozen=True, slots=True)
class Transcription:
    """What was heard, by which model on what, and what it took.

    `audio_s` is the recording's own length. Times count from its start. `unsaid_prompt` is what the
    model had not written of the prompt's text when the recording ended: until it has, it writes
    nothing else.

    `speedup` is seconds of audio per second of computing, loading excluded; None where there was no
    audio. Through a server, `model` is its address, `device` and `dtype` are None, and `compute_s`
    is the time until all was heard. `interrupted`: the recording was ended early, and this is what
    was heard until then. `incomplete`: the stream failed, and this is what came before.
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
    incomplete: Incomplete | None = None


@dataclass(frozen=True, slots=True)
class Prompting:
    """What the model is told before the recording: words it should have written, a recording it should have heard."""

    text: str = ""
    audio: Path | None = None


def transcribe(
    source: Path | None,
    model: str,
    *,
    dtype: DType | None = None,
    cpu: bool = False,
    prompting: Prompting = Prompting(),
    timing: str = "server",
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Transcription:
    """Transcribe the recording in `source`, standard input when None, with the model that `model` names (see `find_stt`).

    `timing` is one of the names of `WordTiming`. `target` is where the caller will write, which must be
    none of the model's files.

    Raises:
        InputError, SourceError: the recording, the prompt or the model cannot be used.
        CheckpointError: the model computes numbers that are not finite; its text would mean nothing.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation failed.
    """
    meter = LevelMeter()
    # Before the model, which takes long to load.
    with open_audio(source or "-") as audio:
        prompt_frames = _read_frames(prompting.audio) if prompting.audio else ()
        found = find_stt(model, progress=progress)
        require_spared(target, astuple(found.files))
        loaded = load_stt_source(found, dtype=dtype, cpu=cpu)

        from dsmops.worker.runtime.stt.engine import SttEngine
        from dsmops.worker.runtime.stt.transcription import (
            Recording,
            SttPrompt,
            WordTiming,
            run_recordings,
        )

        engine = SttEngine(loaded, batch_size=1)
        recording = Recording(
            hear(audio, meter, progress),
            loaded.config,
            loaded.tokenizer,
            loaded.frame_samples,
            prompt=SttPrompt(prompting.text, prompt_frames),
            timing=WordTiming(timing),
        )
        total_s = None if audio.duration_s is None else ceil(audio.duration_s)
        progress.start(f"Transcribing {audio.name}", total_s, "s of audio")
        try:
            for _ in run_recordings(engine, [recording]):
                pass
        finally:
            progress.finish()
    transcript = recording.transcript()
    require_finite(transcript.figures.non_finite_steps, transcript.figures.steps, loaded)
    return Transcription(
        audio=audio.name,
        audio_s=meter.levels.duration_s,
        model=found.name,
        device=str(loaded.device),
        dtype=loaded.dtype,
        text=transcript.text,
        words=transcript.words,
        turns=transcript.turns,
        has_vad=loaded.config.lm.extra_heads is not None,
        levels=meter.levels,
        unsaid_prompt=transcript.unsaid_prompt,
        steps=transcript.figures.steps,
        compute_s=transcript.figures.compute_s,
        speedup=meter.levels.duration_s / transcript.figures.compute_s
        if transcript.figures.compute_s
        else None,
    )


def require_finite(non_finite_steps: int, steps: int, model: SttModel) -> None:
    """Check that a run's logits were numbers.

    Raises:
        CheckpointError: in some steps they were not.
    """
    if non_finite_steps:
        raise CheckpointError(
            f"{non_finite_steps} of {steps} steps gave NaN or infinity in {model.dtype}: the text would mean nothing",
            hint="`dsmops verify --numerics` shows in which layer it begins; --dtype f32 shows whether the weights themselves are damaged.",
            code="model.not_finite",
        )


def _read_frames(path: Path) -> tuple[Samples, ...]:
    with open_audio(path) as audio:
        return tuple(frames(audio.blocks()))


def hear(audio: AudioSource, meter: LevelMeter, progress: Progress) -> Iterator[Samples]:
    """Yield the frames of a recording; `meter` and `progress`, which counts seconds, are told of what it really holds."""

    def told() -> Iterator[Samples]:
        samples = 0
        # In pieces of a frame's length, by which silence is judged.
        for block in audio.blocks(FRAME_SAMPLES / SAMPLE_RATE_HZ):
            meter.add(block)
            progress.advance((samples + len(block)) // SAMPLE_RATE_HZ - samples // SAMPLE_RATE_HZ)
            samples += len(block)
            yield block

    return frames(told())
