"""A finding of a lint, of `doctor` or of `check-gpu`, and its severity.

No I/O, no third-party imports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from dsmops.units import counted


class Severity(StrEnum):
    """How much a finding matters.

    An error prevents the purpose, a warning may, a note is worth knowing. `ok` was checked and is
    in order (`doctor` reports that too).
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to know about a machine, a config, a file.

    `code` is stable, for scripts and runbooks. `hint` is what to do, empty where nothing is.
    """

    code: str
    severity: Severity
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many findings of a report matter how much."""

    errors: int
    warnings: int
    notes: int

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Counts:
        """Count `findings` by severity."""
        found = [finding.severity for finding in findings]
        return cls(
            errors=found.count(Severity.ERROR),
            warnings=found.count(Severity.WARNING),
            notes=found.count(Severity.NOTE),
        )

    def __str__(self) -> str:
        return ", ".join(
            (
                counted(self.errors, "error"),
                counted(self.warnings, "warning"),
                counted(self.notes, "note"),
            )
        )

    def is_clean(self, *, strict: bool) -> bool:
        """Return whether there are no errors, and with `strict` no warnings either."""
        return not self.errors and not (strict and self.warnings)
