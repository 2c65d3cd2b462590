"""What a diagnosis says: findings, and the one table of all their names.

Names are stable, for scripts and runbooks, and each keeps its page. Three packages bring names of
their own: for a driver (`gpu.findings`), for a config (`config.lint`), and for what a log says
(`logs.failures`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dsmops.config.lint import CODES
from dsmops.findings import Finding, Severity
from dsmops.gpu.findings import GpuCode
from dsmops.logs import without_secrets
from dsmops.logs.failures import FAILURES


@dataclass(frozen=True, slots=True)
class DoctorFinding(Finding):
    """One finding about this machine.

    `evidence` is how it is known. In the JSON document, code, message and hint are `name`, `cause`
    and `fix`. `upstream_issue` is a public report of the same (`kyutai-labs/moshi#355`), `runbook`
    the page and heading. `unseen` names what could not be judged because of it, None where nothing
    was lost.
    """

    code: str = field(metadata={"json": "name"})
    message: str = field(metadata={"json": "cause"})
    evidence: tuple[str, ...] = ()
    hint: str = field(default="", metadata={"json": "fix"})
    upstream_issue: str | None = None
    runbook: str | None = None
    unseen: str | None = None


_GPU, _TORCH, _SERVER, _FILES, _PORT = (
    "gpu-not-usable.md",
    "torch-for-the-worker.md",
    "server-binary.md",
    "model-files.md",
    "port-taken.md",
)
_DOCTOR, _CONFIG, _DISK = "doctor.md", "config-findings.md", "disk-space.md"
_CAPACITY = "capacity-and-close-codes.md"


def name_of(code: str) -> str:
    """Return the name that `doctor` gives to a code of `gpu.findings`.

    `gpu.driver_missing` is `gpu-driver-missing`.
    """
    return code.replace(".", "-").replace("_", "-")


# name → its page, where the name is a heading, and the public report where there is one.
_TABLE: dict[str, tuple[str, str | None]] = {
    **{name_of(code): (_GPU, None) for code in GpuCode},
    "gpu-none": (_GPU, None),
    "gpu-memory-taken": (_GPU, None),
    "gpu-driver-old": (_GPU, None),
    "gpu-pre-ampere": (_GPU, "kyutai-labs/moshi#355"),
    "torch-missing": (_TORCH, None),
    "torch-without-cuda": (_TORCH, None),
    "torch-driver-old": (_TORCH, None),
    "torch-without-kernels": (_TORCH, "pytorch/pytorch#172352"),
    "torch-kernels-unknown": (_TORCH, None),
    "packages-missing": (_TORCH, None),
    "server-none": (_SERVER, None),
    "server-missing": (_SERVER, None),
    "server-python": (_SERVER, "kyutai-labs/delayed-streams-modeling#42"),
    "server-unknown": (_SERVER, None),
    "server-library-missing": (_SERVER, None),
    "server-not-starting": (_SERVER, None),
    "server-ignores-override": (_SERVER, "kyutai-labs/moshi#356"),
    "server-unreadable": (_SERVER, None),
    "server-fork": (_SERVER, None),
    "server-built-for-newer": (_SERVER, None),
    "server-built-for-older": (_SERVER, "kyutai-labs/moshi#355"),
    "server-toolkit-newer": (_SERVER, "kyutai-labs/moshi#303"),
    "server-without-cuda": (_SERVER, None),
    "config-none": (_CONFIG, None),
    "config-unreadable": (_CONFIG, None),
    "checkpoint-none": (_FILES, None),
    "checkpoint-missing": (_FILES, None),
    "checkpoint-damaged": (_FILES, None),
    "checkpoint-partial": (_FILES, None),
    "checkpoint-bf16": (_FILES, None),
    "hub-offline": (_FILES, None),
    "hub-settings": (_FILES, None),
    "hub-unreachable": (_FILES, None),
    "hub-refused": (_FILES, "kyutai-labs/delayed-streams-modeling#119"),
    "hub-file-missing": (_FILES, None),
    "hub-token-unread": (_FILES, None),
    "hub-cache-elsewhere": (_FILES, None),
    "disk-too-small": (_DISK, None),
    "disk-low": (_DISK, None),
    "disk-not-writable": (_DISK, None),
    "port-taken": (_PORT, None),
    "port-refused": (_PORT, None),
    "port-server": (_PORT, None),
    "port-server-full": (_PORT, None),
    "log-none": (_DOCTOR, None),
    "log-unreadable": (_DOCTOR, None),
    "log-foreign": (_DOCTOR, None),
    "log-ratio": (_DOCTOR, None),
    "steps-slow": (_CAPACITY, None),
    "settings-unusable": (_DOCTOR, None),
    "area-unseen": (_DOCTOR, None),
}

_OK = frozenset(
    f"{area}-ok"
    for area in (
        "gpu",
        "torch",
        "packages",
        "settings",
        "server",
        "config",
        "checkpoint",
        "hub",
        "disk",
        "port",
        "log",
    )
)

RUNBOOKS: dict[str, str] = {
    **{name: failure.runbook for name, failure in FAILURES.items()},
    **{f"config-{code}": _CONFIG for code in CODES},
    **{name: f"{page}#{name}" for name, (page, _) in _TABLE.items()},
}
"""Every name with something to do about it, and its page and heading."""

_ISSUES = {name: failure.upstream_issue for name, failure in FAILURES.items()} | {
    name: issue for name, (_, issue) in _TABLE.items()
}

NAMES = RUNBOOKS.keys() | _OK
"""Every name that a diagnosis can give."""


def finding(
    name: str,
    severity: Severity,
    cause: str,
    *evidence: str,
    fix: str = "",
    unseen: str | None = None,
) -> DoctorFinding:
    """Return the finding of a name, with the page and the public report that belong to it."""
    return DoctorFinding(
        code=name,
        severity=severity,
        message=without_secrets(cause),
        evidence=tuple(map(without_secrets, filter(None, evidence))),
        hint=without_secrets(fix),
        upstream_issue=_ISSUES.get(name),
        runbook=None if name in _OK else RUNBOOKS[name],
        unseen=unseen,
    )


def ok(area: str, cause: str, *evidence: str) -> DoctorFinding:
    """Return the finding that an area is in order."""
    return finding(f"{area}-ok", Severity.OK, cause, *evidence)
