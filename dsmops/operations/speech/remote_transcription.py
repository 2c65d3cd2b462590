"""`transcribe --url`: a recording through any moshi-server, heard as its clients hear it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil
from pathlib import Path

from dsmops.audio import LevelMeter, Samples, open_audio
from dsmops.audio.microphone import microphone
from dsmops.client.address import websocket_url
from dsmops.client.stt import LEAD_IN_FRAMES, Answer
from dsmops.client.stt import transcribe as stream_transcribe
from dsmops.client.window import FRAME_S
from dsmops.operations.speech.transcription import Transcription, hear
from dsmops.progress import SILENT, Progress
from dsmops.protocol import EndWord, Step, Word
from dsmops.worker.runtime.stt.words import TimedWord, TurnDetector, TurnEnd


def transcribe_remotely(
    source: Path | None,
    url: str,
    *,
    api_key: str | None = None,
    speed: float = 1.01,
    progress: Progress = SILENT,
) -> Transcription:
    """Transcribe the recording in `source`, standard input when None, through the server at `url`.

    `speed` is × real time, 0 for as fast as the server takes it. Ctrl-C ends the recording there;
    what was sent is still transcribed, and `interrupted` says so. A second Ctrl-C ends everything.

    Raises:
        InputError, SourceError: the recording or the address cannot be used.
        CredentialsError, TransferError: the server refused, failed or cannot be reached.
        ExtraMissingError: the worker's libraries are not installed.
    """
    address = websocket_url(url)
    meter = LevelMeter()
    heard = _Hearing()
    with open_audio(source or "-") as audio:

        async def frames(_: asyncio.Event) -> AsyncIterator[Samples]:
            for frame in hear(audio, meter, progress):
                yield frame

        progress.start(
            f"Transcribing {audio.name}",
            None if audio.duration_s is None else ceil(audio.duration_s),
            "s of audio",
        )
        try:
            elapsed_s = asyncio.run(_hear(frames, address, api_key, speed, heard))
        finally:
            progress.finish()
    return _transcription(audio.name, address, heard, meter, elapsed_s)


def transcribe_microphone(
    url: str, on_word: Callable[[str], None], *, api_key: str | None = None
) -> Transcription:
    """Transcribe what the microphone hears, through the server at `url`, until Ctrl-C; `on_word` gets each word as it comes.

    Raises:
        InputError: the address cannot be used.
        CredentialsError, TransferError: the server refused, failed or cannot be reached.
        EnvironmentMissingError: there is no microphone, or the libraries for it are not installed.
    """
    address = websocket_url(url)
    meter = LevelMeter()
    heard = _Hearing(on_word)

    async def frames(stop: asyncio.Event) -> AsyncIterator[Samples]:
        async for frame in microphone(stop):
            meter.add(frame)
            yield frame

    elapsed_s = asyncio.run(_hear(frames, address, api_key, 0.0, heard))
    heard.interrupted = False  # Ctrl-C is how it ends.
    return _transcription("the microphone", address, heard, meter, elapsed_s)


def _transcription(
    audio: str, address: str, heard: _Hearing, meter: LevelMeter, elapsed_s: float
) -> Transcription:
    return Transcription(
        audio=audio,
        audio_s=meter.levels.duration_s,
        model=address,
        device=None,
        dtype=None,
        text=" ".join(word.text for word in heard.words),
        words=tuple(heard.words),
        turns=tuple(heard.turns),
        has_vad=heard.steps > 0,
        levels=meter.levels,
        steps=heard.steps,
        compute_s=elapsed_s,
        speedup=meter.levels.duration_s / elapsed_s if elapsed_s else None,
        interrupted=heard.interrupted,
    )


class _Hearing:
    """What the server's answers add up to."""

    def __init__(self, on_word: Callable[[str], None] = lambda _: None) -> None:
        self._on_word = on_word
        self.words: list[TimedWord] = []
        self.turns: list[TurnEnd] = []
        self.steps = 0
        self.interrupted = False
        self._detector = TurnDetector()

    def take(self, answer: Answer) -> None:
        match answer:
            case Word():
                self.words.append(TimedWord(answer.text, answer.start_time, None))
                self._detector.take((), spoken=True)
                self._on_word(answer.text)
            case EndWord() if self.words:
                self.words[-1] = replace(self.words[-1], stop_s=answer.stop_time)
            case Step():
                self.steps += 1
                if self._detector.take(answer.prs, spoken=False):
                    self.turns.append(TurnEnd(max(0.0, (self.steps - LEAD_IN_FRAMES) * FRAME_S)))


async def _hear(
    frames: Callable[[asyncio.Event], AsyncIterator[Samples]],
    address: str,
    api_key: str | None,
    speed: float,
    heard: _Hearing,
) -> float:
    """Stream the frames and return how long that took, in seconds. `frames` gets the event that Ctrl-C sets."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    begin_s = loop.time()
    with _first_ctrl_c_sets(stop, loop):
        await stream_transcribe(
            address, frames(stop), heard.take, api_key=api_key, speed=speed, stop=stop
        )
    heard.interrupted = stop.is_set()
    return loop.time() - begin_s


@contextmanager
def _first_ctrl_c_sets(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let the first Ctrl-C set `stop`, and the second do what it always does."""

    def on_first() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    with suppress(RuntimeError):  # outside the main thread, where no signal arrives anyway
        loop.add_signal_handler(signal.SIGINT, on_first)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
