"""Judge a finished TTS model by the product's own engines: `python -m
tools.tiny_models.evaluate_tts TESTS OUT`.

Sentences never trained on are synthesized in each voice. The tiny STT model transcribes them (the
round trip), and so do two recognisers that are not ours. The same recognisers on the recordings of
the training voices are the comparison.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor

from dsmops.dtypes import ComputeDType
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.worker.models.tts import LoadedTts, load_tts
from dsmops.worker.models.tts_config import TtsFiles
from dsmops.worker.models.voice import read_voice
from dsmops.worker.runtime.stt.engine import SttEngine
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.machine import TtsPacing
from dsmops.worker.runtime.tts.script import script_entries
from dsmops.worker.runtime.tts.utterance import TtsAudio, Utterance
from tools.tiny_models.batches import write_json
from tools.tiny_models.data import sentences
from tools.tiny_models.evaluate import Sentence, judged, read_tests, transcribe, write_recording
from tools.tiny_models.export import TTS_VOICES, tts_files
from tools.tiny_models.scores import edits, words_of
from tools.tiny_models.speech import spoken_words, written

Samples = np.ndarray


def texts(count: int, seed: str = "tts") -> list[tuple[str, list[str]]]:
    """Return `count` sentences of the evaluation set, as text and as spoken words."""
    source = sentences(f"test-{seed}", held_out=True)
    chosen = [next(source) for _ in range(count)]
    return [(written(words, "A"), spoken_words(words)) for words in chosen]


def read_voices(files: TtsFiles, loaded: LoadedTts) -> dict[str, Samples]:
    """Return the voices beside a model, by name."""
    suffix = loaded.config.voice_suffix
    found = sorted((files.config.parent / TTS_VOICES).glob(f"*{suffix}"))
    return {path.name.removesuffix(suffix): read_voice(path, loaded.config) for path in found}


def synthesize_all(
    loaded: LoadedTts,
    jobs: Sequence[tuple[str, Samples]],
    *,
    cfg: float = 2.0,
    temperature: float = 0.6,
    slots: int = 32,
    seed: int = 1,
    padding_bonus: float = 0.0,
) -> list[Samples]:
    """Return the sound, float32 [N], of each text in its voice."""
    engine = TtsEngine(loaded, slots, guidance=cfg != 1)
    pacing = TtsPacing()
    results: list[Samples] = []
    for first in range(0, len(jobs), slots):
        group = jobs[first : first + slots]
        rows = list(range(len(group)))
        requests = [
            TtsRequest((voice,), cfg, seed + first + row, temperature, padding_bonus)
            for row, (_, voice) in enumerate(group)
        ]
        engine.reset(rows, requests)
        utterances = []
        for text, _ in group:
            one = Utterance(loaded.config, pacing)
            one.extend(script_entries([text], loaded.tokenizer))
            one.close()
            utterances.append(one)
        sounds: list[list[Samples]] = [[] for _ in group]

        def choose(predictions: np.ndarray, utterances: list[Utterance] = utterances) -> np.ndarray:
            for row, one in enumerate(utterances):
                if not one.has_ended:
                    predictions[row] = one.choose(int(predictions[row]))
            return predictions

        while not all(one.has_ended for one in utterances):
            mask = np.zeros(slots, np.bool_)
            mask[rows] = [not one.has_ended for one in utterances]
            silent = all(one.is_text_only for one in utterances if not one.has_ended)
            output = engine.step(mask, choose, text_only=silent)
            for row, one in enumerate(utterances):
                if mask[row]:
                    news = one.take(output.pcm[row] if output.valid[row] else None)
                    sounds[row] += [part.pcm for part in news if isinstance(part, TtsAudio)]
        results += [np.concatenate(sound) if sound else np.zeros(1920) for sound in sounds]
    return [sound.astype(np.float32) for sound in results]


def round_trip(
    stt: SttEngine, processor: SentencePieceProcessor, delay: int, tests: list[Sentence]
) -> dict[str, Any]:
    """Return the word error rate in percent of our own recogniser, by voice, with examples."""
    wrong: dict[str, int] = {}
    total: dict[str, int] = {}
    examples = []
    for test, (tokens, _) in zip(tests, transcribe(stt, tests), strict=True):
        heard, _ = words_of(tokens, processor, delay)
        wrong[test.voice] = wrong.get(test.voice, 0) + edits(test.words, heard)
        total[test.voice] = total.get(test.voice, 0) + len(test.words)
        if heard != test.words:
            examples.append(f"{test.voice}: {' '.join(test.words)} | {' '.join(heard)}")
    return {
        "wer_percent": {voice: round(100 * wrong[voice] / total[voice], 1) for voice in total},
        "wer_percent_all": round(100 * sum(wrong.values()) / max(1, sum(total.values())), 2),
        "words": sum(total.values()),
        "examples": examples[:: max(1, len(examples) // 12)],
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="folder with the TTS model, its Mimi and voices")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tests", type=Path, help="folder of test-voices.npz: the comparison")
    parser.add_argument("--count", type=int, default=40, help="sentences for each voice")
    parser.add_argument("--cfg", type=float, default=2.0)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--judge-every", type=int, default=0, help="0: no other recognisers")
    parser.add_argument("--listen", type=Path, help="write a few recordings into this folder")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    files = tts_files(arguments.model)
    loaded = load_tts(files, device=device, dtype=ComputeDType.F32)
    voices = read_voices(files, loaded)
    chosen = texts(arguments.count)
    jobs = [(text, voices[name]) for name in voices for text, _ in chosen]
    began = time.time()
    sounds = synthesize_all(
        loaded, jobs, cfg=arguments.cfg, temperature=arguments.temperature, slots=16
    )
    spent = time.time() - began
    made = [
        Sentence(name, words, sound)
        for (name, words), sound in zip(
            [(name, words) for name in voices for _, words in chosen], sounds, strict=True
        )
    ]
    source = find_stt("tiny")
    stt = SttEngine(load_stt_source(source, cpu=device.type == "cpu"), 16)
    processor = SentencePieceProcessor(model_file=str(source.files.tokenizer))
    delay = source.config.text_delay_steps
    report: dict[str, Any] = {
        "cfg": arguments.cfg,
        "temperature": arguments.temperature,
        "audio_per_wall_second": round(sum(map(len, sounds)) / 24_000 / spent, 1),
        "round_trip": round_trip(stt, processor, delay, made),
    }
    print({key: report[key] for key in report if key != "round_trip"})
    print(report["round_trip"])
    write_json(arguments.out, report)
    if arguments.listen:
        arguments.listen.mkdir(parents=True, exist_ok=True)
        for number, one in enumerate(made[:: max(1, len(made) // 9)]):
            name = f"{number}-{one.voice}-{'_'.join(one.words[:6])}.wav"
            write_recording(arguments.listen / name, one.audio)
    if arguments.judge_every:
        report["judges"] = judged(made, arguments.judge_every)
        if arguments.tests:
            real = [one for path in arguments.tests.glob("test-*.npz") for one in read_tests(path)]
            real = [one for one in real if one.voice in voices]
            report["round_trip_recordings"] = round_trip(stt, processor, delay, real)
            report["judges_recordings"] = judged(real, arguments.judge_every)
        print({key: report[key] for key in report if key.startswith("judges")})
        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
