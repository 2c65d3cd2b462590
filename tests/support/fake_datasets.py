"""A stand-in for the large, optional package `datasets`: as much of it as dsmops uses."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Rows:
    """As much of a `Dataset` as is used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.casts: list[tuple[str, Any]] = []

    def cast_column(self, column: str, feature: Any) -> Rows:
        self.casts.append((column, feature))
        return self

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class DatasetsError(Exception):
    """The root of the package's own errors, of which some are well-known ones too."""


def install(monkeypatch: pytest.MonkeyPatch, load: Callable[..., Rows]) -> list[str]:
    """Put a module in the place of `datasets`, and return what is said to it besides."""
    said: list[str] = []
    module = ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    module.Audio = lambda *, decode: ("Audio", decode)  # type: ignore[attr-defined]
    module.disable_progress_bars = lambda: said.append("no bars")  # type: ignore[attr-defined]
    module.exceptions = SimpleNamespace(DatasetsError=DatasetsError)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    return said
