"""Word and character error rates, as upstream's evaluation script defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from dsmops.errors import ExtraMissingError


@dataclass(frozen=True, slots=True)
class Counts:
    """How a hypothesis differs from its reference by the fewest edits of words or characters."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def reference_length(self) -> int:
        return self.hits + self.substitutions + self.deletions

    @property
    def rate(self) -> float:
        """Errors per word or character of the reference; above 1 with many insertions."""
        return self.errors / self.reference_length


@dataclass(frozen=True, slots=True)
class Score:
    """Words and characters of one utterance. Spaces between words count as characters."""

    words: Counts
    characters: Counts


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary of many scores.

    Sums of the word counts, the mean of utterances' rates (`wer`, `cer`), and the rate of the sums
    (`corpus_wer`). None without any score.
    """

    words: Counts
    wer: float | None
    cer: float | None
    corpus_wer: float | None


def compare(reference: str, hypothesis: str) -> Score:
    """Compare two normalised texts, of which the reference has a word at least.

    Raises:
        ExtraMissingError: jiwer is not installed.
    """
    try:
        import jiwer
    except ImportError as exc:
        raise ExtraMissingError("counting errors", "jiwer") from exc
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return Score(
        *(
            Counts(found.hits, found.substitutions, found.deletions, found.insertions)
            for found in (words, characters)
        ),
    )


def summarize(scores: Sequence[Score]) -> Summary:
    """Sum up the scores of a corpus."""
    total = Counts(
        hits=sum(score.words.hits for score in scores),
        substitutions=sum(score.words.substitutions for score in scores),
        deletions=sum(score.words.deletions for score in scores),
        insertions=sum(score.words.insertions for score in scores),
    )
    if not scores:
        return Summary(total, None, None, None)
    return Summary(
        words=total,
        wer=fmean(score.words.rate for score in scores),
        cer=fmean(score.characters.rate for score in scores),
        corpus_wer=total.rate,
    )
