"""A smoke test as text and as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from dsmops.cli.views.junit import xml_text
from dsmops.operations.smoke import CheckResult, CheckStatus, SmokeReport
from dsmops.report import Block, Table
from dsmops.units import duration

_MARKS = {
    CheckStatus.PASSED: "ok",
    CheckStatus.FAILED: "FAILED",
    CheckStatus.BLOCKED: "blocked",
    CheckStatus.SKIPPED: "-",
}


def show_smoke(report: SmokeReport) -> Iterator[Block]:
    """Yield the checks, what to do about failed ones, and the verdict."""
    yield Table(("check", "", "time>", "evidence"), [_row(check) for check in report.checks])
    for check in report.checks:
        if check.status is CheckStatus.FAILED:
            yield (
                f"{_name(check)}: {check.hint} See {check.runbook}."
                if check.hint
                else f"{_name(check)}: see {check.runbook}."
            )
    for module in report.modules:
        if module.words:
            name = f" of {module.module}" if module.module else ""
            yield f"Words{name}: {' '.join(module.words)}"
    if report.raw_log is not None:
        yield f"Raw log: {report.raw_log}"
    yield report.verdict


def junit_xml(report: SmokeReport) -> str:
    """Return the checks as a JUnit test suite. Checks that could not run are errors."""
    statuses = [check.status for check in report.checks]
    suite = ElementTree.Element(
        "testsuite",
        name="dsmops.smoke-test",
        tests=str(len(statuses)),
        failures=str(statuses.count(CheckStatus.FAILED)),
        errors=str(statuses.count(CheckStatus.BLOCKED)),
        skipped=str(statuses.count(CheckStatus.SKIPPED)),
        time=f"{report.seconds:.3f}",
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name in ("backend", "server", "url", "config", "simulated", "verdict", "raw_log"):
        ElementTree.SubElement(
            properties, "property", name=name, value=xml_text(str(getattr(report, name) or ""))
        )
    for check in report.checks:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=xml_text(check.module or "server"),
            name=check.name,
            time=f"{check.seconds:.3f}",
        )
        if check.status is CheckStatus.FAILED:
            failure = ElementTree.SubElement(case, "failure", message=xml_text(check.evidence))
            failure.text = xml_text(f"{check.hint}\nSee {check.runbook}.".lstrip())
        elif check.status is CheckStatus.BLOCKED:
            ElementTree.SubElement(case, "error", message=xml_text(check.evidence))
        elif check.status is CheckStatus.SKIPPED:
            ElementTree.SubElement(case, "skipped", message=xml_text(check.evidence))
        else:
            ElementTree.SubElement(case, "system-out").text = xml_text(check.evidence)
    ElementTree.indent(suite)
    text = ElementTree.tostring(suite, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _row(check: CheckResult) -> tuple[str, str, str, str]:
    return (
        _name(check),
        _MARKS[check.status],
        duration(check.seconds) if check.seconds else "",
        check.evidence,
    )


def _name(check: CheckResult) -> str:
    return f"{check.name} [{check.module}]" if check.module else check.name
