"""`voices` and `runbook`: what a newcomer looks up."""

from pathlib import Path

import pytest

from tests.support.cli import dsmops
from tests.support.served_tiny import write_config


def test_voices_of_the_shipped_model(tmp_path: Path) -> None:
    listed = dsmops("voices", "--model", "tiny")
    assert (listed.code, listed.stdout) == (0, "hibari (default)\nhibari-low\n"), listed.stderr
    one = dsmops("voices", "LOW", "--model", "tiny", "--json").document
    assert (one["voices"], one["default_voice"]) == (["hibari-low"], "hibari")
    of_config = dsmops("voices", "--model", write_config(tmp_path))
    assert of_config.stdout == listed.stdout


def test_no_voice_and_no_model() -> None:
    assert dsmops("voices", "no such voice", "--model", "tiny").stdout == "no voice matches\n"
    assert dsmops("voices", "--model", "tyni").code == 3
    assert dsmops("voices", "--model", "stt-1b-en_fr").code == 3


def test_every_page_is_listed_and_shown() -> None:
    pages = dsmops("runbook", "--json").document["pages"]
    names = [page["name"] for page in pages]
    assert {"smoke-test", "glossary", "page"} <= set(names)
    shown = dsmops("runbook", "smoke-test")
    text = next(page["text"] for page in pages if page["name"] == "smoke-test")
    assert shown.stdout == text


@pytest.mark.parametrize("name", ["runbooks/smoke-test.md", "smoke-test#words", "smoke-test"])
def test_a_page_is_found_as_hints_write_it(name: str) -> None:
    assert dsmops("runbook", name).stdout.startswith("# ")


def test_an_unknown_page_names_the_nearest() -> None:
    run = dsmops("runbook", "smoke-tset")
    assert run.code == 3
    assert "smoke-test" in run.stderr
