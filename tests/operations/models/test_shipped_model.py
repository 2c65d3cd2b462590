"""The trained models that travel with the package: their files, words, times and voices, and faults
that the words show.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")

from safetensors.torch import load_file, save_file
from torch import Tensor

from dsmops.audio import FRAME_SAMPLES, frames, open_audio, write
from dsmops.errors import InputError, SourceError
from dsmops.operations.models.stt import find_stt, load_stt_source
from dsmops.operations.models.tts import find_tts
from dsmops.operations.speech.synthesis import SynthesisSettings, synthesize
from dsmops.scoring.rates import compare
from dsmops.shipped import shipped_models
from dsmops.worker.runtime.stt.engine import Alignment, SttEngine
from dsmops.worker.runtime.stt.transcription import Recording, Transcript, run_recordings

pytestmark = pytest.mark.slow

TINY = shipped_models()["tiny"]
SENTENCES = (TINY / "example.txt").read_text().splitlines()
FIRST_S, TWO_S = 5.6, 11.2
"""Where the silence after the example's first and second sentence ends."""
HEADS, HEAD_WIDTH, LAYERS = 4, 64, 4
SAID = (
    "there are fifteen guests near the restaurant",
    "we drifted to the castle on friday",
    "you run to the street over our building",
)
VOICES = ("hibari", "hibari-low")


def hear(
    model: str | Path,
    *,
    from_s: float = 0.0,
    noise: float = 0.0,
    alignment: Alignment = Alignment.SERVER,
) -> Transcript:
    """Return what a model makes of the example up to the end of its second sentence, with white
    noise of this RMS.
    """
    rng = np.random.default_rng(1)
    source = find_stt(str(model))
    loaded = load_stt_source(source, cpu=True)
    with open_audio(TINY / "example.flac") as audio:
        heard = list(frames(audio.blocks()))
    heard = [
        frame + noise * rng.standard_normal(FRAME_SAMPLES).astype(np.float32)
        for frame in heard[round(from_s * 12.5) : round(TWO_S * 12.5)]
    ]
    assert all(len(frame) == FRAME_SAMPLES for frame in heard)
    recording = Recording(iter(heard), source.config, loaded.tokenizer, FRAME_SAMPLES)
    for _ in run_recordings(SttEngine(loaded, 1, alignment=alignment), [recording]):
        pass
    return recording.transcript()


def wrong_words(transcript: Transcript) -> int:
    counts = compare(SENTENCES[1], transcript.text).words
    return counts.substitutions + counts.deletions + counts.insertions


def texts_of(paths: Sequence[Path]) -> list[str]:
    """Return what the shipped model makes of recordings, with silence behind each."""
    source = find_stt("tiny")
    loaded = load_stt_source(source, cpu=True)
    recordings = []
    for path in paths:
        with open_audio(path) as audio:
            heard = list(frames(audio.blocks()))
        heard[-1] = np.pad(heard[-1], (0, FRAME_SAMPLES - len(heard[-1])))
        heard += [np.zeros(FRAME_SAMPLES, np.float32)] * 12
        recordings.append(Recording(iter(heard), source.config, loaded.tokenizer, FRAME_SAMPLES))
    for _ in run_recordings(SttEngine(loaded, len(recordings)), recordings):
        pass
    return [recording.transcript().text for recording in recordings]


def centre_hz(path: Path) -> float:
    """Return the centre of the spectrum of a recording's loud parts, from 100 to 4000 Hz."""
    with open_audio(path) as audio:
        pcm = np.concatenate(list(audio.blocks()))
    pieces = np.stack([pcm[at : at + 1024] for at in range(0, len(pcm) - 1024, 512)])
    power = np.square(pieces).sum(1)
    spectrum = np.abs(np.fft.rfft(pieces[power > np.median(power)] * np.hanning(1024), axis=1))
    hz = np.fft.rfftfreq(1024, 1 / 24_000)
    heard = (hz > 100) & (hz < 4000)
    return float((spectrum[:, heard] * hz[heard]).sum() / spectrum[:, heard].sum())


@pytest.fixture(scope="module")
def clean() -> Transcript:
    return hear("tiny")


def test_its_files_are_those_that_were_trained() -> None:
    """The digests agree, nothing else lies there, and all of it stays below 24 MB."""
    sums = dict(line.split("  ")[::-1] for line in (TINY / "SHA256SUMS").read_text().splitlines())
    found = (path for path in TINY.rglob("*") if path.is_file() and path.name != "SHA256SUMS")
    files = {path.relative_to(TINY).as_posix(): path for path in found}
    assert {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()
    } == sums
    assert sum(path.stat().st_size for path in files.values()) < 24_000_000


