"""The model loop of speech-to-text: it steps the engine whenever any stream has a frame.

A stream that holds `MOST_WAITING_SAMPLES` takes no more audio: the connection that feeds it stops
reading its socket.

A `Marker` comes back with the step that completes the text of all audio before it: that of the
last whole frame before it, plus the text delay, counted in the stream's own steps. moshi-server
counts steps of all streams, and so returns markers early where others are busier. Less than a frame
before a marker does not count, as there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.runtime.loop import (
    NOT_FINITE,
    LoopObserver,
    ModelLoop,
    SlotStream,
    Started,
    StreamFailed,
)
from dsmops.worker.runtime.stt.interface import SttEngineProtocol, SttOutput, SttTokenizer
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd, SttWordMachine

WARM_UP_STEPS = 2
"""Steps before the first stream, which count in `SttStepped.step_idx`, as in moshi-server."""
MOST_WAITING_SAMPLES = 10 * 24_000
"""Ten seconds. With the message that was being taken when they were reached, a stream holds at most
70 s, 6.7 MB."""
MOST_EVENTS = 1000
"""About a minute of events that were not fetched; then the stream is not stepped."""
MOST_MARKERS = 1000

Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SttStepped:
    """A step took a frame of the stream.

    `step_idx` counts the steps of all streams since the loop began, `own_step` those of this one,
    both from 0.
    """

    step_idx: int
    own_step: int
    pauses: tuple[float, ...]
    waiting_samples: int


@dataclass(frozen=True, slots=True)
class SttMarkerReached:
    """The text of all audio before the marker is complete."""

    id: int


SttEvent = Started | SttStepped | SttWord | SttWordEnd | SttMarkerReached | StreamFailed


@dataclass(frozen=True, slots=True)
class SttObserver(LoopObserver["SttStream"]):
    """What the loop tells besides; `marker` is called on the caller's thread."""

    stepped: Callable[[float, int, int], None]
    """With the step's milliseconds, its index, and how many streams had a frame."""
    marker: Callable[[int, int], None]
    """With slot and id of a marker as it is received."""


class SttStream(SlotStream[SttStepped | SttWord | SttWordEnd | SttMarkerReached]):
    """One client's conversation, from `SttLoop.open` to `SttLoop.close`.

    May be used from any thread.
    """

    def __init__(self, loop: SttLoop, slot: int) -> None:
        super().__init__(loop, slot, MOST_EVENTS)
        self._fed = 0
        self._loop = loop
        self._pcm: deque[Samples] = deque()
        self._waiting = 0
        self._markers: deque[tuple[int, int]] = deque()
        self._begins = True
        self._machine = loop.new_machine()

    @property
    def is_full(self) -> bool:
        """Whether it wants no more for now; `on_news` says when to look again.

        What is sent all the same is taken.
        """
        with self._loop.lock:
            return (
                self._waiting >= MOST_WAITING_SAMPLES
                or self._begins
                or len(self._events) >= MOST_EVENTS
            )

    def push(self, pcm: Samples) -> None:
        """Add audio."""
        if not len(pcm):
            return
        with self._loop.lock:
            self._pcm.append(pcm)
            self._waiting += len(pcm)
            if self._waiting >= self._loop.frame_samples:
                self._loop.wake()

    def mark(self, marker_id: int) -> None:
        """Ask for `SttMarkerReached` when the text of all audio so far is complete.

        Raises:
            ValueError: too many are under way.
        """
        with self._loop.lock:
            if len(self._markers) >= MOST_MARKERS:
                raise ValueError(f"{MOST_MARKERS:,} markers wait; send audio, or fewer of them")
            due = self._fed + self._waiting // self._loop.frame_samples + self._loop.delay_steps
            self._markers.append((due, marker_id))
        self._loop.observer.marker(self.slot, marker_id)

    def restart(self) -> None:
        """Begin again: model state and word times are reset, audio and markers that wait stay.

        `Started` answers.
        """
        with self._loop.lock:
            self._begins = True
            self._loop.wake()

    # What follows is the loop's, which holds the lock.

    def begins(self) -> bool:
        begins, self._begins = self._begins and not self._over, False
        if begins:
            self._machine = self._loop.new_machine()
            self._events.append(Started())
        return begins

    def has_frame(self) -> bool:
        return self.may_step and self._waiting >= self._loop.frame_samples

    def fill(self, frame: Samples) -> None:
        """Move the next samples into `frame`."""
        done = 0
        while done < len(frame):
            piece = self._pcm[0]
            count = min(len(piece), len(frame) - done)
            frame[done : done + count] = piece[:count]
            done += count
            if count == len(piece):
                self._pcm.popleft()
            else:
                self._pcm[0] = piece[count:]
        self._waiting -= done
        self._fed += 1

    def take(self, step_idx: int, token: int, pauses: tuple[float, ...]) -> None:
        """Take what a step gave."""
        if pauses:
            self._events.append(SttStepped(step_idx, self.steps, pauses, self._waiting))
        self.steps += 1
        self._events += self._machine.take(token)
        while self._markers and self._markers[0][0] <= self.steps:
            self._events.append(SttMarkerReached(self._markers.popleft()[1]))


