"""What the checks of every kind of module share: opening, Ready, refusals, slots, step times. A kind adds what it is there for.

Works on any moshi-server. What differs between servers is in `Subject`; what a server does not
offer makes a check say so.
"""

from __future__ import annotations

import asyncio
import errno
import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles
from typing import ClassVar, Generic

from dsmops.client.connection import Closed
from dsmops.client.probe import AnswerT, Probe, get
from dsmops.errors import TransferError
from dsmops.models import FRAME_MS
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger, Limits
from dsmops.protocol import Error, Ready

POLL_S = 0.05
FULL = "no free channels"
GOOD_CODES = (None, 1000, 1005)
"""With which a conversation ends that nothing was wrong with: no Close frame, a normal end, or one without a code."""
NAN_HINT = (
    "The weights hold NaN, or activations overflow: `dsmops verify --numerics` finds the layer."
)
_MOST_SOCKETS = 1024
_VANISHING = 8
_LEAK = "Each such client makes the server smaller until it is full for everybody; restart it, and see its log."
_OK, _UNAUTHORIZED = 200, 401
_OUR_LIMITS = (errno.EMFILE, errno.ENFILE)
_BUCKET = r'^{name}_bucket\{{le="([^"]+)"\}} (\S+)$'


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of the module under test before it is talked to; None where nobody knows.

    `sends_ready` is False for modules of type `Asr`; `has_steps` says whether the model has the
    heads without which no `Step` is sent. `alone`: nobody else talks to the server. `steps_ms`
    gives the times of the model's steps so far, where its log can be seen; `died` the line that
    says that the model loop is dead.
    """

    url: str
    http_url: str
    path: str
    api_key: str | None
    module: str | None = None
    sends_ready: bool = True
    has_steps: bool | None = None
    slots: int | None = None
    alone: bool = False
    limits: Limits = field(default_factory=Limits)
    steps_ms: Callable[[], Sequence[float]] = tuple
    died: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Milliseconds of model steps, and what they were read from."""

    count: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    source: str


@dataclass(slots=True)
class Seen:
    """What the checks of a module saw besides passing or failing."""

    words: list[str] = field(default_factory=list)
    """Written down, or said."""
    pauses: list[float] = field(default_factory=list)
    broken: str = ""
    """What the server said about numbers that are not finite."""
    step_times: StepTimes | None = None


