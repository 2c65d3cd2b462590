"""A line on a terminal while a command starts, until something else is shown."""

from __future__ import annotations

import os
import sys
import threading

SHOW_AFTER_S = 0.4
"""A second of silence, less what Python takes before."""
_LIBRARY = "torch"
_ERASE = "\r\x1b[K"


class StartingLine:
    """Shows on stderr that the program starts, or that it imports torch.

    Importing torch takes seconds in which no other thread runs, so that no bar can appear. The line
    is therefore shown before: the import system asks this object where torch is. The cursor goes
    back to the first column, and whatever is printed next covers the line.
    """

    def __init__(self, show_after_s: float = SHOW_AFTER_S) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._is_shown = False
        self._timer = threading.Timer(show_after_s, self._show_if_silent)
        self._timer.daemon = True
        self._timer.start()
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:  # noqa: ARG002 as the import system calls it
        """Find nothing; show that torch is about to be imported."""
        if name == _LIBRARY and self._is_own_process():
            with self._lock:
                self._show("Loading PyTorch ...")

    def erase(self) -> None:
        """Remove the line, because something else is shown now."""
        if not self._is_own_process():
            return
        self._timer.cancel()
        with self._lock:
            if self._is_shown:
                sys.stderr.write(_ERASE)
                sys.stderr.flush()
                self._is_shown = False

    def end(self) -> None:
        """Remove the line, and stop showing it."""
        self.erase()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def _show_if_silent(self) -> None:
        with self._lock:
            if not (self._is_shown or self._timer.finished.is_set()):
                self._show("Starting ...")

    def _show(self, text: str) -> None:
        sys.stderr.write(f"{text}\r")
        sys.stderr.flush()
        self._is_shown = True

    def _is_own_process(self) -> bool:
        """Return False in a fork, where the lock may stay held."""
        return os.getpid() == self._process
