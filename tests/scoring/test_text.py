"""What counts as the same text, and which references count at all."""

import subprocess
import sys

import pytest

from dsmops.errors import ExtraMissingError
from dsmops.scoring import Normalizer, is_scored, normalizer, other_language


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Twenty-one, please!", "21 please"),
        ("21 please", "21 please"),
        ("Mr. Smith won't pay two point five percent", "mister smith will not pay 2.5%"),
        ("Colour and color", "color and color"),
        ("uh, hmm", ""),
        ("[music] (laughter) <unk>", ""),
        ("  élan\tvital\u2028\n", "elan vital"),
        ("日本語 テキスト", "日本語 テキスト"),
        ("", ""),
    ],
)
def test_english_rules(text: str, normal: str) -> None:
    """Numbers, contractions, spelling, fillers and brackets go by Whisper's rules; words have
    single spaces between them.
    """
    assert normalizer(Normalizer.ENGLISH)(text) == normal


def test_basic_rules_leave_words_as_they_are() -> None:
    """For other languages: lower case, no punctuation, accents and number words kept."""
    assert (
        normalizer(Normalizer.BASIC)("L'été, j'ai vingt-et-un  Œufs.")
        == "l été j ai vingt et un œufs"
    )


def test_no_rules_only_settle_spaces() -> None:
    """`none` compares texts as they are, but for what stands between words."""
    assert normalizer(Normalizer.NONE)(" Twenty-one,\n\tplease! ") == "Twenty-one, please!"


@pytest.mark.parametrize("kind", Normalizer)
def test_references_without_speech_are_left_out(kind: Normalizer) -> None:
    """Nothing, and the mark by which TEDLIUM says that a stretch is not to be scored, under every
    normaliser.
    """
    normalize = normalizer(kind)
    assert [
        is_scored(normalize(text)) for text in ("", " \n", "ignore_time_segment_in_scoring", "word")
    ] == [False, False, False, True]


def test_normalising_loads_no_other_languages() -> None:
    """The package's dependencies for Indic and other number words stay unloaded, and importing the
    package loads neither library.
    """
    code = (
        "import sys, dsmops.scoring as room\nassert not {'jiwer', 'whisper_normalizer', 'datasets'}"
        " & set(sys.modules)\nroom.normalizer(room.Normalizer.ENGLISH)\nprint([name for name in"
        " sys.modules if name.split('.')[0] in ('indic_numtowords', 'text_to_num', 'text2num')])\n"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "[]\n"
    )


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the package and the extra; `none` needs no package."""
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(ExtraMissingError, match="whisper-normalizer") as caught:
        normalizer(Normalizer.ENGLISH)
    assert "dsmops[worker]" in caught.value.hint
    assert normalizer(Normalizer.NONE)("a") == "a"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("the cat is on the mat and it was not what we have", None),
        ("hello", None),
        ("", None),
        ("C'est la vie, et il ne sait pas que vous êtes dans le jardin", "French"),
        ("das ist nicht der Mann und ich bin mit dem Zug auf die Reise", "German"),
        ("съешь ещё этих мягких французских булок", "another alphabet"),
        ("今日は良い天気です", "another alphabet"),
        ("the caf\u00e9 na\u00efve r\u00e9sum\u00e9 is on the table and that is it", None),
    ],
)
def test_the_language_of_references(text: str, language: str | None) -> None:
    """Clear cases only: a wrong warning is worse than none."""
    assert other_language([text]) == language
