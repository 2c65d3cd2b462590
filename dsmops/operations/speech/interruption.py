"""The first Ctrl-C, or another signal, ends what is being read; what came before is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def wanted_signals() -> list[signal.Signals]:
    """Return the signals of Ctrl-C, a plain kill and a closed terminal.

    Signals that the caller ignores (nohup) are not among them.
    """
    return [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]


def exit_code(name: str) -> int:
    """Return the exit code of a command that the signal of this name ended."""
    return 128 + signal.Signals[name]


class Interruption:
    """Lets the first signal end a stream instead of the process. The second one ends the process.

    `name` is that of the signal, None until one comes; `exit_code` is that of a command which was
    ended so.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._is_reading = False
        self._is_second = True
        self._before: dict[signal.Signals, Any] = {}

    @property
    def has_come(self) -> bool:
        """Whether a signal has come."""
        return self.name is not None

    @property
    def exit_code(self) -> int | None:
        """The exit code, None where no signal has come."""
        return None if self.name is None else exit_code(self.name)

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in wanted_signals():
            self._before[number] = signal.signal(number, self._on_first)

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
        self.name, self._is_second = signal.Signals(number).name, False
        self._restore()
        if self._is_reading:
            raise KeyboardInterrupt

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
