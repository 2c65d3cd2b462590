"""`transcribe --url`: a recording or a microphone through any moshi-server."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from math import ceil
from pathlib import Path

from dsmops.audio import LevelMeter, Samples, open_audio
from dsmops.audio.microphone import microphone
from dsmops.client.address import websocket_url
from dsmops.client.stt import LEAD_IN_FRAMES, Answer, transcribe
from dsmops.client.window import FRAME_S, SEND_AHEAD_S
from dsmops.errors import DsmopsError
from dsmops.operations.speech.incomplete import Incomplete
from dsmops.operations.speech.interruption import wanted_signals
from dsmops.operations.speech.transcription import Transcription, read_frames
from dsmops.progress import SILENT, Progress
from dsmops.protocol import EndWord, Step, Word
from dsmops.worker.runtime.stt.words import TimedWord, TurnDetector, TurnEnd

_MAX_FRAMES_WAITING = 125
"""Frames of a pipe that may wait to be sent, ten seconds."""


def transcribe_remotely(
    source: Path | None,
    url: str,
    *,
    api_key: str | None = None,
    speed: float = 1.01,
    send_ahead_s: float = SEND_AHEAD_S,
    on_word: Callable[[str], None] = lambda _: None,
    progress: Progress = SILENT,
) -> Transcription:
    """Transcribe the recording in `source`, standard input when None, through the server at `url`.

    `speed` is × real time, 0 for as fast as the server answers; audio goes out at most
    `send_ahead_s` ahead of the answers. Ctrl-C, SIGTERM or SIGHUP ends the recording there; what
    was sent is still transcribed, and `interrupted` says so. A second signal ends everything. When
    the stream fails after its first word, the result holds the words so far and says why it is
    incomplete.

    Raises:
        InputError, SourceError: the recording or the address cannot be used.
        CredentialsError, TransferError: the server refused, cannot be reached, or failed before the
            first word.
        ExtraMissingError: the client's libraries are not installed.
    """
    address = websocket_url(url)
    meter = LevelMeter()
    with open_audio(source or "-") as audio:
        answers = _Answers(on_word if audio.is_live else lambda _: None)

        async def frames(stop: asyncio.Event) -> AsyncIterator[Samples]:
            source = read_frames(audio, meter, progress)
            if audio.is_live:
                async for frame in _read_in_thread(source, stop):
                    yield frame
            else:
                for frame in source:
                    yield frame

        progress.start(
            f"Transcribing {audio.name}",
            None if audio.duration_s is None else ceil(audio.duration_s),
            "s of audio",
        )
        try:
            asyncio.run(_stream(frames, address, api_key, answers, speed, send_ahead_s))
        finally:
            progress.finish()
    return replace(
        _transcription(audio.name, address, answers, meter),
        warnings=tuple(audio.warnings),
    )


def transcribe_microphone(
    url: str,
    on_word: Callable[[str], None],
    *,
    api_key: str | None = None,
    device: str | None = None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Transcription:
    """Transcribe the microphone through the server at `url` until Ctrl-C.

    `on_word` gets each word as it comes. A stream that fails is as for `transcribe_remotely`.

    Raises:
        InputError: the address cannot be used.
        CredentialsError, TransferError: the server refused, cannot be reached, or failed before the
            first word.
        EnvironmentMissingError: there is no microphone, or its libraries are not installed.
    """
    address = websocket_url(url)
    meter = LevelMeter()
    answers = _Answers(on_word)

    async def frames(stop: asyncio.Event) -> AsyncIterator[Samples]:
        async for frame in microphone(stop, device=device, on_note=on_note):
            meter.add(frame)
            yield frame

    asyncio.run(_stream(frames, address, api_key, answers))
    if answers.signal == signal.SIGINT.name:  # the usual end
        answers.signal = None
    return _transcription("the microphone", address, answers, meter)


async def _read_in_thread(source: Iterator[Samples], stop: asyncio.Event) -> AsyncIterator[Samples]:
    """Yield the frames of a pipe, which may give nothing for a while, until `stop` is set.

    A daemon thread waits for the pipe: answers come meanwhile, and the process can end.
    """
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[Samples | BaseException | None] = asyncio.Queue()
    room = threading.Semaphore(_MAX_FRAMES_WAITING)

    def put(item: Samples | BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed already
            loop.call_soon_threadsafe(waiting.put_nowait, item)

    def read() -> None:
        try:
            for frame in source:
                room.acquire()
                put(frame)
            put(None)
        except BaseException as exc:  # noqa: BLE001 raised again where the frames are read
            put(exc)

    threading.Thread(target=read, name="audio-reader", daemon=True).start()
    stopped = asyncio.ensure_future(stop.wait())
    try:
        while True:
            item = asyncio.ensure_future(waiting.get())
            await asyncio.wait({item, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not item.done():
                item.cancel()
                return
            frame = item.result()
            if frame is None:
                return
            if isinstance(frame, BaseException):
                raise frame
            room.release()
            yield frame
    finally:
        stopped.cancel()


def _transcription(audio: str, address: str, answers: _Answers, meter: LevelMeter) -> Transcription:
    elapsed_s = answers.elapsed_s
    return Transcription(
        audio=audio,
        audio_s=meter.levels.duration_s,
        model=address,
        device=None,
        dtype=None,
        text=" ".join(word.text for word in answers.words),
        words=tuple(answers.words),
        turns=tuple(answers.turns),
        has_vad=answers.steps > 0,
        levels=meter.levels,
        steps=answers.steps,
        compute_s=elapsed_s,
        speedup=meter.levels.duration_s / elapsed_s if elapsed_s else None,
        interrupted=answers.signal is not None,
        signal=answers.signal,
        incomplete=answers.incomplete,
    )


class _Answers:
    """The words and turns that a server's answers add up to."""

    def __init__(self, on_word: Callable[[str], None] = lambda _: None) -> None:
        self._on_word = on_word
        self.words: list[TimedWord] = []
        self.turns: list[TurnEnd] = []
        self.steps = 0
        self.elapsed_s = 0.0
        self.signal: str | None = None
        self.incomplete: Incomplete | None = None
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


async def _stream(
    frames: Callable[[asyncio.Event], AsyncIterator[Samples]],
    address: str,
    api_key: str | None,
    answers: _Answers,
    speed: float = 0.0,
    send_ahead_s: float = SEND_AHEAD_S,
) -> None:
    """Stream the frames and collect the answers. `frames` gets the event that a signal sets."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    begin_s = loop.time()
    with _first_signal_sets(stop, loop, answers):
        try:
            await transcribe(
                address,
                frames(stop),
                answers.take,
                api_key=api_key,
                speed=speed,
                send_ahead_s=send_ahead_s,
                stop=stop,
            )
        except DsmopsError as exc:
            if not answers.words:
                raise
            answers.incomplete = Incomplete.because(exc)
    answers.elapsed_s = loop.time() - begin_s


@contextmanager
def _first_signal_sets(
    stop: asyncio.Event, loop: asyncio.AbstractEventLoop, answers: _Answers
) -> Iterator[None]:
    """Let the first Ctrl-C, SIGTERM or SIGHUP set `stop`, and the second end the process."""
    before = {number: signal.getsignal(number) for number in wanted_signals()}

    def restore() -> None:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
        before.clear()

    def on_first(name: str) -> None:
        answers.signal = name
        stop.set()
        restore()

    try:
        for number in before:
            loop.add_signal_handler(number, on_first, number.name)
    except (RuntimeError, ValueError):  # outside the main thread, where no signal arrives anyway
        before.clear()
    try:
        yield
    finally:
        restore()
