"""The report of a smoke test: all results, and the verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dsmops.operations.smoke.checks import CHECKS, CheckResult, CheckStatus
from dsmops.operations.smoke.module_checks import Observations
from dsmops.operations.smoke.step_times import StepTimes


class Backend(StrEnum):
    """What was tested.

    Our own worker and a given binary run as children of the test; a server at a URL runs already.
    """

    EMBEDDED = "embedded"
    MOSHI_SERVER = "moshi-server"
    URL = "url"


@dataclass(frozen=True, slots=True)
class ModuleReport:
    """One module: the words that it transcribed or synthesized, and its step times if shown.

    `wer` is its word error rate on recordings whose words are known, None where none were sent.
    """

    module: str | None
    words: tuple[str, ...]
    step_times: StepTimes | None
    wer: float | None


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """What a smoke test found.

    `passed`: no check failed, and none was blocked. `simulated` names the card that was simulated;
    its speed and its memory were not tested. `raw_log` is the server's output, None for a server
    that was not started here. `server` is what answered.
    """

    passed: bool
    verdict: str
    failed: tuple[str, ...]
    backend: Backend
    simulated: str | None
    server: str
    url: str | None
    config: str | None
    seconds: float
    raw_log: Path | None
    checks: tuple[CheckResult, ...]
    modules: tuple[ModuleReport, ...]


def make_report(
    checks: Sequence[CheckResult],
    seen: Mapping[str | None, Observations],
    *,
    backend: Backend,
    seconds: float,
    server: str = "unknown",
    url: str | None = None,
    config: str | None = None,
    simulated: str | None = None,
    raw_log: Path | None = None,
) -> SmokeReport:
    """Return the report with its verdict."""
    failed = tuple(
        dict.fromkeys(check.name for check in checks if check.status is CheckStatus.FAILED)
    )
    blocked = any(check.status is CheckStatus.BLOCKED for check in checks)
    passed = not failed and not blocked
    return SmokeReport(
        passed=passed,
        verdict=_verdict(checks, seconds, passed=passed, simulated=simulated),
        failed=failed,
        backend=backend,
        simulated=simulated,
        server=server,
        url=url,
        config=config,
        seconds=round(seconds, 2),
        raw_log=raw_log,
        checks=tuple(checks),
        modules=tuple(
            ModuleReport(module, tuple(found.words), found.step_times, found.wer)
            for module, found in seen.items()
        ),
    )


def _verdict(
    checks: Sequence[CheckResult], seconds: float, *, passed: bool, simulated: str | None
) -> str:
    counts = {status: sum(check.status is status for check in checks) for status in CheckStatus}
    if passed:
        skipped = (
            f"; {counts[CheckStatus.SKIPPED]} do not apply here"
            if counts[CheckStatus.SKIPPED]
            else ""
        )
        where = (
            f" The {simulated} was simulated: its speed and its memory were not tested."
            if simulated
            else ""
        )
        return (
            f"Passed: all {counts[CheckStatus.PASSED]} checks in {seconds:.1f} s{skipped}.{where}"
        )
    first = _cause(checks)
    more = counts[CheckStatus.FAILED] - 1
    others = f" {more} other check{'s' if more > 1 else ''} failed as well." if more > 0 else ""
    stopped = counts[CheckStatus.BLOCKED]
    blocked = f" {stopped} check{'s' if stopped > 1 else ''} could not run." if stopped else ""
    return f"Failed at `{first.name}`: {first.evidence}.{others}{blocked}"


def _cause(checks: Sequence[CheckResult]) -> CheckResult:
    """Return the first check that did not pass, or the failed one that explains it."""
    first = next(
        check for check in checks if check.status in (CheckStatus.FAILED, CheckStatus.BLOCKED)
    )
    for check in checks:
        if (
            check.status is CheckStatus.FAILED
            and check.module == first.module
            and first.name in CHECKS[check.name].explains
        ):
            return check
    return first
