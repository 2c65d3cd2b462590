"""dsmops' own logging: the `dsmops` logger, on stderr, warnings and up unless debugging."""

from __future__ import annotations

import logging
import sys


def setup_logging(*, debug: bool) -> None:
    """Send the `dsmops` logger to stderr. Called once a run; the root logger and other libraries are left alone."""
    logger = logging.getLogger("dsmops")
    logger.handlers.clear()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if debug else logging.WARNING)
    logger.propagate = False
