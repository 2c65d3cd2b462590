"""How findings about configs look as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from dsmops.config.lint import ConfigFinding
from dsmops.findings import Counts
from dsmops.operations.configs.checking import ConfigCheck
from dsmops.operations.configs.writing import MadeConfig, WriteOutcome
from dsmops.report import Block, Document, one_line
from dsmops.units import counted


def show_config_check(check: ConfigCheck) -> Iterator[Block]:
    """Yield the findings by file and line, then their sum and what they were judged for."""
    for checked in check.files:
        yield from view_findings(checked.path, checked.findings)
    counts = Counts(check.errors, check.warnings, check.notes)
    yield f"{counts} in {counted(len(check.files), 'file')}. {_judged(check)}"


def show_made_config(made: MadeConfig, target: Path, outcome: WriteOutcome) -> Iterator[Block]:
    """Yield what changed, the findings, and what became of the file."""
    if outcome is WriteOutcome.REFUSED:
        yield Document(made.text)
    if made.change:
        yield from made.change.splitlines()
    yield from view_findings(str(target), made.lint.findings)
    if made.plan is not None:
        yield (
            f"batch_size: largest safe {made.plan.batch_size}, limited by"
            f" {made.plan.limited_by.value}"
        )
    words = {
        WriteOutcome.WRITTEN: "was written",
        WriteOutcome.UNCHANGED: "is up to date",
        WriteOutcome.DRY_RUN: "was not written: dry run",
        WriteOutcome.REFUSED: "was not written: see the findings above",
    }
    yield f"{target} {words[outcome]}"


def view_findings(path: str, findings: Sequence[ConfigFinding]) -> Iterator[Block]:
    """Yield two lines for each finding of a file: the finding, and what to do about it.

    The first has the form of a compiler's message.
    """
    for finding in findings:
        where = f" {finding.where}:" if finding.where else ""
        yield one_line(
            f"{path}:{finding.line}: {finding.severity.value}[{finding.code}]{where}"
            f" {finding.message}"
        )
        if finding.hint:
            yield one_line(f"    hint: {finding.hint}")
    if findings:
        yield ""


def _judged(check: ConfigCheck) -> str:
    given = {
        "--device or --simulate": check.device and check.device.label,
        "--server-version": check.server_version and f"moshi-server {check.server_version}",
        "--addr": check.addr and f"--addr {check.addr}",
    }
    judged = ", ".join(value for value in given.values() if value)
    missing = ", ".join(option for option, value in given.items() if not value)
    return " ".join(
        [f"Judged for {judged}."] * bool(judged)
        + [f"To have more judged, give {missing}."] * bool(missing)
    )
