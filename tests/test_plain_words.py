"""The check for words that dsmops no longer uses."""

from pathlib import Path

import pytest

from tools.plain_words import GLOSSARY, find_hits, prose_of_markdown, prose_of_python, read_rules

RULES = read_rules(GLOSSARY.read_text(encoding="utf-8"))


def found(text: str) -> list[str]:
    """Return what the rules of the glossary match in `text`."""
    return [match[0] for rule in RULES for match in rule.find(text)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The card shall serve.", "shall"),
        ("Nobody reads it.", "Nobody"),
        ("a file that is none", "is none"),
        ("a path that is\nno file", "is\nno"),
        ("leave the option away", "leave the option away"),
        ("write what was said down", "write what was said down"),
        ("at 2 RTF", "RTF"),
    ],
)
def test_a_word_of_the_list_is_found(text: str, words: str) -> None:
    """Across a line break and with words between, in any case."""
    assert found(text) == [words]


@pytest.mark.parametrize(
    "text",
    [
        "there is no file",
        "it is no longer used",
        "`dtype` is None",
        "~nobody-of-that-name",
        "the check open-door",
        "no room for the file",
        "clipped samples, overflow, marshalled",
    ],
)
def test_the_exceptions_and_parts_of_names_are_not_found(text: str) -> None:
    """Nothing that has the word only as a part, and nothing that the table excepts."""
    assert found(text) == []


def test_markdown_in_backticks_is_not_checked() -> None:
    """Pages may quote a command or a message. Lines keep their numbers."""
    page = "a\n```text\nnobody\n```\nb `nobody` c\nnobody\n"
    ((first, prose),) = prose_of_markdown(page)
    assert first == 1
    assert [line for line in prose.split("\n") if "nobody" in line] == ["nobody"]
    assert prose.count("\n") == page.count("\n")


def test_a_string_that_is_split_is_data() -> None:
    """A word list is not prose, whether it is split at once or by its name; a message is."""
    code = 'A = "nobody whoever".split()\nB = "nobody x"\nC = B.splitlines()\nD = "whoever reads"\n'
    assert [text for _, text in prose_of_python(code, strings=True)] == ["whoever reads"]
    code = 'A = "a message".strip()\n'
    assert [text for _, text in prose_of_python(code, strings=True)] == ["a message"]


def test_python_gives_docstrings_comment_blocks_and_sentences() -> None:
    """Strings without a space are names; in tests, other strings than docstrings are data."""
    code = 'def f():\n    """Doc."""\n    # one\n    # two\n    return "a b", "name"\n'
    assert sorted(prose_of_python(code, strings=True)) == [(3, "one\ntwo"), (5, "a b")]
    assert sorted(prose_of_python(code.replace("Doc.", "Two words."), strings=False)) == [
        (2, "Two words."),
        (3, "one\ntwo"),
    ]


def test_a_hit_names_file_line_and_what_to_write() -> None:
    """In a real file: the one in the tests' data."""
    (hit,) = find_hits(Path(__file__).parent / "data" / "words" / "page.md", RULES)
    assert str(hit) == "tests/data/words/page.md:3: 'shall'; write: must, will"
