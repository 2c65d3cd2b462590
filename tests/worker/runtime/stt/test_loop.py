"""The model loop, with an engine that receives what the test says."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmops.errors import DeviceLostError, DsmopsError, GpuMemoryError, ModelLoopError
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.stt.loop import WARM_UP_STEPS, SttLoop, SttObserver
from dsmops.worker.runtime.stt.stream import (
    MOST_EVENTS,
    MOST_MARKERS,
    MOST_WAITING_SAMPLES,
    SttEvent,
    SttMarkerReached,
    SttStepped,
    SttStream,
)
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd
from tests.support.engines import EchoEngine

FRAME = 1920
PADDING, BOUNDARY = 3, 0


class Bench:
    """A loop with an observer that remembers."""

    def __init__(self, engine: EchoEngine, open_engine: Callable[[], Any] | None = None) -> None:
        self.engine = engine
        self.news: queue.Queue[SttStream] = queue.Queue()
        self.ready: queue.Queue[int | DsmopsError] = queue.Queue()
        self.died: queue.Queue[DsmopsError] = queue.Queue()
        self.steps: list[tuple[int, int]] = []
        self.loop = SttLoop("asr", open_engine or (lambda: engine), self._observer())

    def _observer(self) -> SttObserver:
        def news(streams: Iterable[SttStream]) -> None:
            for stream in streams:
                self.news.put(stream)

        def died(exc: DsmopsError) -> None:
            self.died.put(exc)
            self.ready.put(exc)

        return SttObserver(
            warming_up=lambda: None,
            started=self.ready.put,
            stepped=lambda _ms, step_idx, active: self.steps.append((step_idx, active)),
            marker=lambda _slot, _id: None,
            news=news,
            died=died,
        )

    def start(self) -> "Bench":
        self.loop.start()
        answer = self.ready.get(timeout=10)
        if isinstance(answer, DsmopsError):
            raise answer
        return self

    def open(self) -> SttStream:
        stream = self.loop.open()
        assert stream is not None
        assert self.until(stream, lambda events: Started() in events) == [Started()]
        return stream

    def until(self, stream: SttStream, enough: Callable[[list[SttEvent]], bool]) -> list[SttEvent]:
        """Return the stream's events once they are enough."""
        events: list[SttEvent] = stream.fetch()
        while not enough(events):
            self.news.get(timeout=10)
            events += stream.fetch()
        return events


@pytest.fixture
def bench() -> Iterator[Bench]:
    running = Bench(EchoEngine()).start()
    yield running
    assert running.loop.stop()


def frames(*tokens: float) -> np.ndarray:
    """Return a frame for each token."""
    pcm = np.zeros((len(tokens), FRAME), np.float32)
    pcm[:, 0] = tokens
    return pcm.reshape(-1)


def is_marked(events: list[SttEvent]) -> bool:
    return any(isinstance(event, SttMarkerReached) for event in events)


def test_words_come_with_their_steps_by_the_servers_rule(bench: Bench) -> None:
    """A frame, a Step.

    Then the words it completes; times without the text delay; step numbers go on from the warm-up.
    """
    stream = bench.open()
    stream.push(frames(PADDING, BOUNDARY, 4, 5, PADDING, BOUNDARY))
    events = bench.until(
        stream, lambda events: any(isinstance(event, SttWordEnd) for event in events)
    )
    assert [event for event in events if not isinstance(event, SttStepped)] == [
        SttWord("ab", 0.0),
        SttWordEnd(0.32),
    ]
    stepped = [event for event in events if isinstance(event, SttStepped)]
    assert [event.own_step for event in stepped] == list(range(6))
    assert [event.step_idx for event in stepped] == list(range(WARM_UP_STEPS, WARM_UP_STEPS + 6))
    assert stepped[-1].waiting_samples == 0
    assert events.index(SttWord("ab", 0.0)) == events.index(stepped[4]) + 1
    assert len(bench.engine.threads) == 1


def test_a_model_without_heads_sends_no_steps() -> None:
    """Only words and markers are left."""
    bench = Bench(EchoEngine(heads=0)).start()
    stream = bench.open()
    stream.push(frames(PADDING, BOUNDARY, 4, PADDING, PADDING))
    stream.mark(1)
    stream.push(frames(PADDING, PADDING))
    assert bench.until(stream, is_marked) == [SttWord("a", 0.0), SttMarkerReached(1)]
    bench.loop.stop()


@settings(max_examples=30)
@given(before=st.integers(0, 5 * FRAME), cut=st.integers(1, 3 * FRAME), busy=st.integers(0, 12))
def test_a_marker_returns_after_the_streams_own_delay(before: int, cut: int, busy: int) -> None:
    """With the step that takes the last whole frame before it, plus the text delay.

    Neighbours that step more do not matter.
    """
    bench = Bench(EchoEngine()).start()
    try:
        stream, neighbour = bench.open(), bench.open()
        neighbour.push(frames(*[PADDING] * busy))
        for start in range(0, before, cut):
            stream.push(np.zeros(min(cut, before - start), np.float32))
        stream.mark(9)
        due = before // FRAME + bench.loop.delay_steps
        stream.push(np.zeros((due + 1) * FRAME - before - 1, np.float32))
        events = bench.until(stream, is_marked)
        assert (
            sum(
                isinstance(event, SttStepped)
                for event in events[: events.index(SttMarkerReached(9))]
            )
            == due
        )
    finally:
        bench.loop.stop()


