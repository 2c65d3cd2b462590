"""A progress bar with rate and time left, on stderr, only once the work has lasted two seconds."""

from __future__ import annotations

import threading
import time
from typing import Any

SHOW_AFTER_S = 2.0


class BarProgress:
    """A `Progress` drawn by rich. Short work never shows a bar, so quick commands stay quiet."""

    def __init__(self, show_after_s: float = SHOW_AFTER_S) -> None:
        self._show_after_s = show_after_s
        self._lock = threading.Lock()
        self._bar: Any = None
        self._task: Any = None
        self._label, self._total, self._unit = "", None, "bytes"  # type: str, int | None, str
        self._done = 0
        self._started_s = 0.0

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.finish()
        with self._lock:
            self._label, self._total, self._unit, self._done = label, total, unit, 0
            self._started_s = time.monotonic()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            if self._bar is None and time.monotonic() - self._started_s >= self._show_after_s:
                self._open()
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done)

    def finish(self) -> None:
        with self._lock:
            if self._bar is not None:
                self._bar.stop()
            self._bar = self._task = None

    def _open(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        amounts: list[ProgressColumn]
        amounts = [DownloadColumn(), TransferSpeedColumn()] if self._unit == "bytes" else [MofNCompleteColumn()]
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            *amounts,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        # The rate counts from the real start, not from the moment the bar appeared.
        self._task = self._bar.add_task(self._label, total=self._total, completed=self._done)
        self._bar.start()
