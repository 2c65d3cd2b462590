"""A progress bar with rate and time left, on stderr, once the work has lasted half a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dsmops.report.terminal import one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

SHOW_AFTER_S = 0.5
"""A second of silence, less what Python and the imports of a command take before."""


class BarProgress:
    """A `Progress` drawn by rich. Short work never shows a bar, so quick commands stay quiet."""

    def __init__(
        self,
        note: Callable[[str], None] = lambda _: None,
        *,
        show_after_s: float = SHOW_AFTER_S,
        before_drawing: Callable[[], None] = lambda: None,
    ) -> None:
        self._note = note
        self._before_drawing = before_drawing
        self._show_after_s = show_after_s
        self._lock = threading.Lock()
        self._drawn: tuple[Progress, TaskID] | None = None
        self._label = ""
        self._total: int | None = None
        self._unit = "bytes"
        self._done = 0
        self._share: float | None = None
        self._figures = ""
        self._started_s = 0.0
        self._timer: threading.Timer | None = None

    def announce(self, lines: Iterable[str]) -> None:
        for line in lines:
            self._note(one_line(line))

    def start(self, label: str, total: int | None, unit: str = "bytes") -> None:
        self.finish()
        with self._lock:
            self._label, self._total, self._unit, self._done = label, total, unit, 0
            self._share, self._figures = None, ""
            self._started_s = time.monotonic()
            # Work that makes no step in its first second must not look as if nothing happened.
            self._timer = threading.Timer(self._show_after_s, self._show)
            self._timer.daemon = True
            self._timer.start()

    def _show(self) -> None:
        with self._lock:
            if self._drawn is None and self._timer is threading.current_thread():
                self._drawn = self._open()

    def advance(self, amount: int) -> None:
        with self._lock:
            self._done += amount
            self._update()

    def gauge(self, share: float, figures: str) -> None:
        with self._lock:
            self._share, self._figures = share, figures
            self._update()

    def _update(self) -> None:
        if self._drawn is None and time.monotonic() - self._started_s >= self._show_after_s:
            self._drawn = self._open()
        if self._drawn is not None:
            bar, task = self._drawn
            bar.update(task, completed=self._completed, done=self._done, figures=self._figures)

    @property
    def _completed(self) -> float:
        """How far the bar is, in units; the time left follows from it."""
        if self._share is None or self._total is None:
            return self._done
        return self._share * self._total

    def finish(self) -> None:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._drawn is not None:
                self._drawn[0].stop()
            self._drawn = None

    def _open(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            ProgressColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
        from rich.text import Text

        unit = self._unit

        class RateColumn(ProgressColumn):
            """Units a second."""

            def render(self, task: Task) -> Text:
                if task.fields["figures"]:
                    return Text(f"{unit}, {task.fields['figures']}")
                speed = task.finished_speed or task.speed
                return Text(f"{unit}, {speed:.3g}/s" if speed else unit)

        class CountColumn(ProgressColumn):
            """Units that are done, of all; the bar may go by something else."""

            def render(self, task: Task) -> Text:
                total = "?" if task.total is None else f"{task.total:.0f}"
                return Text(f"{task.fields['done']}/{total}")

        amounts: list[ProgressColumn] = [TimeElapsedColumn()]
        if self._unit == "bytes":
            amounts = [DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
        elif self._unit:
            amounts = [CountColumn(), RateColumn(), TimeRemainingColumn()]
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *amounts,
            console=Console(stderr=True),
            transient=True,
        )
        # What was done before the bar appeared counts too. A label may hold any file name.
        task = bar.add_task(
            printable(self._label),
            total=self._total,
            done=self._done,
            figures=self._figures,
        )
        bar.update(task, completed=self._completed)
        self._before_drawing()
        bar.start()
        return bar, task
