"""How findings about configs look as text."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.flows.check import ConfigCheck
from dsmops.report.reporter import Block
from dsmops.report.units import counted


def view_config_check(check: ConfigCheck) -> Iterator[Block]:
    """Show findings by file and line, each with what to do, then the sum and what was not judged."""
    for checked in check.files:
        for finding in checked.findings:
            where = f" {finding.where}:" if finding.where else ""
            yield f"{checked.path}:{finding.line}: {finding.severity.value}[{finding.code}]{where} {finding.message}"
            if finding.hint:
                yield f"    hint: {finding.hint}"
        if checked.findings:
            yield ""
    sums = ", ".join(
        (
            counted(check.errors, "error"),
            counted(check.warnings, "warning"),
            counted(check.notes, "note"),
            counted(len(check.files), "file"),
        )
    )
    yield f"{sums}. {_judged(check)}"


def _judged(check: ConfigCheck) -> str:
    judged = {
        "device": check.device.label if check.device else None,
        "server version": check.server_version,
        "address": check.addr,
    }
    known = ", ".join(f"{name} {value}" for name, value in judged.items() if value)
    unknown = ", ".join(name for name, value in judged.items() if not value)
    return " ".join(part for part in (f"Judged for {known}." if known else "", f"Not judged: {unknown}." if unknown else "") if part)
