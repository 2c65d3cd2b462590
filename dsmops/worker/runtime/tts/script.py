"""From text to what the state machine feeds the model: words as tokens, and pauses.

Two ways to prepare text are published. A script is a list of turns of two speakers, known as a
whole. A stream is one speaker's text as it arrives at a server. They differ in small things; each
follows its own source.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import reduce

from dsmops.errors import InputError
from dsmops.protocol.text import (
    BREAK,
    BREAK_HINT,
    LONGEST_STREAM_BREAK_S,
    break_seconds,
    break_steps,
    clean_text,
)
from dsmops.worker.models.conventions import LAST_SPECIAL
from dsmops.worker.runtime.tts.interface import TtsTokenizer
from dsmops.worker.runtime.tts.machine import TtsEntry

MAIN_SPEAKER, OTHER_SPEAKER = 1, 2
"""Text tokens that say who speaks from here on."""
LONGEST_WORD = 256
"""Characters of a word; a longer one becomes several. A server reads the tokens of one word at
once, and 190,000 of them delayed all other streams by a tenth of a second."""
_SHOWN = 5
_STREAM_BREAK = re.compile(r'<break\s{1,64}time="([0-9.]{1,16})s"\s{0,64}/>')
_UNFINISHED_BREAK = re.compile(
    reduce(
        lambda rest, piece: f"{piece}(?:{rest})?",
        reversed(
            ["<", *"break", r"\s{1,64}", *'time="', r"[0-9.]{1,16}", "s", '"', r"\s{0,64}", "/"]
        ),
    )
    + r"\Z"
)
"""The beginning of a pause at the end of a text."""
_SCRIPT_CHARACTERS = str.maketrans({"’": "'", ":": " ", "(": None, ")": None})
_STREAM_CHARACTERS = _SCRIPT_CHARACTERS | str.maketrans({"–": None})


def script_entries(
    turns: Sequence[str],
    tokenizer: TtsTokenizer,
    *,
    padding_between: int = 1,
    skipped: Counter[str] | None = None,
) -> list[TtsEntry]:
    """Return the entries of a script: even turns are the main speaker's, odd ones the other's.

    An empty turn only changes the speaker. Pauses are not reported, their entries have no text.
    Characters that the tokenizer does not know are skipped, and counted in `skipped`. An empty list
    means that there is nothing to synthesize.

    Raises:
        InputError: a pause cannot be read or is too long.

    Source: `script_to_entries` of moshi 0.2.13, `models/tts.py`. That one fails at an unknown
    character and at a pause such as "1,5s", synthesizes a tag that is not a pause, takes
    pauses of any length, and rounds them.
    """
    words = _Words(tokenizer, padding_between, skipped if skipped is not None else Counter())
    entries: list[TtsEntry] = []
    speaking = None
    for number, turn in enumerate(turns):
        speaker = OTHER_SPEAKER if number % 2 else MAIN_SPEAKER
        text = clean_text(turn).translate(_SCRIPT_CHARACTERS)
        for piece in _pieces(text, BREAK):
            if isinstance(piece, str):
                entry = words.entry(piece, None if speaking == speaker else speaker)
                if entry is not None:
                    speaking = speaker
                    entries.append(entry)
            elif steps := break_steps(break_seconds(piece[1])):
                entries.append(TtsEntry((), "", steps))
    return entries


class TtsTextStream:
    """One speaker's text as it arrives. Every piece ends a word: clients may omit the spaces.

    Only a pause's tag may stand in several pieces: its beginning waits for the rest. Characters
    that the tokenizer does not know are skipped, and counted in `skipped`.

    Source: `tts_preprocess.rs` of moshi-server 0.6.4, which knows no tags in several pieces, and
    drops or synthesizes tags that are not pauses.
    """

    def __init__(self, tokenizer: TtsTokenizer, *, padding_between: int = 1) -> None:
        self.skipped: Counter[str] = Counter()
        self._words = _Words(tokenizer, padding_between, self.skipped)
        self._speaker: int | None = MAIN_SPEAKER
        self._held = ""

    @property
    def holds_text(self) -> bool:
        """Whether the beginning of a pause waits for its rest."""
        return bool(self._held)

    def take(self, text: str) -> list[TtsEntry]:
        """Return the entries of the next piece of text.

        Raises:
            InputError: a pause cannot be read. The piece is lost whole, the stream goes on.
        """
        text = clean_text(text)
        before, self._held = self._held, ""
        if before:
            joined = before + text
            # A client that splits at spaces dropped one. A tag that is not a pause ended a word.
            is_break = _STREAM_BREAK.match(joined) or _UNFINISHED_BREAK.match(joined)
            text = joined if is_break else f"{before} {text}"
        unfinished = _UNFINISHED_BREAK.search(text)
        entries = self._prepare(text[: unfinished.start()] if unfinished else text)
        self._held = unfinished[0] if unfinished else ""
        return entries

    def close(self) -> list[TtsEntry]:
        """Return the entries of what waited for more text; errors as for `take`."""
        held, self._held = self._held, ""
        return self._prepare(held)

    def _prepare(self, text: str) -> list[TtsEntry]:
        speaker = self._speaker
        entries: list[TtsEntry] = []
        for piece in _pieces(text, _STREAM_BREAK):
            if isinstance(piece, re.Match):
                seconds = _stream_seconds(piece)
                if steps := break_steps(min(seconds, LONGEST_STREAM_BREAK_S)):
                    entries.append(TtsEntry((), f'<break time="{seconds:.2f}s">', steps))
                continue
            for word in _split(piece.translate(_STREAM_CHARACTERS)):
                entry = self._words.entry(word, speaker)
                if entry is not None:
                    speaker = None
                    entries.append(entry)
        self._speaker = speaker
        return entries


def _stream_seconds(tag: re.Match[str]) -> float:
    try:
        return float(tag[1])
    except ValueError:
        raise InputError(
            f"{tag[0]} is not a pause: {tag[1]!r} is not a number",
            hint=BREAK_HINT,
            code="text.break",
        ) from None


def _pieces(text: str, tag: re.Pattern[str]) -> Iterator[str | re.Match[str]]:
    """Yield the words of `text`, split at spaces, and its pauses, in order."""
    done = 0
    for match in tag.finditer(text):
        yield from _split(text[done : match.start()])
        yield match
        done = match.end()
    yield from _split(text[done:])


def _split(text: str) -> Iterator[str]:
    """Yield the words of `text`, those that are too long in pieces."""
    for word in text.split():
        if len(word) <= LONGEST_WORD or "<break" in word:
            yield word
        else:
            for begin in range(0, len(word), LONGEST_WORD):
                yield word[begin : begin + LONGEST_WORD]


class _Words:
    """Makes entries of words, and counts the characters that the tokenizer does not know."""

    def __init__(
        self, tokenizer: TtsTokenizer, padding_between: int, skipped: Counter[str]
    ) -> None:
        self._tokenizer, self._padding_between = tokenizer, padding_between
        self._skipped = skipped
        self._known: dict[str, bool] = {}

    def entry(self, word: str, speaker: int | None) -> TtsEntry | None:
        """Return the entry of a word, None where the tokenizer sees nothing in it.

        `speaker` begins a turn with it.

        Raises:
            InputError: it is a pause that cannot be read.
        """
        if "<break" in word:
            raise InputError(
                f"{_cut(word)} begins no pause that can be read", hint=BREAK_HINT, code="text.break"
            )
        tokens = self._encode(word)
        if tokens is None:
            kept = "".join(character for character in word if self._knows(character))
            tokens = self._encode(kept) if kept else []
            if tokens is None:  # known characters that give an unknown piece together
                kept, tokens = "", []
            self._skipped.update(Counter(word) - Counter(kept))
            word = kept
        if not tokens:
            return None
        if speaker is not None:
            tokens.insert(0, speaker)
        padding = (
            max(0, self._padding_between + len(tokens) - 1) if self._padding_between > 0 else 0
        )
        return TtsEntry(tuple(tokens), word, padding)

    def _knows(self, character: str) -> bool:
        if character not in self._known:
            self._known[character] = self._encode(character) is not None
        return self._known[character]

    def _encode(self, text: str) -> list[int] | None:
        """Return the tokens of `text`, None where it is not Unicode or has unknown characters."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        tokens = self._tokenizer.encode(text)
        return None if any(token <= LAST_SPECIAL for token in tokens) else tokens


def shown_characters(characters: Iterable[str]) -> str:
    """Return the first few characters, quoted, and how many more there are."""
    distinct = list(dict.fromkeys(characters))
    more = f" and {len(distinct) - _SHOWN} more" if len(distinct) > _SHOWN else ""
    return f"{' '.join(map(repr, distinct[:_SHOWN]))}{more}"


def _cut(word: str, most: int = 40) -> str:
    return repr(word if len(word) <= most else f"{word[:most]}…")
