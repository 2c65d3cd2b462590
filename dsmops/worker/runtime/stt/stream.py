"""One client's conversation with a speech-to-text model loop, as its front holds it.

It writes frames into its lane, reads what the loop made of each, and makes words of the tokens. No
tensors here: it runs in processes without a model too.

A stream that holds `MOST_WAITING_SAMPLES` takes no more audio: the connection that feeds it stops
reading its socket.

A `Marker` comes back with the step that completes the text of all audio before it: that of the
last whole frame before it, plus the text delay, counted in the stream's own steps. moshi-server
counts steps of all streams, and so returns markers early where others are busier. Less than a frame
before a marker does not count, as there.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.runtime.loop import NOT_FINITE, Started, Stream, StreamFailed
from dsmops.worker.runtime.shared import fence
from dsmops.worker.runtime.stt.interface import SttTokenizer
from dsmops.worker.runtime.stt.lanes import CELLS, SttLanes
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd, SttWordMachine

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


class SttStream(Stream[SttStepped | SttWord | SttWordEnd | SttMarkerReached]):
    """A slot of a loop, from its opening to its closing. Any thread may use it."""

    def __init__(
        self,
        lanes: SttLanes,
        slot: int,
        owner: int,
        *,
        tokenizer: SttTokenizer,
        wake: Callable[[], None],
        on_marker: Callable[[int, int], None],
    ) -> None:
        """Take the lane of `slot`, which no other stream holds, for the front `owner`.

        `wake` wakes the loop. `on_marker` is called with slot and id of each marker.
        """
        super().__init__(slot, MOST_EVENTS)
        self._lanes, self._wake, self._on_marker = lanes, wake, on_marker
        self._tokenizer, self._delay_steps = tokenizer, lanes.delay_steps
        self._lock = threading.Lock()
        self._pcm: deque[Samples] = deque()
        self._waiting = 0
        """Samples in `_pcm`."""
        self._markers: deque[tuple[int, int]] = deque()
        self._machine = SttWordMachine(tokenizer, self._delay_steps)
        self._head = self._read = int(lanes.head[slot])
        lanes.start[slot] = lanes.read[slot] = self._head
        lanes.owner[slot] = owner
        self._opened = self._first = int(lanes.opened[slot]) + 1
        self._told = 0
        fence()
        lanes.opened[slot] = self._opened
        lanes.active[slot] = 1
        wake()

    @property
    def is_full(self) -> bool:
        """Whether it wants no more audio for now."""
        return (
            self._samples_ahead >= MOST_WAITING_SAMPLES
            or self._told != self._opened
            or len(self._events) >= MOST_EVENTS
        )

    @property
    def heads(self) -> int:
        """Pause probabilities of each step."""
        return self._lanes.heads

    @property
    def delay_steps(self) -> int:
        """Steps by which the text lags behind its audio."""
        return self._delay_steps

    def push(self, pcm: Samples) -> None:
        """Add audio."""
        if not len(pcm):
            return
        with self._lock:
            self._pcm.append(pcm)
            self._waiting += len(pcm)
            self._fill_cells()

    def mark(self, marker_id: int) -> None:
        """Ask for `SttMarkerReached` when the text of all audio so far is complete.

        Raises:
            ValueError: too many are under way.
        """
        with self._lock:
            if len(self._markers) >= MOST_MARKERS:
                raise ValueError(f"{MOST_MARKERS:,} markers wait; send audio, or fewer of them")
            due = self.steps + self._samples_ahead // self._lanes.frame_samples + self._delay_steps
            self._markers.append((due, marker_id))
        self._on_marker(self.slot, marker_id)

    def restart(self) -> None:
        """Begin again: model state and word times are reset, audio and markers that wait stay.

        `Started` answers.
        """
        with self._lock:
            if self._over or self._opened != self._told:
                return
            self._opened += 1
            self._lanes.opened[self.slot] = self._opened
        self._wake()

    def fetch(self) -> list[SttEvent]:
        """Return the events that were not fetched yet, in order."""
        with self._lock:
            events: list[SttEvent] = list(self._events)
            self._events.clear()
            self._fill_cells()
            return events

    def fail(self, reason: str) -> None:
        """End the stream."""
        with self._lock:
            self._end(StreamFailed(reason))

    def read_news(self) -> None:
        """Take from the lane what the loop did since the last call."""
        lanes, slot, heads = self._lanes, self.slot, self._lanes.heads
        with self._lock:
            # The reset first: all results from before it are in the lane then.
            seen = int(lanes.seen[slot])
            fence()
            tail = int(lanes.tail[slot])
            fence()
            while self._read < tail:
                cell = self._read % CELLS
                self._begin(int(lanes.epoch_of[slot, cell]))
                self._read += 1
                if lanes.finite[slot, cell]:
                    self._take(
                        int(lanes.step_of[slot, cell]),
                        int(lanes.token[slot, cell]),
                        tuple(lanes.pauses[slot, cell, :heads].tolist()),
                    )
                else:
                    self._end(StreamFailed(NOT_FINITE))
            lanes.read[slot] = self._read
            self._begin(seen)
            self._fill_cells()

    @property
    def _samples_ahead(self) -> int:
        """Samples that no result was read for."""
        return self._waiting + (self._head - self._read) * self._lanes.frame_samples

    def _fill_cells(self) -> None:
        """Move whole frames into the lane, as long as lane and events have space."""
        lanes, slot, length = self._lanes, self.slot, self._lanes.frame_samples
        before = self._head
        while (
            self._waiting >= length
            and self._told  # Before its first reset the lane may still hold another's frames.
            and not self._over
            and self._head - self._read < CELLS
            and len(self._events) + self._head - self._read < MOST_EVENTS
        ):
            self._move_samples(lanes.frames[slot, self._head % CELLS])
            self._head += 1
        if self._head > before:
            fence()
            lanes.head[slot] = self._head
            self._wake()

    def _move_samples(self, frame: Samples) -> None:
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

    def _begin(self, epoch: int) -> None:
        """Start again where the model was reset; `epoch` is the number of its last reset."""
        if epoch < self._first or epoch == self._told:
            return
        self._told = epoch
        self._lanes.told[self.slot] = epoch
        if not self._over:
            self._machine = SttWordMachine(self._tokenizer, self._delay_steps)
            self._events.append(Started())

    def _take(self, step_idx: int, token: int, pauses: tuple[float, ...]) -> None:
        """Take what a step gave."""
        if self._over:
            return
        if pauses:
            self._events.append(SttStepped(step_idx, self.steps, pauses, self._samples_ahead))
        self.steps += 1
        self._events += self._machine.take(token)
        while self._markers and self._markers[0][0] <= self.steps:
            self._events.append(SttMarkerReached(self._markers.popleft()[1]))
