"""The checks of a smoke test: their names, what each needs, and the ledger that runs them one after the other and keeps what came of it.

A check passes with evidence, fails with evidence, or says why it did not run: because one that it
needs did not pass, because the time was over, or because it does not apply. None is left out in
silence.
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


class Status(StrEnum):
    """What became of a check."""

    PASSED = "passed"
    FAILED = "failed"
    BLOCKED = "blocked"
    """It could not run: something before it failed, or the time was over."""
    SKIPPED = "skipped"
    """It does not apply here."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a check is for. `question` is what it answers; `needs` names the checks without which it cannot run."""

    name: str
    question: str
    needs: tuple[str, ...] = ()

    @property
    def runbook(self) -> str:
        """The page that says what to do when it fails."""
        return f"{RUNBOOK}#{self.name}"


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tiny-checkpoint", "is there a bf16 model to try the whole path with?"),
        Kind(
            "preparation",
            "does prep-sm75 convert, configure and lint for the simulated card?",
            ("tiny-checkpoint",),
        ),
        Kind(
            "conversion",
            "is every value of the served file the right one, in the dtype that the card needs?",
            ("preparation",),
        ),
        Kind("config-lint", "is the config free of errors?", ("conversion",)),
        Kind("server-binary", "is the binary a moshi-server that can do what the config asks?"),
        Kind("port-free", "is the port free?", ("config-lint",)),
        Kind(
            "process-alive",
            "does the server start, and not end by itself?",
            ("port-free", "server-binary"),
        ),
        Kind("listening", "does it take connections?", ("process-alive",)),
        Kind("ready", "does its model loop say Ready?", ("listening",)),
        Kind("step", "does a frame of sound bring an answer?", ("ready",)),
        Kind("marker", "does a marker come back when the text before it is out?", ("step",)),
        Kind("speech", "does text come back as sound, to its end?", ("ready",)),
        Kind("closing", "does a conversation end as the protocol says?", ("marker", "speech")),
        Kind("clip", "is a whole clip, paced in real time, heard to its end?", ("marker",)),
        Kind(
            "first-audio",
            "does the first sound come before people think that nobody is there?",
            ("speech",),
        ),
        Kind("playback", "does sound come faster than it is played?", ("speech",)),
        Kind("sound", "is the sound within range, and neither silent nor clipped?", ("speech",)),
        Kind("said-words", "is every word said, in order?", ("speech",)),
        Kind("step-time", "does a step take less than the 80 ms of its frame?", ("clip", "speech")),
        Kind("finite-numbers", "are all numbers of the model finite?", ("ready",)),
        Kind("wrong-key", "is a wrong key refused, and a missing one?", ("listening",)),
        Kind("slots-full", "is one client too many told so?", ("step", "speech")),
        Kind(
            "slot-return",
            "are the slots of clients that vanish free again within 2 s?",
            ("step", "speech"),
        ),
        Kind(
            "round-trip",
            "does what one module says come back as words from the other?",
            ("clip", "speech", "slot-return"),
        ),
        Kind("memory", "does it take no more memory than was planned?", ("step", "speech")),
        Kind("shutdown", "does it end when it is asked to?", ("process-alive",)),
        Kind("orphans", "is nothing left of its processes?", ("port-free",)),
        Kind("port-released", "is the port free again?", ("port-free",)),
        Kind("known-failures", "is its log free of failures that have a name?", ("port-free",)),
    )
}
"""Every check by name, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long to wait, in seconds, before a check fails.

    `ready_s`: moshi-server listens while its warm-up, a few seconds, still runs. `return_s`: in
    which slots of vanished clients must be free. `grace_s`: between SIGTERM and SIGKILL; our worker
    lets conversations end for 8 s, moshi-server ends at once.
    """

    ready_s: float = 20.0
    step_s: float = 10.0
    marker_s: float = 30.0
    close_s: float = 5.0
    return_s: float = 2.0
    grace_s: float = 12.0


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `module` names the config's module that it was about, None for the server as a whole."""

    name: str
    module: str | None
    status: Status
    evidence: str
    hint: str
    seconds: float
    question: str
    runbook: str


class CheckFailed(Exception):  # noqa: N818 a finding, not an error of this program
    """Raised by a check's work: what was seen, and what to do."""

    def __init__(self, evidence: str, hint: str = "") -> None:
        super().__init__(evidence)
        self.evidence, self.hint = evidence, hint


