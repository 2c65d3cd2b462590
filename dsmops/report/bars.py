"""A progress bar with rate and time left, on stderr, only once the work has lasted two seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dsmops.report.terminal import one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOW_AFTER_S = 2.0


class BarProgress:
    """A `Progress` drawn by rich. Short work never shows a bar, so quick commands stay quiet."""

    def __init__(
        self, note: Callable[[str], None] = lambda _: None, *, show_after_s: float = SHOW_AFTER_S
    ) -> None:
        self._note = note
        self._show_after_s = show_after_s
        self._lock = threading.Lock()
        self._drawn: tuple[Progress, TaskID] | None = None
        self._label = ""
        self._total: int | None = None
        self._unit = "bytes"
        self._done = 0
        self._started_s = 0.0

    def announce(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._note(one_line(line))

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.finish()
        with self._lock:
            self._label, self._total, self._unit, self._done = label, total, unit, 0
            self._started_s = time.monotonic()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            if self._drawn is None and time.monotonic() - self._started_s >= self._show_after_s:
                self._drawn = self._open()
            if self._drawn is not None:
                bar, task = self._drawn
                bar.update(task, completed=self._done)

    def finish(self) -> None:
        with self._lock:
            if self._drawn is not None:
                self._drawn[0].stop()
            self._drawn = None

    def _open(self) -> tuple[Progress, TaskID]:
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
        amounts = (
            [DownloadColumn(), TransferSpeedColumn()]
            if self._unit == "bytes"
            else [MofNCompleteColumn()]
        )
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amounts,
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        # What was done before the bar appeared counts too. A label may hold any file name.
        task = bar.add_task(printable(self._label), total=self._total, completed=self._done)
        bar.start()
        return bar, task
