"""Progress as a protocol: rooms report, `report` draws, and silence is the default."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One task at a time: `start` opens it, `advance` moves it, `finish` closes it."""

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        """Begin a task of `total` units (None: unknown). `unit` is `"bytes"` or a plural noun."""

    def advance(self, amount: int) -> None:
        """Move by `amount` units since the last call. May be called from any thread; may be negative when work is redone."""

    def finish(self) -> None:
        """End the task, whether or not it reached its total."""


class _Silent:
    def start(self, label: str, total: int | None, unit: str = "bytes") -> None: ...

    def advance(self, amount: int) -> None: ...

    def finish(self) -> None: ...


SILENT: Progress = _Silent()
