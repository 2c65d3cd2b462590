"""Recordings whose words are known, and the judgement of what a server made of them.

The models that travel with the package bring such recordings. A model that was converted wrongly
still answers in time and with finite numbers; only its words and their times show it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from statistics import median

from dsmops.audio import Samples, read
from dsmops.config.modules import Module
from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.models import model_of_shape
from dsmops.operations.smoke.checks import CheckFailed
from dsmops.protocol import Word
from dsmops.scoring import Normalizer, Score, compare, normalizer, summarize
from dsmops.shipped import shipped_folder
from dsmops.units import counted

MANIFEST = "manifest.jsonl"
MOST_WER = 0.10
"""Word error rate above which the check fails. The shipped model is at 0 % on its recordings, with
a layer left out at 24 % and more (runbooks/smoke-test.md)."""
MOST_SHIFT_S = 0.045
"""How far the middle word may begin from where it is spoken. One frame is 0.08 s."""
_FEWEST_TIMED = 10
"""Fewer recognised words than this give no time worth judging."""


@dataclass(frozen=True, slots=True)
class SpokenRecording:
    """A recording, float32 at 24 kHz, with its text and the start of each word in seconds."""

    name: str
    samples: Samples
    text: str
    starts_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Transcribed:
    """What the words of all recordings came to.

    `shift_s` is the median of how much later than spoken the recognised words begin, None where
    there are too few.
    """

    wer: float
    words: int
    errors: int
    shift_s: float | None


def recordings_for(module: Module) -> tuple[SpokenRecording, ...]:
    """Return the recordings that come with the model of a module; for other models none.

    Raises:
        InputError, SourceError: a recording of this installation is damaged or missing.
    """
    shape = module.lm_shape()
    model = model_of_shape(shape) if shape else None
    return read_recordings(model.recordings) if model and model.recordings else ()


def read_recordings(folder: str) -> tuple[SpokenRecording, ...]:
    """Return the recordings of one folder below the shipped `models`.

    Errors as for `recordings_for`.
    """
    path = shipped_folder("models") / folder / MANIFEST
    with os_errors(path):
        lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return tuple(_recording(path.parent, line) for line in lines)
    except (ValueError, KeyError, TypeError) as exc:
        raise InputError(f"{path} is damaged: {exc}", hint="Install dsmops again.") from exc


def _recording(folder: Path, line: str) -> SpokenRecording:
    row = json.loads(line)
    return SpokenRecording(
        row["audio"], read(folder / row["audio"]), row["text"], tuple(row["word_starts_s"])
    )


def judge_words(
    spoken: Sequence[SpokenRecording], transcripts: Sequence[Sequence[Word]]
) -> tuple[Transcribed, str]:
    """Return what the words came to, and that as evidence.

    Raises:
        CheckFailed: too many words are wrong, or they begin too early or too late.
    """
    found = _transcribed(spoken, transcripts)
    said = (
        f"{found.errors} of {counted(found.words, 'word')} wrong in"
        f" {counted(len(spoken), 'recording')}: WER {found.wer:.1%} (limit {MOST_WER:.0%})"
    )
    if found.wer > MOST_WER:
        worst = max(
            zip(spoken, transcripts, strict=True),
            key=lambda pair: _score(pair[0].text, pair[1]).words.rate,
        )
        text = " ".join(word.text for word in worst[1])
        raise WordsFailed(
            f"{said}; spoken {worst[0].text!r}, transcribed {text!r}",
            "The weights, their order or the number of layers are not those of the model: "
            "`dsmops verify SOURCE TARGET --numerics AUDIO --reference TEXT`.",
            found,
        )
    if found.shift_s is None:
        return found, said
    when = f"words begin {abs(found.shift_s) * 1000:.0f} ms {_side(found.shift_s)} (median)"
    if abs(found.shift_s) > MOST_SHIFT_S:
        raise WordsFailed(
            f"{said}; {when}, and {MOST_SHIFT_S * 1000:.0f} ms is the limit",
            "A frame is 80 ms: check asr_delay_in_tokens, and which frame a step takes.",
            found,
        )
    return found, f"{said}; {when}"


class WordsFailed(CheckFailed):
    """The words are wrong; `found` says by how much."""

    def __init__(self, evidence: str, hint: str, found: Transcribed) -> None:
        super().__init__(evidence, hint)
        self.found = found


def _side(shift_s: float) -> str:
    return "late" if shift_s >= 0 else "early"


def _transcribed(
    spoken: Sequence[SpokenRecording], transcripts: Sequence[Sequence[Word]]
) -> Transcribed:
    pairs = list(zip(spoken, transcripts, strict=True))
    total = summarize([_score(recording.text, words) for recording, words in pairs]).words
    shifts = [shift for recording, words in pairs for shift in _shifts(recording, words)]
    return Transcribed(
        wer=total.rate,
        words=total.reference_length,
        errors=total.errors,
        shift_s=median(shifts) if len(shifts) >= _FEWEST_TIMED else None,
    )


def _score(reference: str, words: Sequence[Word]) -> Score:
    normal = normalizer(Normalizer.BASIC)
    return compare(normal(reference), normal(" ".join(word.text for word in words)))


def _shifts(recording: SpokenRecording, words: Sequence[Word]) -> list[float]:
    """Return how much later than spoken each recognised word begins, in seconds."""
    matcher = SequenceMatcher(
        None, recording.text.split(), [word.text for word in words], autojunk=False
    )
    return [
        words[block.b + offset].start_time - recording.starts_s[block.a + offset]
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
    ]
