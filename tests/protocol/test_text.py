"""Texts to synthesize: what is dropped of them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.protocol.text import clean_text

INVISIBLE = "\u200b\u00ad\u202e\ufeff\x00\x1b\x7f\ufe0f"


@pytest.mark.parametrize("character", INVISIBLE)
def test_invisible_characters_are_dropped(character: str) -> None:
    assert clean_text(f"{character}one{character} two{character}") == "one two"


@given(st.text(st.one_of(st.characters(), st.sampled_from(INVISIBLE + " \t\nab"))))
def test_nothing_else_is_dropped(text: str) -> None:
    """White space, halves of surrogate pairs and all that can be seen stay, in their order."""
    composed = unicodedata.normalize("NFC", text)
    kept = [
        character
        for character in composed
        if character.isspace()
        or (
            unicodedata.category(character) not in ("Cc", "Cf")
            and not 0xFE00 <= ord(character) <= 0xFE0F
        )
    ]
    assert clean_text(text) == "".join(kept)
