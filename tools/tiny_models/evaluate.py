"""Judge a finished model by the product's own engine: `python -m tools.tiny_models.evaluate TESTS
OUT [MODEL]`.

Words, word times and ends of turns on sentences never trained on; the words that two other
recognisers make of the same recordings; words when a stream's first latent follows zeros instead of
being repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import time
import wave
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor

from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.runtime.stt.engine import SttEngine
from tools.tiny_models.batches import read_shards, shift_formants, write_json
from tools.tiny_models.data import VOICES, sentences
from tools.tiny_models.judge import Sphinx, Whisper
from tools.tiny_models.scores import edits, words_of
from tools.tiny_models.settings import FRAME_S, FRAME_SAMPLES
from tools.tiny_models.speech import spoken_words

_LEAD_S, _TAIL_S = 0.3, 4.0
_BATCH = 16


class Sentence:
    """One recording with what is said in it; `starts` and `end` in seconds, where they are
    known.
    """

    def __init__(
        self,
        voice: str,
        words: list[str],
        audio: np.ndarray,
        starts: np.ndarray | None = None,
        end: float | None = None,
    ) -> None:
        self.voice, self.words, self.audio, self.starts, self.end = voice, words, audio, starts, end


def read_tests(path: Path) -> list[Sentence]:
    """Return the sentences of one evaluation shard."""
    index, audio, _ = read_shards([path])
    return [
        Sentence(
            VOICES[index.voice[row]],
            index.words[row],
            audio[index.first[row] : index.first[row + 1]].astype(np.float32) / 32768,
            index.starts[row],
            float(index.ends[row][-1]),
        )
        for row in range(len(index.voice))
    ]


def changed(tests: list[Sentence]) -> list[Sentence]:
    """Return the sentences of the slt and joe voices with another vocal tract and another pace:
    voices that were not in training.
    """
    made: list[Sentence] = []
    for number, test in enumerate(tests):
        if test.voice not in ("joe", "slt"):
            continue
        factor = 1.15 if number % 2 else 0.87
        audio = shift_formants(torch.from_numpy(test.audio)[None], factor, factor)[0].numpy()
        pace = 0.95 if number % 2 else 1.06
        places = np.arange(0, len(audio) - 1, pace)
        audio = np.interp(places, np.arange(len(audio)), audio).astype(np.float32)
        made.append(Sentence(f"{test.voice}-changed", test.words, audio))
    return made


def espeak(count: int) -> list[Sentence]:
    """Return sentences said by the formant synthesiser espeak-ng."""
    import soxr

    source = sentences("test-espeak", held_out=True)
    made: list[Sentence] = []
    while len(made) < count:
        words = next(source)
        if any(len(word) == 1 and word.isupper() for word in words):
            continue
        command = ["espeak-ng", "-v", "en-us", "--stdout", " ".join(words)]
        data = subprocess.run(command, check=True, capture_output=True).stdout
        samples = np.frombuffer(data[44:], "<i2").astype(np.float32) / 32768
        made.append(
            Sentence("espeak", spoken_words(words), soxr.resample(samples, 22_050, 24_000) * 0.5)
        )
    return made


def transcribe(
    engine: SttEngine, tests: list[Sentence], *, zeros: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return tokens [T] and pause probabilities [T, heads] of each sentence between silence.

    With `zeros`, the first latent of a stream follows zeros, as moshi-server's batched module has
    it.
    """
    results: list[tuple[np.ndarray, np.ndarray]] = []
    for first in range(0, len(tests), _BATCH):
        group = tests[first : first + _BATCH]
        frames = 1 + int(
            max(len(test.audio) / 24_000 for test in group) / FRAME_S
            + (_LEAD_S + _TAIL_S) / FRAME_S
        )
        pcm = np.zeros((_BATCH, frames * FRAME_SAMPLES), np.float32)
        lead = round(_LEAD_S * 24_000)
        for row, test in enumerate(group):
            pcm[row, lead : lead + len(test.audio)] = test.audio
        engine.reset(list(range(_BATCH)))
        if zeros and engine._mimi.downsample is not None:
            started = engine._mimi.downsample.started
            assert started is not None
            started.fill_(True)
        mask = np.ones(_BATCH, np.bool_)
        outputs = [
            engine.step(pcm[:, step * FRAME_SAMPLES : (step + 1) * FRAME_SAMPLES], mask)
            for step in range(frames)
        ]
        tokens = np.stack([output.text_tokens for output in outputs], 1)
        pauses = np.stack([output.pause_probabilities for output in outputs], 1)
        results += [(tokens[row], pauses[row]) for row in range(len(group))]
    return results


