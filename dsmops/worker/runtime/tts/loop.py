"""The TTS model loop: it steps the engine and hands out sound and words.

It steps whenever a stream knows enough of its text. A stream that waits for words is not stepped,
nor is one whose sound is not fetched. Streams in their first phase, in which text leads and nothing
sounds yet, take steps of their own that cost less, a few in a row, so that new streams begin to
sound soon.

The next step is launched before the sound of the last one is handed out, so that the device works
meanwhile. A stream's text is thus one step ahead of its sound.

Source of the rules: `tts.py` of moshi-server.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.errors import InputError
from dsmops.worker.models.conventions import PADDING
from dsmops.worker.runtime.loop import (
    NOT_FINITE,
    LoopObserver,
    ModelLoop,
    Started,
    Stream,
    StreamFailed,
)
from dsmops.worker.runtime.tts.interface import TtsEngineProtocol, TtsLaunchedStep, TtsRequest
from dsmops.worker.runtime.tts.machine import TtsEntry, TtsPacing
from dsmops.worker.runtime.tts.script import TtsTextStream
from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord, Utterance, sound

WARM_UP_STEPS = 2
"""Steps before the first stream, one of each kind where there are two; they count in
`TtsStepped.step_idx`."""
MOST_WAITING_WORDS = 1000
"""Some six minutes of speech. With the text that was being taken when they were reached, a stream
holds about 20 MB at most."""
MOST_TEXT = 200_000
"""Characters of one piece of text."""
MOST_EVENTS = 250
"""About 16 s of sound that was not fetched, 2 MB; then the stream is not stepped."""
INTERLEAVED_TEXT_ONLY = 2
"""Steps of streams that do not sound yet, in a row, while others wait to go on sounding."""


@dataclass(frozen=True, slots=True)
class TtsEnded:
    """The whole text has been synthesized. The last event."""


@dataclass(frozen=True, slots=True)
class TtsRefused:
    """The last event of a stream whose request the engine cannot follow.

    A loop in another process finds this out later.
    """

    error: InputError


TtsEvent = Started | TtsWord | TtsAudio | TtsEnded | TtsRefused | StreamFailed


@dataclass(frozen=True, slots=True)
class TtsStepped:
    """One step of the engine.

    `step_idx` counts all steps since the loop began. `stepping` streams took it; `ready` ones,
    these among them, could have; `starving` ones have begun to speak and wait for words.
    """

    step_ms: float
    step_idx: int
    stepping: int
    ready: int
    starving: int
    text_only: bool


@dataclass(frozen=True, slots=True)
class TtsObserver(LoopObserver["TtsStream"]):
    """What the loop calls besides."""

    stepped: Callable[[TtsStepped], None]


class TtsConversation(Stream[TtsWord | TtsAudio | TtsEnded | TtsRefused]):
    """One client's stream, whose loop runs in this process or in another."""

    @property
    @abstractmethod
    def skipped(self) -> int:
        """How many characters of the text the tokenizer does not know. They are skipped."""

    @abstractmethod
    def change_request(self, request: TtsRequest) -> None:
        """Follow `request` from the start; only a stream without text yet can.

        Raises:
            InputError: it was, or the engine cannot follow the request.
        """

    @abstractmethod
    def add_text(self, text: str) -> None:
        """Add words; every piece ends a word, as `TtsTextStream` says.

        Raises:
            InputError: the text cannot be said, is too long for one piece, or comes after
                `end_text`.
        """

    @abstractmethod
    def end_text(self) -> None:
        """Mark the text as complete.

        `TtsEnded` follows the last sound. It comes at once where nothing was said.

        Raises:
            InputError: what was left of the text cannot be said.
        """


def require_short(text: str) -> None:
    """Raise InputError where a piece of text is longer than `MOST_TEXT`."""
    if len(text) > MOST_TEXT:
        raise InputError(
            f"a text of {len(text):,} characters is too long",
            hint=f"Send at most {MOST_TEXT:,} at once.",
            code="text.long",
        )


def text_after_end() -> InputError:
    """Return the error of text that comes after the end of the text."""
    return InputError(
        "text came after the end of the text",
        hint="Open another stream for it.",
        code="speech.order",
    )


