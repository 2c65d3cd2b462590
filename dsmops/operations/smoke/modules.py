"""The modules of one server: each is checked, and then speech to text together with the reverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dsmops.audio import Samples
from dsmops.operations.smoke.checks import Ledger
from dsmops.operations.smoke.module_checks import Observations, Subject
from dsmops.operations.smoke.stt import SttChecks
from dsmops.operations.smoke.tts import QUERY, TtsChecks

STT_TYPES = ("BatchedAsr", "PyBatchedAsr", "Asr")
TTS_TYPES = ("Py",)
CHECKED_TYPES = (*STT_TYPES, *TTS_TYPES)


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """How to check modules. `recording` is the audio to send; `wants_words`: it must bring words.

    `is_given`: the user named the recording; otherwise a model with recordings of its own gets one
    of those. `speech_is_random`: the text-to-speech model says no words. `intrusive` allows checks
    that other clients notice. With `patient`, half of all steps must be in time: for machines with
    other work.
    """

    recording: Samples
    is_given: bool
    wants_words: bool
    speech_is_random: bool
    intrusive: bool
    patient: bool


async def check_modules(
    ledger: Ledger, subjects: Sequence[tuple[str, Subject]], options: CheckOptions
) -> dict[str | None, Observations]:
    """Check modules, given with their types, in order; return what was seen of each by its name."""
    seen: dict[str | None, Observations] = {}
    stt: SttChecks | None = None
    tts: TtsChecks | None = None
    for module_type, subject in subjects:
        if module_type in TTS_TYPES:
            tts = TtsChecks(
                ledger,
                with_samples(subject),
                intrusive=options.intrusive,
                patient=options.patient,
            )
            seen[subject.module] = await tts.run()
        else:
            has_own = bool(subject.spoken) and not options.is_given
            stt = SttChecks(
                ledger,
                subject,
                subject.spoken[0].samples if has_own else options.recording,
                wants_words=options.wants_words or has_own,
                intrusive=options.intrusive,
                patient=options.patient,
            )
            seen[subject.module] = await stt.run()
    if stt is not None and tts is not None:
        await tts.check_round_trip(stt, wants_words=not options.speech_is_random)
    return seen


def with_samples(subject: Subject) -> Subject:
    """Return the subject with an address that asks for samples, words and errors."""
    return replace(subject, url=f"{subject.url}?{QUERY}")
