"""Streams whose loop is on the other side of shared memory, as if it were another process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest

from dsmops.errors import DsmopsError, InputError
from dsmops.worker.runtime.bell import Bell
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.tts import remote
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.loop import (
    MOST_TEXT,
    TtsEnded,
    TtsEvent,
    TtsLoop,
    TtsObserver,
    TtsRefused,
    TtsStream,
)
from dsmops.worker.runtime.tts.machine import TtsPacing
from dsmops.worker.runtime.tts.remote import RemoteTtsStream, TtsPorter
from dsmops.worker.runtime.tts.rings import INPUT_BYTES, Rings, TtsRings
from dsmops.worker.runtime.tts.utterance import TtsAudio
from tests.support.tts_engines import BROKEN, TalkEngine

TEXT = "hello there my friend how are you today"
REQUEST = TtsRequest(seed=7)


class Sides:
    """A loop with its porter, and a front's end of it."""

    def __init__(self, slots: int = 2) -> None:
        self.rings, self.bell, self.news = TtsRings(slots), Bell(), threading.Event()
        self.is_over = threading.Event()
        """A stream of the loop has ended, and what it gave was sent."""
        self.tokenizer = TalkEngine(1).model.tokenizer
        porter = TtsPorter(self.rings, self.bell, lambda owners: self.news.set())
        ready: queue.Queue[int | DsmopsError] = queue.Queue()

        def send(streams: Iterable[TtsStream]) -> None:
            streams = list(streams)
            porter.news(streams)
            if not all(stream.may_step for stream in streams):
                self.is_over.set()

        self.loop = TtsLoop(
            "tts",
            lambda: TalkEngine(slots),
            TtsObserver(
                warming_up=lambda: None,
                started=ready.put,
                stepped=lambda _: None,
                news=send,
                died=ready.put,
            ),
        )
        self.loop.start()
        assert ready.get(timeout=10) == slots
        porter.start(self.loop)

    def open(self, slot: int = 0, request: TtsRequest = REQUEST) -> RemoteTtsStream:
        return RemoteTtsStream(
            self.rings,
            slot,
            0,
            request,
            tokenizer=self.tokenizer,
            padding_between=TtsPacing().padding_between,
            wake=self.bell.ring,
        )

    def close(self, slot: int = 0) -> None:
        self.rings.active[slot] = 0
        self.bell.ring()

    def whole(self, stream: RemoteTtsStream) -> list[TtsEvent]:
        """Return all events up to the last. As a front does, it looks only after the bell rang."""
        events: list[TtsEvent] = []
        while not events or not isinstance(events[-1], TtsEnded | TtsRefused | StreamFailed):
            assert self.news.wait(5)
            self.news.clear()
            events += stream.fetch()
        return events


@pytest.fixture
def sides() -> Iterator[Sides]:
    running = Sides()
    yield running
    assert running.loop.stop()


def near_events(text: str, request: TtsRequest = REQUEST) -> list[TtsEvent]:
    """Return what a stream in the loop's own process gives."""
    news: queue.Queue[object] = queue.Queue()
    ready: queue.Queue[object] = queue.Queue()
    observer = TtsObserver(
        warming_up=lambda: None,
        started=ready.put,
        stepped=lambda _: None,
        news=news.put,
        died=ready.put,
    )
    loop = TtsLoop("tts", lambda: TalkEngine(2), observer)
    loop.start()
    ready.get(timeout=10)
    stream = loop.open(request)
    assert stream is not None
    stream.add_text(text)
    stream.end_text()
    events: list[TtsEvent] = []
    while not events or not isinstance(events[-1], TtsEnded):
        news.get(timeout=10)
        events += stream.fetch()
    loop.stop()
    return events


def same(one: Sequence[TtsEvent], other: Sequence[TtsEvent]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.pcm, b.pcm)
        if isinstance(a, TtsAudio) and isinstance(b, TtsAudio)
        else a == b
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("repeats", [1, 60], ids=["short", "longer than the rings"])
def test_a_stream_gives_what_it_gives_nearby(sides: Sides, repeats: int) -> None:
    """The same events in the same order, sample for sample, also where rings fill up."""
    text = " ".join([TEXT] * repeats)
    stream = sides.open()
    stream.add_text(text)
    stream.end_text()
    assert same(sides.whole(stream), near_events(text))


