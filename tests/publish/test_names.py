"""Which files are logs, what keys look like, and which names may be restored."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import InputError
from dsmops.publish.names import (
    MAX_PART_BYTES,
    body_key,
    family,
    is_log,
    matches_any,
    parse_body_key,
    require_safe,
    with_mark,
)

DIGEST = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


@pytest.mark.parametrize(
    "name",
    [
        "log.config-stt-en_fr-lowram-sm75.2025-11-15",
        "log.stt",
        "log.stt.1",
        "log.stt.2025-11-15.gz",
        "log.stt.12.zst",
        "friendly-log.stt.2025-11-15",
        "friendly-anything",
        "server.log",
        "server.log.3",
        "server.log-20251115.gz",
        "log.stt.jsonl",
    ],
)
def test_names_of_logs(name: str) -> None:
    """Server logs, friendly logs and common logs, with rotation and compression endings, are
    logs.
    """
    assert is_log(name)


@pytest.mark.parametrize(
    "name",
    [
        "stt-asr-1731659943-123456.json",
        "stt-asr-1731659943-123456.0.safetensors",
        "log.stt.safetensors",
        "log.capture.json",
        "log.capture.json.1",
        "friendly-voice.wav",
        "log.voice.MP3",
        "friendly-query.json.gz",
        "log.audio.opus.zst",
        "log.capture.json.bak",
        "log.capture.json~",
        "log.stt.safetensors.part",
        "log.voice.wav.xz",
        "notes.txt",
        "config.toml",
        "core.1234",
        "logs",
        ".log.stt.dsmops-partial",
        ".hidden.log",
        "",
    ],
)
def test_names_that_are_no_logs(name: str) -> None:
    """Captures and audio are never logs, whatever surrounds the ending; nor are hidden and unknown
    files.
    """
    assert not is_log(name)


@pytest.mark.parametrize(
    "name",
    ["log.x", "log.x.1", "log.x.2025-11-15", "log.x.2025-11-15.7", "log.x-20251115", "log.x.3.gz"],
)
def test_rotations_share_a_family(name: str) -> None:
    """All ages of one log have one family."""
    assert family(name) == "log.x"


def test_patterns_fit_the_path_or_its_last_part() -> None:
    """`*.json` finds a file in any folder; a pattern with a folder finds it only there."""
    assert matches_any("a/b.json", ["*.json"])
    assert matches_any("a/b.json", ["a/*"])
    assert not matches_any("a/b.json", ["b"])


@given(
    st.text(min_size=1).filter(
        lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
    ),
    st.integers(0, 99),
)
def test_a_key_tells_name_digest_and_rules(name: str, rules: int) -> None:
    """Any name survives the way into a key and back, and the key is plain ASCII."""
    key = body_key(name, DIGEST, rules)
    assert key.isascii()
    assert key.isprintable()
    assert parse_body_key(key) == (name, DIGEST, rules)


def test_a_name_that_is_no_utf_8_survives() -> None:
    """File names are bytes; one that no encoding explains still comes back the same."""
    name = os.fsdecode(b"log.\xff\xfe")
    assert parse_body_key(body_key(name, DIGEST, 1)) == (name, DIGEST, 1)


@pytest.mark.parametrize(
    "key",
    [
        f"bodies/rules-1/{DIGEST}/../../x",
        f"bodies/rules-1/{DIGEST}/a//b",
        f"bodies/rules-1/{DIGEST}/",
        f"bodies/rules-0/{DIGEST}/a",
        f"bodies/rules-{10**20}/{DIGEST}/a",
        f"bodies/rules-1/{DIGEST[:-1]}/a",
        f"bodies/rules-1/{DIGEST.upper()}/a",
        f"other/rules-1/{DIGEST}/a",
        f"../bodies/rules-1/{DIGEST}/a",
        "",
    ],
)
def test_what_is_no_body_key(key: str) -> None:
    """Keys that climb, lack a part or have another shape are not taken for bodies."""
    assert parse_body_key(key) is None


@pytest.mark.parametrize(
    "name",
    [
        *(
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a//b",
            "./a",
            "a/.",
            "",
            ".bashrc",
            ".ssh/authorized_keys",
            "a/.b",
        ),
        *(
            "a\\b",
            "a\nb",
            "a\x00b",
            "\x1b[2Jx",
            "\x9b2Jx",
            "\ud800",
            "\udc00",
            "x" * (MAX_PART_BYTES + 1),
        ),
    ],
)
def test_hostile_names_are_refused(name: str) -> None:
    """A name that is absolute, climbs out, is hidden, cannot be a file's name or holds control
    characters is not restored.
    """
    with pytest.raises(InputError, match="not safe"):
        require_safe(name)


@pytest.mark.parametrize(
    "name",
    ["log.x", "a b/log.ü", "-rf.log", "log..x", os.fsdecode(b"log.\xff"), "x" * MAX_PART_BYTES],
)
def test_odd_but_harmless_names_are_restored(name: str) -> None:
    """Spaces, other scripts, dashes and bytes that are not UTF-8 are valid names of logs."""
    assert str(require_safe(name)) == name


def test_marks_keep_the_compression_ending_and_avoid_taken_names() -> None:
    """The mark goes before `.gz`, and grows when the short one is taken."""
    assert with_mark("log.x.5", DIGEST, ()) == "log.x.5.~5891b5b5"
    assert with_mark("log.x.5.gz", DIGEST, ()) == "log.x.5.~5891b5b5.gz"
    assert with_mark("log.x", DIGEST, {"log.x.~5891b5b5"}) == "log.x.~5891b5b522d5df08"
