"""Progress as a protocol: packages report, `report` draws, and silence is the default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """What long work tells the user: what it is about to download, and how far it is.

    One task at a time: `start` opens it, `advance` moves it, `finish` closes it.
    """

    def announce(self, lines: Iterable[str]) -> None:
        """Show what is about to happen, before it begins."""

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a task of `total` units (None: unknown).

        `unit` is `"bytes"`, a plural noun, or empty for work that counts nothing.
        """

    def advance(self, amount: int) -> None:
        """Move by `amount` units since the last call.

        Any thread may call it. A negative amount means that work is done again.
        """

    def gauge(self, share: float, figures: str) -> None:
        """Say how much of the task is done, 0 to 1, where its units take different times.

        `figures` are shown beside it, in place of the units a second.
        """

    def finish(self) -> None:
        """End the task, whether or not it reached its total."""


class SilentProgress:
    """Shows nothing. Base class of those that show a part."""

    def announce(self, lines: Iterable[str]) -> None: ...

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None: ...

    def advance(self, amount: int) -> None: ...

    def gauge(self, share: float, figures: str) -> None: ...

    def finish(self) -> None: ...


SILENT: Progress = SilentProgress()


@contextmanager
def waiting(progress: Progress, label: str) -> Iterator[None]:
    """Show that something takes its time and counts nothing, such as a model that loads."""
    progress.start(label, None, "")
    try:
        yield
    finally:
        progress.finish()
