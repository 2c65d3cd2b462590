"""The checks of a smoke test: their names, what each needs, and the ledger that runs them.

A check passes with evidence, fails with evidence, or says why it did not run: because a check that
it needs did not pass, because the time was over, or because it does not apply. No check is omitted
without a word.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from dsmops.errors import DsmopsError

RUNBOOK = "runbooks/smoke-test.md"
_LONG_KEY_CHARS = 8


class CheckStatus(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"
    """It could not run: a check that it needs failed, or the time was over."""
    SKIPPED = "skipped"
    """It does not apply here."""


@dataclass(frozen=True, slots=True)
class Check:
    """What a check is for.

    `question` is what it answers. `needs` names the checks without which it cannot run, `explains`
    those that fail for the same reason: the verdict then names this one first.
    """

    name: str
    question: str
    needs: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()

    @property
    def runbook(self) -> str:
        """The section that says what to do when it fails."""
        return f"{RUNBOOK}#{self.name}"


CHECKS = {
    check.name: check
    for check in (
        Check("tiny-checkpoint", "can small bf16 models be written for the test?"),
        Check(
            "preparation",
            "does prep-sm75 convert, configure and lint for the simulated card?",
            ("tiny-checkpoint",),
        ),
        Check(
            "conversion",
            "does the served file hold the right values, in the dtype that the card needs?",
            ("preparation",),
        ),
        Check("config-lint", "is the config free of errors?", ("conversion",)),
        Check("server-binary", "is the binary a moshi-server with all that the config needs?"),
        Check("port-free", "is the port free?", ("config-lint",)),
        Check(
            "process-alive",
            "does the server start and keep running?",
            ("port-free", "server-binary"),
        ),
        Check("listening", "does it accept connections?", ("process-alive",)),
        Check("ready", "does its model loop send Ready?", ("listening",)),
        Check("step", "is a frame of audio answered?", ("ready",)),
        Check("marker", "does a marker return once the text before it is complete?", ("step",)),
        Check("speech", "does text return as sound, to its end?", ("ready",)),
        Check("closing", "does a conversation end as the protocol says?", ("marker", "speech")),
        Check("clip", "is a recording, sent in real time, transcribed in real time?", ("marker",)),
        Check(
            "words",
            "are the words that are spoken the words that are transcribed, at their times?",
            ("marker",),
        ),
        Check("first-audio", "does the first sound come within 2 s?", ("speech",)),
        Check("playback", "does sound come faster than it is played?", ("speech",)),
        Check("sound", "is the sound within range, not silent and not clipped?", ("speech",)),
        Check("said-words", "is every word reported, in order?", ("speech",)),
        Check(
            "step-time",
            "does a step take less than the 80 ms of its frame?",
            ("ready",),
            explains=("step", "marker", "speech", "clip", "first-audio", "playback"),
        ),
        Check("finite-numbers", "are all numbers of the model finite?", ("ready",)),
        Check("wrong-key", "are a wrong key and a missing key refused?", ("listening",)),
        Check("slots-full", "is a client without a free slot told so?", ("step", "speech")),
        Check(
            "slot-return",
            "are the slots of clients that vanish free again within 2 s?",
            ("step", "speech"),
        ),
        Check(
            "round-trip",
            "does one module transcribe what the other one synthesized?",
            ("clip", "speech", "slot-return"),
        ),
        Check("memory", "does it use no more memory than planned?", ("step", "speech")),
        Check("shutdown", "does it end on SIGTERM?", ("process-alive",)),
        Check("orphans", "have all its processes ended?", ("port-free",)),
        Check("port-released", "is the port free again?", ("port-free",)),
        Check("known-failures", "is its log free of known failures?", ("port-free",)),
    )
}
"""Every check by name, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, before a check fails.

    `ready_s`: moshi-server listens while its warm-up, a few seconds, still runs. `return_s`: for
    the slots of vanished clients to be free. `grace_s`: between SIGTERM and SIGKILL; our worker
    lets conversations end for 8 s, moshi-server ends at once.
    """

    ready_s: float = 20.0
    step_s: float = 10.0
    marker_s: float = 30.0
    close_s: float = 5.0
    return_s: float = 2.0
    grace_s: float = 12.0


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found.

    `module` names the config's module that it was about, None for the server as a whole.
    """

    name: str
    module: str | None
    status: CheckStatus
    evidence: str
    hint: str
    seconds: float
    question: str
    runbook: str


class CheckFailed(Exception):  # noqa: N818 a finding, not an error of this program
    """Raised by the work of a check: what was seen, and what to do."""

    def __init__(self, evidence: str, hint: str = "") -> None:
        super().__init__(evidence)
        self.evidence, self.hint = evidence, hint


class DoesNotApply(Exception):  # noqa: N818 likewise
    """Raised by the work of a check that has nothing to test here."""


Work = Callable[[], Awaitable[str]]


