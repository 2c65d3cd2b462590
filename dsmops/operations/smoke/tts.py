"""The checks of a text-to-speech module: its sound is complete, in time, in range and in order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, Samples
from dsmops.audio.pcm import SILENCE_RMS
from dsmops.audio.quality import join, quality
from dsmops.client.connection import Closed
from dsmops.client.probe import Probe
from dsmops.operations.smoke.checks import CheckFailed, DoesNotApply, Ledger
from dsmops.operations.smoke.module_checks import (
    GOOD_CODES,
    NAN_HINT,
    ModuleChecks,
    Observations,
    Subject,
    now_s,
)
from dsmops.operations.smoke.stt import SttChecks
from dsmops.protocol import Audio, Eos, Error, Text, TtsAnswer, TtsText, Word, decode_tts_answer
from dsmops.units import counted

TEXT = "The morning train leaves the old station at seven, and it is never late."
QUERY = "format=PcmMessagePack"
"""The only format with samples, words and errors."""
_FIRST_AUDIO_S = 2.0
"""Users expect an answer by then. The models' own delay is 18 steps, at most 1.44 s."""
_MAX_CLIPPED = 0.01
"""moshi-server sends no clipped samples."""
_MAX_AHEAD_S = 2.5
"""moshi-server's last word ends a model delay behind the sound: 1.28 s in the 1.6B model, and 25
steps (2 s) in the preset of its Rust module."""
_SLOW_HINT = "Serve fewer streams or fewer codebooks (n_q): `dsmops plan`."