class DoesNotApply(Exception):  # noqa: N818 likewise
    """Raised by a check's work that finds nothing to look at here."""


Work = Callable[[], Awaitable[str]]


class Ledger:
    """Runs checks, each once, and keeps their outcome in order."""

    def __init__(self, timeout_s: float, on_start: Callable[[str], None] = lambda _: None) -> None:
        """Checks may run for `timeout_s` seconds in all from now; `on_start` is told the name of each that begins."""
        self.checks: list[Check] = []
        self._timeout_s = timeout_s
        self._on_start = on_start
        self._clock = asyncio.get_running_loop().time
        self._begin_s = self._clock()
        self._secrets: set[str] = set()

    def hide(self, *keys: str | None) -> None:
        """Keep API keys out of what is told, whoever wrote them."""
        self._secrets.update(key for key in keys if key)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._begin_s

    @property
    def left_s(self) -> float:
        """What is left of the time, never negative."""
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
        `within_s` is its own time limit. With `always` the time of the whole test does not count:
        what tidies up has to run.
        """
        blocked_by = self._blocked_by(name, module)
        if blocked_by is None and not always and not self.left_s:
            blocked_by = f"the time limit of {self._timeout_s:g} s was over"
        if blocked_by is not None:
            self._add(name, module, Status.BLOCKED, f"could not run: {blocked_by}")
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
            if not limit.expired():  # the work's own: of a file on a network, say
                self._add(name, module, Status.FAILED, f"nothing came in time: {exc}", "", begin_s)
                return False
            over = not always and not self.left_s
            what = (
                f"the time limit of {self._timeout_s:g} s for the whole test was over"
                if over
                else f"nothing came within {within_s:g} s"
            )
            self._add(name, module, Status.FAILED, what, "", begin_s)
        except CheckFailed as exc:
            self._add(name, module, Status.FAILED, exc.evidence, exc.hint, begin_s)
        except DsmopsError as exc:
            self._add(name, module, Status.FAILED, exc.message, exc.hint, begin_s)
        except DoesNotApply as exc:
            self._add(name, module, Status.SKIPPED, f"does not apply: {exc}", "", begin_s)
        except Exception as exc:  # noqa: BLE001 what the other checks found must be told all the same
            what = f"this check of ours broke: {type(exc).__name__}: {exc}"
            self._add(
                name,
                module,
                Status.FAILED,
                what,
                "Report it: it is a bug of dsmops, met at an odd server.",
                begin_s,
            )
        else:
            self._add(name, module, Status.PASSED, evidence, "", begin_s)
        return self.checks[-1].status is Status.PASSED

    async def block_rest(self) -> None:
        """Name every check that comes after the last one, with the reason why it cannot run."""
        names = list(KINDS)
        for name in names[names.index(self.checks[-1].name) + 1 :]:
            if self._blocked_by(name, None) is not None:
                await self.run(name, _nothing)

    def _blocked_by(self, name: str, module: str | None) -> str | None:
        """Return why a check cannot run: the first of its needs that failed or was blocked. One that does not apply blocks nothing."""
        for need in KINDS[name].needs:
            for check in self.checks:
                is_meant = check.name == need and (module is None or check.module in (None, module))
                if is_meant and check.status in (Status.FAILED, Status.BLOCKED):
                    return (
                        f"`{need}` {'failed' if check.status is Status.FAILED else 'could not run'}"
                    )
        return None

    def _add(
        self,
        name: str,
        module: str | None,
        status: Status,
        evidence: str,
        hint: str = "",
        begin_s: float | None = None,
    ) -> None:
        seconds = 0.0 if begin_s is None else self._clock() - begin_s
        kind = KINDS[name]
        for key in self._secrets:
            # A short one only where it stands alone: a key of one letter is no reason to spell
            # every word without it.
            shown = re.compile(
                re.escape(key) if len(key) >= _LONG_KEY_CHARS else rf"(?<!\w){re.escape(key)}(?!\w)"
            )
            evidence, hint = (shown.sub("<key>", text) for text in (evidence, hint))
        self.checks.append(
            Check(
                name, module, status, evidence, hint, round(seconds, 3), kind.question, kind.runbook
            )
        )


async def _nothing() -> str:
    raise DoesNotApply("it was not asked for")
