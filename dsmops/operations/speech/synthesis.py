"""`synthesize`: a text through the embedded engine, into a file, a pipe or a loudspeaker."""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Generator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmops.errors import InputError, SourceError
from dsmops.extras import require_worker
from dsmops.files import os_errors
from dsmops.operations.models.files import require_spared
from dsmops.operations.models.tts import TtsSource, find_tts, load_tts_source
from dsmops.operations.models.voices import find_voice
from dsmops.operations.speech.synthesis_result import (
    Sink,
    Synthesis,
    SynthesisEvent,
    SynthesisMeter,
    SynthesizedWord,
)
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.dtypes import DType
    from dsmops.worker.runtime.tts.machine import TtsEntry

MOST_TEXT_BYTES = 1 << 20
"""A megabyte of text is some eighteen hours of speech."""
_PARAGRAPHS = re.compile(r"\n[ \t\r]*\n\s*")


@dataclass(frozen=True, slots=True)
class Wish:
    """How the text is to be said; None, and no voice, leave it to the model's config.

    Two voices make it a dialogue: they say its paragraphs in turn. `voice_folder` is where voices
    are looked for, as for `open_voices`. `n_q`: codebooks that the model makes; fewer are faster
    and sound worse.
    """

    voices: tuple[str, ...] = ()
    voice_folder: str | None = None
    seed: int | None = None
    cfg: float | None = None
    temperature: float | None = None
    n_q: int | None = None


def read_text(argument: str) -> str:
    """Return the text that a command was given: standard input for `-`, the file of that name where there is one, else itself.

    Raises:
        InputError: it is a folder, not UTF-8, longer than a megabyte, or there is nothing in it.
        SourceError, FileAccessError: the file cannot be read.
    """
    if argument == "-" and sys.stdin is None:
        raise SourceError(
            "standard input is closed",
            hint="Give the text as an argument or a file, or pipe it into the command.",
        )
    if argument == "-":
        name, data = "standard input", sys.stdin.buffer.read(MOST_TEXT_BYTES + 1)
    elif (path := _file(argument)) is not None:
        name = str(path)
        with os_errors(path), path.open("rb") as file:
            data = file.read(MOST_TEXT_BYTES + 1)
    else:
        name, data = "the text", argument.encode(errors="surrogateescape")
    if len(data) > MOST_TEXT_BYTES:
        raise InputError(
            f"{name} is longer than {MOST_TEXT_BYTES // 2**20} MiB",
            hint="Cut it into parts.",
            code="text.long",
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(
            f"{name} is not UTF-8 (byte {exc.start})",
            hint="Convert it with `iconv -t UTF-8`.",
            code="text.encoding",
        ) from exc
    if not text.strip():
        raise InputError(
            f"there is nothing to say: {name} is empty",
            hint="Give it some words.",
            code="text.empty",
        )
    return text


def _file(argument: str) -> Path | None:
    path = Path(os.path.expanduser(argument))  # noqa: PTH111 the method fails at ~name where nobody has that name
    try:
        path.stat()
    except PermissionError:  # something is there, or may be; opening it says what
        return path
    except (OSError, ValueError):  # nothing is there, or nothing can have such a name
        return None
    # An empty name would be this folder.
    return path if argument else None


def synthesize(
    text: str,
    sink: Sink,
    model: str,
    wish: Wish = Wish(),
    *,
    dtype: DType | None = None,
    cpu: bool = False,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Synthesis:
    """Say `text` with the model that `model` names (see `find_tts`), into `sink`, which is opened before the model is loaded.

    `target` is where the sink writes, which must be none of the model's files.

    Raises:
        InputError, SourceError: the text, the voice, the model or the target cannot be used.
        CheckpointError: the model computes numbers that are not finite.
        ResourceError, RemoteError, EnvironmentMissingError: the device, the hub or an installation failed.
    """
    require_worker("speaking")
    meter = SynthesisMeter(progress)
    facts: dict[str, Any] = {}

    def events() -> Generator[SynthesisEvent]:
        source = find_tts(model, progress=progress)
        defaults = source.defaults
        script = _script(text, wish, source)
        names = wish.voices or (defaults.default_voice,)
        folder = wish.voice_folder or defaults.voice_folder
        suffix = source.config.voice_suffix
        voices = [find_voice(name, folder, suffix=suffix, progress=progress) for name in names]
        require_spared(target, (*astuple(source.files), *voices))

        from dsmops.worker.models.voice import read_voice
        from dsmops.worker.runtime.tts.engine import TtsEngine
        from dsmops.worker.runtime.tts.synthesis import run_script
        from dsmops.worker.runtime.tts.utterance import TtsAudio

        request = replace(
            defaults.request(),
            voices=tuple(read_voice(voice, source.config) for voice in voices),
            seed=secrets.randbits(31) if wish.seed is None else wish.seed,
            cfg=defaults.cfg if wish.cfg is None else wish.cfg,
            temperature=defaults.temperature if wish.temperature is None else wish.temperature,
        )
        loaded = load_tts_source(source, dtype=dtype, n_q=wish.n_q, cpu=cpu)
        engine = TtsEngine(loaded, 1, guidance=not source.config.distilled and request.cfg != 1)
        facts.update(
            model=source.name,
            device=str(loaded.device),
            dtype=loaded.dtype,
            voices=names,
            seed=request.seed,
            cfg=request.cfg,
            temperature=request.temperature,
        )
        meter.begin(sum(bool(entry.tokens) for entry in script))
        for event in run_script(engine, script, request, pacing=defaults.pacing()):
            if isinstance(event, TtsAudio):
                yield event.pcm
            else:
                yield SynthesizedWord(event.text, event.start_s, event.stop_s)

    meter.pour(events(), sink)
    return replace(meter.synthesis(), output=target, **facts)


def _script(text: str, wish: Wish, source: TtsSource) -> list[TtsEntry]:
    """Return what the model is to say. Only the tokenizer is read, so that a text that cannot be said is known before the model is loaded.

    Raises:
        InputError: it cannot be said, or there is no word in it.
    """
    from dsmops.worker.models.tokenizer import TextTokenizer
    from dsmops.worker.runtime.tts.script import script_entries

    turns = _PARAGRAPHS.split(text.strip()) if len(wish.voices) > 1 else [text]
    script = script_entries(
        turns,
        TextTokenizer(source.files.tokenizer),
        padding_between=source.defaults.padding_between,
    )
    if not any(entry.tokens for entry in script):
        raise InputError("there is no word in the text", hint="Give it some.", code="text.empty")
    return script
