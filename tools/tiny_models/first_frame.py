"""Compare two starts of a stream by the words that follow: `python -m tools.tiny_models.first_frame
TESTS`.

Mimi's downsampling begins a stream with zeros, as in moshi-server, or with copies of its first
value, as in PyTorch. Each sentence of `TESTS/test-known.npz` is transcribed with both, from its
first sound on and as it was recorded. Prints WER, and the difference with its 95 % interval from
resampled sentences. See runbooks/decisions/0017.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dsmops.audio import FRAME_SAMPLES, SAMPLE_RATE_HZ, frames
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.runtime.stt.engine import SttEngine
from dsmops.worker.runtime.stt.transcription import Recording, run_recordings
from tools.tiny_models.evaluate import Sentence, read_tests
from tools.tiny_models.scores import edits

_SLOTS = 16
_RESAMPLES = 10_000


def errors(
    engine: SttEngine, sentences: Sequence[Sentence], *, from_first_sound: bool
) -> list[int]:
    """Return the wrong words of each sentence."""
    model, recordings = engine.model, []
    for sentence in sentences:
        starts = sentence.starts
        begin_s = float(starts[0]) if from_first_sound and starts is not None else 0.0
        samples = sentence.audio[round(begin_s * SAMPLE_RATE_HZ) :]
        recordings.append(
            Recording(frames([samples]), model.config, model.tokenizer, FRAME_SAMPLES)
        )
    for _ in run_recordings(engine, recordings):
        pass
    return [
        edits(sentence.words, recording.transcript().text.split())
        for sentence, recording in zip(sentences, recordings, strict=True)
    ]


def interval(differences: NDArray[np.int64], words: NDArray[np.int64]) -> tuple[float, float]:
    """Return the 95 % interval of a difference of error rates, from resampled sentences."""
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, len(words), (_RESAMPLES, len(words)))
    rates = differences[drawn].sum(1) / words[drawn].sum(1)
    low, high = np.quantile(rates, (0.025, 0.975))
    return float(low), float(high)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tests", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--limit", type=int, default=10**9, help="use only so many sentences")
    arguments = parser.parse_args()
    loaded = load_stt_source(find_stt(arguments.model), cpu=True)
    torch.set_num_threads(2)
    zeros, repeated = SttEngine(loaded, _SLOTS), SttEngine(loaded, _SLOTS)
    repeated._mimi = loaded.mimi.init_state(repeated._rows, zero_start=False)
    tests = read_tests(arguments.tests / "test-known.npz")
    order = np.random.default_rng(0).permutation(len(tests))[: arguments.limit]
    chosen = [tests[row] for row in order]
    words = np.array([len(sentence.words) for sentence in chosen])
    for name, from_first_sound in (("from the first sound on", True), ("as recorded", False)):
        first, second = (
            np.array(errors(engine, chosen, from_first_sound=from_first_sound))
            for engine in (zeros, repeated)
        )
        low, high = interval(first - second, words)
        print(
            f"{name}: {len(words)} sentences, {words.sum()} words;"
            f" zeros {first.sum() / words.sum():.2%}, repeated {second.sum() / words.sum():.2%};"
            f" zeros minus repeated {(first.sum() - second.sum()) / words.sum():+.2%}"
            f" [{low:+.2%}, {high:+.2%}]; {np.sum(first != second)} sentences differ"
        )


if __name__ == "__main__":
    main()
