"""Text to entries: scripts as upstream's package reads them, streams as moshi-server does."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import InputError
from dsmops.protocol.text import with_server_breaks
from dsmops.worker.models.tokenizer import TextTokenizer
from dsmops.worker.runtime.tts.machine import TtsEntry
from dsmops.worker.runtime.tts.script import LONGEST_WORD, TtsTextStream, script_entries
from dsmops.worker.tiny.stt import TinyStt
from tests.support.engines import Letters

LETTERS = Letters()
SPACES = st.text(" \t\n\u00a0\u2003", min_size=1, max_size=3)
SAID = st.text("ab'’:()é", min_size=1, max_size=6)
SECONDS = st.sampled_from(["0", "0.5", "1", "1.25", "3.", "12", "0.04", "0.01"])
"""Upstream's package rounds to the nearest step, moshi-server and we round down, to one at least.
"""
TAGS = st.builds(
    lambda gap, seconds, end: f'<break{gap}time="{seconds}s"{end}>',
    SPACES,
    SECONDS,
    st.sampled_from(["/", " /"]),
)
TEXTS = st.lists(st.one_of(SAID, SAID, SPACES, TAGS, st.just("–")), max_size=14).map("".join)


class AllLetters(Letters):
    """Every character is a token; the apostrophe and what else is not a small letter come after
    these.
    """

    def encode(self, text: str) -> list[int]:
        return [
            ord(letter) - ord("a") + 4 if "a" <= letter <= "z" else 40 + ord(letter)
            for letter in text
        ]


ALL = AllLetters()


def words(entries: list[TtsEntry]) -> list[str]:
    return [entry.text for entry in entries]


@pytest.fixture(scope="module")
def tokenizer(tiny_stt: TinyStt) -> TextTokenizer:
    """A real SentencePiece model, which knows Latin letters and little else."""
    return TextTokenizer(tiny_stt.files.tokenizer)


def test_a_script_is_words_with_the_speakers_before_their_turns() -> None:
    """Only where the speaker changes; a turn without words changes no speaker; padding counts the
    speaker's token.
    """
    entries = script_entries(["ab c", "", "d", "e f", "", "g"], LETTERS)
    assert entries == [
        TtsEntry((1, 4, 5), "ab", 3),
        TtsEntry((6,), "c", 1),
        TtsEntry((7,), "d", 1),
        TtsEntry((2, 8), "e", 2),
        TtsEntry((9,), "f", 1),
        TtsEntry((10,), "g", 1),
    ]
    assert script_entries(["", "a"], LETTERS) == [TtsEntry((2, 4), "a", 2)]


def test_pauses_of_a_script_are_entries_without_text() -> None:
    """With or without the slash, glued to words or not, rounded to steps of 80 ms."""
    entries = script_entries(['a<break time="0.5s"/>b <break   time="2s"> c'], LETTERS)
    assert [(entry.text, entry.padding) for entry in entries if not entry.tokens] == [
        ("", 6),
        ("", 25),
    ]
    assert words(entries) == ["a", "", "b", "", "c"]


@pytest.mark.parametrize(("padding_between", "padding"), [(0, 0), (1, 3), (3, 5)])
def test_padding_grows_with_the_word(padding_between: int, padding: int) -> None:
    """None at all where none is wanted."""
    assert script_entries(["ab"], LETTERS, padding_between=padding_between) == [
        TtsEntry((1, 4, 5), "ab", padding)
    ]
    assert TtsTextStream(LETTERS, padding_between=padding_between).take("ab") == [
        TtsEntry((1, 4, 5), "ab", padding)
    ]


@pytest.mark.parametrize("text", ["", " \n\t ", "( ) :"])
def test_nothing_to_say_is_no_entry(text: str) -> None:
    """For a script and a stream; the speaker's token waits for a word."""
    assert script_entries([text], LETTERS) == []
    stream = TtsTextStream(LETTERS)
    assert stream.take(text) == []
    assert stream.take("a") == [TtsEntry((1, 4), "a", 2)]


def test_a_stream_reads_text_as_moshi_server_does() -> None:
    """Dashes go, a pause is reported as a word, has at least a step and ten seconds at most; one
    without length is not a pause.
    """
    stream = TtsTextStream(LETTERS)
    assert stream.take('a–b:c<break time="0.5s"/>') == [
        TtsEntry((1, 4, 5), "ab", 3),
        TtsEntry((6,), "c", 1),
        TtsEntry((), '<break time="0.50s">', 6),
    ]
    pauses = stream.take('<break time="0.01s"/><break time="60s"/><break time="0s"/>')
    assert pauses == [
        TtsEntry((), '<break time="0.01s">', 1),
        TtsEntry((), '<break time="60.00s">', 125),
    ]


