"""The modules of one server, each checked by what it is there for; and where one speaks and one hears, both together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dsmops.audio import Samples
from dsmops.operations.smoke.checks import Ledger
from dsmops.operations.smoke.conversation import Seen, Subject
from dsmops.operations.smoke.stt import Hearing
from dsmops.operations.smoke.tts import QUERY, Speaking

HEARING = ("BatchedAsr", "PyBatchedAsr", "Asr")
SPEAKING = ("Py",)
TESTED = (*HEARING, *SPEAKING)


@dataclass(frozen=True, slots=True)
class Manner:
    """How to test. `clip` is the sound to send; `wants_words` says that it must bring some.

    `intrusive` allows what other clients could notice; `patient` judges times by their middle, for
    machines that do other work as well.
    """

    clip: Samples
    wants_words: bool
    intrusive: bool
    patient: bool


async def check_modules(
    ledger: Ledger, subjects: Sequence[tuple[str, Subject]], manner: Manner
) -> dict[str | None, Seen]:
    """Check modules, given with their types, in order, and return what was seen of each by its name."""
    seen: dict[str | None, Seen] = {}
    hearing: Hearing | None = None
    speaking: Speaking | None = None
    for kind, subject in subjects:
        if kind in SPEAKING:
            speaking = Speaking(
                ledger, asking(subject), intrusive=manner.intrusive, patient=manner.patient
            )
            seen[subject.module] = await speaking.run()
        else:
            hearing = Hearing(
                ledger,
                subject,
                manner.clip,
                wants_words=manner.wants_words,
                intrusive=manner.intrusive,
                patient=manner.patient,
            )
            seen[subject.module] = await hearing.run()
    if hearing is not None and speaking is not None:
        await speaking.check_round_trip(hearing, wants_words=True)
    return seen


def asking(subject: Subject) -> Subject:
    """Return the subject with an address that asks for sound, words and errors."""
    return replace(subject, url=f"{subject.url}?{QUERY}")