class TtsStream(TtsConversation):
    """A stream of a loop in this process, from `TtsLoop.open` to `TtsLoop.close`.

    Any thread may use it, but only one at a time may add text.
    """

    def __init__(self, loop: TtsLoop, slot: int, request: TtsRequest) -> None:
        super().__init__(slot, MOST_EVENTS)
        self._loop = loop
        self._request = request
        self._is_set_up = self._has_started = False
        self._text = loop.new_text()
        self._utterance = loop.new_utterance()
        self._unheard: deque[list[TtsWord]] = deque()
        """The words of each step under way."""

    @property
    def is_full(self) -> bool:
        """Whether it wants no more text for now."""
        return self.waiting_words >= MOST_WAITING_WORDS

    @property
    def waiting_words(self) -> int:
        """Words and pauses that are not said yet."""
        with self._loop.lock:
            return self._utterance.waiting

    @property
    def skipped(self) -> int:
        return self._text.skipped.total()

    def change_request(self, request: TtsRequest) -> None:
        self._loop.check(request)
        with self._loop.lock:
            if (
                self._text.holds_text
                or self._utterance.waiting
                or self._utterance.steps
                or self._utterance.is_closed
            ):
                raise InputError(
                    "the voice came after the text had begun",
                    hint="Send it before the first word.",
                    code="speech.order",
                )
            self._request, self._is_set_up = request, False
            self._loop.wake()

    def add_text(self, text: str) -> None:
        require_short(text)
        self.extend(self._text.take(text))

    def end_text(self) -> None:
        if not self._utterance.is_closed:
            self.extend(self._text.close(), last=True)

    def extend(self, entries: Sequence[TtsEntry], *, last: bool = False) -> None:
        """Add text that is tokenized already; `last` says that no more comes."""
        with self._loop.lock:
            if self._utterance.is_closed:
                raise text_after_end()
            self._utterance.extend(entries)
            if last:
                self._utterance.close()
            self._loop.wake()

    def fetch(self) -> list[TtsEvent]:
        """Return the events that were not fetched yet, in order."""
        with self._loop.lock:
            events: list[TtsEvent] = list(self._events)
            self._events.clear()
            if len(events) >= MOST_EVENTS:
                self._loop.wake()
            return events

    # What follows is the loop's, which holds the lock.

    def fail(self, reason: str) -> None:
        self._end(StreamFailed(reason))

    @property
    def may_step(self) -> bool:
        """Whether the stream may be stepped: it is not over, and its events are fetched."""
        return not self._over and len(self._events) < MOST_EVENTS

    def set_up(self) -> TtsRequest | None:
        """Return the request for which the slot must be reset, None where that was done."""
        if self._is_set_up:
            return None
        self._is_set_up = True
        if not self._has_started:
            self._has_started = True
            self._events.append(Started())
        return self._request

    def ends(self) -> bool:
        """Whether it ends now."""
        return not self._unheard and self._utterance.has_ended and self._end(TtsEnded())

    @property
    def can_step(self) -> bool:
        return self.may_step and self._utterance.can_step

    @property
    def is_starving(self) -> bool:
        return self.may_step and self.steps > 0 and not self._utterance.can_step

    @property
    def is_text_only(self) -> bool:
        return self._utterance.is_text_only

    def options(self) -> tuple[int, int]:
        return self._utterance.options()

    def advance(self, prediction: int) -> None:
        """Go on to the next step; the sound of this one comes with `take`."""
        self._utterance.choose(prediction)
        self._unheard.append(self._utterance.advance())
        self.steps += 1

    def take(self, pcm: NDArray[np.float32] | None) -> None:
        """Take the sound of the oldest step under way, if it has any."""
        words = self._unheard.popleft()
        if not self._over:
            self._events += [*words, *sound(pcm)]
            self.ends()


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the loop does next: reset slots, tell who ended without a step, step."""

    requests: Mapping[TtsStream, TtsRequest]
    ended: Sequence[TtsStream]
    stepping: Sequence[TtsStream]
    text_only: bool
    ready: int
    starving: int


@dataclass(frozen=True, slots=True)
class _LoopStep:
    """A step under way."""

    turn: _Turn
    launched: TtsLaunchedStep


class TtsLoop(ModelLoop[TtsStream]):
    """An engine with its thread. `start`, then `open` and `close` streams, at last `stop`."""

    observer: TtsObserver

    def __init__(
        self,
        name: str,
        open_engine: Callable[[], TtsEngineProtocol],
        observer: TtsObserver,
        *,
        pacing: TtsPacing = TtsPacing(),  # noqa: B008 frozen
        interleaved_text_only: int = INTERLEAVED_TEXT_ONLY,
    ) -> None:
        """`open_engine` is called on the loop's thread, where the engine lives.

        `name` is for messages.
        """
        super().__init__(
            name,
            observer,
            remedy="`dsmops synthesize --model CONFIG` shows whether the model runs.",
        )
        self._open_engine = open_engine
        self._engine: TtsEngineProtocol | None = None
        self._pacing = pacing
        self._most_text_only, self._text_only_steps = interleaved_text_only, 0
        self._launched: _LoopStep | None = None

    def open(self, request: TtsRequest, slot: int | None = None) -> TtsStream | None:
        """Return a new stream in this slot, or in the first free one.

        None where no slot is free or the loop is dead.

        Raises:
            InputError: the engine cannot follow the request.
        """
        if self.slots:
            self.check(request)
        return self._lend(lambda free: TtsStream(self, free, request), slot)

    def check(self, request: TtsRequest) -> None:
        self._opened().check(request)

    def new_text(self) -> TtsTextStream:
        return TtsTextStream(
            self._opened().model.tokenizer, padding_between=self._pacing.padding_between
        )

    def new_utterance(self) -> Utterance:
        return Utterance(self._opened().model.config, self._pacing)

    def _opened(self) -> TtsEngineProtocol:
        if self._engine is None:
            raise RuntimeError("the loop was not started")
        return self._engine

    def _serve(self) -> None:
        engine = self._engine = self._open_engine()
        self.slots = engine.batch_size
        self.observer.warming_up()
        for text_only in (engine.model.config.delay_steps > 0, False):
            engine.step(
                np.ones(engine.batch_size, np.bool_),
                lambda predictions: predictions,
                text_only=text_only,
            )
        self.board.note_step()
        self.observer.started(engine.batch_size)
        step_idx = WARM_UP_STEPS
        while (turn := self._await(self._next)) is not None:
            if turn.requests:
                engine.reset(
                    [stream.slot for stream in turn.requests], list(turn.requests.values())
                )
            before = self._launched
            self._launched = self._launch(engine, turn) if turn.stepping else None
            stepped: Sequence[TtsStream] = ()
            if before is not None:
                stepped = before.turn.stepping
                self.observer.stepped(self._finish(before, step_idx))
                step_idx += 1
            self.observer.news({*turn.requests, *turn.ended, *stepped})

    def _step_without_streams(self) -> None:
        nobody = np.zeros(self.slots, np.bool_)
        self._opened().step(nobody, lambda predictions: predictions)

    def _next(self) -> _Turn | None:
        streams = list(self._streams.values())
        requests = {
            stream: request for stream in streams if (request := stream.set_up()) is not None
        }
        ended = [stream for stream in streams if stream.ends()]
        ready = [stream for stream in streams if stream.can_step]
        if not requests and not ended and not ready and self._launched is None:
            return None
        beginning = [stream for stream in ready if stream.is_text_only]
        text_only = bool(beginning) and (
            len(beginning) == len(ready) or self._text_only_steps < self._most_text_only
        )
        if ready:
            self._text_only_steps = self._text_only_steps + 1 if text_only else 0
        starving = sum(stream.is_starving for stream in streams)
        return _Turn(
            requests, ended, beginning if text_only else ready, text_only, len(ready), starving
        )

    def _launch(self, engine: TtsEngineProtocol, turn: _Turn) -> _LoopStep:
        """Begin a step, and return it once its text is known."""
        slots = [stream.slot for stream in turn.stepping]
        exec_mask = np.zeros(engine.batch_size, np.bool_)
        exec_mask[slots] = True
        tokens = np.full((engine.batch_size, 2), PADDING, np.int64)
        with self.lock:
            tokens[slots] = [stream.options() for stream in turn.stepping]
        launched = engine.launch(exec_mask, tokens, text_only=turn.text_only)
        predictions = launched.predicted()[slots].tolist()
        with self.lock:
            for stream, prediction in zip(turn.stepping, predictions, strict=True):
                stream.advance(prediction)
        return _LoopStep(turn, launched)

    def _finish(self, step: _LoopStep, step_idx: int) -> TtsStepped:
        """Hand out the sound of a step."""
        turn, output = step.turn, step.launched.wait()
        self.board.note_step()
        with self.lock:
            for stream in turn.stepping:
                if not output.finite[stream.slot]:
                    stream.fail(NOT_FINITE)
                stream.take(output.pcm[stream.slot] if output.valid[stream.slot] else None)
        return TtsStepped(
            output.step_ms,
            step_idx,
            len(turn.stepping),
            turn.ready,
            turn.starving,
            turn.text_only,
        )
