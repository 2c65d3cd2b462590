"""A diagnosis as people read it: area by area, what is in order in one line, what is not with all
there is to it, then the sum.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.operations.doctor import Diagnosis, Finding, Level
from dsmops.report import Block
from dsmops.units import counted


def show_diagnosis(diagnosis: Diagnosis) -> Iterator[Block]:
    """Yield every finding, then how many there are of each kind and what could not be seen."""
    yield (
        f"dsmops {diagnosis.dsmops_version}, Python {diagnosis.python_version}, {diagnosis.system}"
    )
    yield ""
    for area in diagnosis.areas:
        if area.findings:
            yield area.name
        for finding in area.findings:
            yield from _finding(finding)
        if area.findings:
            yield ""
    counts = (
        counted(diagnosis.errors, "error"),
        counted(diagnosis.warnings, "warning"),
        counted(diagnosis.notes, "note"),
    )
    yield f"{', '.join(counts)}."
    if diagnosis.not_seen:
        yield "Not seen:"
        yield from (f"  {what}" for what in diagnosis.not_seen)


def _finding(finding: Finding) -> Iterator[str]:
    if finding.severity is Level.OK:
        yield f"  ok       {finding.cause}" + (
            f" ({'; '.join(finding.evidence)})" if finding.evidence else ""
        )
        return
    yield f"  {finding.severity.value:<8} {finding.cause} [{finding.name}]"
    yield from (f"             {line}" for line in finding.evidence)
    if finding.fix:
        yield f"           fix: {finding.fix}"
    pages = [f"runbooks/{finding.runbook}"] if finding.runbook else []
    reports = [finding.upstream_issue] if finding.upstream_issue else []
    if pages or reports:
        yield f"           see: {', '.join(pages + reports)}"
