"""What a smoke test found, as one value with its verdict in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from dsmops.operations.smoke.checks import Check, Status
from dsmops.operations.smoke.conversation import Seen, StepTimes


class Backend(StrEnum):
    """What was tested: our own worker or a given binary, both as children of the test, or a server that was running already."""

    EMBEDDED = "embedded"
    MOSHI_SERVER = "moshi-server"
    URL = "url"


@dataclass(frozen=True, slots=True)
class ModuleSeen:
    """What was seen of one module: the words that it wrote down or said, and its step times where they could be seen."""

    module: str | None
    words: tuple[str, ...]
    step_times: StepTimes | None


@dataclass(frozen=True, slots=True)
class SmokeReport:
    """The outcome of a smoke test. `passed` holds when no check failed and none was blocked; checks that do not apply do not count.

    `simulated` names the card that was simulated, whose speed and memory nothing here tells.
    `raw_log` is what the server wrote, None where it is not ours. `server` says who answered.
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
    checks: tuple[Check, ...]
    modules: tuple[ModuleSeen, ...]


def make_report(
    checks: Sequence[Check],
    seen: Mapping[str | None, Seen],
    *,
    backend: Backend,
    seconds: float,
    server: str = "unknown",
    url: str | None = None,
    config: str | None = None,
    simulated: str | None = None,
    raw_log: Path | None = None,
) -> SmokeReport:
    """Judge the checks."""
    failed = tuple(dict.fromkeys(check.name for check in checks if check.status is Status.FAILED))
    blocked = any(check.status is Status.BLOCKED for check in checks)
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
            ModuleSeen(module, tuple(found.words), found.step_times)
            for module, found in seen.items()
        ),
    )


def _verdict(
    checks: Sequence[Check], seconds: float, *, passed: bool, simulated: str | None
) -> str:
    counts = {status: sum(check.status is status for check in checks) for status in Status}
    if passed:
        skipped = f"; {counts[Status.SKIPPED]} do not apply here" if counts[Status.SKIPPED] else ""
        where = (
            f" The {simulated} was simulated: the work was real, the card's speed and memory were not tried."
            if simulated
            else ""
        )
        return f"Passed: all {counts[Status.PASSED]} checks in {seconds:.1f} s{skipped}.{where}"
    first = next(check for check in checks if check.status in (Status.FAILED, Status.BLOCKED))
    more = counts[Status.FAILED] - 1
    others = f" {more} other check{'s' if more > 1 else ''} failed as well." if more > 0 else ""
    return f"Failed at `{first.name}`: {first.evidence}.{others} {counts[Status.BLOCKED] or 'No'} could not run."