@dataclass(slots=True)
class _Speech:
    """What the server sent for the text."""

    pieces: list[Samples] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    words: list[TtsText] = field(default_factory=list)
    begin_s: float = 0.0
    end_s: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of sound."""
        return sum(map(len, self.pieces)) / SAMPLE_RATE_HZ


class TtsChecks(ModuleChecks[TtsAnswer]):
    """Checks one module. The address in `subject` asks for `QUERY`."""

    histogram = "py_model_step_duration"

    @staticmethod
    def decode(data: bytes) -> TtsAnswer:
        return decode_tts_answer(data)

    def __init__(self, ledger: Ledger, subject: Subject, *, intrusive: bool, patient: bool) -> None:
        super().__init__(ledger, subject, intrusive=intrusive, patient=patient)
        self._speech = _Speech()

    async def run(self) -> Observations:
        """Run every check, and return what was seen."""
        try:
            await self._check("ready", self._ready)
            await self._check("speech", self._synthesize)
            await self._check("closing", self._close_early, self._limits.close_s)
        finally:
            await self._let_go()
        await self._check("first-audio", self._first_audio)
        await self._check("playback", self._playback)
        await self._check("sound", self._sound)
        await self._check("said-words", self._words)
        await self._check("step-time", self._step_time, always=True)
        await self._check("finite-numbers", self._finite_numbers)
        await self._check_access()
        return self.seen

    async def check_round_trip(self, stt: SttChecks, *, wants_words: bool) -> None:
        """Let a speech-to-text module transcribe what this one synthesized."""

        async def round_trip() -> str:
            answers = await stt.transcribe(join(self._speech.pieces))
            words = [answer.text for answer in answers if isinstance(answer, Word)]
            if wants_words and not words:
                raise CheckFailed(
                    f"{self._speech.seconds:.1f} s of speech brought no word",
                    "Listen to it: `dsmops synthesize --url`.",
                )
            return f"synthesized {TEXT!r}, transcribed {' '.join(words)!r}"

        await self._ledger.run("round-trip", round_trip)

    async def _occupy(self, probe: Probe[TtsAnswer]) -> None:
        await probe.send(Text(TEXT))

    async def _synthesize(self) -> str:
        await self._note_steps()
        probe, self._probe = self._talking(), None
        speech = self._speech
        try:
            speech.begin_s = now_s()
            # Word by word, as a language model writes them.
            await probe.send(*(Text(word) for word in TEXT.split()), Eos())
            await self._collect(probe)
        finally:
            await probe.vanish()
        if not speech.pieces:
            raise CheckFailed("the stream ended without any sound", "Look at the server's log.")
        self.seen.words = [word.text for word in speech.words]
        took_s = speech.end_s - speech.begin_s
        return (
            f"{speech.seconds:.1f} s of sound for {counted(len(TEXT.split()), 'word')} "
            f"in {took_s:.1f} s, and the server ended the stream"
        )

    async def _collect(self, probe: Probe[TtsAnswer]) -> None:
        """Keep what comes, to the end of the stream.

        Raises:
            CheckFailed: it ended badly, or fell silent.
        """
        speech = self._speech
        while True:
            try:
                async with asyncio.timeout(self._limits.marker_s):
                    answer = await probe.receive()
            except TimeoutError:
                raise CheckFailed(
                    f"after {speech.seconds:.1f} s of sound nothing came for "
                    f"{self._limits.marker_s:g} s, and the stream did not end",
                    "Look for `task failed` in the server's log.",
                ) from None
            if isinstance(answer, Closed):
                speech.end_s = now_s()
                if answer.code not in GOOD_CODES:
                    raise CheckFailed(f"the server ended the stream: {answer}")
                return
            if isinstance(answer, Error):
                self._note_not_finite(answer.message)
                raise CheckFailed(f"the server ended the stream: {answer.message}")
            if isinstance(answer, Audio):
                speech.pieces.append(answer.pcm)
                speech.arrived_s.append(now_s())
            elif isinstance(answer, TtsText):
                speech.words.append(answer)

    async def _close_early(self) -> str:
        self._probe = await self._open()
        await self._next(self._probe)
        await self._occupy(self._probe)
        return await self._closing()

    async def _first_audio(self) -> str:
        first_s = self._speech.arrived_s[0] - self._speech.begin_s
        evidence = f"the first sound came {first_s * 1000:.0f} ms after the first text"
        if first_s > _FIRST_AUDIO_S and not self._patient:
            raise CheckFailed(f"{evidence}, later than {_FIRST_AUDIO_S:g} s", _SLOW_HINT)
        return evidence

    async def _playback(self) -> str:
        speech = self._speech
        # From the first sound on: the time before it is judged by `first-audio`.
        speed = speech.seconds / max(speech.end_s - speech.arrived_s[0], 1e-3)
        played_s, late = speech.arrived_s[0], 0
        for piece, arrived_s in zip(speech.pieces, speech.arrived_s, strict=True):
            late += arrived_s > played_s
            played_s = max(played_s, arrived_s) + len(piece) / SAMPLE_RATE_HZ
        late_pieces = f"{counted(late, 'underrun')} in {counted(len(speech.pieces), 'piece')}"
        text = f"{speed:.1f} × real time, {late_pieces}"
        if speed < 1 or (late and not self._patient):
            raise CheckFailed(f"{text}: playback has gaps", _SLOW_HINT)
        return text

    async def _sound(self) -> str:
        found = quality(join(self._speech.pieces))
        evidence = f"peak {found.peak:.2f}, RMS {found.rms:.3f}, {found.clipped_share:.1%} clipped"
        if round(self._speech.seconds * SAMPLE_RATE_HZ) % FRAME_SAMPLES:
            raise CheckFailed(
                f"{self._speech.seconds:.3f} s of sound are not whole frames of "
                f"{FRAME_SAMPLES} samples"
            )
        if not found.is_finite:
            raise CheckFailed("samples are NaN or infinite", NAN_HINT)
        if found.peak > 1:
            raise CheckFailed(
                f"{evidence}: samples lie outside of ±1",
                "Players distort them; moshi-server never sends such samples.",
            )
        if found.rms < SILENCE_RMS:
            raise CheckFailed(
                f"{evidence}: it is silence",
                "Try another voice; listen with `dsmops synthesize --url`.",
            )
        if found.clipped_share > _MAX_CLIPPED:
            raise CheckFailed(
                f"{evidence}: it is distorted", "Try another voice, or a smaller cfg_coef."
            )
        return evidence

    async def _words(self) -> str:
        wanted, words = TEXT.split(), self._speech.words
        if not words:
            raise DoesNotApply("this server reports no words")
        reported = [word.text for word in words]
        if reported != wanted:
            missing = next(
                (
                    word
                    for word, other in zip(wanted, [*reported, *[""] * len(wanted)], strict=False)
                    if word != other
                ),
                "",
            )
            raise CheckFailed(
                f"{len(reported)} of {len(wanted)} words were reported;"
                f" the first missing: {missing!r}"
            )
        times = [time_s for word in words for time_s in (word.start_s, word.stop_s)]
        if times != sorted(times):
            raise CheckFailed(f"the times of the words are not in order: {times}")
        if times[-1] > self._speech.seconds + _MAX_AHEAD_S:
            raise CheckFailed(
                f"the last word ends at {times[-1]:.1f} s, "
                f"and the sound at {self._speech.seconds:.1f} s"
            )
        return f"all {len(words)} words, in order, the last at {words[-1].start_s:.1f} s"

    async def _finite_numbers(self) -> str:
        if self.seen.not_finite:
            raise CheckFailed(self.seen.not_finite, NAN_HINT)
        if not self._speech.pieces:
            raise DoesNotApply("no sound came")
        samples = join(self._speech.pieces)
        if not quality(samples).is_finite:
            raise CheckFailed("samples are NaN or infinite", NAN_HINT)
        return f"{len(samples):,} samples, all finite; no stream was ended for its numbers"
