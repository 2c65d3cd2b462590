"""Progress that a test can look at."""

from __future__ import annotations

from collections.abc import Iterable

from dsmops.progress import SilentProgress


class RecordedProgress(SilentProgress):
    """Keeps every announcement, as the list of its lines."""

    def __init__(self) -> None:
        self.announced: list[list[str]] = []

    def announce(self, lines: Iterable[str]) -> None:
        self.announced.append(list(lines))
