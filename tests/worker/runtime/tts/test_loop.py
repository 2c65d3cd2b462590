"""The model loop of text-to-speech, with an engine whose sound tells what it was fed."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsmops.errors import DeviceLostError, DsmopsError, GpuMemoryError, InputError, ModelLoopError
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.loop import (
    MOST_EVENTS,
    MOST_TEXT,
    MOST_WAITING_WORDS,
    WARM_UP_STEPS,
    TtsAudio,
    TtsEnded,
    TtsEvent,
    TtsLoop,
    TtsObserver,
    TtsStepped,
    TtsStream,
    TtsWord,
)
from dsmops.worker.runtime.tts.machine import TtsPacing
from tests.support.tts_engines import BROKEN, PADDING, TALK, TEXT_ROWS, TalkEngine

REQUEST = TtsRequest(seed=1)
LEAD, LAG = TALK.delay_steps, TALK.max_delay


class Bench:
    """A loop with an observer that remembers."""

    def __init__(
        self, engine: TalkEngine, open_engine: Callable[[], Any] | None = None, **settings: Any
    ) -> None:
        self.engine = engine
        self.news: queue.Queue[TtsStream] = queue.Queue()
        self.ready: queue.Queue[int | DsmopsError] = queue.Queue()
        self.died: queue.Queue[DsmopsError] = queue.Queue()
        self.steps: list[TtsStepped] = []
        self.loop = TtsLoop("tts", open_engine or (lambda: engine), self._observer(), **settings)

    def _observer(self) -> TtsObserver:
        def news(streams: Iterable[TtsStream]) -> None:
            for stream in streams:
                self.news.put(stream)

        def died(exc: DsmopsError) -> None:
            self.died.put(exc)
            self.ready.put(exc)

        return TtsObserver(
            warming_up=lambda: None,
            started=self.ready.put,
            stepped=self.steps.append,
            news=news,
            died=died,
        )

    def __enter__(self) -> "Bench":
        self.loop.start()
        answer = self.ready.get(timeout=10)
        if isinstance(answer, DsmopsError):
            raise answer
        return self

    def __exit__(self, *_: object) -> None:
        assert self.loop.stop()

    def open(self, request: TtsRequest = REQUEST) -> TtsStream:
        speech = self.loop.open(request)
        assert speech is not None
        assert self.until(speech, bool) == [Started()]
        return speech

    def until(self, speech: TtsStream, enough: Callable[[list[TtsEvent]], bool]) -> list[TtsEvent]:
        """Return the stream's events once they are enough."""
        events: list[TtsEvent] = speech.fetch()
        while not enough(events):
            self.news.get(timeout=10)
            events += speech.fetch()
        return events

    def whole(self, speech: TtsStream, *pieces: str) -> list[TtsEvent]:
        """Say all there is and return all events up to the last."""
        for piece in pieces:
            speech.add_text(piece)
        speech.end_text()
        return self.until(speech, is_over)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with Bench(TalkEngine()) as running:
        yield running


def is_over(events: Sequence[TtsEvent]) -> bool:
    return bool(events) and isinstance(events[-1], TtsEnded | StreamFailed)


def sound(events: Iterable[TtsEvent]) -> list[float]:
    """Return the level of each frame."""
    return [float(event.pcm[0]) for event in events if isinstance(event, TtsAudio)]


def spoken(events: Iterable[TtsEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TtsWord)]


def alone(*pieces: str, request: TtsRequest = REQUEST) -> list[float]:
    """Return what a stream sounds like that has the engine to itself."""
    with Bench(TalkEngine(1)) as bench:
        return sound(bench.whole(bench.open(request), *pieces))


def test_words_in_sound_and_times_out(bench: Bench) -> None:
    """All words, in order and without gaps.

    A frame for every step but the lead; the end; the text fed is the machine's.
    """
    speech = bench.open()
    events = bench.whole(speech, "ab c", "d")
    assert spoken(events) == ["ab", "c", "d"]
    words = [event for event in events if isinstance(event, TtsWord)]
    assert [word.stop_s for word in words[:-1]] == [word.start_s for word in words[1:]]
    assert words[0].start_s == pytest.approx(
        3 / 12.5
    )  # two steps of padding, and the one in which it begins
    assert all((word.start_s * 12.5) % 1 == pytest.approx(0) for word in words)
    end_step = round(words[-1].stop_s * 12.5) - 1
    assert speech.steps == end_step + LEAD + TtsPacing().final_padding + LAG
    assert len(sound(events)) == end_step + TtsPacing().final_padding
    mains = [token % TEXT_ROWS for token in bench.engine.fed[speech.slot]]
    assert [token for token in mains if token != PADDING] == [1, 4, 5, 6, 7]
    assert len(bench.engine.threads) == 1


