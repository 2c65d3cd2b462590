"""Checks that all modules share: opening, Ready, refusals, slots, step times.

`stt` and `tts` add those of their modules. Works on any moshi-server. What differs between servers
is in `Subject`; a check says so where a server does not offer what it needs.
"""

from __future__ import annotations

import asyncio
import errno
import json
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Generic

from dsmops.client.connection import Closed
from dsmops.client.probe import AnswerT, Probe, get
from dsmops.errors import TransferError
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger, Limits
from dsmops.operations.smoke.step_times import Histogram, StepTimes, from_log
from dsmops.operations.smoke.words import SpokenRecording
from dsmops.protocol import NO_FREE_CHANNELS, Error, Ready

POLL_S = 0.05
GOOD_CODES = (None, 1000, 1005)
"""Ends of a conversation without a fault: no Close frame, a normal end, or no close code."""
NAN_HINT = (
    "The weights hold NaN, or activations overflow: `dsmops verify --numerics` finds the layer."
)
SLOW_HINT = "Serve fewer streams (`dsmops plan`), or look for other programs on the device."
_MAX_SOCKETS = 1024
_VANISHING = 8
_LEAK = (
    "Each such client costs a slot until the server is full for all; restart it, and see its log."
)
_OK, _UNAUTHORIZED = 200, 401
_OUR_LIMITS = (errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of the module under test in advance. None is unknown.

    `sends_ready` is False for modules of type `Asr`; `has_steps` says whether the model has the
    heads without which no `Step` is sent. `alone`: the server has no other clients. `spoken` are
    recordings whose words the model must find. `steps_ms`
    returns the times of the model's steps so far where its log can be read, `died` the line that
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
    spoken: tuple[SpokenRecording, ...] = ()
    limits: Limits = field(default_factory=Limits)
    steps_ms: Callable[[], Sequence[float]] = tuple
    died: Callable[[], str | None] = lambda: None


@dataclass(slots=True)
class Observations:
    """What the checks of a module saw besides passing or failing."""

    words: list[str] = field(default_factory=list)
    """Transcribed or synthesized."""
    pauses: list[float] = field(default_factory=list)
    not_finite: str = ""
    """The server's message about numbers that are not finite."""
    step_times: StepTimes | None = None
    wer: float | None = None
    """Of recordings whose words are known, from 0 on."""


class ModuleChecks(ABC, Generic[AnswerT]):
    """Checks one module. Without `intrusive`, other clients notice nothing of it."""

    histogram: ClassVar[str]
    """The metric of the step times of such modules."""

    def __init__(self, ledger: Ledger, subject: Subject, *, intrusive: bool, patient: bool) -> None:
        """With `patient`, half of the steps must be in time: for machines with other work."""
        self.seen = Observations()
        self._ledger, self._subject, self._limits = ledger, subject, subject.limits
        self._intrusive, self._patient = intrusive, patient
        self._probe: Probe[AnswerT] | None = None
        self._steps_before = 0
        self._histogram_before: Histogram | None = None
        self._no_stream: int | None = None
        """The status with which the server refused a stream, if not for its key."""

    @staticmethod
    @abstractmethod
    def decode(data: bytes) -> AnswerT:
        """Return a message of such a module."""

    @abstractmethod
    async def _occupy(self, probe: Probe[AnswerT]) -> None:
        """Give the module work."""

    async def _check(
        self,
        name: str,
        work: Callable[[], Awaitable[str]],
        within_s: float | None = None,
        *,
        always: bool = False,
    ) -> bool:
        return await self._ledger.run(
            name, work, module=self._subject.module, within_s=within_s, always=always
        )

    async def _check_access(self) -> None:
        """Run the checks of keys and slots."""
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
        await self._note_steps()
        self._probe = await self._open()
        if not subject.sends_ready:
            raise DoesNotApply("modules of type Asr send no Ready")
        begin_s = now_s()
        listening = asyncio.ensure_future(self._probe.receive())
        try:
            while not listening.done():
                if line := subject.died():
                    raise CheckFailed(
                        f"the model loop is dead, although the server listens: {line}",
                        "On cards before Ampere see `dsmops prep-sm75`; "
                        "`dsmops doctor` looks for causes.",
                    )
                if now_s() - begin_s > self._limits.ready_s:
                    if await self._listed() == []:
                        raise DoesNotApply(
                            "the server lists no batched module at this path, "
                            "and a module of type Asr sends no Ready"
                        )
                    raise CheckFailed(
                        "the server accepted the connection and sent no Ready in "
                        f"{self._limits.ready_s:g} s: its model loop does not run",
                        "Look for `task failed` in its log; "
                        "on cards before Ampere see `dsmops prep-sm75`.",
                    )
                await asyncio.wait({listening}, timeout=POLL_S)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        answer = listening.result()
        if isinstance(answer, Ready):
            return f"Ready came after {(now_s() - begin_s) * 1000:.0f} ms"
        raise CheckFailed(f"{_named(answer)} came instead of Ready")

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
            "the server dropped the connection, as moshi-server does"
            if closed.code is None
            else "the server answered the Close frame"
        )
        return f"{how}, {took}"

    async def _step_time(self) -> str:
        times = await self._step_times()
        if times is None:
            raise DoesNotApply(
                "the server shows step times neither in a readable log nor in /metrics"
            )
        self.seen.step_times = times
        if slow := times.too_slow(patient=self._patient):
            raise CheckFailed(f"{slow}, and the server falls behind: {times}", SLOW_HINT)
        return str(times)

    async def _wrong_key(self) -> str:
        for key, what in (("dsmops-wrong-key", "a wrong key"), (None, "no key")):
            opened = await Probe.open(self._subject.url, key, self.decode)
            if isinstance(opened, Probe):
                await opened.vanish()
                raise CheckFailed(
                    f"{what} was accepted",
                    "Anyone who reaches the port can use the server; check its authorized_ids.",
                )
            if opened == self._no_stream:
                raise DoesNotApply(
                    f"a stream with the right key does not open here either: status {opened}"
                )
            if opened != _UNAUTHORIZED:
                raise CheckFailed(f"{what} was answered with status {opened}, not {_UNAUTHORIZED}")
        return "a wrong key and a missing key were answered with 401"

    async def _slots_full(self) -> str:
        used, total = await self._slots()
        if used and self._subject.alone:
            used = await self._used_at_most(0)  # earlier checks have only just left
        if total is None or not self._subject.sends_ready:
            raise DoesNotApply("the number of slots is unknown")
        if self._subject.alone and self._subject.slots not in (None, total):
            raise CheckFailed(
                f"the server has {total} slots, and the config says {self._subject.slots}"
            )
        free = total - (used or 0)
        if free >= _MAX_SOCKETS:
            raise DoesNotApply(f"the test opens at most {_MAX_SOCKETS} of {total} slots")
        held = await self._take_slots(free)
        try:
            held.append(probe := await self._open())
            answer = await probe.receive()
            if not (isinstance(answer, Error) and NO_FREE_CHANNELS in answer.message):
                raise CheckFailed(
                    f"with {total} of {total} slots taken, one more client got {_named(answer)}, "
                    f"not `{NO_FREE_CHANNELS}`"
                )
            if not isinstance(await probe.receive(), Closed):
                raise CheckFailed(f"a client that got `{NO_FREE_CHANNELS}` was not disconnected")
        finally:
            await _vanish(held)
        return (
            f"{total} of {total} slots taken, the next client got `{answer.message}` "
            "and was disconnected"
        )

    async def _slot_return(self) -> str:
        used, total = await self._slots()
        if used is None or total is None:
            raise DoesNotApply("the server does not list this module in /api/modules_info")
        before = await self._used_at_most(0)  # earlier checks have only just left
        if before and self._subject.alone:
            raise CheckFailed(
                f"{before} of {total} slots are taken although all clients have left", _LEAK
            )
        count = min(_VANISHING, total - before)
        if count <= 0:
            raise DoesNotApply("other clients use all slots")
        for reset in (False, True):
            probes = await self._take_slots(count)
            for probe in probes:
                await self._occupy(probe)
            await _vanish(probes, reset=reset)
            lost = await self._used_at_most(before) - before
            if lost > 0:
                raise CheckFailed(
                    f"{lost} of {count} slots are still taken {self._limits.return_s:g} s "
                    "after their clients vanished",
                    _LEAK,
                )
        # A server may report a slot as free and not give it out.
        await _vanish(
            await self._take_slots(
                min(total - before, _MAX_SOCKETS) if self._subject.alone else count
            )
        )
        lost = await self._used_at_most(before) - before  # the next checks may need them
        within = f"{self._limits.return_s:g} s"
        if lost > 0:
            raise CheckFailed(
                f"{lost} slots are still taken {within} after all clients vanished", _LEAK
            )
        return (
            f"{count} clients vanished, and {count} more with a TCP reset; "
            f"their slots were free again within {within}, and were given out"
        )

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
                    f"this machine allows only {len(held)} connections (`ulimit -n`)"
                ) from exc
            raise
        except BaseException:
            await _vanish(held)
            raise
        if refused is not None:
            await _vanish(held)
            raise CheckFailed(
                f"client {len(held)} for {count} free slots got {_named(refused)}", _LEAK
            )
        return held

    async def _used_at_most(self, wanted: int) -> int:
        """Wait for the used slots to come down to `wanted`; return how many are used then."""
        until_s = now_s() + self._limits.return_s
        while (used := (await self._slots())[0] or 0) > wanted and now_s() < until_s:
            await asyncio.sleep(POLL_S)
        return used

    async def _slots(self) -> tuple[int | None, int | None]:
        """Return the module's used and total slots.

        A server that does not list them leaves the config's total.
        """
        listed = await self._listed()
        try:
            # None for `listed` is a TypeError.
            used = int(listed[0]["used_slots"])  # type: ignore[index]
            total = int(listed[0]["total_slots"])  # type: ignore[index]
        except (ValueError, LookupError, TypeError):
            return None, self._subject.slots
        if not 0 <= used <= total:
            raise CheckFailed(f"/api/modules_info reports {used} of {total} slots as used")
        return used, total

    async def _listed(self) -> list[dict[str, str]] | None:
        """Return what /api/modules_info lists at this path, None where it is not such a list."""
        listed = await listed_modules(self._subject.http_url)
        return (
            None
            if listed is None
            else [module for module in listed if module["path"] == self._subject.path]
        )

    def _talking(self) -> Probe[AnswerT]:
        if self._probe is None:
            raise CheckFailed("the connection has ended")
        return self._probe

    async def _next(self, probe: Probe[AnswerT]) -> AnswerT:
        """Return the next message.

        Raises:
            CheckFailed: the server ended the stream.
        """
        answer = await probe.receive()
        if isinstance(answer, Error) and NO_FREE_CHANNELS not in answer.message:
            self._note_not_finite(answer.message)
            raise CheckFailed(f"the server ended the stream: {answer.message}")
        if isinstance(answer, Closed):
            raise CheckFailed(f"the server ended the stream: {answer}")
        return answer

    def _note_not_finite(self, message: str) -> None:
        if "not finite" in message:
            self.seen.not_finite = message

    async def _note_steps(self) -> None:
        """Let the step times that are judged begin here."""
        self._steps_before = len(self._subject.steps_ms())
        self._histogram_before = await self._read_histogram()

    async def _step_times(self) -> StepTimes | None:
        """Return the times of the steps since `_note_steps`, None where the server shows none."""
        times = from_log(self._subject.steps_ms()[self._steps_before :])
        if times is not None or self._histogram_before is None:
            return times
        after = await self._read_histogram()
        return after.since(self._histogram_before) if after is not None else None

    async def _read_histogram(self) -> Histogram | None:
        try:
            status, text = await get(f"{self._subject.http_url}/metrics")
        except TransferError:  # no failure of the stream under test
            return None
        return Histogram.parse(text, self.histogram) if status == _OK else None


async def _not_intrusive() -> str:
    raise DoesNotApply("it takes slots from other clients; --intrusive runs it")


async def listed_modules(http_url: str) -> list[dict[str, str]] | None:
    """Return the modules in /api/modules_info, each with path and type; None for another answer."""
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
    """Return a message in words."""
    if isinstance(answer, Error):
        return f"the error `{answer.message}`"
    return str(answer) if isinstance(answer, Closed) else type(answer).__name__


def now_s() -> float:
    """Return the event loop's time."""
    return asyncio.get_running_loop().time()