def server_entries(text: str) -> list[TtsEntry]:
    """moshi-server's own reading of a whole text, written down a second time."""
    entries: list[TtsEntry] = []
    for part in re.split(r'(<break\s+time="[0-9.]+s"\s*/>)', text):
        if part.startswith("<break"):
            seconds = float(part.split('"')[1].rstrip("s"))
            if seconds > 0:
                entries.append(
                    TtsEntry(
                        (), f'<break time="{seconds:.2f}s">', max(int(min(seconds, 10) * 12.5), 1)
                    )
                )
        else:
            for said in re.sub("[()–]", "", part.replace("’", "'").replace(":", " ")).split():
                tokens = [1] * (not any(entry.tokens for entry in entries)) + ALL.encode(said)
                entries.append(TtsEntry(tuple(tokens), said, len(tokens)))
    return entries


@given(text=TEXTS)
def test_a_stream_in_one_piece_is_moshi_servers_reading(text: str) -> None:
    """Every text of words and pauses."""
    assert TtsTextStream(ALL).take(text) == server_entries(text)


@given(text=TEXTS, data=st.data())
def test_pieces_cut_at_spaces_and_in_pauses_give_the_same_entries(
    text: str, data: st.DataObject
) -> None:
    """Clients split at spaces, which they may drop, and need not know what a pause looks like."""
    whole = TtsTextStream(ALL).take(text)
    in_tags = [
        at for tag in re.finditer(r"<[^>]*>", text) for at in range(tag.start(), tag.end() + 1)
    ]
    at_spaces = [at for space in re.finditer(r"\s+", text) for at in (space.start(), space.end())]
    cuts = sorted(data.draw(st.sets(st.sampled_from([0, *in_tags, *at_spaces]), max_size=12)))
    stream = TtsTextStream(ALL)
    entries = []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece = text[begin:end]
        entries += stream.take(piece.strip() if data.draw(st.booleans()) else piece)
    assert entries + stream.close() == whole


def test_a_client_that_splits_at_spaces_may_send_pauses() -> None:
    """Upstream's client sends word by word, and knows nothing of tags."""
    text = 'ab <break  time="0.5s"  /> c<break time="1s"/>d'
    stream = TtsTextStream(ALL)
    assert [entry for piece in text.split() for entry in stream.take(piece)] == server_entries(text)


def test_every_piece_ends_a_word() -> None:
    """As clients send words without spaces; an opening bracket that began no pause is a word
    too.
    """
    stream = TtsTextStream(ALL)
    assert words([*stream.take("ab"), *stream.take("cd")]) == ["ab", "cd"]
    assert words(
        [*stream.take("a <"), *stream.take("c"), *stream.take("<br"), *stream.close()]
    ) == ["a", "<", "c", "<br"]
    assert stream.close() == []


@pytest.mark.parametrize(
    "text",
    [
        "<break>",
        "<break time=1s/>",
        '<break time="1.2.3s"/>',
        '<break time="."s/>',
        'a<break time="s"/>',
    ],
)
def test_a_pause_that_is_none_is_named(text: str) -> None:
    """It is not said aloud, nor dropped."""
    with pytest.raises(InputError, match="pause") as stream:
        TtsTextStream(ALL).take(f"a {text} b")
    assert "<break time=" in stream.value.hint
    with pytest.raises(InputError, match="pause"):
        script_entries([f"a {text} b"], ALL)


def test_a_refused_piece_is_lost_whole(tokenizer: TextTokenizer) -> None:
    """The beginning of a pause in it, too."""
    stream = TtsTextStream(tokenizer)
    with pytest.raises(InputError):
        stream.take("a <break>b <break")
    assert words(stream.take("hello ")) == ["hello"]


def test_a_pause_that_was_not_finished_is_named_at_the_end() -> None:
    """When no more text comes."""
    stream = TtsTextStream(ALL)
    assert stream.take('<break time="1') == []
    with pytest.raises(InputError, match="pause"):
        stream.close()


def test_a_script_takes_no_pause_that_the_model_cannot_bridge() -> None:
    """More than a minute is refused, with its length."""
    with pytest.raises(InputError, match="pause of 61 s"):
        script_entries(['a <break time="61s"/> b'], LETTERS)
    with pytest.raises(InputError, match="pause of inf s"):
        script_entries([f'a <break time="{"9" * 400}s"/> b'], LETTERS)


def test_unknown_characters_are_skipped_and_counted(tokenizer: TextTokenizer) -> None:
    """The words before and behind stay, and so does what is known of a word; both readings
    alike.
    """
    text = "hello 日本語 world naïve🙂 日 \ud800 you"
    skipped: Counter[str] = Counter()
    entries = script_entries([text], tokenizer, skipped=skipped)
    assert words(entries) == ["hello", "world", "nave", "you"]
    assert skipped == Counter("日本語ï🙂日\ud800")
    stream = TtsTextStream(tokenizer)
    assert stream.take(text) == entries
    assert stream.skipped == skipped
    assert stream.take("日") == []
    assert stream.skipped.total() == 8