def test_sound_is_clipped_and_comes_in_frames(bench: Bench) -> None:
    """Nothing beyond 0.99, as moshi-server sends it; the engine's arrays are not held."""
    frames = [
        event.pcm for event in bench.whole(bench.open(), "abc " * 30) if isinstance(event, TtsAudio)
    ]
    assert all(
        frame.shape == (1920,) and frame.dtype == np.float32 and frame.base is None
        for frame in frames
    )
    assert max(np.abs(frame).max() for frame in frames) == np.float32(0.99)


def test_words_are_told_before_their_sound_is_through(bench: Bench) -> None:
    """The text leads: a word is known to have ended at the latest with the frame at which it
    does.
    """
    heard = 0
    for event in bench.whole(bench.open(), "ab c d ef g"):
        if isinstance(event, TtsAudio):
            heard += 1
        if isinstance(event, TtsWord):
            assert heard <= event.stop_s * 12.5


def test_pauses_are_told_as_words(bench: Bench) -> None:
    """As moshi-server tells them, with their length."""
    events = bench.whole(bench.open(), 'ab <break time="0.8s"/> c')
    assert spoken(events) == ["ab", '<break time="0.80s">', "c"]
    pause = next(
        event for event in events if isinstance(event, TtsWord) and event.text.startswith("<")
    )
    assert round((pause.stop_s - pause.start_s) * 12.5) >= 10


@pytest.mark.parametrize("pieces", [[], ["", " \n"]])
def test_nothing_to_say_ends_at_once(bench: Bench, pieces: list[str]) -> None:
    """Without a step, and without waiting for one of somebody else."""
    speech = bench.open()
    assert bench.whole(speech, *pieces) == [TtsEnded()]
    assert speech.steps == 0
    assert bench.engine.steps == WARM_UP_STEPS


def test_a_stream_waits_for_as_many_words_as_the_model_sees_ahead(bench: Bench) -> None:
    """Two words are not enough for a model that sees two ahead, a third is.

    A neighbour does not wait.
    """
    slow, quick = bench.open(), bench.open()
    slow.add_text("ab")
    slow.add_text("c")
    assert is_over(bench.whole(quick, "a b c"))
    bench.until(slow, lambda _: slow.is_starving)
    assert bench.engine.fed[slow.slot] == [PADDING] * 2
    slow.add_text("d")
    steps = (
        2 + 1 + 3
    )  # padding, the step in which the first word begins, its other tokens and padding
    events = bench.until(slow, lambda _: slow.steps == steps)
    assert is_over(bench.whole(bench_reopen(bench, quick), "e f g"))
    assert slow.steps == steps
    assert any(step.starving == 1 for step in bench.steps)
    assert spoken(events + bench.whole(slow, "e")) == ["ab", "c", "d", "e"]


def bench_reopen(bench: Bench, speech: TtsStream) -> TtsStream:
    """Close a stream and open the next in its slot."""
    bench.loop.close(speech)
    return bench.open()


