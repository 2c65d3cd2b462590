"""What the server makes of a path-like value."""

import pytest

from dsmops.config.values import resolve, source_problem

ENVIRON = {"HOME": "/home/operator", "EMPTY": "", "A_1": "one"}


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("$HOME/tmp", "/home/operator/tmp"),
        ("$A_1$A_1/x", "oneone/x"),
        ("$EMPTY/x", "/x"),
        ("${HOME}/x", "${HOME}/x"),
        ("~/x", "~/x"),
        ("$1x", "$1x"),
        ("100$", "100$"),
        ("hf://org/repo/$HOME", "hf://org/repo/$HOME"),
    ],
)
def test_values_become_what_the_server_sees(value: str, seen: str) -> None:
    """Only $NAME is expanded, and not in hf:// names."""
    assert resolve(value, ENVIRON).text == seen


def test_an_unset_variable_becomes_nothing_and_is_named_once() -> None:
    """The server puts an empty string in its place, without a word."""
    found = resolve("$NOPE/$NOPE/$EMPTY", ENVIRON)
    assert found.text == "//"
    assert found.unset == ("NOPE",)


def test_spellings_that_are_not_expanded_are_told() -> None:
    """A tilde counts at the beginning only, after expansion as well."""
    assert resolve("${HOME}/${X}", ENVIRON).braced == ("${HOME}", "${X}")
    assert resolve("~/x", ENVIRON).tilde
    assert resolve("$EMPTY~/x", ENVIRON).tilde
    assert not resolve("a~/x", ENVIRON).tilde
    assert not resolve("~user/x", ENVIRON).tilde


@pytest.mark.parametrize(
    "value", ["plain/path", "hf://org/repo/file", "hf://org/repo/folder/file@1.safetensors"]
)
def test_a_file_of_a_repository_is_fetched(value: str) -> None:
    """Three segments or more; an @ in the file name is part of it.

    Local paths do not concern the hub.
    """
    assert source_problem(value) == ""


@pytest.mark.parametrize(
    "value",
    [
        "hf://",
        "hf://org",
        "hf://org/repo",
        "hf://org/repo/",
        "hf://org//file",
        "hf://org/repo@v1/file",
        "hf-snapshot://org/repo",
    ],
)
def test_what_the_server_cannot_fetch_is_said(value: str) -> None:
    """Too few segments, empty ones, revisions, which the server does not know, and whole
    repositories.
    """
    assert source_problem(value)
