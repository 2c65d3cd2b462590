"""dsmops' own logging: the `dsmops` logger, on stderr, warnings and up unless told otherwise."""

from __future__ import annotations

import logging
import sys

from dsmops.report.terminal import one_line, printable


class _StderrHandler(logging.Handler):
    """A handler that writes to the current stderr.

    So lines go above a bar that is being drawn.
    """

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(printable(self.format(record)) + "\n")


class _Sentence(logging.Formatter):
    """`warning: ...`, as the reporter writes `error: ...`."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(f"{record.levelname.lower()}: {record.getMessage()}")


def setup_logging(*, debug: bool, quiet: bool = False) -> None:
    """Send the `dsmops` logger to stderr.

    It shows warnings, only errors when `quiet`, everything when `debug`. Called once a run; the
    root logger and other libraries are left alone.
    """
    logger = logging.getLogger("dsmops")
    logger.handlers.clear()
    handler = _StderrHandler()
    handler.setFormatter(
        logging.Formatter("%(levelname)s %(name)s: %(message)s") if debug else _Sentence()
    )
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.ERROR if quiet else logging.WARNING)
    logger.propagate = False