class Conversation(ABC, Generic[AnswerT]):
    """Talks to one module. Without `intrusive` nothing is done that other clients could notice."""

    histogram: ClassVar[str]
    """The metric of step times of modules of this kind."""

    def __init__(self, ledger: Ledger, subject: Subject, *, intrusive: bool, patient: bool) -> None:
        """`patient` judges step times by their median, for machines that do other work as well."""
        self.seen = Seen()
        self._ledger, self._subject, self._limits = ledger, subject, subject.limits
        self._intrusive, self._patient = intrusive, patient
        self._probe: Probe[AnswerT] | None = None
        self._steps_before = 0
        self._buckets_before: dict[float, float] | None = None
        self._no_stream: int | None = None
        """The status with which the server refused a stream for another reason than its key."""

    @staticmethod
    @abstractmethod
    def decode(data: bytes) -> AnswerT:
        """Return the message that such a module sent."""

    @abstractmethod
    async def _occupy(self, probe: Probe[AnswerT]) -> None:
        """Give the module something to do."""

    async def _check(
        self, name: str, work: Callable[[], object], within_s: float | None = None
    ) -> bool:
        return await self._ledger.run(name, work, module=self._subject.module, within_s=within_s)  # type: ignore[arg-type]

    async def _check_access(self) -> None:
        """Run the checks that are the same for all: keys and slots."""
        await self._check("wrong-key", self._wrong_key, self._limits.close_s)
        for name, work in (("slots-full", self._slots_full), ("slot-return", self._slot_return)):
            await self._check(
                name, work if self._intrusive else _not_intrusive, self._limits.marker_s
            )

    async def _let_go(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            await probe.vanish()

    async def _open(self) -> Probe[AnswerT]:
        opened = await Probe.open(self._subject.url, self._subject.api_key, self.decode)
        if isinstance(opened, Probe):
            return opened
        if opened == _UNAUTHORIZED:
            raise CheckFailed(
                "the server refused the key",
                "Give one of its authorized_ids: --api-key, or DSMOPS_API_KEY.",
            )
        self._no_stream = opened
        raise CheckFailed(
            f"the server answered {opened} instead of opening a stream",
            "Check the address and the path: a moshi-server lists its paths at /api/modules_info.",
        )

    async def _ready(self) -> str:
        subject = self._subject
        self._probe = await self._open()
        if not subject.sends_ready:
            raise DoesNotApply("modules of type Asr send no Ready")
        begin_s = now_s()
        listening = asyncio.ensure_future(self._probe.receive())
        try:
            while not listening.done():
                if line := subject.died():
                    raise CheckFailed(
                        f"the model loop is dead, and the server listens all the same: {line}",
                        "On cards before Ampere see `dsmops prep-sm75`; `dsmops doctor` looks for causes.",
                    )
                if now_s() - begin_s > self._limits.ready_s:
                    if await self._listed() == []:
                        raise DoesNotApply(
                            "the server lists no batched module at this path, and those of type Asr send no Ready"
                        )
                    raise CheckFailed(
                        f"the server took the connection and sent no Ready in {self._limits.ready_s:g} s: its model loop does not run",
                        "Look for `task failed` in its log; on cards before Ampere see `dsmops prep-sm75`.",
                    )
                await asyncio.wait({listening}, timeout=POLL_S)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        answer = listening.result()
        if isinstance(answer, Ready):
            return f"Ready came after {(now_s() - begin_s) * 1000:.0f} ms"
        raise CheckFailed(f"instead of Ready came {_named(answer)}")

    async def _closing(self) -> str:
        probe, self._probe = self._talking(), None
        begin_s = now_s()
        closed = await probe.close()
        took = f"after {(now_s() - begin_s) * 1000:.0f} ms"
        if closed.code not in GOOD_CODES:
            raise CheckFailed(
                f"the server answered a Close frame with code {closed.code}, {took}",
                "Look at its log for what failed.",
            )
        # moshi-server never answers a Close frame: it stops reading and drops the connection.
        how = (
            "the connection dropped, as moshi-server does it"
            if closed.code is None
            else "the server answered the Close frame"
        )
        return f"{how}, {took}"

    async def _step_time(self) -> str:
        times = self._times_in_log() or await self._times_in_metrics()
        if times is None:
            raise DoesNotApply(
                "the server shows its step times neither in a log that can be seen nor in /metrics"
            )
        self.seen.step_times = times
        said = f"p50 {times.p50_ms:.1f}, p95 {times.p95_ms:.1f}, p99 {times.p99_ms:.1f} ms of {times.count} steps ({times.source})"
        judged_ms, name = (
            (times.p50_ms, "half of the steps take")
            if self._patient
            else (times.p95_ms, "one step in twenty takes")
        )
        if judged_ms >= FRAME_MS:
            raise CheckFailed(
                f"{said}: {name} longer than the {FRAME_MS:g} ms of a frame, and the server falls behind",
                "Serve fewer streams (`dsmops plan`), or look for what else uses the device.",
            )
        return said

    async def _wrong_key(self) -> str:
        for key, what in (("dsmops-wrong-key", "a wrong key"), (None, "no key")):
            opened = await Probe.open(self._subject.url, key, self.decode)
            if isinstance(opened, Probe):
                await opened.vanish()
                raise CheckFailed(
                    f"{what} was let in",
                    "Anybody who reaches the port can use the server; look at its authorized_ids.",
                )
            if opened == self._no_stream:
                raise DoesNotApply(
                    f"no stream opens here with the right key either: status {opened}"
                )
            if opened != _UNAUTHORIZED:
                raise CheckFailed(
                    f"{what} was answered with status {opened}, and {_UNAUTHORIZED} is right"
                )
        return "a wrong key and none were answered with 401"

    async def _slots_full(self) -> str:
        used, total = await self._slots()
        if used and self._subject.alone:
            used = await self._used_at_most(0)  # clients that were just here
        if total is None or not self._subject.sends_ready:
            raise DoesNotApply("nobody knows how many slots the module has")
        if self._subject.alone and self._subject.slots not in (None, total):
            raise CheckFailed(
                f"the server says that it has {total} slots, and the config gives it {self._subject.slots}"
            )
        free = total - (used or 0)
        if free >= _MOST_SOCKETS:
            raise DoesNotApply(f"{total} slots are more than are opened at once here")
        held = await self._take_slots(free)
        try:
            held.append(probe := await self._open())
            answer = await probe.receive()
            if not (isinstance(answer, Error) and FULL in answer.message):
                raise CheckFailed(
                    f"with {total} of {total} slots taken, one more client got {_named(answer)}, not `{FULL}`"
                )
            if not isinstance(await probe.receive(), Closed):
                raise CheckFailed(
                    "a client that was told that the server is full was not disconnected"
                )
        finally:
            await _vanish(held)
        return f"{total} of {total} slots taken, the next client was told `{answer.message}` and disconnected"

    async def _slot_return(self) -> str:
        used, total = await self._slots()
        if used is None or total is None:
            raise DoesNotApply("the server does not list this module in /api/modules_info")
        before = await self._used_at_most(
            0
        )  # those of the check before this one have only just left
        if before and self._subject.alone:
            raise CheckFailed(
                f"{before} of {total} slots are taken, and nobody is connected any more", _LEAK
            )
        count = min(_VANISHING, total - before)
        if count <= 0:
            raise DoesNotApply("other clients have all the slots")
        for reset in (False, True):
            probes = await self._take_slots(count)
            for probe in probes:
                await self._occupy(probe)
            await _vanish(probes, reset=reset)
            lost = await self._used_at_most(before) - before
            if lost > 0:
                raise CheckFailed(
                    f"{lost} of {count} slots are still taken {self._limits.return_s:g} s after their clients vanished",
                    _LEAK,
                )
        # What a server says of its slots is one thing, what it gives another.
        await _vanish(
            await self._take_slots(
                min(total - before, _MOST_SOCKETS) if self._subject.alone else count
            )
        )
        lost = await self._used_at_most(before) - before  # what comes next may need them
        if lost > 0:
            raise CheckFailed(
                f"{lost} slots are still taken {self._limits.return_s:g} s after all clients vanished",
                _LEAK,
            )
        within = f"{self._limits.return_s:g} s"
        return f"{count} clients vanished, and {count} more with a TCP reset; their slots were free again within {within}, and given out"

    async def _take_slots(self, count: int) -> list[Probe[AnswerT]]:
        """Open `count` conversations, each with a slot of its own.

        Raises:
            CheckFailed: one was refused.
            DoesNotApply: this machine allows no more connections.
        """
        held: list[Probe[AnswerT]] = []
        refused: AnswerT | Closed | None = None
        try:
            while len(held) < count and refused is None:
                held.append(probe := await self._open())
                answer = await probe.receive()
                refused = None if isinstance(answer, Ready) else answer
        except TransferError as exc:
            await _vanish(held)
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in _OUR_LIMITS:
                raise DoesNotApply(
                    f"this machine allows no more than {len(held)} connections here (`ulimit -n`)"
                ) from exc
            raise
        except BaseException:
            await _vanish(held)
            raise
        if refused is not None:
            await _vanish(held)
            raise CheckFailed(
                f"client {len(held)} of {count} for as many free slots got {_named(refused)}", _LEAK
            )
        return held

    async def _used_at_most(self, wanted: int) -> int:
        """Wait up to the limit for the used slots to come down to `wanted`, and return how many are used then."""
        until_s = now_s() + self._limits.return_s
        while (used := (await self._slots())[0] or 0) > wanted and now_s() < until_s:
            await asyncio.sleep(POLL_S)
        return used

    async def _slots(self) -> tuple[int | None, int | None]:
        """Return the used and the total slots of the module as the server tells them; without that, the config's total."""
        listed = await self._listed()
        try:
            used, total = int(listed[0]["used_slots"]), int(listed[0]["total_slots"])  # type: ignore[index]  # None is a TypeError
        except (ValueError, LookupError, TypeError):
            return None, self._subject.slots
        if not 0 <= used <= total:
            raise CheckFailed(f"/api/modules_info says that {used} of {total} slots are used")
        return used, total

    async def _listed(self) -> list[dict[str, str]] | None:
        """Return what /api/modules_info says of this path, empty where it lists others only; None where it is no such list."""
        listed = await listed_modules(self._subject.http_url)
        return (
            None
            if listed is None
            else [module for module in listed if module["path"] == self._subject.path]
        )

    def _talking(self) -> Probe[AnswerT]:
        if self._probe is None:
            raise CheckFailed("the connection is gone")
        return self._probe

    async def _next(self, probe: Probe[AnswerT]) -> AnswerT:
        """Return the next message; the end of the connection is a failure.

        Raises:
            CheckFailed: the server ended the stream.
        """
        answer = await probe.receive()
        if isinstance(answer, Error) and FULL not in answer.message:
            self._note_broken(answer.message)
            raise CheckFailed(f"the server ended the stream: {answer.message}")
        if isinstance(answer, Closed):
            raise CheckFailed(f"the server ended the stream: {answer}")
        return answer

    def _note_broken(self, said: str) -> None:
        if "not finite" in said:
            self.seen.broken = said

    async def _note_steps(self) -> None:
        """Remember where the step times of what comes now begin."""
        self._steps_before = len(self._subject.steps_ms())
        self._buckets_before = await self._buckets()

    def _times_in_log(self) -> StepTimes | None:
        times_ms = self._subject.steps_ms()[self._steps_before :]
        if len(times_ms) < 2:
            return None
        cuts = quantiles(times_ms, n=100, method="inclusive")
        return StepTimes(len(times_ms), cuts[49], cuts[94], cuts[98], "from the server's log")

    async def _times_in_metrics(self) -> StepTimes | None:
        """Return step times as the server's histogram has them: upper ends of its buckets."""
        before, after = self._buckets_before, await self._buckets()
        if before is None or not after:  # before the first step there is no such metric yet
            return None
        counts = {limit: count - before.get(limit, 0) for limit, count in sorted(after.items())}
        total = counts.get(math.inf, 0)
        if total <= 0:
            return None
        p50, p95, p99 = (
            next(limit for limit, count in counts.items() if count >= share * total) * 1000
            for share in (0.5, 0.95, 0.99)
        )
        return StepTimes(
            int(total), p50, p95, p99, "at most, from /metrics, with the steps of other clients"
        )

    async def _buckets(self) -> dict[float, float] | None:
        try:
            status, text = await get(f"{self._subject.http_url}/metrics")
        except TransferError:  # no fault of the stream that is looked at
            return None
        return (
            {
                float(limit): float(count)
                for limit, count in re.findall(
                    _BUCKET.format(name=self.histogram), text, re.MULTILINE
                )
            }
            if status == 200
            else None
        )


async def _not_intrusive() -> str:
    raise DoesNotApply("it takes slots from other clients; ask for it with --intrusive")


async def listed_modules(http_url: str) -> list[dict[str, str]] | None:
    """Return what /api/modules_info lists, each with a path and a type; None where it is no such list."""
    status, text = await get(f"{http_url}/api/modules_info")
    try:
        listed = json.loads(text) if status == _OK else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(listed, list):
        return None
    return [
        module
        for module in listed
        if isinstance(module, dict)
        and all(isinstance(module.get(key), str) for key in ("path", "type"))
    ]


async def _vanish(probes: Iterable[Probe[AnswerT]], *, reset: bool = False) -> None:
    await asyncio.gather(*(probe.vanish(reset=reset) for probe in probes))


def _named(answer: object) -> str:
    """Return a message as people speak of it."""
    if isinstance(answer, Error):
        return f"the error `{answer.message}`"
    return str(answer) if isinstance(answer, Closed) else type(answer).__name__


def now_s() -> float:
    """Return the event loop's time."""
    return asyncio.get_running_loop().time()