def test_a_text_crosses_in_several_messages(sides: Sides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_TOKENS_AT_ONCE", 5)
    stream = sides.open()
    stream.add_text(TEXT)
    stream.end_text()
    assert same(sides.whole(stream), near_events(TEXT))


def test_a_word_as_long_as_a_text_may_be_is_taken(sides: Sides) -> None:
    """Its tokens do not fit into a ring at once, and the next stream is not harmed."""
    stream = sides.open()
    stream.add_text("é" * MOST_TEXT)
    sides.close()
    stream.let_go()
    later = sides.open()
    later.add_text(TEXT)
    later.end_text()
    assert same(sides.whole(later), near_events(TEXT))


def test_what_comes_while_the_front_fetches_is_fetched(sides: Sides) -> None:
    """The bell has rung for it already, and does not ring again."""
    stream = sides.open()
    stream.add_text("hello")
    stream.end_text()
    assert sides.is_over.wait(10)
    assert isinstance(stream.fetch()[-1], TtsEnded)


def test_voices_cross_whole(sides: Sides) -> None:
    """Their numbers decide how the stream sounds."""
    voices = (np.arange(30, dtype=np.float32).reshape(6, 5),) * 2
    request = TtsRequest(voices, seed=7)
    stream = sides.open(0, request)
    stream.add_text(TEXT)
    stream.end_text()
    assert same(sides.whole(stream), near_events(TEXT, request))


def test_a_slot_that_changes_hands_starts_clean(sides: Sides) -> None:
    """What was meant for the stream before reaches no client."""
    first = sides.open()
    first.add_text(TEXT)
    first.end_text()
    sides.close()
    second = sides.open()
    second.add_text("another text")
    second.end_text()
    assert same(sides.whole(second), near_events("another text"))


def test_a_stream_begins_where_an_earlier_one_filled_its_ring(sides: Sides) -> None:
    """Both sides must look once more: the new stream's first message had no space."""
    for size in (1000, 0):
        while sides.rings.input.put(0, 0, 9, bytes(size)):
            pass
    stream = sides.open()
    stream.add_text(TEXT)
    stream.end_text()
    assert same(sides.whole(stream), near_events(TEXT))


def test_a_stream_that_was_let_go_leaves_the_rings_alone() -> None:
    """A thread may still be tokenizing its text while another front has the slot."""
    rings = TtsRings(1)
    stream = RemoteTtsStream(
        rings,
        0,
        0,
        REQUEST,
        tokenizer=TalkEngine(1).model.tokenizer,
        padding_between=1,
        wake=lambda: None,
    )
    number = int(rings.opened[0])
    while rings.input.take(0, number):
        pass
    assert rings.output.put(0, number, 4, b"")
    stream.let_go()
    stream.add_text(TEXT)
    stream.end_text()
    stream.read_news()
    assert not stream.fetch()
    assert not rings.input.with_messages()[0]
    assert rings.output.with_messages()[0]


def test_what_the_engine_refuses_comes_back(sides: Sides) -> None:
    """As the stream's last event, with the engine's own words."""
    refused = sides.whole(sides.open(0, TtsRequest(cfg=99.0, seed=7)))
    assert isinstance(refused[-1], TtsRefused)
    assert refused[-1].error.hint
    sides.close()
    assert sides.loop.used_slots <= 1


def test_broken_numbers_end_a_stream(sides: Sides) -> None:
    """It gets the reason."""
    stream = sides.open()
    stream.add_text(f"one {BROKEN}")
    stream.end_text()
    events = sides.whole(stream)
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], StreamFailed)


def test_a_message_that_cannot_be_read_ends_the_loop(sides: Sides) -> None:
    """It is a bug; without the porter no client would be served, and nothing would show it."""
    stream = sides.open()
    assert sides.rings.input.put(0, int(sides.rings.opened[0]), 1, b"no voice")
    sides.bell.ring()
    assert isinstance(sides.whole(stream)[-1], StreamFailed)
    assert sides.loop.failure is not None


def test_text_after_the_end_is_an_error(sides: Sides) -> None:
    """As for a stream nearby; a voice after text too."""
    stream = sides.open()
    stream.add_text("one")
    with pytest.raises(InputError, match="voice came after"):
        stream.change_request(REQUEST)
    stream.end_text()
    with pytest.raises(InputError, match="after the end"):
        stream.add_text("two")


def test_a_message_of_a_later_stream_waits_for_it() -> None:
    """A reader that still serves the stream before drops what is older, and nothing else.

    Otherwise the first message of a slot that changes hands at this moment would be lost.
    """
    ring = Rings(1, 256)
    for number in (6, 7, 8):
        assert ring.put(0, number, 3, bytes([number]))
    assert ring.take(0, 7) == (3, b"\x07")
    assert ring.take(0, 7) is None
    assert ring.take(0, 8) == (3, b"\x08")
    # Numbers begin again at 0.
    assert ring.put(0, 0, 3, b"new")
    assert ring.take(0, 2**32 - 1) is None
    assert ring.take(0, 0) == (3, b"new")


def test_a_ring_keeps_messages_whole() -> None:
    """Around its end and up to its size; what is larger than it is an error."""
    ring = Rings(1, 64)
    for number in range(50):
        body = bytes([number]) * (number % 40)
        assert ring.put(0, 1, 3, body)
        assert ring.take(0, 1) == (3, body)
    assert ring.put(0, 1, 3, b"x" * 40)
    assert not ring.put(0, 1, 3, b"x" * 40)
    assert ring.take(0, 2) is None  # another stream's: skipped
    assert ring.put(0, 2, 4, b"y" * 40)
    assert ring.take(0, 2) == (4, b"y" * 40)
    with pytest.raises(ValueError, match="does not fit"):
        Rings(1, 64).put(0, 1, 3, bytes(64))
    assert INPUT_BYTES > 256_000
