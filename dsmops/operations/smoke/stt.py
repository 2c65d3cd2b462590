"""The checks of a speech-to-text module: frames in, answers out, a marker, and a whole clip at the pace of real time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from statistics import quantiles

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, frames
from dsmops.audio.signals import silence
from dsmops.client.probe import Probe
from dsmops.client.session import Patience
from dsmops.client.stt import LEAD_IN_FRAMES, Answer, transcribe
from dsmops.errors import DsmopsError
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger
from dsmops.operations.smoke.conversation import NAN_HINT, Conversation, Seen, Subject, now_s
from dsmops.protocol import Audio, Marker, Step, SttAnswer, Word, decode_stt_answer
from dsmops.units import counted

_MOST_DELAY_FRAMES = 40
"""More than the largest text delay, 32, with some to spare."""
_NO_STEP_S = 3.0
"""How long to wait for a `Step` that only models with pause detection send, where nobody knows whether this is one."""

OnFrame = Callable[[], None]


class Hearing(Conversation[SttAnswer]):
    """Checks one module. `clip` is the sound to send, float32 at 24 kHz; `wants_words` says that it must bring some."""

    histogram = "asr_model_step_duration"

    def __init__(
        self,
        ledger: Ledger,
        subject: Subject,
        clip: Samples,
        *,
        wants_words: bool,
        intrusive: bool,
        patient: bool,
    ) -> None:
        super().__init__(ledger, subject, intrusive=intrusive, patient=patient)
        self._clip, self._wants_words = clip, wants_words

    @staticmethod
    def decode(data: bytes) -> SttAnswer:
        return decode_stt_answer(data)

    async def run(self) -> Seen:
        """Run every check, and return what was seen."""
        try:
            await self._check("ready", self._ready)
            await self._check("step", self._step)
            await self._check("marker", self._marker)
            await self._check("closing", self._closing, self._limits.close_s)
        finally:
            await self._let_go()
        await self._check("clip", self._hear_clip)
        await self._check("step-time", self._step_time)
        await self._check("finite-numbers", self._finite_numbers)
        await self._check_access()
        return self.seen

    async def hear(
        self, sound: Samples, *, speed: float = 0.0, on_frame: OnFrame = lambda: None
    ) -> list[tuple[float, Answer]]:
        """Send a sound as a well-behaved client, at `speed` × real time, and return what the server says to it, and when.

        Raises:
            RemoteError, CredentialsError: the conversation failed.
        """
        answers: list[tuple[float, Answer]] = []

        async def sent() -> AsyncIterator[Samples]:
            for frame in frames([sound]):
                on_frame()
                yield frame

        subject, limits = self._subject, self._limits
        patience = Patience(ready_s=limits.ready_s, silence_s=limits.marker_s, attempts=1)
        try:
            await transcribe(
                subject.url,
                sent(),
                lambda answer: answers.append((now_s(), answer)),
                api_key=subject.api_key,
                speed=speed,
                patience=patience,
            )
        except DsmopsError as exc:
            self._note_broken(exc.message)
            raise
        return answers

    async def _occupy(self, probe: Probe[SttAnswer]) -> None:
        await probe.send(Audio(next(iter(frames([self._clip])))))

    async def _next(self, probe: Probe[SttAnswer]) -> SttAnswer:
        answer = await super()._next(probe)
        if isinstance(answer, Step):
            self.seen.pauses += answer.prs
        return answer

    async def _step(self) -> str:
        probe, subject = self._talking(), self._subject
        begin_s = now_s()
        await self._occupy(probe)
        if subject.has_steps is False:
            raise DoesNotApply("this model has no pause detection, and so sends no Step")
        try:
            async with asyncio.timeout(self._limits.step_s if subject.has_steps else _NO_STEP_S):
                while not isinstance(answer := await self._next(probe), Step):
                    pass
        except TimeoutError:
            if subject.has_steps is None:
                raise DoesNotApply(
                    "no Step came, as from models without pause detection; the marker will tell"
                ) from None
            raise CheckFailed(
                f"a frame of sound went in, and in {self._limits.step_s:g} s no Step came out: the model loop hangs or died",
                "Look for `task failed` in the server's log, and for whether its process uses the GPU.",
            ) from None
        return f"Step {answer.step_idx} came after {(now_s() - begin_s) * 1000:.0f} ms, {len(answer.prs)} pause probabilities"

    async def _marker(self) -> str:
        probe = self._talking()
        begin_s = now_s()
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
        return f"marker 1 came back after {(now_s() - begin_s) * 1000:.0f} ms"

    async def _hear_clip(self) -> str:
        sent_s: list[float] = []
        await self._note_steps()
        begin_s = now_s()
        answers = await self.hear(self._clip, speed=1.0, on_frame=lambda: sent_s.append(now_s()))
        took_s, seconds = now_s() - begin_s, len(self._clip) / SAMPLE_RATE_HZ
        self.seen.words = [answer.text for _, answer in answers if isinstance(answer, Word)]
        self.seen.pauses += [
            pause for _, answer in answers if isinstance(answer, Step) for pause in answer.prs
        ]
        arrived_s = [time_s for time_s, answer in answers if isinstance(answer, Step)]
        frames_sent = len(sent_s) + LEAD_IN_FRAMES
        if arrived_s and len(arrived_s) < frames_sent:
            raise CheckFailed(
                f"{frames_sent} frames were sent, and {len(arrived_s)} answered before the marker came back"
            )
        if self._wants_words and not self.seen.words:
            raise CheckFailed(
                f"{seconds:.1f} s of sound brought no word",
                "Listen to the recording; try `dsmops transcribe` on it.",
            )
        lags_ms = [
            (there - here) * 1000
            for here, there in zip(sent_s, arrived_s[LEAD_IN_FRAMES:], strict=False)
        ]
        lag = f", answers {_p95(lags_ms):.0f} ms behind their frames (p95)" if lags_ms else ""
        return f"{seconds:.1f} s of sound heard in {took_s:.1f} s{lag}, {counted(len(self.seen.words), 'word')}"

    async def _finite_numbers(self) -> str:
        seen = self.seen
        if seen.broken:
            raise CheckFailed(seen.broken, NAN_HINT)
        bad = sum(not (math.isfinite(value) and -1e-3 <= value <= 1.001) for value in seen.pauses)
        if bad:
            raise CheckFailed(
                f"{bad} of {len(seen.pauses)} pause probabilities are no probabilities", NAN_HINT
            )
        if not seen.pauses:
            raise DoesNotApply("this server tells none of its numbers")
        return f"{len(seen.pauses)} pause probabilities, all between 0 and 1; no stream was ended for its numbers"


def _p95(values: Sequence[float]) -> float:
    return quantiles(values, n=20, method="inclusive")[18] if len(values) > 1 else values[0]
