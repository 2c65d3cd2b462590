"""Text to synthesize, as client and worker share it: characters that are dropped, and pauses.

A pause means the same everywhere: `<break time="0.5s"/>`, in whole steps of 80 ms, rounded down,
one at least. moshi-server shortens a pause to ten seconds, so a longer one is written as several.

Source: `tts_preprocess.rs` of moshi-server 0.6.4.
"""

from __future__ import annotations

import re
import unicodedata

from dsmops.errors import InputError

LONGEST_BREAK_S = 60.0
"""The model remembers 40 s; what follows a longer pause would have nothing to go on from."""
LONGEST_STREAM_BREAK_S = 10.0
"""A longer pause of a stream is shortened to this, as in moshi-server."""
BREAK_HINT = 'Write pauses as <break time="0.5s"/>.'
BREAK = re.compile(r'<break\s{1,64}time="([0-9]{1,400}(?:\.[0-9]{0,400})?)s"\s{0,64}/?>')
"""A pause; the closing slash may be missing."""

_STEPS_PER_S = 12.5
_INVISIBLE = ("Cf", "Cc")
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)


def clean_text(text: str) -> str:
    """Return the text composed (NFC), without invisible characters.

    Format characters (zero-width spaces, soft hyphens, direction and byte order marks), control
    characters other than white space, and variation selectors are dropped.
    """
    composed = unicodedata.normalize("NFC", text)
    # Each character is judged once: 190,000 of them took a server 80 ms, and 3 ms so.
    dropped = {ord(character): None for character in set(composed) if _is_invisible(character)}
    return composed.translate(dropped) if dropped else composed


def break_steps(seconds: float) -> int:
    """Return the steps of a pause."""
    return max(1, int(seconds * _STEPS_PER_S)) if seconds > 0 else 0


def break_seconds(number: str) -> float:
    """Return the seconds of a pause.

    Raises:
        InputError: they are more than `LONGEST_BREAK_S`.
    """
    seconds = float(number)
    if seconds > LONGEST_BREAK_S:
        raise InputError(
            f"a pause of {seconds:g} s is too long",
            hint=f"Pauses have at most {LONGEST_BREAK_S:g} s.",
            code="text.break",
        )
    return seconds


def with_server_breaks(text: str) -> str:
    """Return the text with its pauses as every server reads them: in pieces of ten seconds.

    Raises:
        InputError: a pause is too long.
    """
    return BREAK.sub(lambda match: _server_breaks(break_seconds(match[1])), text)


def _server_breaks(seconds: float) -> str:
    whole, rest = divmod(seconds, LONGEST_STREAM_BREAK_S)
    times = [LONGEST_STREAM_BREAK_S] * int(whole) + ([rest] if rest else [])
    return "".join(f'<break time="{time:.2f}s"/>' for time in times)


def _is_invisible(character: str) -> bool:
    return (unicodedata.category(character) in _INVISIBLE and not character.isspace()) or ord(
        character
    ) in _VARIATION_SELECTORS