def test_a_marker_waits_for_its_own_audio(bench: Bench) -> None:
    """While a neighbour steps on and on, a stream without audio gets no marker back."""
    stream, neighbour = bench.open(), bench.open()
    stream.mark(1)
    neighbour.push(frames(*[PADDING] * 20))
    bench.until(
        neighbour, lambda events: sum(isinstance(event, SttStepped) for event in events) == 20
    )
    assert stream.fetch() == []


def test_init_starts_anew_and_keeps_what_waits(bench: Bench) -> None:
    """State and word times begin again, audio that waits is processed afterwards."""
    stream = bench.open()
    stream.push(frames(PADDING, BOUNDARY, 4, PADDING))
    bench.until(stream, lambda events: SttWord("a", 0.0) in events)
    stream.push(frames(PADDING)[:1000])
    stream.restart()
    bench.until(stream, lambda events: Started() in events)
    stream.push(frames(PADDING, BOUNDARY, 5, PADDING, PADDING)[1000:])
    events = bench.until(stream, lambda events: any(isinstance(event, SttWord) for event in events))
    assert SttWord("b", 0.0) in events
    assert bench.engine.resets == [stream.slot, stream.slot]


def test_slots_are_lent_and_come_back(bench: Bench) -> None:
    """As many streams as slots.

    A closed one frees its slot at once, and its slot is reset for the next.
    """
    first, second = bench.open(), bench.open()
    assert bench.loop.open() is None
    first.push(frames(4, 4, 4)[:-1])
    bench.loop.close(first)
    bench.loop.close(first)
    assert bench.loop.used_slots == 1
    third = bench.open()
    assert third.slot == first.slot != second.slot
    third.push(frames(PADDING))
    bench.until(third, lambda events: len(events) == 1)
    assert bench.engine.heard[third.slot] == [PADDING]
    bench.loop.close(first)
    assert bench.loop.used_slots == 2


def test_broken_numbers_end_one_stream_only(bench: Bench) -> None:
    """The stream gets an error; its neighbour, stepped with it, goes on."""
    broken, whole = bench.open(), bench.open()
    broken.push(frames(PADDING, float("nan"), PADDING))
    events = bench.until(
        broken, lambda events: any(isinstance(event, StreamFailed) for event in events)
    )
    assert "not finite" in events[-1].reason
    broken.restart()  # too late
    whole.push(frames(PADDING, PADDING))
    bench.until(whole, lambda events: sum(isinstance(event, SttStepped) for event in events) == 2)
    assert broken.fetch() == []
    assert bench.loop.failure is None


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(DeviceLostError("the GPU fell off"), DeviceLostError), (KeyError("x"), ModelLoopError)],
)
def test_a_dead_loop_tells_every_stream_and_the_server(
    raised: Exception, kind: type[DsmopsError]
) -> None:
    """With the reason, as an error of exit code 5; no slot is lent any more."""
    fuse = threading.Event()

    def before_step(_step: int) -> None:
        if fuse.is_set():
            raise raised

    bench = Bench(EchoEngine(before_step=before_step)).start()
    streams = [bench.open(), bench.open()]
    fuse.set()
    streams[0].push(frames(PADDING))
    died = bench.died.get(timeout=10)
    assert isinstance(died, kind)
    assert died.exit_code == 5
    assert died.hint or raised is died
    for stream in streams:
        assert bench.until(stream, bool) == [StreamFailed(died.message)]
    bench.loop.close(streams[0])
    assert bench.loop.open() is None
    assert bench.loop.stop()


def test_an_engine_that_cannot_be_opened_says_why() -> None:
    """The error is the engine's own."""

    def fail() -> EchoEngine:
        raise GpuMemoryError("no room")

    with pytest.raises(GpuMemoryError, match="no room"):
        Bench(EchoEngine(), fail).start()


def test_a_stream_says_when_it_is_full() -> None:
    """Ten seconds wait at most before it wants no more; markers are counted too."""
    gate = threading.Event()
    bench = Bench(
        EchoEngine(
            before_step=lambda step: gate.wait(10) and None if step >= WARM_UP_STEPS else None
        )
    ).start()
    stream = bench.open()
    assert not stream.is_full
    stream.push(np.zeros(MOST_WAITING_SAMPLES + FRAME, np.float32))
    assert stream.is_full
    for marker in range(MOST_MARKERS):
        stream.mark(marker)
    with pytest.raises(ValueError, match="1,000 markers"):
        stream.mark(0)
    gate.set()
    bench.until(
        stream,
        lambda events: (
            sum(isinstance(event, SttStepped) for event in events)
            == MOST_WAITING_SAMPLES // FRAME + 1
        ),
    )
    assert not stream.is_full
    bench.loop.stop()


def test_a_stream_that_nobody_listens_to_is_not_stepped(bench: Bench) -> None:
    """Events do not pile up; when they are fetched, it goes on where it was."""
    deaf, heard = bench.open(), bench.open()
    frames_sent = MOST_EVENTS + 50
    deaf.push(np.zeros(frames_sent * FRAME, np.float32))
    heard.push(frames(*[PADDING] * 20))
    bench.until(heard, lambda events: sum(isinstance(event, SttStepped) for event in events) == 20)
    while len(bench.engine.heard[deaf.slot]) < MOST_EVENTS:
        bench.news.get(timeout=10)
    heard.push(frames(PADDING, PADDING))
    bench.until(heard, lambda events: sum(isinstance(event, SttStepped) for event in events) == 2)
    assert len(bench.engine.heard[deaf.slot]) == MOST_EVENTS
    events = bench.until(
        deaf, lambda events: sum(isinstance(event, SttStepped) for event in events) == frames_sent
    )
    assert [event.own_step for event in events if isinstance(event, SttStepped)] == list(
        range(frames_sent)
    )
