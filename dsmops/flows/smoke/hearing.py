"""The checks of one speech-to-text module, through its WebSocket: what a client would notice, and what it would notice too late.

Works on any moshi-server. What differs between servers is in `Subject`; what a server does not offer makes a check say so.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from statistics import quantiles

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, frames
from dsmops.audio.clip import silence
from dsmops.client.asr import LEAD_IN_FRAMES, Answer, transcribe
from dsmops.client.probe import Closed, Probe, get
from dsmops.client.session import Patience
from dsmops.errors import DsmopsError
from dsmops.flows.smoke.checks import CheckFailed, DoesNotApply, Ledger, Limits
from dsmops.models import FRAME_MS
from dsmops.worker.protocol import Audio, Error, Marker, Ready, ServerMessage, Step, Word

_POLL_S = 0.05
_MOST_DELAY_FRAMES = 40
"""More than the largest text delay, 32, with some to spare."""
_NO_STEP_S = 3.0
"""How long to wait for a `Step` that only models with pause detection send, where nobody knows whether this is one."""
_MOST_SOCKETS = 1024
_VANISHING = 8
_LEAK = "Each such client makes the server smaller until it is full for everybody; restart it, and see its log."
_UNAUTHORIZED = 401
_FULL = "no free channels"
_STEP_LINE = re.compile(r"\b(\d+\.\d+)ms step_idx=")
_BUCKET = re.compile(r'^asr_model_step_duration_bucket\{le="([^"]+)"\} (\S+)$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is known of the module under test before it is talked to; None where nobody knows.

    `sends_ready` is False for modules of type `Asr`; `has_steps` says whether the model has the heads without which no `Step` is sent.
    `alone`: nobody else talks to the server. `lines` gives the server's log, None where it cannot be seen; `died` a line that says that
    the model loop is dead.
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
    lines: Callable[[], Sequence[str]] | None = None
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
class Heard:
    """What the checks of a module saw besides passing or failing."""

    words: list[str] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    broken: str = ""
    """What the server said about numbers that are not finite."""
    lags_ms: list[float] = field(default_factory=list)
    """From sending a frame to its answer."""
    step_times: StepTimes | None = None


async def check_hearing(ledger: Ledger, subject: Subject, clip: Samples, *, intrusive: bool, wants_words: bool, patient: bool) -> Heard:
    """Run every check of the module. `clip` is the sound to send, float32 at 24 kHz; `wants_words` says that it must bring some.

    Without `intrusive` nothing is done that other clients could notice. `patient` judges step times by their median, for machines that
    do other work as well.
    """
    return await _Hearing(ledger, subject, clip).run(intrusive=intrusive, wants_words=wants_words, patient=patient)


class _Hearing:
    def __init__(self, ledger: Ledger, subject: Subject, clip: Samples) -> None:
        self._ledger, self._subject, self._clip, self._limits = ledger, subject, clip, subject.limits
        self._heard = Heard()
        self._probe: Probe | None = None
        self._steps_before = 0
        self._buckets_before: dict[float, float] | None = None

    async def run(self, *, intrusive: bool, wants_words: bool, patient: bool) -> Heard:
        run, module = self._ledger.run, self._subject.module
        try:
            await run("ready", self._ready, module=module)
            await run("step", self._step, module=module)
            await run("marker", self._marker, module=module)
            await run("closing", self._closing, module=module, within_s=self._limits.close_s)
        finally:
            await self._let_go()
        await run("clip", lambda: self._hear_clip(wants_words=wants_words), module=module)
        await run("step-time", lambda: self._step_time(patient=patient), module=module)
        await run("finite-numbers", self._finite_numbers, module=module)
        await run("wrong-key", self._wrong_key, module=module, within_s=self._limits.close_s)
        for name, work in (("slots-full", self._slots_full), ("slot-return", self._slot_return)):
            await run(name, work if intrusive else _not_intrusive, module=module, within_s=self._limits.marker_s)
        return self._heard

    async def _let_go(self) -> None:
        probe, self._probe = self._probe, None
        if probe is not None:
            await probe.vanish()

    async def _open(self) -> Probe:
        opened = await Probe.open(self._subject.url, self._subject.api_key)
        if isinstance(opened, Probe):
            return opened
        if opened == _UNAUTHORIZED:
            raise CheckFailed("the server refused the key", "Give one of its authorized_ids: --api-key, or DSMOPS_API_KEY.")
        raise CheckFailed(f"the server answered {opened} instead of opening a stream", "Check the path: /api/modules_info lists them.")

    async def _ready(self) -> str:
        subject = self._subject
        self._probe = await self._open()
        if not subject.sends_ready:
            raise DoesNotApply("modules of type Asr send no Ready")
        begin_s = _now_s()
        listening = asyncio.ensure_future(self._probe.receive())
        try:
            while not listening.done():
                if line := subject.died():
                    raise CheckFailed(
                        f"the model loop is dead, and the server listens all the same: {line}",
                        "On cards before Ampere see `dsmops prep-sm75`; `dsmops doctor` looks for causes.",
                    )
                if _now_s() - begin_s > self._limits.ready_s:
                    if await self._listed() == []:
                        raise DoesNotApply("the server lists no batched module at this path, and those of type Asr send no Ready")
                    raise CheckFailed(
                        f"the server took the connection and sent no Ready in {self._limits.ready_s:g} s: its model loop does not run",
                        "Look for `task failed` in its log; on cards before Ampere see `dsmops prep-sm75`.",
                    )
                await asyncio.wait({listening}, timeout=_POLL_S)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        answer = listening.result()
        if isinstance(answer, Ready):
            return f"Ready came after {(_now_s() - begin_s) * 1000:.0f} ms"
        raise CheckFailed(f"instead of Ready came {self._describe(answer)}")

    async def _step(self) -> str:
        probe, subject = self._talking(), self._subject
        begin_s = _now_s()
        await probe.send(Audio(self._frame()))
        if subject.has_steps is False:
            raise DoesNotApply("this model has no pause detection, and so sends no Step")
        try:
            async with asyncio.timeout(self._limits.step_s if subject.has_steps else _NO_STEP_S):
                while not isinstance(answer := await self._next(probe), Step):
                    pass
        except TimeoutError:
            if subject.has_steps is None:
                raise DoesNotApply("no Step came, as from models without pause detection; the marker will tell") from None
            raise CheckFailed(
                f"a frame of sound went in, and in {self._limits.step_s:g} s no Step came out: the model loop hangs or died",
                "Look for `task failed` in the server's log, and for whether its process uses the GPU.",
            ) from None
        return f"Step {answer.step_idx} came after {(_now_s() - begin_s) * 1000:.0f} ms, {len(answer.prs)} pause probabilities"

    async def _marker(self) -> str:
        probe = self._talking()
        begin_s = _now_s()
        await probe.send(Marker(1), Audio(silence(_MOST_DELAY_FRAMES * FRAME_SAMPLES)))
        try:
            async with asyncio.timeout(self._limits.marker_s):
                while not isinstance(answer := await self._next(probe), Marker):
                    pass
        except TimeoutError:
            raise CheckFailed(
                f"the marker did not come back in {self._limits.marker_s:g} s, though {_MOST_DELAY_FRAMES} frames of silence followed it",
                "Clients wait for it to know that all text is out. Look at the server's log for `received marker`.",
            ) from None
        if answer.id != 1:
            raise CheckFailed(f"marker {answer.id} came back, and 1 was sent")
        return f"marker 1 came back after {(_now_s() - begin_s) * 1000:.0f} ms"

    async def _closing(self) -> str:
        probe, self._probe = self._talking(), None
        begin_s = _now_s()
        closed = await probe.close()
        took = f"after {(_now_s() - begin_s) * 1000:.0f} ms"
        # moshi-server never answers a Close frame: it stops reading and drops the connection.
        how = "the connection dropped, as moshi-server does it" if closed.code is None else "the server answered the Close frame"
        return f"{how}, {took}"

    async def _hear_clip(self, *, wants_words: bool) -> str:
        sent_s: list[float] = []
        arrived_s: list[float] = []
        seconds = len(self._clip) / SAMPLE_RATE_HZ

        async def paced() -> AsyncIterator[Samples]:
            for frame in frames([self._clip]):
                sent_s.append(_now_s())
                yield frame

        def take(answer: Answer) -> None:
            match answer:
                case Step():
                    arrived_s.append(_now_s())
                    self._heard.pauses += answer.prs
                case Word():
                    self._heard.words.append(answer.text)

        self._steps_before = len(self._step_lines())
        self._buckets_before = await self._buckets()
        begin_s = _now_s()
        try:
            await transcribe(
                self._subject.url,
                paced(),
                take,
                api_key=self._subject.api_key,
                speed=1.0,
                patience=Patience(ready_s=self._limits.ready_s, marker_s=self._limits.marker_s, attempts=1),
            )
        except DsmopsError as exc:
            self._note_broken(exc.message)
            raise
        took_s = _now_s() - begin_s
        if arrived_s and len(arrived_s) < len(sent_s) + LEAD_IN_FRAMES:
            raise CheckFailed(f"{len(sent_s) + LEAD_IN_FRAMES} frames were sent, and {len(arrived_s)} answered before the marker came back")
        if wants_words and not self._heard.words:
            raise CheckFailed(f"{seconds:.1f} s of sound brought no word", "Listen to the recording; try `dsmops transcribe` on it.")
        self._heard.lags_ms = [(there - here) * 1000 for here, there in zip(sent_s, arrived_s[LEAD_IN_FRAMES:], strict=False)]
        lag = f", answers {_p95(self._heard.lags_ms):.0f} ms behind their frames (p95)" if len(arrived_s) > LEAD_IN_FRAMES else ""
        count = len(self._heard.words)
        return f"{seconds:.1f} s of sound heard in {took_s:.1f} s{lag}, {count or 'no'} word{'' if count == 1 else 's'}"

    async def _step_time(self, *, patient: bool) -> str:
        times = self._times_in_log() or await self._times_in_metrics()
        if times is None:
            raise DoesNotApply("the server shows its step times neither in a log that can be seen nor in /metrics")
        self._heard.step_times = times
        said = f"p50 {times.p50_ms:.1f}, p95 {times.p95_ms:.1f}, p99 {times.p99_ms:.1f} ms of {times.count} steps ({times.source})"
        judged_ms, name = (times.p50_ms, "half of the steps take") if patient else (times.p95_ms, "one step in twenty takes")
        if judged_ms >= FRAME_MS:
            raise CheckFailed(
                f"{said}: {name} longer than the {FRAME_MS:g} ms of a frame, and the server falls behind",
                "Serve fewer streams (`dsmops plan`), or look for what else uses the device.",
            )
        return said

    async def _finite_numbers(self) -> str:
        heard = self._heard
        if heard.broken:
            raise CheckFailed(heard.broken, "The weights hold NaN, or activations overflow: `dsmops verify --numerics` finds the layer.")
        bad = sum(not (math.isfinite(value) and -1e-3 <= value <= 1.001) for value in heard.pauses)
        if bad:
            raise CheckFailed(
                f"{bad} of {len(heard.pauses)} pause probabilities are no probabilities",
                "The weights hold NaN, or activations overflow: `dsmops verify --numerics` finds the layer.",
            )
        if not heard.pauses:
            raise DoesNotApply("this server tells none of its numbers")
        return f"{len(heard.pauses)} pause probabilities, all between 0 and 1; no stream was ended for its numbers"

    async def _wrong_key(self) -> str:
        for key, what in (("dsmops-wrong-key", "a wrong key"), (None, "no key")):
            opened = await Probe.open(self._subject.url, key)
            if isinstance(opened, Probe):
                await opened.vanish()
                raise CheckFailed(f"{what} was let in", "Anybody who reaches the port can use the server; look at its authorized_ids.")
            if opened != _UNAUTHORIZED:
                raise CheckFailed(f"{what} was answered with status {opened}, and {_UNAUTHORIZED} is right")
        return "a wrong key and none were answered with 401"

    async def _slots_full(self) -> str:
        used, total = await self._slots()
        if used and self._subject.alone:
            used = await self._used_at_most(0)  # clients that were just here
        if total is None:
            raise DoesNotApply("nobody knows how many slots the module has")
        if total - (used or 0) >= _MOST_SOCKETS:
            raise DoesNotApply(f"{total} slots are more than are opened at once here")
        held: list[Probe] = []
        try:
            for number in range(total - (used or 0)):
                held.append(probe := await self._open())
                if not isinstance(answer := await self._next(probe), Ready):
                    raise CheckFailed(f"slot {number + 1} of {total} was refused: {self._describe(answer)}")
            held.append(probe := await self._open())
            answer = await self._next(probe)
            if not (isinstance(answer, Error) and _FULL in answer.message):
                raise CheckFailed(f"with {total} of {total} slots taken, one more client got {self._describe(answer)}, not `{_FULL}`")
            if not isinstance(await probe.receive(), Closed):
                raise CheckFailed("a client that was told that the server is full was not disconnected")
        finally:
            await asyncio.gather(*(probe.vanish() for probe in held))
        return f"{total} of {total} slots taken, the next client was told `{answer.message}` and disconnected"

    async def _slot_return(self) -> str:
        used, total = await self._slots()
        if used is None or total is None:
            raise DoesNotApply("the server does not list this module in /api/modules_info")
        before = await self._used_at_most(0)  # those of the check before this one have only just left
        if before and self._subject.alone:
            raise CheckFailed(f"{before} of {total} slots are taken, and nobody is connected any more", _LEAK)
        count = min(_VANISHING, total - before)
        if not count:
            raise DoesNotApply("other clients have all the slots")
        for reset in (False, True):
            probes = [await self._open() for _ in range(count)]
            for probe in probes:
                await self._next(probe)
                await probe.send(Audio(self._frame()))
            await asyncio.gather(*(probe.vanish(reset=reset) for probe in probes))
            lost = await self._used_at_most(before) - before
            if lost > 0:
                raise CheckFailed(
                    f"{lost} of {count} slots are still taken {self._limits.return_s:g} s after their clients vanished", _LEAK
                )
        return (
            f"{count} clients vanished, and {count} more with a TCP reset; their slots were free again within {self._limits.return_s:g} s"
        )

    async def _used_at_most(self, wanted: int) -> int:
        """Wait up to the limit for the used slots to come down to `wanted`, and return how many are used then."""
        until_s = _now_s() + self._limits.return_s
        while (used := (await self._slots())[0] or 0) > wanted and _now_s() < until_s:
            await asyncio.sleep(_POLL_S)
        return used

    async def _slots(self) -> tuple[int | None, int | None]:
        """Return the used and the total slots of the module as the server tells them; without that, the config's total."""
        listed = await self._listed()
        try:
            return int(listed[0]["used_slots"]), int(listed[0]["total_slots"])  # type: ignore[index]  # None is a TypeError
        except (ValueError, LookupError, TypeError):
            return None, self._subject.slots

    async def _listed(self) -> list[dict[str, str]] | None:
        """Return what /api/modules_info says of this path, empty where it lists others only; None where it is no such list."""
        status, text = await get(f"{self._subject.http_url}/api/modules_info")
        try:
            return [module for module in json.loads(text) if module["path"] == self._subject.path] if status == 200 else None
        except (ValueError, LookupError, TypeError):
            return None

    def _frame(self) -> Samples:
        return next(iter(frames([self._clip])))

    def _talking(self) -> Probe:
        if self._probe is None:
            raise CheckFailed("the connection is gone")
        return self._probe

    async def _next(self, probe: Probe) -> ServerMessage | Closed:
        """Return the next message; the end of the connection is a failure.

        Raises:
            CheckFailed: the server ended the stream.
        """
        answer = await probe.receive()
        if isinstance(answer, Step):
            self._heard.pauses += answer.prs
        if isinstance(answer, Error) and _FULL not in answer.message:
            self._note_broken(answer.message)
            raise CheckFailed(f"the server ended the stream: {answer.message}")
        if isinstance(answer, Closed):
            raise CheckFailed(f"the server ended the stream: {answer}")
        return answer

    def _note_broken(self, said: str) -> None:
        if "not finite" in said:
            self._heard.broken = said

    def _describe(self, answer: ServerMessage | Closed) -> str:
        return f"the error `{answer.message}`" if isinstance(answer, Error) else str(answer)

    def _step_lines(self) -> list[float]:
        lines = self._subject.lines() if self._subject.lines else ()
        return [float(match[1]) for line in lines if (match := _STEP_LINE.search(line))]

    def _times_in_log(self) -> StepTimes | None:
        times_ms = self._step_lines()[self._steps_before :]
        if len(times_ms) < 2:
            return None
        cuts = quantiles(times_ms, n=100, method="inclusive")
        return StepTimes(len(times_ms), cuts[49], cuts[94], cuts[98], "from the server's log")

    async def _times_in_metrics(self) -> StepTimes | None:
        """Return step times as the server's histogram has them: upper ends of its buckets."""
        before, after = self._buckets_before, await self._buckets()
        if not before or not after:
            return None
        counts = {limit: count - before.get(limit, 0) for limit, count in sorted(after.items())}
        total = counts.get(math.inf, 0)
        if total <= 0:
            return None
        p50, p95, p99 = (next(limit for limit, count in counts.items() if count >= share * total) * 1000 for share in (0.5, 0.95, 0.99))
        return StepTimes(int(total), p50, p95, p99, "at most, from /metrics, with the steps of other clients")

    async def _buckets(self) -> dict[float, float] | None:
        if self._subject.lines is not None:
            return None
        status, text = await get(f"{self._subject.http_url}/metrics")
        return {float(limit): float(count) for limit, count in _BUCKET.findall(text)} if status == 200 else None


async def _not_intrusive() -> str:
    raise DoesNotApply("it takes slots from other clients; ask for it with --intrusive")


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else values[0]
