"""From text to what the state machine feeds the model: words as tokens, and pauses.

Two ways to prepare text are published. A script is a list of turns of two speakers, known as a
whole. A stream is one speaker's text as it arrives at a server. They differ in small things; each
follows its own source.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import reduce

from dsmops.errors import InputError
from dsmops.worker.models.conventions import FRAMES_PER_S, LAST_SPECIAL
from dsmops.worker.runtime.tts.interface import TtsTokenizer
from dsmops.worker.runtime.tts.machine import TtsEntry

MAIN_SPEAKER, OTHER_SPEAKER = 1, 2
"""Text tokens that say who speaks from here on."""
LONGEST_BREAK_S = 60.0
"""The model remembers 40 s; what follows a longer pause would have nothing to go on from."""
LONGEST_STREAM_BREAK_S = 10.0
"""A longer one is shortened to this, as in moshi-server."""

_BREAK_HINT = 'Write pauses as <break time="0.5s"/>.'
_SHOWN = 5
_SCRIPT_BREAK = re.compile(r'<break\s+time="([0-9]{1,400}(?:.[0-9]{0,400})?)s"\s*/?>')
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
    turns: Sequence[str], tokenizer: TtsTokenizer, *, padding_between: int = 1
) -> list[TtsEntry]:
    """Return the entries of a script: even turns are the main speaker's, odd ones the other's; an empty turn only changes the speaker.

    Pauses are not reported, their entries have no text. An empty list means that there is nothing
    to say.

    Raises:
        InputError: the tokenizer has no tokens for some of the text, or a pause is not one; the message names what.

    Source: `script_to_entries` of moshi 0.2.13, `models/tts.py`. That one fails at a pause such as "1,5s", says a tag that is none, and
    takes pauses of any length.
    """
    words = _Words(tokenizer, padding_between)
    entries: list[TtsEntry] = []
    speaking = None
    for number, turn in enumerate(turns):
        speaker = OTHER_SPEAKER if number % 2 else MAIN_SPEAKER
        for piece in _pieces(turn.translate(_SCRIPT_CHARACTERS), _SCRIPT_BREAK):
            if isinstance(piece, str):
                entry = words.entry(piece, None if speaking == speaker else speaker)
                if entry is not None:
                    speaking = speaker
                    entries.append(entry)
            elif piece > LONGEST_BREAK_S:
                raise InputError(
                    f"a pause of {piece:g} s is too long",
                    hint=f"Pauses have at most {LONGEST_BREAK_S:g} s.",
                    code="text.break",
                )
            else:
                entries.append(TtsEntry((), "", round(piece * FRAMES_PER_S)))
    words.check()
    return entries


class TtsTextStream:
    """One speaker's text as it arrives. Every piece ends a word, so that clients may send words without the spaces between them.

    Only a pause's tag may stand in several pieces: its beginning waits for the rest.

    Source: `tts_preprocess.rs` of moshi-server 0.6.4, which knows no tags in several pieces, and drops or says those that are no pauses.
    """

    def __init__(self, tokenizer: TtsTokenizer, *, padding_between: int = 1) -> None:
        self._tokenizer, self._padding_between = tokenizer, padding_between
        self._speaker: int | None = MAIN_SPEAKER
        self._held = ""

    @property
    def holds_text(self) -> bool:
        """Whether the beginning of a pause waits for its rest."""
        return bool(self._held)

    def take(self, text: str) -> list[TtsEntry]:
        """Return the entries of the next piece of text.

        Raises:
            InputError: as for `script_entries`. The piece is lost whole, the stream goes on.
        """
        before, self._held = self._held, ""
        if before:
            joined = before + text
            # Who splits at spaces has taken one away; and what is no pause after all ended a word.
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
        words = _Words(self._tokenizer, self._padding_between)
        speaker = self._speaker
        entries: list[TtsEntry] = []
        for piece in _pieces(text, _STREAM_BREAK):
            if isinstance(piece, float):
                if piece > 0:
                    steps = max(1, int(min(piece, LONGEST_STREAM_BREAK_S) * FRAMES_PER_S))
                    entries.append(TtsEntry((), f'<break time="{piece:.2f}s">', steps))
                continue
            for word in piece.translate(_STREAM_CHARACTERS).split():
                entry = words.entry(word, speaker)
                if entry is not None:
                    speaker = None
                    entries.append(entry)
        words.check()
        self._speaker = speaker
        return entries


def _pieces(text: str, tag: re.Pattern[str]) -> Iterator[str | float]:
    """Yield the words of `text`, split at spaces, and the seconds of its pauses, in order."""
    done = 0
    for match in tag.finditer(text):
        yield from text[done : match.start()].split()
        try:
            yield float(match[1])
        except ValueError:
            raise InputError(
                f"{match[0]} is no pause: {match[1]!r} is no number",
                hint=_BREAK_HINT,
                code="text.break",
            ) from None
        done = match.end()
    yield from text[done:].split()


class _Words:
    """Makes entries of words, and remembers what the tokenizer cannot say, so that one error names it."""

    def __init__(self, tokenizer: TtsTokenizer, padding_between: int) -> None:
        self._tokenizer, self._padding_between = tokenizer, padding_between
        self._unsayable: dict[str, None] = {}

    def entry(self, word: str, speaker: int | None) -> TtsEntry | None:
        """Return the entry of a word, None where the tokenizer sees nothing in it; `speaker` begins a turn with it."""
        if "<break" in word:
            raise InputError(
                f"{word!r} begins no pause that can be read", hint=_BREAK_HINT, code="text.break"
            )
        tokens = self._encode(word)
        if tokens is None:
            self._unsayable[word] = None
            return None
        if not tokens:
            return None
        if speaker is not None:
            tokens.insert(0, speaker)
        padding = (
            max(0, self._padding_between + len(tokens) - 1) if self._padding_between > 0 else 0
        )
        return TtsEntry(tuple(tokens), word, padding)

    def check(self) -> None:
        """Raise InputError where a word could not be said."""
        if not self._unsayable:
            return
        shown = ", ".join(_cut(word) for word in list(self._unsayable)[:_SHOWN])
        more = (
            f" and {len(self._unsayable) - _SHOWN} more words"
            if len(self._unsayable) > _SHOWN
            else ""
        )
        first = next(iter(self._unsayable))
        wrong = [character for character in dict.fromkeys(first) if self._encode(character) is None]
        at_fault = f"; it knows no {' '.join(map(repr, wrong[:_SHOWN]))}" if wrong else ""
        raise InputError(
            f"the model's tokenizer cannot say {shown}{more}{at_fault}",
            hint="Write it out in a language and an alphabet that the model speaks, or leave it out.",
            code="text.unsayable",
        )

    def _encode(self, text: str) -> list[int] | None:
        """Return the tokens of `text`, None where it is no Unicode or has no tokens."""
        try:
            text.encode()
        except UnicodeEncodeError:  # half of a surrogate pair
            return None
        tokens = self._tokenizer.encode(text)
        return None if any(token <= LAST_SPECIAL for token in tokens) else tokens


def _cut(word: str, most: int = 40) -> str:
    return repr(word if len(word) <= most else f"{word[:most]}…")
