"""Signals while libsndfile reads.

libsndfile reads through Python functions, and cffi prints and drops an exception that is raised in
one. So the handler of a signal, which may raise, is called when libsndfile is done, or where it
waits for bytes that may never come.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)


class _Deferral:
    """Keeps the signals that come, until their handlers may raise."""

    def __init__(self) -> None:
        self._handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}
        self._came: list[tuple[int, FrameType | None]] = []
        self._is_waiting = False

    def start(self) -> None:
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._on_signal)

    def end(self) -> None:
        """Restore the handlers, and call those of the signals that came."""
        # In the order of _SIGNALS: a handler that raises here leaves only later ones unrestored,
        # and that of Ctrl-C, after which a process may live on, is the last.
        for number, handler in self._handlers.items():
            # A handler that was called may have put back the one before it.
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)
        self._call_handlers()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        self._is_waiting = True
        try:
            self._call_handlers()
            yield
        finally:
            self._is_waiting = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))
        if self._is_waiting:
            self._call_handlers()

    def _call_handlers(self) -> None:
        while self._came:
            number, frame = self._came.pop(0)
            self._handlers[number](number, frame)


_of_main_thread: _Deferral | None = None


@contextmanager
def deferred() -> Iterator[None]:
    """Call the handlers of signals at the end, or in a `wait` inside.

    Only the main thread gets signals; in others this does nothing.
    """
    global _of_main_thread  # noqa: PLW0603 signals are the process's
    if not _is_main_thread() or _of_main_thread is not None:
        yield
        return
    deferral = _of_main_thread = _Deferral()
    try:
        deferral.start()
        yield
    finally:
        _of_main_thread = None
        deferral.end()


@contextmanager
def wait() -> Iterator[None]:
    """Let handlers be called at once, also those that `deferred` kept."""
    deferral = _of_main_thread
    if deferral is None or not _is_main_thread():
        yield
        return
    with deferral.waiting():
        yield


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
