"""Compare the words of two runs with the spoken text: error rates before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsmops.errors import InputError
from dsmops.scoring import Counts, Normalizer, compare, is_scored, normalizer, read_transcript


@dataclass(frozen=True, slots=True)
class WordRates:
    """Word error rates of the original and of the converted model, from 0 on.

    `words` is the number of words in the reference; errors are counted against it.
    """

    words: int
    source_errors: int
    target_errors: int
    source_wer: float
    target_wer: float

    @property
    def rise(self) -> float:
        """How much higher the converted model's rate is."""
        return self.target_wer - self.source_wer


def read_reference(path: Path) -> str:
    """Return the text of a reference file, normalised.

    Raises:
        InputError, SourceError: it cannot be read, or holds no word.
    """
    text = normalizer(Normalizer.BASIC)(read_transcript(path))
    if not is_scored(text):
        raise InputError(
            f"{path} holds no word",
            hint="It must hold what is spoken in the recording.",
            code="numerics.reference",
        )
    return text


def word_error_rate(reference: str, text: str) -> Counts:
    """Return how the words of a text differ from those of a normalised reference."""
    return compare(reference, normalizer(Normalizer.BASIC)(text)).words


def word_rates(reference: str, source: str, target: str) -> WordRates:
    """Return both error rates against a normalised reference."""
    before, after = word_error_rate(reference, source), word_error_rate(reference, target)
    return WordRates(
        words=before.reference_length,
        source_errors=before.errors,
        target_errors=after.errors,
        source_wer=before.rate,
        target_wer=after.rate,
    )