@pytest.mark.slow
@settings(max_examples=25)
@given(
    texts=st.lists(
        st.lists(
            st.sampled_from(["ab c", "d", "efg h i", '<break time="0.2s"/>']),
            min_size=1,
            max_size=5,
        ),
        min_size=1,
        max_size=6,
    ),
    drops=st.lists(st.integers(0, 30), min_size=6, max_size=6),
    slots=st.integers(1, 3),
)
def test_streams_sound_as_if_they_were_alone(
    texts: list[list[str]], drops: list[int], slots: int
) -> None:
    """Any stream may begin, end or be dropped beside them, and however their words arrive: the same
    sound and the same words, sample by sample.

    A stream whose number of `drops` is odd is closed after so many events; its slot goes to the
    next one.
    """
    expected = [
        alone(*pieces, request=TtsRequest(seed=number)) for number, pieces in enumerate(texts)
    ]
    heard: dict[int, list[TtsEvent]] = {}
    with Bench(TalkEngine(slots)) as bench:
        waiting = list(enumerate(texts))
        running: dict[int, TtsStream] = {}
        while waiting or running:
            while waiting and len(running) < slots:
                number, pieces = waiting.pop(0)
                speech = bench.loop.open(TtsRequest(seed=number))
                assert speech is not None
                running[number], heard[number] = speech, []
                for piece in pieces:
                    speech.add_text(piece)
                speech.end_text()
            bench.news.get(timeout=10)
            for number, speech in list(running.items()):
                heard[number] += speech.fetch()
                dropped = drops[number] % 2 and len(heard[number]) > drops[number]
                if dropped or is_over(heard[number]):
                    bench.loop.close(running.pop(number))
    for number, events in heard.items():
        if is_over(events):
            assert sound(events) == expected[number]
            assert isinstance(events[-1], TtsEnded)
        else:
            assert sound(events) == expected[number][: len(sound(events))]


@pytest.mark.parametrize(
    ("most", "kinds"),
    [
        (2, [True, True, False, False, False]),
        (1, [True, False, True, False, False]),
        (9, [True, True, True, False, False]),
        (0, [False] * 5),
    ],
)
def test_new_streams_take_cheap_steps_of_their_own(most: int, kinds: list[bool]) -> None:
    """All of them where no stream sounds yet.

    Beside one that sounds, so many in a row at most, in which that one rests.
    """
    gate = threading.Event()
    gate.set()
    with Bench(
        TalkEngine(before_step=lambda _: gate.wait(10) and None), interleaved_text_only=most
    ) as bench:
        first = bench.open()
        first.add_text("a " * MOST_WAITING_WORDS)
        bench.until(first, lambda events: len(sound(events)) > 3)
        assert bench.engine.text_only[WARM_UP_STEPS:][: LEAD + 1] == [True] * LEAD + [False]
        gate.clear()
        second = bench.loop.open(REQUEST)
        assert second is not None
        second.add_text("a")
        second.end_text()
        gate.set()
        bench.until(second, is_over)
        begins = next(
            at
            for at, mask in enumerate(bench.engine.masks)
            if at >= WARM_UP_STEPS and mask[second.slot]
        )
        assert bench.engine.text_only[begins : begins + 5] == kinds
        stepping = [
            (True, not text_only) if second.slot == 0 else (not text_only, True)
            for text_only in kinds
        ]
        assert bench.engine.masks[begins : begins + 5] == stepping


def test_the_voice_may_change_before_the_first_word(bench: Bench) -> None:
    """The slot is set up again, without a second start.

    Afterwards it is too late; a request that cannot be followed is refused.
    """
    speech = bench.open()
    other = TtsRequest(voices=(np.ones((6, 5), np.float32),), seed=5)
    speech.change_request(other)
    events = bench.whole(speech, "ab c d")
    assert Started() not in events
    assert bench.engine.requests[speech.slot] is other
    assert sound(events) == alone("ab c d", request=other) != alone("ab c d")
    with pytest.raises(InputError, match="voice came after"):
        speech.change_request(REQUEST)
    with pytest.raises(InputError, match="cfg 3"):
        bench.open().change_request(TtsRequest(cfg=3.0))
    with pytest.raises(InputError, match="cfg 3"):
        bench.loop.open(TtsRequest(cfg=3.0))
    assert bench.loop.used_slots == 2


def test_a_piece_that_is_refused_leaves_the_stream_going(bench: Bench) -> None:
    """A piece beyond the limit is refused whole, and so is one after the end."""
    speech = bench.open()
    with pytest.raises(InputError, match="too long"):
        speech.add_text("a" * (MOST_TEXT + 1))
    assert spoken(bench.whole(speech, "c d")) == ["c", "d"]
    with pytest.raises(InputError, match="after the end of the text"):
        speech.add_text("e")
    speech.end_text()


