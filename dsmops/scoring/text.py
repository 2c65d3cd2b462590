"""The form in which a reference and a hypothesis are compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable
from enum import StrEnum

from dsmops.errors import ExtraMissingError


class Normalizer(StrEnum):
    """How texts are normalised before they are compared.

    By Whisper's rules for English (numbers, contractions, spelling), by its basic ones for all
    languages (case, punctuation), or not at all.
    """

    ENGLISH = "english"
    BASIC = "basic"
    NONE = "none"


_LEFT_OUT = {"", "ignore time segment in scoring", "ignore_time_segment_in_scoring"}
"""References that stand for no speech. The latter are TEDLIUM's, normalised and as they are."""


def normalizer(kind: Normalizer) -> Callable[[str], str]:
    """Return a function that gives the form of a text to compare: words, single spaces between.

    Raises:
        ExtraMissingError: whisper-normalizer is not installed.
    """
    rules: Callable[[str], str] = str
    if kind is not Normalizer.NONE:
        try:
            # Not the package as a whole: its other languages take along more.
            from whisper_normalizer.basic import BasicTextNormalizer
            from whisper_normalizer.english import EnglishTextNormalizer
        except ImportError as exc:
            raise ExtraMissingError("normalising text", "whisper-normalizer") from exc
        rules = EnglishTextNormalizer() if kind is Normalizer.ENGLISH else BasicTextNormalizer()
    return lambda text: " ".join(rules(text).split())


_COMMON_WORDS = {
    "English": "the and of to is that it was you he for are with they have this but not what we",
    "French": "le la les des est et que pas je vous une dans qui il elle pour ce nous sur c'est",
    "Spanish": "el los las que de y en un una por con para es no se lo pero como más su",
    "German": "der die das und ist nicht ich sie ein eine zu mit den auf es wir auch für von dem",
    "Italian": "il che di e la un una per non sono con del della è si come anche ma lo gli",
    "Portuguese": "o que de e do da em um uma para não com os as se mais por você ele foi",
}
"""The most frequent words of languages that use the Latin alphabet."""
_FEWEST_HITS = 5
_FOREIGN_SHARE = 0.2


def other_language(references: Iterable[str]) -> str | None:
    """Return the language, or "another alphabet", of references that are clearly not English.

    None for English, and for too little text to tell.
    """
    text = " ".join(references).lower()
    letters = [character for character in text if character.isalpha()]
    # Letters beyond Latin Extended-B belong to another alphabet.
    if sum(character > "\u024f" for character in letters) > _FOREIGN_SHARE * max(1, len(letters)):
        return "another alphabet"
    words = Counter(re.findall(r"[\w']+", text))
    hits = {
        language: sum(words[word] for word in set(common.split()))
        for language, common in _COMMON_WORDS.items()
    }
    best = max(hits, key=lambda language: hits[language])
    return (
        best
        if best != "English" and hits[best] >= _FEWEST_HITS and (hits[best] > 1.5 * hits["English"])
        else None
    )


def is_scored(normalized_reference: str) -> bool:
    """Return whether a normalised reference has words to score."""
    return normalized_reference not in _LEFT_OUT
