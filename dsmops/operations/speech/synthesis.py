"""`synthesize`: a text through the embedded engine, into a file, a pipe or a loudspeaker."""

from __future__ import annotations

import re
import secrets
import threading
from collections import Counter
from collections.abc import Generator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dsmops.audio import Samples, require_writable
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import InputError
from dsmops.extras import require_worker
from dsmops.files import require_other_than
from dsmops.operations.models.tts import TtsSource, find_tts, load_tts_source
from dsmops.operations.models.voices import find_voice
from dsmops.operations.speech.synthesis_result import (
    Sink,
    Synthesis,
    SynthesisEvent,
    SynthesisMeter,
    SynthesizedWord,
)
from dsmops.progress import SILENT, Progress, waiting

if TYPE_CHECKING:
    from dsmops.dtypes import ComputeDType
    from dsmops.worker.runtime.tts.interface import TtsRequest, TtsTokenizer
    from dsmops.worker.runtime.tts.machine import TtsEntry

_PARAGRAPHS = re.compile(r"\n[ \t\r]*\n\s*")


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """How a text is synthesized; None, and no voice, leave it to the model's config.

    Two voices make it a dialogue: they get its paragraphs in turn. `voice_folder` is where voices
    are looked for, as for `open_voices`. `n_q`: codebooks that the model makes; fewer are faster
    and sound worse. `strict` refuses characters that the tokenizer does not know.
    """

    voices: tuple[str, ...] = ()
    voice_folder: str | None = None
    seed: int | None = None
    cfg: float | None = None
    temperature: float | None = None
    n_q: int | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that a synthesis is, before the model is loaded."""

    source: TtsSource
    voices: tuple[str, ...]
    script: tuple[TtsEntry, ...]
    skipped: str
    request: TtsRequest
    device: str
    dtype: ComputeDType
    n_q: int | None


def synthesize(
    text: str,
    sink: Sink,
    model: str,
    settings: SynthesisSettings = SynthesisSettings(),
    *,
    dtype: ComputeDType | None = None,
    cpu: bool = False,
    quantised: Quantised = PLAIN,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Synthesis:
    """Synthesize `text` with the model that `model` names (see `find_tts`), into `sink`.

    `sink` is opened before the model is loaded. `target` is where it writes: a file of the model is
    refused.

    Raises:
        InputError, SourceError: the text, the voice, the model or the target cannot be used.
        CheckpointError: the model computes numbers that are not finite.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation
            failed.
    """
    require_worker("synthesizing")
    if target is not None:
        require_writable(target)
    plan = _plan(text, settings, model, dtype=dtype, cpu=cpu, target=target, progress=progress)
    meter = SynthesisMeter(progress)
    meter.pour(_events(plan, meter, quantised, progress), sink)
    return replace(
        meter.synthesis(),
        output=target,
        model=plan.source.name,
        device=plan.device,
        dtype=plan.dtype,
        voices=plan.voices,
        seed=plan.request.seed,
        cfg=plan.request.cfg,
        temperature=plan.request.temperature,
        skipped=plan.skipped,
    )


def _plan(
    text: str,
    settings: SynthesisSettings,
    model: str,
    *,
    dtype: ComputeDType | None,
    cpu: bool,
    target: Path | None,
    progress: Progress,
) -> _Plan:
    """Find and read all that the synthesis needs but the weights."""
    from dsmops.worker.models.device import best_device, best_dtype
    from dsmops.worker.models.tokenizer import TextTokenizer

    with waiting(progress, f"Opening {model}"):
        source = find_tts(model, progress=progress)
    # Only the tokenizer is read: a text that cannot be used is known before the model is loaded.
    script, skipped = script_of(
        text,
        TextTokenizer(source.files.tokenizer),
        voices=len(settings.voices),
        padding_between=source.defaults.padding_between,
        strict=settings.strict,
    )
    requests = Requests(source, settings, progress)
    request = requests.make((), secrets.randbits(31) if settings.seed is None else settings.seed)
    require_other_than(
        target, (*astuple(source.files), *requests.files), "a file of the model itself"
    )
    device = best_device(cpu=cpu or source.defaults.cpu)
    chosen = dtype or best_dtype(device)
    return _Plan(
        source, requests.names(), script, skipped, request, str(device), chosen, settings.n_q
    )


def _events(
    plan: _Plan, meter: SynthesisMeter, quantised: Quantised, progress: Progress
) -> Generator[SynthesisEvent]:
    """Load the model, and yield sound and words as it makes them."""
    from dsmops.worker.runtime.tts.engine import TtsEngine
    from dsmops.worker.runtime.tts.synthesis import run_script
    from dsmops.worker.runtime.tts.utterance import TtsAudio

    source = plan.source
    guidance = not source.config.distilled and plan.request.cfg != 1
    with waiting(progress, "Loading the model"):
        loaded = load_tts_source(
            source, dtype=plan.dtype, n_q=plan.n_q, cpu=plan.device == "cpu", quantised=quantised
        )
        engine = TtsEngine(loaded, 1, guidance=guidance)
    meter.begin(sum(bool(entry.tokens) for entry in plan.script))
    for event in run_script(engine, plan.script, plan.request, pacing=source.defaults.pacing()):
        if isinstance(event, TtsAudio):
            yield event.pcm
        else:
            yield SynthesizedWord(event.text, event.start_s, event.stop_s)


def script_of(
    text: str,
    tokenizer: TtsTokenizer,
    *,
    voices: int,
    padding_between: int,
    strict: bool,
) -> tuple[tuple[TtsEntry, ...], str]:
    """Return what the model gets of a text in so many voices, and the characters it skips.

    Raises:
        InputError: it has no word that the tokenizer knows; with `strict`, an unknown character.
    """
    from dsmops.worker.runtime.tts.script import script_entries, shown_characters

    turns = _PARAGRAPHS.split(text.strip()) if voices > 1 else [text]
    skipped: Counter[str] = Counter()
    script = script_entries(turns, tokenizer, padding_between=padding_between, skipped=skipped)
    has_words = any(entry.tokens for entry in script)
    if skipped and (strict or not has_words):
        raise InputError(
            f"the model's tokenizer does not know {shown_characters(skipped)}",
            hint="Write the text out in a language and an alphabet that the model knows"
            + (", or omit --strict to skip these characters." if has_words else "."),
            code="text.unknown",
        )
    if not has_words:
        raise InputError("there is no word in the text", hint="Give some words.", code="text.empty")
    return tuple(script), "".join(skipped)


class Requests:
    """Makes the requests of texts from settings and the model's defaults; reads each voice once.

    `progress` shows the downloads of voices. Threads may share it.
    """

    def __init__(
        self, source: TtsSource, settings: SynthesisSettings, progress: Progress = SILENT
    ) -> None:
        self._source, self._settings, self.progress = source, settings, progress
        self._voices: dict[str, Samples] = {}
        self._reading = threading.Lock()
        """One reads at a time: two that fetch the same file are in each other's way."""
        self.files: list[Path] = []
        """The files of the voices that were read."""

    def names(self, voices: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return these voices, or those of the settings, or the model's own."""
        return voices or self._settings.voices or (self._source.defaults.default_voice,)

    def make(self, voices: tuple[str, ...], seed: int) -> TtsRequest:
        """Return the request for these voices; as for `names`.

        Raises:
            SourceError, InputError: a voice is unknown, or not one of this model.
            RemoteError, CredentialsError, ResourceError: it could not be downloaded.
        """
        defaults, settings = self._source.defaults, self._settings
        temperature = settings.temperature
        return replace(
            defaults.request(),
            voices=tuple(self._voice(name) for name in self.names(voices)),
            seed=seed,
            cfg=defaults.cfg if settings.cfg is None else settings.cfg,
            temperature=defaults.temperature if temperature is None else temperature,
        )

    def _voice(self, name: str) -> Samples:
        from dsmops.worker.models.voice import read_voice

        with self._reading:
            if name not in self._voices:
                config = self._source.config
                folder = self._settings.voice_folder or self._source.defaults.voice_folder
                path = find_voice(name, folder, suffix=config.voice_suffix, progress=self.progress)
                self._voices[name] = read_voice(path, config)
                self.files.append(path)
            return self._voices[name]
