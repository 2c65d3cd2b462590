"""The checks of a speech-to-text module: a frame, a marker, and a recording in real time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples, frames
from dsmops.audio.signals import silence
from dsmops.client.probe import Probe
from dsmops.client.session import Patience
from dsmops.client.stt import CLOSING_FRAMES, LEAD_IN_FRAMES, Answer, transcribe
from dsmops.errors import DsmopsError
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger
from dsmops.operations.smoke.module_checks import (
    NAN_HINT,
    SLOW_HINT,
    ModuleChecks,
    Observations,
    Subject,
    now_s,
)
from dsmops.operations.smoke.step_times import FRAME_S, Pace, StepTimes
from dsmops.operations.smoke.words import WordsFailed, judge_words
from dsmops.protocol import Audio, Marker, Step, SttAnswer, Word, decode_stt_answer
from dsmops.units import counted

_MAX_DELAY_FRAMES = 40
"""More than the largest text delay, 32 frames."""
_NO_STEP_S = 3.0
"""How long to wait for a `Step` where it is unknown whether the model has pause detection."""


class SttChecks(ModuleChecks[SttAnswer]):
    """Checks one module.

    `recording` is the audio to send, float32 at 24 kHz. With `wants_words` it must bring words.
    """

    histogram = "asr_model_step_duration"

    def __init__(
        self,
        ledger: Ledger,
        subject: Subject,
        recording: Samples,
        *,
        wants_words: bool,
        intrusive: bool,
        patient: bool,
    ) -> None:
        super().__init__(ledger, subject, intrusive=intrusive, patient=patient)
        self._recording, self._wants_words = recording, wants_words
        self._pace = Pace()

    @staticmethod
    def decode(data: bytes) -> SttAnswer:
        return decode_stt_answer(data)

    async def run(self) -> Observations:
        """Run every check, and return what was seen."""
        try:
            await self._check("ready", self._ready)
            await self._check("step", self._step)
            await self._check("marker", self._marker)
            await self._check("closing", self._closing, self._limits.close_s)
        finally:
            await self._let_go()
        await self._check("clip", self._transcription)
        await self._check("words", self._words)
        # Also when the time for the whole test is over: this only reads what was measured.
        await self._check("step-time", self._step_time, always=True)
        await self._check("finite-numbers", self._finite_numbers)
        await self._check_access()
        return self.seen

    async def transcribe(
        self, audio: Samples, *, speed: float = 0.0, pace: Pace | None = None
    ) -> list[Answer]:
        """Send audio as a well-behaved client, at `speed` × real time, and return the answers.

        `pace` notes when frames were sent and answered, also of a stream that fails.

        Raises:
            RemoteError, CredentialsError: the conversation failed.
        """
        pace = pace or Pace()
        answers: list[Answer] = []

        async def sent() -> AsyncIterator[Samples]:
            for frame in frames([audio]):
                pace.sent_s.append(now_s())
                yield frame

        def take(answer: Answer) -> None:
            answers.append(answer)
            if isinstance(answer, Step):
                pace.answered_s.append(now_s())

        subject, limits = self._subject, self._limits
        # The slot of the conversation before this one may be free only after a few steps.
        patience = Patience(
            ready_s=limits.ready_s, silence_s=limits.marker_s, attempts=3, back_off_s=0.5
        )
        pace.begin_s = now_s()
        try:
            await transcribe(
                subject.url,
                sent(),
                take,
                api_key=subject.api_key,
                speed=speed,
                patience=patience,
            )
        except DsmopsError as exc:
            self._note_not_finite(exc.message)
            raise
        pace.end_s = now_s()
        return answers

    async def _occupy(self, probe: Probe[SttAnswer]) -> None:
        await probe.send(Audio(next(iter(frames([self._recording])))))

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
                    "no Step came, as from models without pause detection; see `marker`"
                ) from None
            raise CheckFailed(
                f"a frame of audio was not answered in {self._limits.step_s:g} s: "
                "the model loop hangs or died",
                "Look for `task failed` in the server's log, and whether its process uses the GPU.",
            ) from None
        took_ms = (now_s() - begin_s) * 1000
        return f"Step {answer.step_idx} came after {took_ms:.0f} ms, {len(answer.prs)} pauses"

    async def _marker(self) -> str:
        probe = self._talking()
        begin_s = now_s()
        await probe.send(Marker(1), Audio(silence(_MAX_DELAY_FRAMES * FRAME_SAMPLES)))
        try:
            async with asyncio.timeout(self._limits.marker_s):
                while not isinstance(answer := await self._next(probe), Marker):
                    pass
        except TimeoutError:
            raise CheckFailed(
                f"the marker did not return in {self._limits.marker_s:g} s, "
                f"although {_MAX_DELAY_FRAMES} frames of silence followed it",
                "Clients wait for it to know that their text is complete. "
                "Look for `received marker` in the server's log.",
            ) from None
        if answer.id != 1:
            raise CheckFailed(f"marker {answer.id} returned instead of marker 1")
        return f"marker 1 returned after {(now_s() - begin_s) * 1000:.0f} ms"

    async def _transcription(self) -> str:
        await self._note_steps()
        pace, seconds = self._pace, len(self._recording) / SAMPLE_RATE_HZ
        around_s = (LEAD_IN_FRAMES + 2 * CLOSING_FRAMES) * FRAME_S
        limit_s = seconds + around_s + self._limits.marker_s
        try:
            async with asyncio.timeout(limit_s) as limit:
                answers = await self.transcribe(self._recording, speed=1.0, pace=pace)
        except TimeoutError:
            if not limit.expired():
                raise
            raise CheckFailed(
                self._explained(
                    f"the text of {seconds:.1f} s of audio was not complete in {limit_s:.0f} s"
                ),
                SLOW_HINT,
            ) from None
        except DsmopsError as exc:
            raise CheckFailed(self._explained(exc.message), exc.hint) from exc
        self.seen.words = [answer.text for answer in answers if isinstance(answer, Word)]
        self.seen.pauses += [
            pause for answer in answers if isinstance(answer, Step) for pause in answer.prs
        ]
        frames_sent = len(pace.sent_s) + LEAD_IN_FRAMES
        if pace.answered_s and len(pace.answered_s) < frames_sent:
            raise CheckFailed(
                f"of {frames_sent} frames {len(pace.answered_s)} were answered "
                "before the marker returned"
            )
        if slow := pace.too_slow(patient=self._patient):
            raise CheckFailed(f"{slow}: the server is slower than real time", SLOW_HINT)
        if self._wants_words and not self.seen.words:
            raise CheckFailed(
                f"{seconds:.1f} s of audio brought no word",
                "Listen to the recording; try `dsmops transcribe` on it.",
            )
        latency = ""
        if pace.latency_s is not None and pace.answered_s:
            latency = f", answers {pace.latency_s * 1000:.0f} ms behind their frames (p95)"
        took_s = (pace.end_s or now_s()) - pace.begin_s
        words = counted(len(self.seen.words), "word")
        return f"{seconds:.1f} s of audio transcribed in {took_s:.1f} s{latency}, {words}"

    async def _words(self) -> str:
        spoken = self._subject.spoken
        if not spoken:
            raise DoesNotApply("no recordings with known words belong to this model")
        together = self._subject.slots or 1
        transcripts: list[list[Word]] = []
        for first in range(0, len(spoken), together):
            # One stream for each slot: a step computes all of them anyway.
            answers = await asyncio.gather(
                *(self.transcribe(one.samples) for one in spoken[first : first + together])
            )
            transcripts += [[one for one in each if isinstance(one, Word)] for each in answers]
        try:
            found, evidence = judge_words(spoken, transcripts)
        except WordsFailed as exc:
            self.seen.wer = exc.found.wer
            raise
        self.seen.wer = found.wer
        return evidence

    def _explained(self, failure: str) -> str:
        """Return a failure with how late answers were until then."""
        slow = self._pace.too_slow(patient=self._patient)
        return f"{failure}; until then {slow}" if slow else failure

    async def _step_times(self) -> StepTimes | None:
        return await super()._step_times() or self._pace.step_times()

    async def _finite_numbers(self) -> str:
        seen = self.seen
        if seen.not_finite:
            raise CheckFailed(seen.not_finite, NAN_HINT)
        bad = sum(not (math.isfinite(value) and -1e-3 <= value <= 1.001) for value in seen.pauses)
        if bad:
            raise CheckFailed(
                f"{bad} of {len(seen.pauses)} pause probabilities are outside of 0 to 1", NAN_HINT
            )
        if not seen.pauses:
            raise DoesNotApply("this server sends none of its numbers")
        return (
            f"{len(seen.pauses)} pause probabilities, all between 0 and 1; "
            "no stream was ended for its numbers"
        )