class Ledger:
    """Runs checks, each once, and keeps their results in order."""

    def __init__(self, timeout_s: float, on_start: Callable[[str], None] = lambda _: None) -> None:
        """Start the clock: all checks together may run for `timeout_s` seconds.

        `on_start` gets the name of each that begins.
        """
        self.results: list[CheckResult] = []
        self._timeout_s = timeout_s
        self._on_start = on_start
        self._clock = asyncio.get_running_loop().time
        self._begin_s = self._clock()
        self._secrets: set[str] = set()

    def hide(self, *keys: str | None) -> None:
        """Replace these API keys in all evidence and hints."""
        self._secrets.update(key for key in keys if key)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._begin_s

    @property
    def left_s(self) -> float:
        """Seconds that are left, never negative."""
        return max(0.0, self._timeout_s - self.seconds)

    async def run(
        self,
        name: str,
        work: Work,
        *,
        module: str | None = None,
        within_s: float | None = None,
        always: bool = False,
    ) -> bool:
        """Run a check unless it is blocked, and return whether it passed.

        `work` returns evidence, or raises `CheckFailed`, `DoesNotApply` or a DsmopsError.
        `within_s` is its own time limit. With `always` the time limit of the whole test does not
        apply: cleaning up must run.
        """
        blocked_by = self._blocked_by(name, module)
        if blocked_by is None and not always and not self.left_s:
            blocked_by = f"the time limit of {self._timeout_s:g} s was over"
        if blocked_by is not None:
            self._add(name, module, CheckStatus.BLOCKED, f"could not run: {blocked_by}")
            return False
        self._on_start(name)
        begin_s = self._clock()
        limits = [
            limit for limit in (within_s, None if always else self.left_s) if limit is not None
        ]
        try:
            async with asyncio.timeout(min(limits, default=None)) as limit:
                evidence = await work()
        except TimeoutError as exc:
            if not limit.expired():  # raised by the work itself, for example by a network file
                self._add(name, module, CheckStatus.FAILED, f"timed out: {exc}", "", begin_s)
                return False
            over = not always and not self.left_s
            what = (
                f"the time limit of {self._timeout_s:g} s for the whole test was over"
                if over
                else f"no answer within {within_s:g} s"
            )
            self._add(name, module, CheckStatus.FAILED, what, "", begin_s)
        except CheckFailed as exc:
            self._add(name, module, CheckStatus.FAILED, exc.evidence, exc.hint, begin_s)
        except DsmopsError as exc:
            self._add(name, module, CheckStatus.FAILED, exc.message, exc.hint, begin_s)
        except DoesNotApply as exc:
            self._add(name, module, CheckStatus.SKIPPED, f"does not apply: {exc}", "", begin_s)
        except Exception as exc:  # noqa: BLE001 the other checks' results must still be shown
            what = f"the check itself failed: {type(exc).__name__}: {exc}"
            self._add(
                name,
                module,
                CheckStatus.FAILED,
                what,
                "Report it: this is a bug in dsmops.",
                begin_s,
            )
        else:
            self._add(name, module, CheckStatus.PASSED, evidence, "", begin_s)
        return self.results[-1].status is CheckStatus.PASSED

    async def block_rest(self) -> None:
        """Add every check behind the last one that cannot run, with the reason."""
        names = list(CHECKS)
        for name in names[names.index(self.results[-1].name) + 1 :]:
            if self._blocked_by(name, None) is not None:
                await self.run(name, _nothing)

    def _blocked_by(self, name: str, module: str | None) -> str | None:
        """Return why a check cannot run: the first of its needs that failed or was blocked.

        A check that does not apply blocks nothing.
        """
        for need in CHECKS[name].needs:
            for found in self.results:
                is_meant = found.name == need and (module is None or found.module in (None, module))
                if is_meant and found.status in (CheckStatus.FAILED, CheckStatus.BLOCKED):
                    how = "failed" if found.status is CheckStatus.FAILED else "could not run"
                    return f"`{need}` {how}"
        return None

    def _add(
        self,
        name: str,
        module: str | None,
        status: CheckStatus,
        evidence: str,
        hint: str = "",
        begin_s: float | None = None,
    ) -> None:
        seconds = 0.0 if begin_s is None else self._clock() - begin_s
        check = CHECKS[name]
        for key in self._secrets:
            # A short key only where it stands alone: one letter would change every word.
            shown = re.compile(
                re.escape(key) if len(key) >= _LONG_KEY_CHARS else rf"(?<!\w){re.escape(key)}(?!\w)"
            )
            evidence, hint = (shown.sub("<key>", text) for text in (evidence, hint))
        self.results.append(
            CheckResult(
                name=name,
                module=module,
                status=status,
                evidence=evidence,
                hint=hint,
                seconds=round(seconds, 3),
                question=check.question,
                runbook=check.runbook,
            )
        )


async def _nothing() -> str:
    raise DoesNotApply("it was not requested")
