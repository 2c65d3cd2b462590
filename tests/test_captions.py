"""Captions: no word lost, cues that can be read, files that players accept."""

import html
import re
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.captions import (
    CUE_LINES,
    CUE_MS,
    LINE_CHARS,
    PAUSE_MS,
    SHORT_CUE_MS,
    cues_of,
    srt,
    webvtt,
)


@dataclass(frozen=True)
class Spoken:
    text: str
    start_s: float
    stop_s: float | None = None


def spoken(text: str, *, start_s: float = 0.0, gap_s: float = 0.1) -> list[Spoken]:
    """Return the words of a sentence, 0.3 s each."""
    return [
        Spoken(word, start_s + index * (0.3 + gap_s), start_s + index * (0.3 + gap_s) + 0.3)
        for index, word in enumerate(text.split())
    ]


@st.composite
def transcripts(draw: st.DrawFn) -> list[Spoken]:
    """Words as models give them, and worse: any text, times that stand still, step back or pass the
    hours, ends that are missing.
    """
    now_s = draw(st.sampled_from([0.0, 3599.0, 360_000.0]))
    words = []
    texts = st.one_of(
        st.sampled_from(["I", "say.", "what?", "-->", "<b>", "R&D", "&amp;", "x" * 60]),
        st.text(max_size=12),
    )
    for text in draw(st.lists(texts, max_size=40)):
        now_s = max(0.0, now_s + draw(st.sampled_from([0.0, 0.08, 0.3, 0.8, 0.81, 2.0, 7.0, -0.5])))
        length_s = draw(st.sampled_from([None, 0.0, 0.08, 0.4, 9.0, -1.0]))
        words.append(Spoken(text, now_s, None if length_s is None else now_s + length_s))
    return words


TIMING = r"(\d{2,}):([0-5]\d):([0-5]\d)[.,](\d{3})"


def times_of(line: str) -> tuple[int, int]:
    """Return a timing line's two times in milliseconds."""
    found = re.fullmatch(f"{TIMING} --> {TIMING}", line)
    assert found is not None, line
    numbers = [int(group) for group in found.groups()]
    start, stop = (
        ((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:])
    )
    return start, stop


def split_cues(text: str) -> list[list[str]]:
    """Return the blocks between blank lines as a player finds them."""
    return [block.split("\n") for block in text.strip("\n").split("\n\n")] if text else []


@given(transcripts())
def test_no_word_is_lost_and_the_order_is_kept(words: list[Spoken]) -> None:
    """Both formats hold every word of the transcript, once, in order."""
    wanted = " ".join(" ".join(word.text for word in words).split())
    vtt_lines = [line for block in split_cues(webvtt(words))[1:] for line in block[1:]]
    srt_lines = [line for block in split_cues(srt(words)) for line in block[2:]]
    assert html.unescape(" ".join(vtt_lines)) == wanted
    assert " ".join(srt_lines) == wanted.replace("-->", "→")


@given(transcripts())
def test_times_are_valid_rise_and_never_overlap(words: list[Spoken]) -> None:
    """Each cue ends after it starts and before the next one starts, to hours and beyond."""
    for text, timing in ((webvtt(words), 0), (srt(words), 1)):
        blocks = split_cues(text)[1 - timing :]
        times = [times_of(block[timing]) for block in blocks]
        assert all(start < stop for start, stop in times)
        assert all(before[1] <= after[0] for before, after in pairwise(times))
        if timing:
            assert [block[0] for block in blocks] == [
                str(number) for number in range(1, len(blocks) + 1)
            ]


@given(transcripts())
def test_cues_can_be_read(words: list[Spoken]) -> None:
    """Two lines of 42 characters at most, unless a word alone is longer; no markup is left in a
    WebVTT cue.
    """
    for cue in cues_of(words):
        assert 1 <= len(cue.lines) <= CUE_LINES
        assert all(len(line) <= LINE_CHARS or " " not in line for line in cue.lines)
    body = webvtt(words).removeprefix("WEBVTT\n")
    assert all(
        "<" not in line and ("-->" not in line or re.match(TIMING, line))
        for line in body.split("\n")
    )


