"""What follows from the answer of a node."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dsmops.cli.views.fleet import fleet_xml, show_fleet
from dsmops.errors import InputError
from dsmops.operations.fleet import FleetReport, NodeStatus, read_hosts
from dsmops.operations.fleet.verdicts import Answer, judge

CARD = json.dumps(
    {
        "schema": "dsmops.check-gpu/1",
        "devices": [{"device": {"name": name}} for name in ("T4", "L4")],
    }
)
ERROR = json.dumps({"error": {"code": "x", "message": "no driver", "hint": "Install it."}})


@pytest.mark.parametrize(
    ("answer", "status", "code", "summary"),
    [
        (Answer("n", 1, 0, f"motd\n{CARD}"), NodeStatus.PASSED, 0, "T4, L4"),
        (Answer("n", 1, 0, f"{{hi}} {CARD}\nbye {{}}"), NodeStatus.PASSED, 0, "T4, L4"),
        (Answer("n", 1, 1, CARD), NodeStatus.FAILED, 1, "T4, L4"),
        (Answer("n", 1, 4, CARD, f"warning\n{ERROR}\n"), NodeStatus.ERROR, 4, "no driver"),
        (Answer("n", 1, 127, "", "sh: not found"), NodeStatus.ERROR, 4, "sh: not found"),
        (Answer("n", 1, 0, "hello"), NodeStatus.ERROR, 6, "it printed no JSON document"),
        (Answer("n", 1, 1, '{"devices": []}'), NodeStatus.ERROR, 6, "it ended with exit code 1"),
        (Answer("n", 9, timed_out=True), NodeStatus.TIMEOUT, 6, "no answer within 9 s"),
        (Answer("n", 1, lost="refused"), NodeStatus.UNREACHABLE, 6, "refused"),
    ],
)
def test_an_answer_becomes_a_verdict(
    answer: Answer, status: NodeStatus, code: int, summary: str
) -> None:
    verdict = judge("check-gpu", answer, 9)
    assert (verdict.status, verdict.exit_code) == (status, code)
    assert verdict.summary.startswith(summary)


def test_errors_of_doctor_are_the_summary() -> None:
    findings = [{"severity": "error", "message": "disk full"}, {"severity": "note", "message": "x"}]
    document = {"schema": "dsmops.doctor/1", "areas": [{"findings": findings}]}
    assert judge("doctor", Answer("n", 1, 1, json.dumps(document)), 9).summary == "disk full"


def test_a_table_and_junit_have_a_row_for_each_node() -> None:
    """Control characters of a node break neither."""
    answers = [
        Answer("a", 1, 0, CARD),
        Answer("b", 2, 4, "", ERROR),
        Answer("c", 9, timed_out=True),
        Answer("d", 1, lost="\x1b[31mno <route>", hint="Look at its cable."),
    ]
    verdicts = tuple(judge("check-gpu", answer, 9) for answer in answers)
    report = FleetReport("check-gpu", "ssh", False, 6, 9.0, verdicts)
    table, *lines = show_fleet(report)
    assert [row[:2] for row in table.rows] == [  # type: ignore[union-attr]
        ("a", "passed"), ("b", "error"), ("c", "timeout"), ("d", "unreachable"),
    ]  # fmt: skip
    assert lines[0] == "b: Install it."
    assert "d: Look at its cable." in lines
    assert lines[-1] == "check-gpu on 4 nodes: 1 passed, 1 error, 1 timeout, 1 unreachable"
    suite = ElementTree.fromstring(fleet_xml(report))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "0", "3")
    assert [case.get("name") for case in suite] == ["a", "b", "c", "d"]


def test_hosts_are_one_a_line_with_comments(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    file.write_text("# all\nalpha\n\n root@beta  # the old one\nssh://x@10.0.0.1:2222\n")
    assert read_hosts(file) == ["alpha", "root@beta", "ssh://x@10.0.0.1:2222"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no host"),
        ("a\na\n", "line 2: a is there twice"),
        ("-oProxyCommand=reboot\n", "line 1: '-oProxyCommand=reboot' is not a host"),
        ("a b\n", "line 1: 'a b' is not a host"),
        ("a;reboot\n", "is not a host"),
    ],
)
def test_a_hosts_file_that_is_wrong_is_named_with_its_line(
    tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "hosts"
    file.write_text(text)
    with pytest.raises(InputError, match=words):
        read_hosts(file)
