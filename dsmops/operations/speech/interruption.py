"""The first Ctrl-C, or another signal, ends what is being read; what came before is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

_Item = TypeVar("_Item")
ALL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Lets the first signal end a stream instead of the process. The second one ends the process.

    `exit_code` is that of a command which was ended so, None until a signal comes.
    """

    def __init__(self, numbers: Sequence[signal.Signals] = (signal.SIGINT,)) -> None:
        self._numbers = numbers
        self.exit_code: int | None = None
        self._is_reading = False
        self._is_second = True
        self._before: dict[signal.Signals, Any] = {}

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self.exit_code is not None

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._numbers:
            before = signal.getsignal(number)
            # What the caller wants ignored (nohup) stays ignored.
            if before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._on_first)

    def __exit__(self, *_: object) -> None:
        self._restore()

    def until(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yield items until a signal, which also ends the wait for a source that gives nothing."""
        while not self.has_come:
            self._is_reading = True
            try:
                item = next(items, None)
            except KeyboardInterrupt:
                if self._is_second:
                    raise
                return
            finally:
                self._is_reading = False
            if item is None:
                return
            yield item

    def _on_first(self, number: int, *_: object) -> None:
        self.exit_code, self._is_second = 128 + number, False
        self._restore()
        if self._is_reading:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