def test_a_sentence_and_a_pause_end_a_cue() -> None:
    """A full stop and a silence of more than 0.8 s; an initial and a shorter silence do not."""
    words = [
        *spoken("Good morning."),
        *spoken("This is J. Smith", start_s=1.0),
        *spoken("speaking to you", start_s=3.2),
    ]
    assert [cue.lines for cue in cues_of(words)] == [
        ("Good morning.",),
        ("This is J. Smith speaking to you",),
    ]
    later = [Spoken("one", 0, 0.3), Spoken("two", 0.3 + PAUSE_MS / 1000 + 0.01, 1.5)]
    assert len(cues_of(later)) == 2


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("end.", True),
        ("what?!", True),
        ('"so."', True),
        ("3.5", False),
        ("J.", False),
        ("e.g", False),
        ("e.g.", False),
        ("Mr.", False),
        ('"Dr.', False),
        ("Mme.", False),
        ("etc.", False),
        ("1984.", True),
        ("…", True),
    ],
)
def test_what_ends_a_sentence(text: str, ends: bool) -> None:
    """Marks at the end of a word, behind quotes and brackets too; not a point within, nor after a
    lone letter.
    """
    assert (len(cues_of([Spoken(text, 0.0, 0.3), Spoken("next", 0.3, 0.6)])) == 2) is ends


def test_a_long_speech_is_cut_by_time_and_by_length() -> None:
    """Words without a stop between them fill cues of at most six seconds and two lines."""
    slow = cues_of(spoken("a " * 60))
    assert len(slow) > 1
    assert all(cue.stop_ms - cue.start_ms <= CUE_MS for cue in slow)
    quick = cues_of([Spoken("wonderful", 0.05 * index, 0.05 * index + 0.05) for index in range(20)])
    assert quick[0].lines == ("wonderful wonderful wonderful wonderful",) * 2


def test_a_last_word_without_an_end_gets_one() -> None:
    """It stays for as long as a short cue; an earlier one ends when the next begins, at the
    latest.
    """
    cues = cues_of([Spoken("Hello.", 1.0), Spoken("there", 1.2)])
    assert [(cue.start_ms, cue.stop_ms) for cue in cues] == [(1000, 1200), (1200, 1900)]


def test_a_number_in_two_words_stays_together() -> None:
    """A tokenizer may give "3." and "5"."""
    assert len(cues_of([Spoken("3.", 0.0, 0.3), Spoken("5", 0.3, 0.6)])) == 1


def test_a_word_before_a_long_silence_is_shown_as_long_as_a_word() -> None:
    """moshi-server ends a word when the next one begins: here thirty seconds later."""
    words = [Spoken("And", 0.0, 0.4), Spoken("then", 0.4, 30.4), Spoken("silence.", 30.4, 31.0)]
    first, second = cues_of(words)
    assert (first.lines, second.lines) == (("And then",), ("silence.",))
    assert 1_000 <= first.stop_ms <= 2_000
    assert second.start_ms == 30_400


@given(transcripts())
def test_no_cue_is_too_long_and_none_is_short_without_need(words: list[Spoken]) -> None:
    """Six seconds at most; a cue under 0.7 s ends because the next one begins."""
    cues = cues_of(words)
    assert all(cue.stop_ms - cue.start_ms <= CUE_MS for cue in cues)
    for cue, following in pairwise(cues):
        assert cue.stop_ms - cue.start_ms >= SHORT_CUE_MS or cue.stop_ms >= following.start_ms - 1
    assert all(cue.stop_ms - cue.start_ms >= SHORT_CUE_MS for cue in cues[-1:])


def test_an_incomplete_transcript_says_so() -> None:
    """SubRip has no comments, so a cue says it; WebVTT has notes, which no player shows."""
    words = [Spoken("Hello.", 1.0, 2.0)]
    assert srt(words, incomplete=True).endswith("2\n00:00:01,980 --> 00:00:03,980\n[incomplete]\n")
    assert webvtt(words, incomplete="the -->\nsocket").endswith(
        "\n\nNOTE incomplete: the → socket\n"
    )


def test_the_formats_are_what_players_expect() -> None:
    """Byte for byte: numbers and commas in SubRip, header, points and escapes in WebVTT."""
    words = [Spoken("R&D", 3661.5, 3661.9), Spoken("<b>-->", 3662.0, 3662.4)]
    assert srt(words) == "1\n01:01:01,500 --> 01:01:02,400\nR&D <b>→\n"
    assert webvtt(words) == "WEBVTT\n\n01:01:01.500 --> 01:01:02.400\nR&amp;D &lt;b&gt;--&gt;\n"


def test_no_words_give_an_empty_but_valid_file() -> None:
    """SubRip has no header, WebVTT has."""
    assert srt([]) == ""
    assert webvtt([Spoken("  ", 0.0)]) == "WEBVTT\n"
