"""Words and their times against both published rules, each written out again here in the slowest
and plainest way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmops.worker.runtime.stt.words import (
    SttWord,
    SttWordEnd,
    SttWordMachine,
    TimedWord,
    TurnDetector,
    words_of_sequence,
)

FRAME_S = 0.08
BOUNDARY, START, END, PADDING = range(4)
PIECES = {4: " to", 5: " no", 6: "ma", 7: "to", 8: " a", 9: "'s", 10: " "}
TOKENS = st.lists(
    st.sampled_from([BOUNDARY, BOUNDARY, START, END, PADDING, PADDING, *PIECES]), max_size=60
)
DELAYS = st.integers(0, 8)


class Toy:
    """A tokenizer of a few pieces.

    Encoding takes a token per letter, so a word takes more tokens than the model needed for it.
    """

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(PIECES.get(token, "") for token in ids).strip()

    def encode(self, text: str) -> list[int]:
        return [4] * len(text)


def events_of(tokens: Sequence[int], delay_steps: int) -> list[SttWord | SttWordEnd]:
    """Return all that a machine says about a stream, its end included."""
    machine = SttWordMachine(Toy(), delay_steps)
    return [event for token in tokens for event in machine.take(token)] + machine.flush()


def server_rule(tokens: Sequence[int], delay_steps: int) -> list[SttWord | SttWordEnd]:
    """The server's rule over a finished stream: at every step all that came before is looked at
    again, and nothing is remembered.
    """
    first = max(delay_steps, 1)
    heard = {n: token for n, token in enumerate(tokens, start=1) if n >= first}

    def boundary_before(step: int) -> int | None:
        return max(
            (n for n, token in heard.items() if token == BOUNDARY and n < step), default=None
        )

    def word_completed_at(step: int) -> SttWord | None:
        begin = step
        while heard.get(begin - 1, PADDING) not in (BOUNDARY, PADDING):
            begin -= 1
        if begin == step or (step in heard and heard[step] not in (BOUNDARY, PADDING)):
            return None
        boundary = boundary_before(begin)
        text = Toy().decode([heard[n] for n in range(begin, step)])
        return SttWord(text, 0.0 if boundary is None else (boundary - delay_steps) / 12.5)

    events: list[SttWord | SttWordEnd] = []
    for step in range(first, len(tokens) + 2):
        word = word_completed_at(step)
        if word is not None:
            events.append(word)
        if heard.get(step) == BOUNDARY:
            since = (boundary_before(step) or 0) + 1
            if any(word_completed_at(n) for n in range(since, step + 1)):
                events.append(SttWordEnd((step - delay_steps) / 12.5))
    return events


def python_rule(tokens: Sequence[int], prefix_frames: int, delay_s: float) -> list[TimedWord]:
    """The Python package's rule, with 13 frames where it would fail and no word longer than its
    segment.
    """
    starts = [n + 1 for n, token in enumerate(tokens) if token == BOUNDARY]
    segments = [(begin, after - 1) for begin, after in pairwise(starts)]
    if starts:
        rest = tokens[starts[-1] :]
        segments.append(
            (starts[-1], starts[-1] + (rest.index(END) if END in rest else min(13, len(rest))))
        )
    words = []
    for begin, end in segments:
        texts = (
            Toy()
            .decode(
                [
                    token
                    for token in tokens[begin:end]
                    if token not in (BOUNDARY, START, END, PADDING)
                ]
            )
            .split()
        )
        frames = list(range(begin, end))
        for text in texts[:-1]:
            own, frames = frames[: len(text)], frames[len(text) :]
            at = own[0] if own else end
            words.append((text, at, at + len(own)))
        words += [(text, end - len(frames), end) for text in texts[-1:]]
    shift_s = prefix_frames * 2 // 25 + delay_s
    return [
        TimedWord(text, max(0.0, begin / 12.5 - shift_s), max(0.0, end / 12.5 - shift_s))
        for text, begin, end in words
    ]


@given(TOKENS, DELAYS)
@example([4, PADDING, 5, BOUNDARY], 0)  # two words before one boundary: one end
@example([BOUNDARY, 4, 6], 2)  # the boundary comes before the delay is over
@example([4] * 3, 3)
def test_server_rule(tokens: list[int], delay_steps: int) -> None:
    """A stream's words, their starts and their ends are those of the server's rule, in its
    order.
    """
    assert events_of(tokens, delay_steps) == server_rule(tokens, delay_steps)


@given(TOKENS, st.integers(0, 30), st.sampled_from([0.0, 0.5, 2.5]))
@example([BOUNDARY, *[8] * 40], 0, 0.0)
@example([BOUNDARY, END, 4], 0, 0.0)
@example(
    [BOUNDARY, 4, 6, 5, BOUNDARY], 0, 0.0
)  # the first word's four letters would take more than the segment
def test_python_rule(tokens: list[int], prefix_frames: int, delay_s: float) -> None:
    """A finished sequence's words and times are those of the Python package's rule."""
    words = words_of_sequence(tokens, Toy(), prefix_frames=prefix_frames, delay_s=delay_s)
    assert words == python_rule(tokens, prefix_frames, delay_s)


@given(TOKENS)
def test_python_times_never_go_back(tokens: list[int]) -> None:
    """No word ends before it starts or starts before the word before it ended."""
    words = words_of_sequence(tokens, Toy(), prefix_frames=0, delay_s=0.0)
    times = [time_s for word in words for time_s in (word.start_s, word.stop_s)]
    assert times == sorted(times, key=float)


def test_times_of_a_known_stream() -> None:
    """A word starts at the boundary before it and ends at the next one, both moved back by the
    delay.
    """
    tokens = [3, 0, 4, 6, 3, 3, 0, 8, 0, 5, 3]
    assert events_of(tokens, 2) == [
        SttWord("toma", 0.0),
        SttWordEnd(5 * FRAME_S),
        SttWord("a", 5 * FRAME_S),
        SttWordEnd(pytest.approx(7 * FRAME_S)),
        SttWord("no", pytest.approx(7 * FRAME_S)),
    ]


@given(st.lists(st.sampled_from([BOUNDARY, PADDING, *PIECES]), max_size=7))
def test_nothing_before_the_delay(tokens: list[int]) -> None:
    """What the model writes before the text delay is over is neither a word nor the beginning of
    one.
    """
    machine = SttWordMachine(Toy(), 8)
    assert [machine.take(token) for token in tokens] == [[]] * len(tokens)
    assert machine.flush() == []


def test_flush_gives_the_open_word_once() -> None:
    """A word that has begun comes with the flush, without an end, and not again."""
    machine = SttWordMachine(Toy(), 0)
    assert [machine.take(token) for token in (BOUNDARY, 4, 6)] == [[], [], []]
    assert machine.flush() == [SttWord("toma", FRAME_S)]
    assert machine.flush() == []


def test_flushed_word_still_ends() -> None:
    """Where a stream goes on after a flush, its next boundary ends the flushed word."""
    machine = SttWordMachine(Toy(), 0)
    machine.take(4)
    machine.flush()
    assert machine.take(BOUNDARY) == [SttWordEnd(2 * FRAME_S)]


@pytest.mark.parametrize("following", [12, 13, 14, 40])
def test_long_silence_after_the_last_word(following: int) -> None:
    """However many frames follow the last boundary, the last word ends within about a second, where
    upstream's script fails.
    """
    words = words_of_sequence(
        [BOUNDARY, 4, *[PADDING] * (following - 1)], Toy(), prefix_frames=0, delay_s=0.0
    )
    assert words == [TimedWord("to", FRAME_S, pytest.approx((1 + min(following, 13)) * FRAME_S))]


def test_end_of_stream_token_ends_the_last_word() -> None:
    """The last segment ends at the first end-of-stream token, and nothing after it is a word."""
    words = words_of_sequence([BOUNDARY, 4, END, 5, END], Toy(), prefix_frames=0, delay_s=0.0)
    assert words == [TimedWord("to", FRAME_S, 2 * FRAME_S)]


def turns(steps: Sequence[tuple[Sequence[float], bool]]) -> list[int]:
    detector = TurnDetector()
    return [
        number
        for number, (pauses, spoken) in enumerate(steps)
        if detector.take(pauses, spoken=spoken)
    ]


LOUD, QUIET = (0.0, 0.0, 0.5, 1.0), (0.0, 0.0, 0.51, 0.0)


def test_turn_ends_once() -> None:
    """A turn's end is announced at the first long pause after a word, once, and again only after
    the next word.
    """
    steps = [
        (QUIET, False),
        (LOUD, True),
        (LOUD, False),
        (QUIET, False),
        (QUIET, False),
        (LOUD, False),
        (QUIET, False),
        (QUIET, True),
    ]
    assert turns(steps) == [3, 7]


@pytest.mark.parametrize("pauses", [(), (1.0,), (1.0, 1.0)])
def test_turns_need_the_third_head(pauses: tuple[float, ...]) -> None:
    """A model without the head for pauses of two seconds has no ends of turns."""
    assert turns([(pauses, True)] * 3) == []


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=30))
def test_one_end_between_words(steps: list[tuple[float, bool]]) -> None:
    """Between two words there is at most one end. There is one whenever there was a long pause."""
    ends = turns([((0.0, 0.0, pause), spoken) for pause, spoken in steps])
    words = [number for number, (_, spoken) in enumerate(steps) if spoken]
    expected = []
    for word, following in pairwise([*words, len(steps)]):
        expected += [number for number in range(word, following) if steps[number][0] > 0.5][:1]
    assert ends == expected
