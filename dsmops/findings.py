"""How much a finding matters. No I/O, no third-party imports."""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """How much a finding matters: an error keeps the purpose from being reached, a warning may, a
    note is worth knowing.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
