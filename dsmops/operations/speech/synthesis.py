"""`synthesize`: a text through the embedded engine, or through any moshi-server, into a file, a pipe or a loudspeaker."""

from __future__ import annotations

import asyncio
import os
import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing, closing, suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmops.audio import SAMPLE_RATE_HZ, Samples
from dsmops.errors import InputError, SourceError
from dsmops.extras import require_worker
from dsmops.files import os_errors
from dsmops.operations.models.files import require_spared
from dsmops.operations.models.tts import TtsSource, find_tts, load_tts_source
from dsmops.operations.models.voices import find_voice
from dsmops.progress import SILENT, Progress

if TYPE_CHECKING:
    from dsmops.dtypes import DType
    from dsmops.worker.runtime.tts.machine import Entry
    from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord

MOST_TEXT_BYTES = 1 << 20
"""A megabyte of text is some eighteen hours of speech."""
_MOST_WAITING = 250
"""Words and frames that a server may be ahead of the sink, besides what the client keeps."""
_PARAGRAPHS = re.compile(r"\n[ \t\r]*\n\s*")
_DRAIN_S = 0.1

Sink = Callable[[Iterator[Samples]], object]
"""Takes the sound, block by block, as it comes, to where it belongs."""


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


@dataclass(frozen=True, slots=True)
class SaidWord:
    """A word with its times in the audio, in seconds."""

    text: str
    start_s: float
    stop_s: float


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What was said, by which model and how, and what it took.

    `first_audio_ms`: from the text to the first sound, loading excluded. `compute_s`: spent on the
    whole, waiting for the sink excluded; `speedup` is seconds of audio per second of it. Through a
    server, `model` is its address, the times are those until its answers came, and what it decides
    is None. `output` None: it was not a file.
    """

    output: Path | None
    model: str
    device: str | None
    dtype: str | None
    voices: tuple[str, ...]
    seed: int | None
    cfg: float | None
    temperature: float | None
    words: tuple[SaidWord, ...]
    audio_s: float
    first_audio_ms: float | None
    compute_s: float
    speedup: float | None


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
    meter = _Meter(progress)
    facts: dict[str, Any] = {}

    def events() -> Generator[TtsAudio | TtsWord]:
        source = find_tts(model, progress=progress)
        manner = source.manner
        script = _script(text, wish, source)
        names = wish.voices or (manner.default_voice,)
        folder = wish.voice_folder or manner.voice_folder
        suffix = source.config.voice_suffix
        voices = [find_voice(name, folder, suffix=suffix, progress=progress) for name in names]
        require_spared(target, (*astuple(source.files), *voices))

        from dsmops.worker.models.voice import read_voice
        from dsmops.worker.runtime.tts.engine import TtsEngine
        from dsmops.worker.runtime.tts.synthesis import speak

        request = replace(
            manner.request(),
            voices=tuple(read_voice(voice, source.config) for voice in voices),
            seed=secrets.randbits(31) if wish.seed is None else wish.seed,
            cfg=manner.cfg if wish.cfg is None else wish.cfg,
            temperature=manner.temperature if wish.temperature is None else wish.temperature,
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
        yield from speak(engine, script, request, pacing=manner.pacing())

    meter.pour(events(), sink)
    return replace(meter.synthesis(), output=target, **facts)


def _script(text: str, wish: Wish, source: TtsSource) -> list[Entry]:
    """Return what the model is to say. Only the tokenizer is read, so that a text that cannot be said is known before the model is loaded.

    Raises:
        InputError: it cannot be said, or there is no word in it.
    """
    from dsmops.worker.models.tokenizer import TextTokenizer
    from dsmops.worker.runtime.tts.script import script_entries

    turns = _PARAGRAPHS.split(text.strip()) if len(wish.voices) > 1 else [text]
    script = script_entries(
        turns, TextTokenizer(source.files.tokenizer), padding_between=source.manner.padding_between
    )
    if not any(entry.tokens for entry in script):
        raise InputError("there is no word in the text", hint="Give it some.", code="text.empty")
    return script


def synthesize_remotely(
    text: str,
    sink: Sink,
    url: str,
    *,
    voice: str | None = None,
    api_key: str | None = None,
    target: Path | None = None,
    progress: Progress = SILENT,
) -> Synthesis:
    """Say `text` at the server at `url`, in its voice of that name, its default one for None.

    Raises:
        InputError: the address or the target cannot be used.
        CredentialsError, TransferError: the server refused, failed or cannot be reached.
        ExtraMissingError: the worker's libraries are not installed.
    """
    from dsmops.client.address import TTS_PATH, websocket_url

    address = websocket_url(url, TTS_PATH)
    meter = _Meter(progress)

    def events() -> Generator[TtsAudio | TtsWord]:
        meter.begin(len(text.split()))
        yield from _remote_events(address, text, voice, api_key)

    meter.pour(events(), sink)
    return replace(
        meter.synthesis(),
        output=target,
        model=address,
        voices=(voice,) if voice is not None else (),
    )


class _Meter:
    """Passes the sound on, and keeps the words and the figures."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._words: list[SaidWord] = []
        self._samples = 0
        self._spent_s = 0.0
        self._first_s: float | None = None

    def begin(self, words: int) -> None:
        """All is ready, and the text begins. What was spent until now does not count."""
        self._progress.start("Speaking", words, "words")
        self._spent_s = -time.perf_counter()

    def pour(self, events: Generator[TtsAudio | TtsWord], sink: Sink) -> None:
        """Hand the sound of `events` to `sink`, which may leave off before its end."""
        try:
            with closing(events), closing(self._blocks(events)) as blocks:
                sink(blocks)
        finally:
            self._progress.finish()

    def _blocks(self, events: Iterator[TtsAudio | TtsWord]) -> Generator[Samples]:
        from dsmops.worker.runtime.tts.utterance import TtsAudio

        for event in events:
            if isinstance(event, TtsAudio):
                self._spent_s += time.perf_counter()
                self._first_s = self._spent_s if self._first_s is None else self._first_s
                self._samples += len(event.pcm)
                yield event.pcm
                self._spent_s -= time.perf_counter()
            else:
                self._words.append(SaidWord(event.text, event.start_s, event.stop_s))
                self._progress.advance(1)
        self._spent_s += time.perf_counter()

    def synthesis(self) -> Synthesis:
        audio_s = self._samples / SAMPLE_RATE_HZ
        return Synthesis(
            output=None,
            model="",
            device=None,
            dtype=None,
            voices=(),
            seed=None,
            cfg=None,
            temperature=None,
            words=tuple(self._words),
            audio_s=audio_s,
            first_audio_ms=None if self._first_s is None else 1000 * self._first_s,
            compute_s=self._spent_s,
            speedup=audio_s / self._spent_s if self._spent_s else None,
        )


