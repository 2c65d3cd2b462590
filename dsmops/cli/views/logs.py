"""`format-log`: what was read, written and redacted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dsmops.units import counted, size

if TYPE_CHECKING:
    from dsmops.logs import FormatReport


def show_format(report: FormatReport) -> Iterator[str]:
    """Yield where the log went, what it held, and what redaction took out of it."""
    where = report.output if report.output is not None else "stdout"
    read, written = size(report.read_bytes), size(report.written_bytes)
    yield f"{report.input} -> {where}: {read} read, {written} written"
    wanted = (
        "" if report.records_written == report.records else f" ({report.records_written:,} wanted)"
    )
    unparsed = f"{counted(report.unparsed_lines, 'line')} of no known format"
    yield f"{counted(report.lines, 'line')}, {counted(report.records, 'event')}{wanted}, {unparsed}"
    if report.lines and not report.records:
        yield "no line is one that a server writes: is this the right file?"
    if report.redactions is None:
        yield "not redacted: keys, addresses and texts are still in it"
    elif report.redactions:
        yield "redacted: " + ", ".join(
            f"{rule} {count:,}" for rule, count in report.redactions.items()
        )
