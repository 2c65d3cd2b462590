"""Words with times as captions: SubRip (`.srt`) and WebVTT (`.vtt`). Pure functions.

`transcribe` writes them, and the server's OpenAI endpoints answer with them.

Words are gathered into cues that can be read: one or two lines, some seconds, ending where a
sentence or a pause does.

Source: W3C WebVTT (cue text, timings); the limits are common in subtitle guidelines (Netflix, BBC).
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

LINE_CHARS = 42
"""Longest line, unless one word alone is longer."""

CUE_LINES = 2
CUE_MS = 6_000
"""Longest time that a cue is shown."""

PAUSE_MS = 800
"""A silence between two words longer than this ends a cue."""

WORD_MS = 400
"""How long a word lasts that has no end of its own, where the next one leaves it that much time.
About the mean of English speech."""

SHORT_CUE_MS = 700
"""A cue that is shorter is shown this long, where nothing follows before. Guidelines have 5/6 s."""

MIN_CUE_MS = 1
"""Shortest cue: a player drops one that ends when it starts."""

_WORD_BASE_MS, _CHARACTER_MS = 500, 80
"""Longest display time of a word: slow speech has 80 ms a character. moshi-server ends a word when
the next one begins, so a word before a long silence seems to last as long as that."""

_ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "no", "vol", "fig", "ave"),
    *("inc", "ltd", "co", "gen", "sen", "rep", "lt", "col", "capt", "sgt", "rev", "hon", "dept"),
    *("m", "mm", "mme", "mlle", "mgr", "av", "p", "pp", "cf", "art", "chap", "ex", "tél", "approx"),
}
"""Words after which a full stop ends no sentence: English and French, in lower case."""


class Word(Protocol):
    """A word of a transcript; `stop_s` is None where its end is not known."""

    @property
    def text(self) -> str: ...

    @property
    def start_s(self) -> float: ...

    @property
    def stop_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Cue:
    """What is shown at once: lines of text, and whole milliseconds from the start of the audio."""

    start_ms: int
    stop_ms: int
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _TimedWord:
    text: str
    start_ms: int
    stop_ms: int


def srt(words: Iterable[Word], *, incomplete: bool = False) -> str:
    """Return the words as SubRip, numbered cues with `00:00:01,000` times; empty without words.

    SubRip has no comments: an incomplete transcript gets a last cue that says so.
    """
    cues = cues_of(words)
    if incomplete:
        end_ms = cues[-1].stop_ms if cues else 0
        cues.append(Cue(end_ms, end_ms + 2_000, ("[incomplete]",)))
    blocks = (
        f"{number}\n{_timing(cue, ',')}\n{_lines(cue, _without_arrows)}\n"
        for number, cue in enumerate(cues, start=1)
    )
    return "\n".join(blocks)


def webvtt(words: Iterable[Word], *, incomplete: str = "") -> str:
    """Return the words as WebVTT with `00:00:01.000` times, markup in them escaped.

    `incomplete` is why words are missing, which becomes a note at the end. Without words there is
    the header alone.
    """
    blocks = [f"{_timing(cue, '.')}\n{_lines(cue, _escaped)}\n" for cue in cues_of(words)]
    if incomplete:
        reason = " ".join(_without_arrows(incomplete).split())
        blocks.append(f"NOTE incomplete: {reason}\n")
    return "\n".join(["WEBVTT\n", *blocks])


def cues_of(words: Iterable[Word]) -> list[Cue]:
    """Return the words, none lost and in their order, as cues whose times rise and never overlap.

    Times that step back are moved forward to the word before.
    """
    groups: list[list[_TimedWord]] = []
    for word in _timed(words):
        if groups and _goes_on(groups[-1], word):
            groups[-1].append(word)
        else:
            groups.append([word])
    cues = []
    free_ms = 0
    for index, group in enumerate(groups):
        start_ms = max(group[0].start_ms, free_ms)
        stop_ms = min(group[-1].stop_ms, start_ms + CUE_MS)
        stop_ms = max(stop_ms, start_ms + SHORT_CUE_MS)
        if index + 1 < len(groups):
            stop_ms = min(stop_ms, groups[index + 1][0].start_ms)
        free_ms = max(stop_ms, start_ms + MIN_CUE_MS)
        cues.append(Cue(start_ms, free_ms, tuple(_wrapped(word.text for word in group))))
    return cues


def _timed(words: Iterable[Word]) -> list[_TimedWord]:
    """Return the words that are not only white space, with both times in ms, starts in order."""
    kept = [(" ".join(word.text.split()), word) for word in words]
    kept = [(text, word) for text, word in kept if text]
    starts: list[int] = []
    for _, word in kept:
        starts.append(max(round(word.start_s * 1000), starts[-1] if starts else 0))
    timed = []
    for index, (text, word) in enumerate(kept):
        most_ms = starts[index] + _WORD_BASE_MS + _CHARACTER_MS * len(text)
        if word.stop_s is not None:
            stop_ms = max(min(round(word.stop_s * 1000), most_ms), starts[index])
        else:
            stop_ms = starts[index] + WORD_MS
            if index + 1 < len(kept):
                stop_ms = min(stop_ms, starts[index + 1])
        timed.append(_TimedWord(text, starts[index], stop_ms))
    return timed


def _goes_on(group: Sequence[_TimedWord], word: _TimedWord) -> bool:
    """Return whether `word` belongs into the cue of `group`."""
    last = group[-1]
    if (
        word.start_ms - last.stop_ms > PAUSE_MS
        or _ends_sentence(last.text, word.text)
        or word.stop_ms - group[0].start_ms > CUE_MS
    ):
        return False
    return sum(1 for _ in _wrapped([*(one.text for one in group), word.text])) <= CUE_LINES


def _ends_sentence(text: str, following: str) -> bool:
    """Return whether a sentence ends with this word: `end.`, `what?!`, `"so."`.

    Not behind an abbreviation or an initial ("Mr.", "J."), nor within a number ("3." "5").
    """
    end = re.search(r"([?!…。？！]|\.)[\"'»”’)\]]*$", text)
    if end is None or end[1] != ".":
        return end is not None
    stem = text[: end.start()].lstrip("\"'«“‘([").lower()
    if stem in _ABBREVIATIONS or (re.fullmatch(r"(?:\w\.)*\w", stem) and not stem.isdecimal()):
        return False
    return not (stem[-1:].isdecimal() and following[:1].isdecimal())


def _wrapped(texts: Iterable[str]) -> Iterator[str]:
    """Yield lines of at most `LINE_CHARS`; a longer word gets its own."""
    line = ""
    for text in texts:
        if line and len(line) + 1 + len(text) > LINE_CHARS:
            yield line
            line = text
        else:
            line = f"{line} {text}" if line else text
    yield line


def _lines(cue: Cue, spelled: Callable[[str], str]) -> str:
    return "\n".join(spelled(line) for line in cue.lines)


def _escaped(line: str) -> str:
    """Return a line with WebVTT's markup escaped; `-->` becomes `--&gt;`."""
    return html.escape(line, quote=False)


def _without_arrows(line: str) -> str:
    """Return a line for SubRip, which has no escapes: some players read any `-->` as times."""
    return line.replace("-->", "→")


def _timing(cue: Cue, point: str) -> str:
    return f"{_timestamp(cue.start_ms, point)} --> {_timestamp(cue.stop_ms, point)}"


def _timestamp(time_ms: int, point: str) -> str:
    """Return `01:02:03.004`; hours go beyond two digits when they must."""
    seconds, rest_ms = divmod(time_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}{point}{rest_ms:03d}"
