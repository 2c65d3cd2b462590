"""A model's files on another node: taken where they are the same, copied once where not."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from dsmops.errors import IntegrityError
from dsmops.operations.models.stt import SttSource, find_stt
from dsmops.operations.speech.many.model_files import FileServer, ModelFile, describe, staged
from dsmops.worker.tiny.stt import write_tiny_stt


class Home:
    """The node where the files are; it counts the pieces that it gives."""

    def __init__(self, files: list[ModelFile]) -> None:
        self._server = FileServer([file.path for file in files])
        self.asked: list[str] = []

    def ask(self, method: str, *arguments: object) -> object:
        self.asked.append(method)
        return getattr(self._server, method)(*arguments)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SttSource:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_tiny_stt(tmp_path / "model")
    return find_stt(str(tmp_path / "model"))


def test_a_file_that_is_the_same_stays_where_it_is(source: SttSource) -> None:
    """By path, size and time; or by its SHA-256, after a copy that did not keep the time."""
    files = describe(source)
    home = Home(files)
    assert staged(source, files, home.ask) == source
    assert home.asked == []
    os.utime(source.files.lm, ns=(1, 1))
    assert staged(source, files, home.ask) == source
    assert home.asked == ["digest"]


def test_what_differs_is_copied_once_for_all_processes_of_a_node(
    source: SttSource, tmp_path: Path
) -> None:
    """Two ask at once, a third later: the pieces go over once, and the copy has the same bytes."""
    files = describe(source)
    wanted = source.files.lm.read_bytes()
    # Its size is another one on the other node.
    other = [replace(files[0], size_bytes=len(wanted) + 1), *files[1:]]
    home = Home(files)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: staged(source, other, home.ask), range(2)))
    found.append(staged(source, other, home.ask))
    assert home.asked.count("piece") == 2  # the second is empty
    assert len({one.files.lm for one in found}) == 1
    assert found[0].files.lm.is_relative_to(tmp_path / "cache")
    assert found[0].files.lm.read_bytes() == wanted
    assert found[0].files.mimi == source.files.mimi


def test_a_file_that_changes_while_it_is_copied_is_not_taken(
    source: SttSource, tmp_path: Path
) -> None:
    files = [replace(file, size_bytes=0) for file in describe(source)]
    home = Home(files)

    def ask(method: str, *arguments: object) -> object:
        answer = home.ask(method, *arguments)
        if method == "digest":
            source.files.lm.write_bytes(b"another checkpoint")
        return answer

    with pytest.raises(IntegrityError, match="changed while it was copied"):
        staged(source, files, ask)
    assert [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()] == ["lock"]


def test_other_files_are_not_given(source: SttSource) -> None:
    with pytest.raises(KeyError):
        FileServer([source.files.lm]).piece(Path("/etc/passwd"), 0)
