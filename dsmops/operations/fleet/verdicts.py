"""What a node answered, and what follows from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from dsmops.errors import EnvironmentMissingError, RemoteError
from dsmops.operations.printed import printed_objects

_NO_COMMAND = (126, 127)
"""Exit codes of a shell that found no such program, or could not run it."""
_CODES = (2, 3, 4, 5, 6, 70)
"""Exit codes with which dsmops ends where it says why."""
_MOST_SUMMARY_CHARS = 200


class NodeStatus(StrEnum):
    """How a check ended on a node.

    `error`: the check could not run to its end there. `timeout`: no answer within the time limit.
    `unreachable`: the node was not reached, or died.
    """

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back from a node: the exit code of the command there and what it printed.

    `lost` says why there is no exit code, `hint` what to do then. `timed_out`: it did not end in
    time.
    """

    node: str
    seconds: float
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    timed_out: bool = False
    lost: str | None = None
    hint: str = ""


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What a check found on one node.

    `summary` is one sentence. `document` is the JSON document of the command there, None where it
    printed none. `exit_code` is that of the command; 4 where the node has no dsmops, 6 where it
    gave no answer.
    """

    node: str
    status: NodeStatus
    exit_code: int
    seconds: float
    summary: str
    hint: str
    document: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class FleetReport:
    """What a check found on all nodes. `exit_code` is the highest of the nodes."""

    check: str
    engine: str
    passed: bool
    exit_code: int
    seconds: float
    nodes: tuple[NodeVerdict, ...]


def judge(check: str, answer: Answer, timeout_s: float) -> NodeVerdict:
    """Return the verdict that follows from an answer."""
    document = _document(answer.stdout)
    message, hint = _error(answer.stderr)
    code = RemoteError.exit_code if answer.exit_code is None else answer.exit_code
    if answer.timed_out:
        status = NodeStatus.TIMEOUT
        message = f"no answer within {timeout_s:g} s"
        hint = "Look at that node: it hangs, or is busy. --timeout gives it more time."
        code = RemoteError.exit_code
    elif answer.lost is not None:
        status, code = NodeStatus.UNREACHABLE, RemoteError.exit_code
        message, hint = answer.lost, answer.hint
    elif code == 0 and document is not None:
        status = NodeStatus.PASSED
        message = _summary(check, document)
    elif code == 1 and document is not None:
        status = NodeStatus.FAILED
        message = _summary(check, document)
    else:
        status = NodeStatus.ERROR
        message = message or _last_line(answer.stderr) or f"it ended with exit code {code}"
        if code == 0:
            message = "it printed no JSON document"
        if code in _NO_COMMAND:
            hint = "Install dsmops there, or say where it is with --program."
            code = EnvironmentMissingError.exit_code
        elif code not in _CODES:
            # Something else than dsmops answered.
            code = RemoteError.exit_code
    return NodeVerdict(
        answer.node,
        status,
        code,
        round(answer.seconds, 3),
        message[:_MOST_SUMMARY_CHARS],
        hint,
        document,
    )


def _document(stdout: str) -> Mapping[str, object] | None:
    # What a shell's files print as it starts and ends stands around it.
    return next((found for found in printed_objects(stdout) if "schema" in found), None)


def _error(stderr: str) -> tuple[str, str]:
    """Return message and hint of the error that dsmops printed as its last line."""
    try:
        error = json.loads(_last_line(stderr))["error"]
        return str(error["message"]), str(error["hint"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return "", ""


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _summary(check: str, document: Mapping[str, object]) -> str:
    """Return what a document of a check says in a few words."""
    if check == "check-gpu":
        devices = [device.get("device") for device in _rows(document.get("devices"))]
        names = [str(device.get("name")) for device in _rows(devices)]
        return ", ".join(names) or "no card"
    if check == "doctor":
        found = [
            str(row.get("message"))
            for area in _rows(document.get("areas"))
            for row in _rows(area.get("findings"))
            if row.get("severity") == "error"
        ]
        return "; ".join(found) or "no errors"
    return str(document.get("verdict", ""))


def _rows(value: object) -> list[Mapping[str, object]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
