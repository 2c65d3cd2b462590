"""Error rates against counts made by hand, an independent edit distance, and jiwer's own corpus
rate.
"""

import sys

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import ExtraMissingError
from dsmops.scoring import Counts, compare, summarize
from tests.support.edit_distance import edit_distance

WORDS = st.lists(st.sampled_from(["a", "b", "ab", "été", "21", "日本", "👍"]), max_size=12).map(
    " ".join
)
SAID = WORDS.filter(bool)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "words", "cer"),
    [
        ("the cat sat", "the cat sat", Counts(3, 0, 0, 0), 0.0),
        ("the cat sat", "the hat sat", Counts(2, 1, 0, 0), 1 / 11),
        ("the cat sat", "the sat", Counts(2, 0, 1, 0), 4 / 11),
        ("the cat sat", "so the cat sat", Counts(3, 0, 0, 1), 3 / 11),
        ("the cat sat", "", Counts(0, 0, 3, 0), 1.0),
        ("oh", "oh no no no", Counts(1, 0, 0, 3), 9 / 2),
        ("été à paris", "ete à paris", Counts(2, 1, 0, 0), 2 / 11),
        ("日本 語", "日本語", Counts(0, 1, 1, 0), 1 / 4),
    ],
)
def test_counts_made_by_hand(reference: str, hypothesis: str, words: Counts, cer: float) -> None:
    """Words right, replaced, left out and made up; spaces count as characters."""
    score = compare(reference, hypothesis)
    assert score.words == words
    assert score.words.rate == words.errors / len(reference.split())
    assert score.characters.rate == pytest.approx(cer)


@given(SAID, WORDS)
def test_the_fewest_edits_are_counted(reference: str, hypothesis: str) -> None:
    """As many errors as the textbook table gives, for words and for characters, and lengths that
    add up.
    """
    score = compare(reference, hypothesis)
    for counts, said, heard in (
        (score.words, reference.split(), hypothesis.split()),
        (score.characters, [*reference], [*hypothesis]),
    ):
        assert counts.errors == edit_distance(said, heard)
        assert counts.reference_length == len(said)
        assert counts.hits + counts.substitutions + counts.insertions == len(heard)


@given(st.lists(st.tuples(SAID, WORDS), min_size=1, max_size=6))
def test_a_corpus_is_summed_up_as_jiwer_does(pairs: list[tuple[str, str]]) -> None:
    """`corpus_wer` is jiwer's rate over all pairs at once; `wer` and `cer` are the means of its
    rates of each.
    """
    summary = summarize([compare(*pair) for pair in pairs])
    references, hypotheses = map(list, zip(*pairs, strict=True))
    assert summary.corpus_wer == pytest.approx(jiwer.wer(references, hypotheses))
    assert summary.wer == pytest.approx(sum(jiwer.wer(*pair) for pair in pairs) / len(pairs))
    assert summary.cer == pytest.approx(sum(jiwer.cer(*pair) for pair in pairs) / len(pairs))


def test_the_two_word_error_rates_differ() -> None:
    """One short utterance with a wrong word weighs much in the mean and little in the corpus
    rate.
    """
    summary = summarize([compare("no", "yes"), compare("a b c d e f g h i", "a b c d e f g h i")])
    assert (summary.wer, summary.corpus_wer) == (0.5, 0.1)


def test_nothing_has_no_rate() -> None:
    """A corpus of which nothing was scored has None for rates, not 0."""
    summary = summarize([])
    assert (summary.wer, summary.cer, summary.corpus_wer, summary.words) == (
        None,
        None,
        None,
        Counts(0, 0, 0, 0),
    )


def test_without_jiwer_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and the extra."""
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(ExtraMissingError, match="jiwer") as caught:
        compare("a", "a")
    assert "dsmops[worker]" in caught.value.hint