def _remote_events(
    address: str, text: str, voice: str | None, api_key: str | None
) -> Iterator[TtsAudio | TtsWord]:
    """Yield what a server says. A thread of its own talks to it: while the sink waits for a loudspeaker, pings are to be answered."""
    from dsmops.client.tts import synthesize as talk
    from dsmops.protocol import TtsText
    from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord

    events: queue.Queue[TtsAudio | TtsWord | BaseException | None] = queue.Queue(_MOST_WAITING)
    loop = asyncio.new_event_loop()

    async def converse() -> None:
        async with aclosing(talk(address, [text], voice=voice, api_key=api_key)) as answers:
            async for answer in answers:
                if isinstance(answer, TtsText):
                    await asyncio.to_thread(
                        events.put, TtsWord(answer.text, answer.start_s, answer.stop_s)
                    )
                else:
                    await asyncio.to_thread(events.put, TtsAudio(answer.pcm))

    conversation = loop.create_task(converse())

    def run() -> None:
        failure: BaseException | None = None
        try:
            loop.run_until_complete(conversation)
        except BaseException as exc:  # noqa: BLE001 whatever it is, it is raised where the events are read
            failure = exc
        finally:
            loop.close()
        events.put(failure)

    thread = threading.Thread(target=run, name="speech-client", daemon=True)
    thread.start()
    try:
        while (event := events.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        with suppress(RuntimeError):  # closed already
            loop.call_soon_threadsafe(conversation.cancel)
        # Whatever waits to be put must get away, or the process could not end.
        while thread.is_alive() or not events.empty():
            with suppress(queue.Empty):
                events.get(timeout=_DRAIN_S)