def test_a_stream_says_when_it_is_full() -> None:
    """A thousand words wait at most before it wants no more.

    What is sent all the same is taken; when they are spoken it takes more.
    """
    gate = threading.Event()
    with Bench(
        TalkEngine(
            before_step=lambda step: gate.wait(10) and None if step >= WARM_UP_STEPS else None
        )
    ) as bench:
        speech = bench.open()
        speech.add_text("a " * (MOST_WAITING_WORDS - 1))
        assert not speech.is_full
        speech.add_text("a a")
        assert speech.is_full
        gate.set()
        bench.until(speech, lambda _: not speech.is_full)


@pytest.mark.slow
def test_a_stream_that_nobody_listens_to_is_not_stepped(bench: Bench) -> None:
    """Its sound does not pile up; when it is fetched, it goes on where it was."""
    text = "a b c d " * 100
    deaf, heard = bench.open(), bench.open()
    deaf.add_text(text)
    deaf.end_text()
    bench.whole(heard, text[: len(text) // 2])
    while deaf.may_step:
        bench.news.get(timeout=10)
    resting = deaf.steps
    bench.whole(bench_reopen(bench, heard), "a b c")
    assert deaf.steps == resting
    events = deaf.fetch()
    assert MOST_EVENTS <= len(events) <= MOST_EVENTS + 3
    assert sound([*events, *bench.until(deaf, is_over)]) == alone(text)


def test_broken_numbers_end_one_stream_only(bench: Bench) -> None:
    """The stream gets an error; its neighbour, stepped with it, sounds on as if it were alone."""
    broken, whole = bench.open(), bench.open()
    broken.add_text(f"a b {BROKEN} c d")
    events = bench.whole(whole, "ab c d e f")
    reasons = [
        event.reason for event in bench.until(broken, is_over) if isinstance(event, StreamFailed)
    ]
    assert len(reasons) == 1
    assert "not finite" in reasons[0]
    assert sound(events) == alone("ab c d e f")
    steps = broken.steps
    bench.whole(bench_reopen(bench, whole), "a b c")
    assert (broken.fetch(), broken.steps) == ([], steps)
    assert bench.loop.failure is None


def test_slots_are_lent_and_come_back(bench: Bench) -> None:
    """As many streams as slots.

    A closed one frees its slot at once, and its slot is reset for the next.
    """
    first, second = bench.open(), bench.open()
    assert bench.loop.open(REQUEST) is None
    first.add_text("a b c d")
    bench.loop.close(first)
    bench.loop.close(first)
    assert bench.loop.used_slots == 1
    third = bench.open(TtsRequest(seed=3))
    assert third.slot == first.slot != second.slot
    assert sound(bench.whole(third, "e f g")) == alone("e f g", request=TtsRequest(seed=3))
    bench.loop.close(first)
    assert bench.loop.used_slots == 2


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

    with Bench(TalkEngine(before_step=before_step)) as bench:
        streams = [bench.open(), bench.open()]
        fuse.set()
        streams[0].add_text("a b c")
        died = bench.died.get(timeout=10)
        assert isinstance(died, kind)
        assert died.exit_code == 5
        assert died.hint or raised is died
        for stream in streams:
            assert bench.until(stream, bool) == [StreamFailed(died.message)]
        bench.loop.close(streams[0])
        assert bench.loop.open(REQUEST) is None


def test_an_engine_that_cannot_be_opened_says_why() -> None:
    """The error is the engine's own."""

    def fail() -> TalkEngine:
        raise GpuMemoryError("no room")

    with pytest.raises(GpuMemoryError, match="no room"), Bench(TalkEngine(), fail):
        pass


def test_a_step_that_is_asked_for_as_another_ends_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the one who asked would report a healthy loop as hanging."""
    steps: queue.Queue[int] = queue.Queue()
    engine = TalkEngine(before_step=steps.put)
    engine.may_step_nobody = True
    with Bench(engine) as bench:
        board = bench.loop.board
        note_step, asked = board.note_step, iter([True])

        def note_and_ask() -> None:
            note_step()
            if next(asked, False):
                bench.loop.probe()

        monkeypatch.setattr(board, "note_step", note_and_ask)
        bench.loop.probe()
        assert [steps.get(timeout=5) for _ in range(WARM_UP_STEPS + 2)] == [0, 1, 2, 3]
