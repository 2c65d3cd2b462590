"""Words, their times and ends of turns, by rules written down a second time, slowly, from what is published about them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsmops.worker.runtime.words import TimedWord, TurnDetector, Word, WordEnd, WordMachine, words_of_sequence

FRAMES_PER_S = 12.5
DELAY = 6


class Pieces:
    """A tokenizer whose even ids begin a word: 4 is ` e`, 5 is `f`. A word alone may take other pieces than among others, as in BPE."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join((" " if token % 2 == 0 else "") + chr(ord("a") + token) for token in ids).strip()

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text for _ in range(1 + (letter == "e"))]


PIECES = Pieces()
SOME_TOKENS = st.lists(st.sampled_from([0, 0, 3, 3, 3, 1, 2, 4, 5, 6, 7]), max_size=60)


def server_rule(tokens: Sequence[int], delay: int) -> list[Word | WordEnd]:
    """What moshi-server sends, found by looking at the whole sequence for each event: `n` counts steps from 1."""
    counted = [(n, token) for n, token in enumerate(tokens, start=1) if n >= delay]
    zeros = [n for n, token in counted if token == 0]
    events: list[Word | WordEnd] = []
    for index, (n, token) in enumerate(counted):
        if token not in (0, 3):
            continue
        begin = index
        while begin and counted[begin - 1][1] not in (0, 3):
            begin -= 1
        if begin < index:
            before = [zero for zero in zeros if zero < counted[begin][0]]
            events.append(Word(PIECES.decode([k for _, k in counted[begin:index]]), (before[-1] - delay) / FRAMES_PER_S if before else 0.0))
        if token == 0 and events:
            # Only the last word before a boundary ends there, once.
            words_and_ends = [event for event in events if isinstance(event, Word | WordEnd)]
            if isinstance(words_and_ends[-1], Word):
                events.append(WordEnd((n - delay) / FRAMES_PER_S))
    return events


@given(SOME_TOKENS, st.integers(0, 10))
@example([0, 4, 5, 3, 6, 0], 1)
def test_the_servers_rule(tokens: list[int], delay: int) -> None:
    """Step by step it gives what a look at the whole sequence gives; a flush adds the word that is still open, and no more."""
    machine = WordMachine(PIECES, delay)
    events = [event for token in tokens for event in machine.take(token)]
    assert events == server_rule(tokens, delay)
    rest = machine.flush()
    ended = server_rule([*tokens, 3], delay)
    assert events + rest == ended if len(tokens) + 1 >= delay else rest == []
    assert machine.flush() == []


def test_a_word_lasts_from_boundary_to_boundary() -> None:
    """By hand: delay 2, boundaries at steps 3 and 7 are 0.08 and 0.4 s; text of the steps before the delay has passed is nothing."""
    machine = WordMachine(PIECES, 2)
    assert [machine.take(token) for token in (4, 3, 0, 4, 5, 3, 0)] == [[], [], [], [], [], [Word("ef", 0.08)], [WordEnd(0.4)]]


def python_rule(tokens: Sequence[int], prefix_frames: int, delay_s: float) -> list[TimedWord]:
    """The Python package's script, segment by segment, but for its TypeError: there a last word lasts a second."""
    offset_s = int(prefix_frames / FRAMES_PER_S) + delay_s
    words: list[TimedWord] = []

    def segment(start: int, end: int) -> None:
        texts = PIECES.decode([token for token in tokens[start:end] if token > 3]).split()
        for text in texts[:-1]:
            stop = start + len(PIECES.encode(text))
            words.append(TimedWord(text, max(0.0, start / FRAMES_PER_S - offset_s), max(0.0, stop / FRAMES_PER_S - offset_s)))
            start = stop
        for text in texts[-1:]:
            words.append(TimedWord(text, max(0.0, start / FRAMES_PER_S - offset_s), max(0.0, end / FRAMES_PER_S - offset_s)))

    zeros = [position for position, token in enumerate(tokens) if token == 0]
    for number, zero in enumerate(zeros):
        if number + 1 < len(zeros):
            segment(zero + 1, zeros[number + 1])
        elif 2 in tokens[zero:]:
            segment(zero + 1, list(tokens).index(2, zero))
        else:
            segment(zero + 1, min(len(tokens), zero + 1 + 13))
    return words


@given(SOME_TOKENS, st.sampled_from([0, 13]), st.sampled_from([0.5, 2.5]))
@example([0, *[4] * 20], 0, 0.0)
@example([0, 4, *[3] * 30], 0, 0.5)
def test_the_python_packages_rule(tokens: list[int], prefix_frames: int, delay_s: float) -> None:
    """The same words, with the same times wherever those of a crowded segment lie inside it; there they never run backwards."""
    words = words_of_sequence(tokens, PIECES, prefix_frames=prefix_frames, delay_s=delay_s)
    wanted = python_rule(tokens, prefix_frames, delay_s)
    assert [word.text for word in words] == [word.text for word in wanted]
    if all(word.stop_s is not None and word.start_s <= word.stop_s for word in wanted):
        assert words == wanted
    times = [time for word in words for time in (word.start_s, word.stop_s)]
    assert times == sorted(times)


def test_many_frames_after_the_last_boundary() -> None:
    """Where upstream's script fails, the last word lasts about a second; an end-of-stream token, or the end, comes first."""
    begun = [3] * 10 + [0, 4]
    (word,) = words_of_sequence(begun + [3] * 40, PIECES, prefix_frames=0, delay_s=0.0)
    assert (word.start_s, word.stop_s) == (11 / FRAMES_PER_S, 24 / FRAMES_PER_S)
    (word,) = words_of_sequence([*begun, 3, 2, *[3] * 40], PIECES, prefix_frames=0, delay_s=0.0)
    assert word.stop_s == 13 / FRAMES_PER_S
    (word,) = words_of_sequence(begun, PIECES, prefix_frames=0, delay_s=0.0)
    assert word.stop_s == 12 / FRAMES_PER_S


@pytest.mark.parametrize("tokens", [[], [3, 3], [4, 5, 6], [0], [0, 3, 3], [4, 0]])
def test_nothing_counts_before_a_boundary(tokens: list[int]) -> None:
    """Text without a boundary before it is no word by this rule."""
    assert words_of_sequence(tokens, PIECES, prefix_frames=0, delay_s=0.5) == []


def test_a_turn_ends_once() -> None:
    """The third head above a half ends a turn, once, and not before a word; the next word arms it again."""
    turns = TurnDetector()
    quiet, pause = [0.9, 0.9, 0.5, 0.9], [0.0, 0.0, 0.51, 0.0]
    steps = [(pause, False), (quiet, True), (quiet, False), (pause, False), (pause, False), (quiet, False), (pause, False), (pause, True)]
    assert [turns.take(pauses, spoken=spoken) for pauses, spoken in steps] == [False, False, False, True, False, False, False, True]


@given(st.lists(st.tuples(st.booleans(), st.booleans())))
def test_turns_are_as_many_as_the_words_between_them(steps: list[tuple[bool, bool]]) -> None:
    """Between two ends of turns there is a word, and after the last pause none is due."""
    turns, armed = TurnDetector(), False
    for paused, spoken in steps:
        armed |= spoken
        assert turns.take([0, 0, float(paused), 0], spoken=spoken) == (armed and paused)
        armed &= not paused


def test_no_heads_end_no_turn() -> None:
    """A model without semantic VAD never ends one."""
    assert not TurnDetector().take([], spoken=True)
