"""The model loop of speech-to-text: it steps the engine whenever any stream has a frame.

It works on lanes: it takes the next frame of every lane that has one, steps the engine once, and
writes the results back, all by array operations. Words are made by the streams, `stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.runtime.loop import LoopObserver, ModelLoop
from dsmops.worker.runtime.shared import fence
from dsmops.worker.runtime.stt.interface import SttEngineProtocol, SttOutput, SttTokenizer
from dsmops.worker.runtime.stt.lanes import CELLS, SttLanes
from dsmops.worker.runtime.stt.stream import SttStream

WARM_UP_STEPS = 2
"""Steps before the first stream, which count in `SttStepped.step_idx`, as in moshi-server."""
_OWNER = 0
"""The front's number where loop and streams are in one process."""

Slots = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SttObserver(LoopObserver["SttStream"]):
    """What the loop tells besides; `marker` is called on the caller's thread."""

    stepped: Callable[[float, int, int], None]
    """With the step's milliseconds, its index, and how many streams had a frame."""
    marker: Callable[[int, int], None]
    """With slot and id of a marker as it is received."""


class SttLoop(ModelLoop[SttStream]):
    """An engine with its thread. `start`, then `open` and `close` streams, at last `stop`."""

    observer: SttObserver

    def __init__(
        self,
        name: str,
        open_engine: Callable[[], SttEngineProtocol],
        observer: SttObserver,
        *,
        lanes: SttLanes | None = None,
        on_news: Callable[[Slots], None] | None = None,
    ) -> None:
        """`open_engine` is called on the loop's thread, where the engine lives.

        `name` is for messages. `lanes` are those of fronts in other processes, and `on_news` gets
        the slots with news; without them the loop makes its own, for streams of this
        process.
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
        self._lanes = lanes
        self._on_news = on_news or self._tell_streams
        self._broken = np.zeros(0, np.bool_)
        """Slots whose numbers were not finite since their last reset."""

    def open(self, slot: int | None = None) -> SttStream | None:
        """Return a new stream in this slot, or in the first free one.

        None where no slot is free or the loop is dead.
        """
        return self._lend(self._new_stream, slot)

    def close(self, stream: SttStream) -> None:
        """Give the slot back at once. What the stream still holds is dropped."""
        with self.lock:
            if self._lanes is not None and self._streams.get(stream.slot) is stream:
                self._lanes.active[stream.slot] = 0
        super().close(stream)

    def _new_stream(self, slot: int) -> SttStream:
        if self._lanes is None or self._tokenizer is None:
            raise RuntimeError("the loop was not started")
        return SttStream(
            self._lanes,
            slot,
            _OWNER,
            tokenizer=self._tokenizer,
            wake=self.wake,
            on_marker=self.observer.marker,
        )

    def _serve(self) -> None:
        engine = self._engine = self._open_engine()
        model = engine.model
        self.frame_samples, self.delay_steps = model.frame_samples, model.config.text_delay_steps
        self._tokenizer = model.tokenizer
        self._broken = np.zeros(engine.batch_size, np.bool_)
        pcm = self._pcm = engine.new_frames()
        self.observer.warming_up()
        for _ in range(WARM_UP_STEPS):
            output = engine.step(pcm, np.ones(engine.batch_size, np.bool_))
        self.board.note_step()
        heads = output.pause_probabilities.shape[1]
        self._lanes = self._lanes or SttLanes(engine.batch_size, heads, model.frame_samples)
        self._lanes.settle(
            slots=engine.batch_size,
            heads=heads,
            frame_samples=model.frame_samples,
            delay_steps=self.delay_steps,
        )
        self.slots = engine.batch_size
        self.observer.started(engine.batch_size)
        self._step_for_ever(engine, pcm, self._lanes)

    def _step_for_ever(
        self, engine: SttEngineProtocol, pcm: NDArray[np.float32], lanes: SttLanes
    ) -> None:
        step_idx = WARM_UP_STEPS
        while (turn := self._await(self._next)) is not None:
            begun, opened, stepping = turn
            if len(begun):
                engine.reset(begun.tolist())
                lanes.tail[begun] = np.maximum(lanes.tail[begun], lanes.start[begun])
                self._broken[begun] = False
                fence()
                lanes.seen[begun] = opened
            if len(stepping):
                cells = lanes.tail[stepping] % CELLS
                pcm[stepping] = lanes.frames[stepping, cells]
                exec_mask = np.zeros(engine.batch_size, np.bool_)
                exec_mask[stepping] = True
                output = engine.step(pcm, exec_mask)
                self.board.note_step()
                self._hand_out(lanes, output, stepping, cells, step_idx)
                self.observer.stepped(output.step_ms, step_idx, len(stepping))
                step_idx += 1
            self._on_news(np.union1d(begun, stepping))

    def _step_without_streams(self) -> None:
        if self._engine is not None:
            self._engine.step(self._pcm, np.zeros(self.slots, np.bool_))

    def _next(self) -> tuple[Slots, Slots, Slots] | None:
        """Return the slots to reset, the numbers of these resets, and the slots to step.

        None where there is nothing to do.
        """
        lanes = self._lanes
        if lanes is None:
            return None
        opened = lanes.opened.copy()
        fence()
        active = lanes.active > 0
        resets = active & (opened != lanes.seen)
        # A lane that is opened holds frames of its last stream until it is reset.
        ready = active & ~self._broken & ~resets & (lanes.head > lanes.tail)
        begun, stepping = np.flatnonzero(resets), np.flatnonzero(ready)
        return (begun, opened[begun], stepping) if len(begun) or len(stepping) else None

    def _hand_out(
        self, lanes: SttLanes, output: SttOutput, slots: Slots, cells: Slots, step_idx: int
    ) -> None:
        finite = output.finite[slots]
        self._broken[slots] = ~finite
        lanes.token[slots, cells] = output.text_tokens[slots]
        lanes.finite[slots, cells] = finite
        lanes.pauses[slots, cells, : lanes.heads] = output.pause_probabilities[slots]
        lanes.step_of[slots, cells] = step_idx
        lanes.epoch_of[slots, cells] = lanes.seen[slots]
        fence()
        lanes.tail[slots] += 1

    def _tell_streams(self, slots: Slots) -> None:
        with self.lock:
            found = [self._streams.get(slot) for slot in slots.tolist()]
        streams: Sequence[SttStream] = [stream for stream in found if stream is not None]
        for stream in streams:
            stream.read_news()
        self.observer.news(streams)