class SttLoop(ModelLoop[SttStream]):
    """An engine with its thread. `start`, then `open` and `close` streams, at last `stop`."""

    observer: SttObserver

    def __init__(
        self, name: str, open_engine: Callable[[], SttEngineProtocol], observer: SttObserver
    ) -> None:
        """`open_engine` is called on the loop's thread, where the engine lives.

        `name` is for messages.
        """
        super().__init__(
            name,
            observer,
            remedy="`dsmops transcribe --model CONFIG` shows whether the model runs.",
        )
        self.delay_steps = 0
        self.frame_samples = 0
        self._open_engine = open_engine
        self._engine: SttEngineProtocol | None = None
        self._pcm = np.zeros((0, 0), np.float32)
        self._tokenizer: SttTokenizer | None = None

    def open(self) -> SttStream | None:
        """Return a new stream, None where no slot is free or the loop is dead."""
        return self._lend(lambda slot: SttStream(self, slot))

    def new_machine(self) -> SttWordMachine:
        if self._tokenizer is None:
            raise RuntimeError("the loop was not started")
        return SttWordMachine(self._tokenizer, self.delay_steps)

    def _serve(self) -> None:
        engine = self._engine = self._open_engine()
        model = engine.model
        self.slots, self.frame_samples = engine.batch_size, model.frame_samples
        self.delay_steps, self._tokenizer = model.config.text_delay_steps, model.tokenizer
        pcm = self._pcm = engine.new_frames()
        self.observer.warming_up()
        for _ in range(WARM_UP_STEPS):
            engine.step(pcm, np.ones(engine.batch_size, np.bool_))
        self._note_step()
        self.observer.started(engine.batch_size)
        self._step_for_ever(engine, pcm)

    def _step_for_ever(self, engine: SttEngineProtocol, pcm: Samples) -> None:
        step_idx = WARM_UP_STEPS
        while (turn := self._await(self._next)) is not None:
            begun, stepping = turn
            if begun:
                engine.reset([stream.slot for stream in begun])
            if stepping:
                with self.lock:
                    for stream in stepping:
                        stream.fill(pcm[stream.slot])
                exec_mask = np.zeros(engine.batch_size, np.bool_)
                exec_mask[[stream.slot for stream in stepping]] = True
                output = engine.step(pcm, exec_mask)
                self._note_step()
                self._hand_out(output, stepping, step_idx)
                self.observer.stepped(output.step_ms, step_idx, len(stepping))
                step_idx += 1
            self.observer.news({*begun, *stepping})

    def _step_without_streams(self) -> None:
        if self._engine is not None:
            self._engine.step(self._pcm, np.zeros(self.slots, np.bool_))

    def _next(self) -> tuple[list[SttStream], list[SttStream]] | None:
        """Return the streams whose slots must be reset, and those with a frame to step.

        None where there are neither.
        """
        streams = list(self._streams.values())
        begun = [stream for stream in streams if stream.begins()]
        stepping = [stream for stream in streams if stream.has_frame()]
        return (begun, stepping) if begun or stepping else None

    def _hand_out(self, output: SttOutput, stepping: Sequence[SttStream], step_idx: int) -> None:
        tokens, finite, pauses = (
            output.text_tokens.tolist(),
            output.finite.tolist(),
            output.pause_probabilities.tolist(),
        )
        with self.lock:
            for stream in stepping:
                if finite[stream.slot]:
                    stream.take(step_idx, tokens[stream.slot], tuple(pauses[stream.slot]))
                else:
                    stream.fail(NOT_FINITE)
