"""Verdicts of a fleet as a table, and as JUnit XML."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from dsmops.cli.views.junit import xml_text
from dsmops.operations.fleet import FleetReport, NodeStatus
from dsmops.report import Block, Table
from dsmops.units import counted


def show_fleet(report: FleetReport) -> Iterator[Block]:
    """Yield a row for each node, the hints that they have, and the counts."""
    yield Table(
        ("node", "verdict", "time", "what"),
        [
            (verdict.node, str(verdict.status), f"{verdict.seconds:.1f} s", verdict.summary)
            for verdict in report.nodes
        ],
    )
    hints: dict[str, list[str]] = {}
    for verdict in report.nodes:
        if verdict.hint and verdict.status is not NodeStatus.PASSED:
            hints.setdefault(verdict.hint, []).append(verdict.node)
    yield from (f"{', '.join(nodes)}: {hint}" for hint, nodes in hints.items())
    counts = [
        f"{count} {status}"
        for status in NodeStatus
        if (count := sum(verdict.status is status for verdict in report.nodes))
    ]
    yield f"{report.check} on {counted(len(report.nodes), 'node')}: {', '.join(counts)}"


def fleet_xml(report: FleetReport) -> str:
    """Return a JUnit test suite with a case for each node."""
    statuses = [verdict.status for verdict in report.nodes]
    failed = statuses.count(NodeStatus.FAILED)
    passed = statuses.count(NodeStatus.PASSED)
    suite = ElementTree.Element(
        "testsuite",
        name=f"dsmops.fleet.{report.check}",
        tests=str(len(statuses)),
        failures=str(failed),
        errors=str(len(statuses) - failed - passed),
        skipped="0",
        time=f"{report.seconds:.3f}",
    )
    for verdict in report.nodes:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname=report.check,
            name=xml_text(verdict.node),
            time=f"{verdict.seconds:.3f}",
        )
        text = xml_text(verdict.summary)
        if verdict.status is NodeStatus.PASSED:
            ElementTree.SubElement(case, "system-out").text = text
        else:
            tag = "failure" if verdict.status is NodeStatus.FAILED else "error"
            element = ElementTree.SubElement(case, tag, message=text, type=str(verdict.status))
            element.text = xml_text(verdict.hint)
    ElementTree.indent(suite)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ElementTree.tostring(suite, "unicode")}\n'
