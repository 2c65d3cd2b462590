"""Say sentences with the synthesisers and write them as shards: `python -m tools.tiny_models.data
FOLDER`.

A shard is one .npz of whole sentences, one after the other:
    audio int16 [N] at 24 kHz, each sentence padded to whole labels; `first` int64 [U + 1], where
    each starts, in samples; voice uint8 [U] into `VOICES`; text: the words of each, separated by
    spaces, one sentence a line; word_start, word_end float32 [W] in seconds from the sentence's
    start; label uint8 [N / 240], the phoneme every 10 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from multiprocessing import Process
from pathlib import Path

import numpy as np

from tools.tiny_models.speech import (
    ESPEAK_ACCENTS,
    ESPEAK_VARIANTS,
    SAMPLE_RATE,
    EspeakVoice,
    FestivalVoice,
    FliteVoice,
    HibariVoice,
    KokoroVoice,
    PiperVoice,
    Spoken,
    spoken_words,
)
from tools.tiny_models.text import TextGenerator

LABEL_SAMPLES = 240
VOICES = (
    *("hibari", "joe", "slt", "awb", "kal16", "rms", "hibari-changed", "hibari-low"),
    *("espeak", "ked", "slt-hts", "kokoro", "kokoro-new"),
)
"""`rms` and `kokoro-new` are never trained on.

