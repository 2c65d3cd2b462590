"""Show a diagnosis: area by area, then the summary.

An area without a finding takes one line. A finding is shown with all its details.
"""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.findings import Counts, Severity
from dsmops.operations.doctor import Diagnosis, DoctorFinding
from dsmops.report import Block


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
    yield f"{Counts(diagnosis.errors, diagnosis.warnings, diagnosis.notes)}."
    if diagnosis.not_seen:
        yield "Not seen:"
        yield from (f"  {what}" for what in diagnosis.not_seen)


def _finding(finding: DoctorFinding) -> Iterator[str]:
    if finding.severity is Severity.OK:
        yield f"  ok       {finding.message}" + (
            f" ({'; '.join(finding.evidence)})" if finding.evidence else ""
        )
        return
    yield f"  {finding.severity.value:<8} {finding.message} [{finding.code}]"
    yield from (f"             {line}" for line in finding.evidence)
    if finding.hint:
        yield f"           fix: {finding.hint}"
    pages = [f"runbooks/{finding.runbook}"] if finding.runbook else []
    reports = [finding.upstream_issue] if finding.upstream_issue else []
    if pages or reports:
        yield f"           see: {', '.join(pages + reports)}"