def test_a_text_of_unknown_characters_has_no_entries(tokenizer: TextTokenizer) -> None:
    """However long it is, each is looked up once; the speaker's token waits for a word."""
    stream = TtsTextStream(tokenizer)
    assert stream.take("語" * 100_000) == []
    assert stream.skipped["語"] == 100_000
    assert stream.take("a")[0].tokens[0] == 1


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("cafe\u0301", "caf\u00e9"),
        ("a\u200bb\ufeffc\u00add", "abcd"),
        ("\u202eab\u202c \u2066c\u2069", "ab c"),
        ("a\u2764\ufe0fb\x00\x1b", "a\u2764b"),
        ("a\u00a0b\u2028c", "a b c"),
    ],
)
def test_text_is_composed_and_invisible_characters_are_dropped(text: str, same: str) -> None:
    """A pasted accent in two characters, zero-width spaces, direction marks, soft hyphens."""
    assert script_entries([text], ALL) == script_entries([same], ALL)
    assert TtsTextStream(ALL).take(text) == TtsTextStream(ALL).take(same)


@pytest.mark.parametrize("seconds", ["0", "0.01", "0.04", "0.5", "0.6", "1", "1.25", "9.99", "10"])
def test_a_pause_has_as_many_steps_in_a_script_as_in_a_stream(seconds: str) -> None:
    """Rounded down, one at least, as in moshi-server."""
    text = f'a <break time="{seconds}s"/> b'
    script, stream = script_entries([text], ALL), TtsTextStream(ALL).take(text)
    assert [entry.padding for entry in script] == [entry.padding for entry in stream]


@pytest.mark.parametrize("seconds", ["0.5", "9", "10", "25", "59.96", "60."])
def test_a_pause_for_a_server_is_as_long_as_here(seconds: str) -> None:
    """moshi-server shortens one to ten seconds, so a longer one is sent as several."""
    text = f'a <break time="{seconds}s"> b'
    sent = with_server_breaks(text)
    pauses = [entry for entry in TtsTextStream(ALL).take(sent) if not entry.tokens]
    here = [entry for entry in script_entries([text], ALL) if not entry.tokens]
    assert all(entry.padding <= 125 for entry in pauses)
    assert sum(entry.padding for entry in pauses) == here[0].padding
    with pytest.raises(InputError, match="61 s is too long"):
        with_server_breaks('<break time="61s"/>')


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hello world " * 8334, 16_668),
        ("a" * 100_000, -(-100_000 // LONGEST_WORD)),
        ('a <break time="1s"/>' * 5000, 10_000),
        (" " * 100_000, 0),
    ],
)
def test_a_hundred_kilobytes_are_taken(tokenizer: TextTokenizer, text: str, count: int) -> None:
    """In one piece, by both readings."""
    assert len(script_entries([text], tokenizer)) == count
    assert len(TtsTextStream(tokenizer).take(text)) == count


@pytest.mark.parametrize("text", ["<break " * 15_000, "<break" + " " * 100_000])
def test_a_hundred_kilobytes_of_unfinished_pauses_are_refused(
    tokenizer: TextTokenizer, text: str
) -> None:
    """The beginnings of pauses that never come cost no more than other text."""
    with pytest.raises(InputError):
        script_entries([text], tokenizer)
    stream = TtsTextStream(tokenizer)
    with pytest.raises(InputError):
        stream.take(text + "x")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["<" * 100_000, "< " * 50_000])
def test_a_hundred_kilobytes_of_brackets_are_skipped(tokenizer: TextTokenizer, text: str) -> None:
    """This tokenizer does not know them."""
    assert script_entries([text], tokenizer) == []
    assert words(TtsTextStream(tokenizer).take(text + "x")) == ["x"]


@pytest.mark.parity
@given(turns=st.lists(TEXTS, max_size=4), padding_between=st.integers(0, 2))
def test_a_script_is_read_as_upstream_reads_it(turns: list[str], padding_between: int) -> None:
    """Tokens, texts and padding of words, turn by turn.

    Pauses apart: upstream rounds their steps.
    """
    upstream: Any = pytest.importorskip(
        "moshi.models.tts", reason="the moshi package is not installed"
    )
    theirs = upstream.script_to_entries(
        ALL, upstream.TokenIds(50), 12.5, turns, padding_between=padding_between
    )
    ours = script_entries(turns, ALL, padding_between=padding_between)
    assert [entry for entry in ours if entry.tokens] == [
        TtsEntry(tuple(entry.tokens), entry.text, entry.padding) for entry in theirs if entry.tokens
    ]


@pytest.mark.parametrize("letters", [LONGEST_WORD, LONGEST_WORD + 1, 3 * LONGEST_WORD])
def test_a_word_without_an_end_becomes_several(tokenizer: TextTokenizer, letters: int) -> None:
    word = ("abcdefgh" * letters)[:letters]
    for entries in (script_entries([word], tokenizer), TtsTextStream(tokenizer).take(word)):
        assert len(entries) == -(-letters // LONGEST_WORD)
        assert "".join(entry.text for entry in entries) == word


def test_a_number_without_an_end_is_no_pause_at_once() -> None:
    """Digits are not counted through again from each of them: 100 kB of them would take minutes."""
    with pytest.raises(InputError, match="begins no pause"):
        script_entries([f'<break time="{"1" * 100_000}'], LETTERS)
