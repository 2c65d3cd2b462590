"""A preparation as people read it: what was done with each part, what it lost, what to run next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dsmops.checkpoint import ConversionReport
from dsmops.cli.views.config import view_findings
from dsmops.config.lint import LintReport
from dsmops.findings import Severity
from dsmops.operations.prepare import Action, PrepareOutcome, PrepareReport
from dsmops.report import Block, Table
from dsmops.units import duration, size

_WOULD = {
    Action.DOWNLOAD: "would download",
    Action.CONVERT: "would convert",
    Action.WRITE: "would write",
    Action.CHANGE: "would change",
}
_DID = {
    Action.DOWNLOAD: "downloaded",
    Action.CONVERT: "converted",
    Action.WRITE: "written",
    Action.CHANGE: "changed",
}


def show_preparation(report: PrepareReport) -> Iterator[Block]:
    """Yield the items, the batch size and why, the lint, and the next commands."""
    yield f"{report.model} in {report.dtype.candle_name} for {report.device.label}"
    words = _WOULD if report.outcome is PrepareOutcome.DRY_RUN else _DID
    yield Table(
        ["item", "", "size>", "where", ""],
        [
            [
                item.name,
                words.get(item.action, item.action.value),
                size(item.size_bytes) if item.size_bytes else "",
                item.where,
                item.reason,
            ]
            for item in report.items
        ],
    )
    yield (
        f"batch_size = {report.batch_size} (largest safe: {report.serving.batch_size}, limited by"
        f" {report.serving.limited_by.value})"
    )
    if report.conversion is not None:
        yield from loss_lines(report.conversion)
    if report.config_diff:
        yield from report.config_diff.splitlines()
    if report.lint is not None:
        yield from _lint_lines(report.lint, report.config_path)
    for note in report.notes:
        yield f"note: {note}"
    if report.outcome is PrepareOutcome.DRY_RUN:
        yield "Dry run: nothing was downloaded or written."
        return
    if report.outcome is PrepareOutcome.UP_TO_DATE:
        yield "Everything is up to date; nothing was done."
    yield "Next:"
    for command in report.next_commands:
        yield f"  {command}"


def _lint_lines(lint: LintReport, path: Path) -> Iterator[Block]:
    """Yield the errors in full, and how much more there is to know."""
    yield f"lint: {lint.counts}"
    yield from view_findings(
        str(path), [finding for finding in lint.findings if finding.severity is Severity.ERROR]
    )


def loss_lines(conversion: ConversionReport) -> Iterator[str]:
    """Yield how long the conversion took and what it did to the values."""
    totals = conversion.losses.totals
    yield (
        f"converted in {duration(conversion.elapsed_s)}: of {totals.elements:,} values"
        f" {totals.overflowed:,} are beyond the range, {totals.underflowed:,} became zero,"
        f" {totals.rounded:,} were rounded; the rest is exact"
    )
    if totals.nan or totals.infinite:
        yield (
            f"warning: the source holds {totals.nan:,} NaN and {totals.infinite:,} infinite values"
        )