def test_it_hears_every_word_of_the_example(clean: Transcript) -> None:
    """The words spoken are the words transcribed, and one turn ends after each sentence within half
    a second of its last word.
    """
    assert clean.text == " ".join(SENTENCES[:2])
    ends = [4.7, 11.0]  # where the last words of both sentences end
    assert [turn.time_s for turn in clean.turns] == pytest.approx(ends, abs=0.5)


@pytest.mark.slow
def test_word_times_are_those_of_the_synthesiser(clean: Transcript) -> None:
    """The first word begins where the synthesiser began it, and words follow each other."""
    starts = [word.start_s for word in clean.words]
    assert starts == sorted(starts)
    assert starts[0] == pytest.approx(0.62, abs=0.16)


def swap_heads(tensors: dict[str, Tensor]) -> None:
    """Exchange the queries of the first two heads in every layer, as a wrong order of a packed
    matrix does.
    """
    for layer in range(LAYERS):
        packed = tensors[f"transformer.layers.{layer}.self_attn.in_proj_weight"]
        first, second = slice(0, HEAD_WIDTH), slice(HEAD_WIDTH, 2 * HEAD_WIDTH)
        packed[first], packed[second] = packed[second].clone(), packed[first].clone()


def leave_out_a_layer(tensors: dict[str, Tensor]) -> None:
    for leaf in ("self_attn.out_proj.weight", "gating.linear_out.weight"):
        tensors[f"transformer.layers.2.{leaf}"].zero_()


@pytest.mark.parametrize("fault", [None, swap_heads, leave_out_a_layer])
def test_its_words_show_a_broken_conversion(
    tmp_path: Path, fault: Callable[[dict[str, Tensor]], None] | None
) -> None:
    """Three or more words of eleven are wrong in noise, where the unchanged model gets all right.

    Clean speech forgives more.
    """
    shutil.copytree(TINY, tmp_path / "broken")
    tensors = load_file(TINY / "model.safetensors")
    if fault:
        fault(tensors)
    save_file(tensors, tmp_path / "broken" / "model.safetensors")
    wrong = wrong_words(hear(tmp_path / "broken", from_s=FIRST_S, noise=0.02))
    assert wrong >= 3 if fault else wrong == 0


def test_its_times_show_an_alignment_that_is_off_by_one(clean: Transcript) -> None:
    """Frames fed one step early move the words by that step."""
    early = hear("tiny", alignment=Alignment.LMGEN)
    pairs = zip(early.words, clean.words, strict=False)
    moved = np.median([word.start_s - other.start_s for word, other in pairs])
    assert moved == pytest.approx(-0.08, abs=0.03)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Return a recording of each sentence of `SAID` by each shipped voice."""
    folder = tmp_path_factory.mktemp("spoken")
    recordings: dict[str, list[Path]] = {voice: [] for voice in VOICES}
    for voice in VOICES:
        for number, text in enumerate(SAID):
            path = folder / f"{voice}-{number}.wav"
            settings = SynthesisSettings(voices=(voice,), seed=1)
            synthesize(text, partial(write, path), "tiny", settings, cpu=True)
            recordings[voice].append(path)
    return recordings


@pytest.mark.parametrize("voice", VOICES)
def test_the_words_it_says_are_the_words_it_hears(
    spoken: dict[str, list[Path]], voice: str
) -> None:
    """At most 3 of a voice's 22 words are wrong.

    With seeds 1 to 5 they were 0, 0, 2, 1, 1 of hibari's and 0, 1, 0, 1, 1 of hibari-low's. Other
    machines round differently, draw other codes, and so speak as with another seed.
    """
    heard = texts_of(spoken[voice])
    pairs = zip(SAID, heard, strict=True)
    assert sum(compare(said, text).words.errors for said, text in pairs) <= 3


@pytest.mark.slow
def test_its_voices_differ(spoken: dict[str, list[Path]]) -> None:
    """The second voice has a longer vocal tract, so its spectrum lies lower."""
    low, high = ([centre_hz(path) for path in spoken[voice]] for voice in ("hibari-low", "hibari"))
    assert all(one < 0.95 * other for one, other in zip(low, high, strict=True))


def test_both_names_mean_the_model_that_can_do_it() -> None:
    assert find_tts("tiny").files == find_tts("tiny-tts").files
    assert find_tts("tiny").files.mimi == find_stt("tiny").files.mimi
    with pytest.raises(InputError):
        find_stt("tiny-tts")


def test_a_mistyped_name_lists_it() -> None:
    with pytest.raises(SourceError, match="tinny") as error:
        find_stt("tinny")
    assert "tiny" in str(error.value.hint)