`hibari-changed` has another pitch and another length of the vocal tract in each sentence,
`hibari-low` always those of a man. `espeak` is another speaker of espeak-ng in each sentence, and
`kokoro` another one or mixture of two of Kokoro-82M. `ked` and `slt-hts` are voices of Festival.
`kokoro-new` is one of `KOKORO_HELD_OUT`.
"""
SHARES = {
    "hibari": 0.11,
    "hibari-changed": 0.20,
    "joe": 0.11,
    "slt": 0.09,
    "awb": 0.11,
    "kal16": 0.10,
    "espeak": 0.15,
    "ked": 0.10,
    "slt-hts": 0.03,
    "kokoro": 0.30,
}
"""Weight of each voice among the sentences that are made, and among the streams of a training."""
USUAL_VOICES = [name for name in SHARES if name != "kokoro"]
"""`kokoro` is slow on processor cores: give it workers of its own (`--voices kokoro`)."""
TTS_SHARES = {"hibari": 0.55, "hibari-low": 0.45}
"""The same for the voices that the TTS model learns, each always at its own pace and pitch."""
LOW_PITCH, LOW_FORMANTS = 0.55, 0.86
HELD_OUT_VOICE = "rms"
KOKORO_HELD_OUT = ("af_nova", "am_michael", "am_onyx", "bm_george")
"""Speakers of Kokoro that are for choosing between models, never for training."""
UNHEARD_FILE = "test-unheard.npz"
CHOICE_FILE = "test-choice.npz"
_ACCENT_SHARES = (0.6, 0.1, 0.1, 0.1, 0.1)
_FESTIVAL = {"ked": "ked_diphone", "slt-hts": "cmu_us_slt_arctic_hts"}


def is_held_out(words: list[str]) -> bool:
    """Return whether this sentence is for evaluation only: one in twenty, by its text."""
    return hashlib.sha256(" ".join(words).lower().encode()).digest()[0] < 13


def sentences(seed: str, *, held_out: bool) -> Iterator[list[str]]:
    """Yield sentences without end, either only those for training or only those for evaluation."""
    generator = TextGenerator(seed)
    while True:
        words = generator.sentence()
        if words and is_held_out(words) is held_out:
            yield words


Synthesiser = HibariVoice | PiperVoice | FliteVoice | EspeakVoice | FestivalVoice | KokoroVoice


def _load(engine: str) -> Synthesiser:
    if engine == "hibari":
        return HibariVoice()
    if engine == "joe":
        return PiperVoice()
    if engine == "espeak":
        return EspeakVoice()
    if engine == "kokoro":
        return KokoroVoice(os.environ["KOKORO_VOICES"])
    if engine in _FESTIVAL:
        return FestivalVoice(_FESTIVAL[engine])
    return FliteVoice(engine, os.environ.get("FLITE_FOLDER", ""))


class Voices:
    """The synthesisers, each loaded when it first speaks."""

    def __init__(self) -> None:
        self._loaded: dict[str, Synthesiser] = {}

    def say(
        self, name: str, words: list[str], rng: np.random.Generator, *, varied: bool
    ) -> Spoken | None:
        """Return the sentence said by a voice of `VOICES`; with `varied`, at a pace and pitch drawn
        from `rng`.
        """
        engine = name if name in _FESTIVAL else name.partition("-")[0]
        if engine not in self._loaded:
            self._loaded[engine] = _load(engine)
        voice = self._loaded[engine]
        speed = float(rng.uniform(0.68, 1.3)) if varied else 1.0
        if isinstance(voice, EspeakVoice):
            accent = str(rng.choice(ESPEAK_ACCENTS, p=_ACCENT_SHARES))
            speaker = f"{accent}+{rng.choice(ESPEAK_VARIANTS)}"
            return voice.say(
                words,
                rng,
                speed=speed,
                voice=speaker,
                pitch=int(rng.integers(15, 85)),
                pitch_range=int(rng.integers(20, 90)),
            )
        if isinstance(voice, FestivalVoice):
            pitched = varied and name == "ked"
            return voice.say(
                words,
                rng,
                speed=speed,
                pitch_hz=float(np.exp(rng.uniform(4.3, 5.1))) if pitched else None,
            )
        if isinstance(voice, KokoroVoice):
            if name == "kokoro-new":
                return voice.say(words, rng, speed=speed, speaker=str(rng.choice(KOKORO_HELD_OUT)))
            # Men twice as often as women: the voice never trained on is a man's.
            names = [one for one in voice.speakers if one not in KOKORO_HELD_OUT]
            weights = np.array([2.0 if name[1] == "m" else 1.0 for name in names])
            speaker, other = rng.choice(names, 2, replace=False, p=weights / weights.sum())
            share = float(rng.uniform(0.0, 0.5)) if varied and rng.random() < 0.6 else 0.0
            return voice.say(words, rng, speed=speed, speaker=speaker, other=other, share=share)
        if isinstance(voice, PiperVoice):
            return voice.say(
                words, rng, speed=speed, noise=float(rng.uniform(0.3, 0.8)) if varied else 0.667
            )
        if isinstance(voice, FliteVoice):
            return voice.say(
                words,
                rng,
                speed=speed,
                pitch=float(np.exp(rng.uniform(-0.6, 0.4))) if varied else 1.0,
            )
        if name == "hibari":
            return voice.say(words, rng, speed=speed)
        if name == "hibari-low":
            return voice.say(words, rng, speed=speed, pitch=LOW_PITCH, formants=LOW_FORMANTS)
        pitch = float(np.exp(rng.uniform(-0.85, 0.25)))
        formants = float(np.clip(1 + 0.28 * np.log(pitch) + rng.uniform(-0.08, 0.08), 0.8, 1.15))
        return voice.say(words, rng, speed=speed, pitch=pitch, formants=formants)


class Shard:
    """Sentences on their way into one file."""

    def __init__(self) -> None:
        self.audio: list[np.ndarray] = []
        self.voice: list[int] = []
        self.text: list[str] = []
        self.starts: list[float] = []
        self.ends: list[float] = []
        self.labels: list[np.ndarray] = []
        self.samples = 0

    def add(self, name: str, words: list[str], spoken: Spoken) -> None:
        count = -(-len(spoken.audio) // LABEL_SAMPLES)
        audio = np.zeros(count * LABEL_SAMPLES, np.int16)
        # All sentences at one loudness: where the voice is, an RMS of -22 dBFS.
        active = spoken.audio[np.abs(spoken.audio) > 0.01 * np.abs(spoken.audio).max()]
        gain = 0.08 / (np.sqrt(np.mean(np.square(active))) + 1e-6)
        audio[: len(spoken.audio)] = np.clip(spoken.audio * gain, -1, 1) * 32767
        labels = np.zeros(count, np.uint8)
        for (start, end), phone in zip(spoken.phones, spoken.phone_ids, strict=True):
            labels[round(start * 100) : round(end * 100)] = phone
        self.audio.append(audio)
        self.labels.append(labels)
        self.voice.append(VOICES.index(name))
        self.text.append(" ".join(spoken_words(words)))
        self.starts += [start for start, _ in spoken.words]
        self.ends += [end for _, end in spoken.words]
        self.samples += len(audio)

    def write(self, path: Path) -> None:
        partial = path.with_suffix(".partial.npz")
        np.savez(
            partial,
            audio=np.concatenate(self.audio),
            first=np.cumsum([0, *map(len, self.audio)]),
            voice=np.array(self.voice, np.uint8),
            text=np.frombuffer("\n".join(self.text).encode(), np.uint8),
            word_start=np.array(self.starts, np.float32),
            word_end=np.array(self.ends, np.float32),
            label=np.concatenate(self.labels),
        )
        partial.rename(path)


def work(
    folder: Path,
    number: int,
    seed: int,
    hours: float,
    deadline: float,
    *,
    voices_used: Sequence[str] = USUAL_VOICES,
    tts: bool = False,
    shard_s: float = 240.0,
) -> None:
    """Write shards until there are `hours` of speech from this worker or the time is over."""
    rng = np.random.default_rng([seed, number])
    source = sentences(f"train-{seed}-{number}", held_out=False)
    shares = TTS_SHARES if tts else {name: SHARES[name] for name in voices_used}
    names, weights = list(shares), np.array(list(shares.values()))
    voices, shard, total, written = Voices(), Shard(), 0.0, 0
    while total < hours * 3600 and time.time() < deadline:
        name, words = str(rng.choice(names, p=weights / weights.sum())), next(source)
        spoken = voices.say(name, words, rng, varied=not tts)
        if spoken is None or len(spoken.audio) > 15 * SAMPLE_RATE:
            continue
        shard.add(name, words, spoken)
        if shard.samples > shard_s * SAMPLE_RATE:
            shard.write(folder / f"train-{seed}-{number:02d}-{written:04d}.npz")
            total += shard.samples / SAMPLE_RATE
            shard, written = Shard(), written + 1


def write_test(path: Path, names: list[str], count: int, seed: str) -> None:
    """Write `count` evaluation sentences of each voice in its own pace and pitch."""
    voices, shard = Voices(), Shard()
    for name in names:
        source, rng, done = (
            sentences(f"test-{seed}-{name}", held_out=True),
            np.random.default_rng([7, VOICES.index(name)]),
            0,
        )
        while done < count:
            words = next(source)
            spoken = voices.say(name, words, rng, varied=False)
            if spoken is not None and len(spoken.audio) < 12 * SAMPLE_RATE:
                shard.add(name, words, spoken)
                done += 1
    shard.write(path)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--hours", type=float, default=20.0, help="speech to make, in hours")
    parser.add_argument("--limit-s", type=float, default=1e9, help="stop after this time")
    parser.add_argument("--shard-s", type=float, default=240.0, help="speech in one file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--voices",
        type=lambda text: [name for name in text.split(",") if name],
        default=USUAL_VOICES,
        help="the voices to use, separated by commas",
    )
    parser.add_argument(
        "--test", type=int, default=0, help="write this many evaluation sentences per voice instead"
    )
    parser.add_argument(
        "--unheard",
        type=int,
        default=None,
        help="evaluation sentences of the voice never trained on (default: 3 times --test)",
    )
    parser.add_argument(
        "--tts", action="store_true", help="the voices of the TTS model, without variation"
    )
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.test and arguments.tts:
        path = arguments.folder / "test-voices.npz"
        write_test(path, list(TTS_SHARES), arguments.test, "voices")
        return
    if arguments.test:
        count = 3 * arguments.test if arguments.unheard is None else arguments.unheard
        if count:
            write_test(arguments.folder / UNHEARD_FILE, [HELD_OUT_VOICE], count, "unheard")
        known = [name for name in arguments.voices if name not in ("hibari-changed", "espeak")]
        for file, voices in (
            (CHOICE_FILE, [name for name in known if name == "kokoro-new"]),
            ("test-known.npz", [name for name in known if name != "kokoro-new"]),
        ):
            if voices:
                write_test(arguments.folder / file, voices, arguments.test, "known")
        return
    deadline = time.time() + arguments.limit_s
    workers = [
        Process(
            target=work,
            args=(
                arguments.folder,
                number,
                arguments.seed,
                arguments.hours / arguments.workers,
                deadline,
            ),
            kwargs={
                "voices_used": arguments.voices,
                "tts": arguments.tts,
                "shard_s": arguments.shard_s,
            },
        )
        for number in range(arguments.workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main()
