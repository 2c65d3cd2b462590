"""What of a text counts: the form in which a reference and a hypothesis are compared."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from dsmops.errors import ExtraMissingError


class Normalizer(StrEnum):
    """Whisper's English rules (numbers, contractions, spelling), its basic ones for all languages (case, punctuation), or none."""

    ENGLISH = "english"
    BASIC = "basic"
    NONE = "none"


_LEFT_OUT = {"", "ignore time segment in scoring", "ignore_time_segment_in_scoring"}
"""References that stand for no speech. The latter are what TEDLIUM writes, normalised and as it is."""


def normalizer(kind: Normalizer) -> Callable[[str], str]:
    """Return what brings a text into the form to compare: words with single spaces between them.

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


def is_scored(normalized_reference: str) -> bool:
    """Return whether a normalised reference says anything that a model can be held to."""
    return normalized_reference not in _LEFT_OUT