def score(
    tests: list[Sentence],
    results: list[tuple[np.ndarray, np.ndarray]],
    processor: SentencePieceProcessor,
    delay: int,
    sphinx: Sphinx | None,
) -> dict[str, Any]:
    """Return errors and words by voice, the word times against both alignments in ms, and the ends
    of turns.
    """
    wrong: dict[str, int] = {}
    total: dict[str, int] = {}
    exact: list[float] = []
    forced: list[float] = []
    told = early = turns = 0
    mistakes = []
    for test, (tokens, pauses) in zip(tests, results, strict=True):
        heard, begins = words_of(tokens, processor, delay)
        wrong[test.voice] = wrong.get(test.voice, 0) + edits(test.words, heard)
        total[test.voice] = total.get(test.voice, 0) + len(test.words)
        if heard != test.words:
            mistakes.append(f"{test.voice}: {' '.join(test.words)} | {' '.join(heard)}")
        if test.starts is None or test.end is None:
            continue
        if heard == test.words:
            exact += list(np.abs(np.array(begins) - _LEAD_S - test.starts))
            aligned = sphinx.align(test.audio, test.words) if sphinx else None
            if aligned:
                forced += list(np.abs(np.array(begins) - _LEAD_S - np.array(aligned)))
        end = _LEAD_S + test.end
        fired = np.flatnonzero(pauses[:, 2] > 0.5) * FRAME_S
        fired = fired[fired > _LEAD_S + float(test.starts[0]) + 0.3]
        turns += 1
        early += bool(len(fired)) and bool(fired[0] < end - 0.3)
        told += bool(len(fired)) and bool(end - 0.3 <= fired[0] <= end + 0.5)
    return {
        "wer_percent": {voice: round(100 * wrong[voice] / total[voice], 2) for voice in total},
        "wer_percent_all": round(100 * sum(wrong.values()) / sum(total.values()), 2),
        "words": sum(total.values()),
        "word_start_median_ms": round(1000 * float(np.median(exact)), 1) if exact else None,
        "word_start_median_ms_forced": round(1000 * float(np.median(forced)), 1)
        if forced
        else None,
        "turn_ends_told": round(told / turns, 4) if turns else None,
        "turn_ends_too_early": round(early / turns, 4) if turns else None,
        "mistakes": mistakes[:: max(1, len(mistakes) // 25)],
    }


def judged(tests: list[Sentence], every: int) -> dict[str, dict[str, float]]:
    """Return the WER of the two other recognisers by voice, on one sentence in `every`."""
    judges: dict[str, Whisper | Sphinx] = {"whisper-tiny.en": Whisper(), "pocketsphinx": Sphinx()}
    result: dict[str, dict[str, float]] = {}
    for name, judge in judges.items():
        wrong: dict[str, int] = {}
        total: dict[str, int] = {}
        for test in tests[::every]:
            wrong[test.voice] = wrong.get(test.voice, 0) + edits(test.words, judge.hear(test.audio))
            total[test.voice] = total.get(test.voice, 0) + len(test.words)
        result[name] = {voice: round(100 * wrong[voice] / total[voice], 1) for voice in total}
    return result


def write_recording(path: Path, audio: np.ndarray) -> None:
    """Write 24 kHz audio as a 16-bit WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes((np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes())


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", type=Path, help="folder of test-known.npz and test-unheard.npz")
    parser.add_argument("out", type=Path)
    parser.add_argument("model", nargs="?", default="tiny")
    parser.add_argument("--judge-every", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    source = find_stt(arguments.model)
    engine = SttEngine(load_stt_source(source, cpu=True), _BATCH)
    torch.set_num_threads(2)
    processor = SentencePieceProcessor(model_file=str(source.files.tokenizer))
    known = read_tests(arguments.tests / "test-known.npz")
    unheard = read_tests(arguments.tests / "test-unheard.npz")
    sets = {"known": known, "unheard": unheard, "changed": changed(known), "espeak": espeak(60)}
    report: dict[str, Any] = {}
    delay = source.config.text_delay_steps
    for name, tests in sets.items():
        began = time.time()
        results = transcribe(engine, tests)
        spent = time.time() - began
        report[name] = score(tests, results, processor, delay, Sphinx())
        report[name]["audio_per_wall_second"] = round(
            sum(len(test.audio) / 24_000 + _LEAD_S + _TAIL_S for test in tests) / spent, 1
        )
        print(name, {key: value for key, value in report[name].items() if key != "mistakes"})
    zeros = score(known, transcribe(engine, known, zeros=True), processor, delay, None)
    report["known_first_latent_after_zeros"] = {
        key: zeros[key] for key in ("wer_percent", "wer_percent_all")
    }
    print("zeros", report["known_first_latent_after_zeros"])
    write_json(arguments.out, report)
    report["judges"] = judged([*known, *unheard, *sets["espeak"]], arguments.judge_every)
    print(report["judges"])
    write_json(arguments.out, report)


if __name__ == "__main__":
    main()
