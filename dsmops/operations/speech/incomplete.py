"""Results that are not complete: what a server sent before its stream failed is kept."""

from __future__ import annotations

from dataclasses import dataclass

from dsmops.errors import DsmopsError, RemoteError


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The error that ended a stream early. `exit_code` is that of the command."""

    code: str
    message: str
    hint: str
    exit_code: int

    @classmethod
    def because(cls, error: DsmopsError) -> Incomplete:
        """Return `error` as a value."""
        return cls(error.code, error.message, error.hint, error.exit_code)

    @classmethod
    def interrupted(cls, exit_code: int) -> Incomplete:
        """Return that a signal ended the stream."""
        return cls("interrupted", "stopped before the end", "", exit_code)

    def error(self) -> DsmopsError:
        """Return an error to show, once the result is written."""
        return RemoteError(self.message, hint=self.hint, code=self.code)
