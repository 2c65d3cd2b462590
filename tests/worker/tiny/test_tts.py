"""The made-up speaker: complete, the same everywhere, and well enough behaved to stand in for a
real one.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from dsmops.dtypes import ComputeDType
from dsmops.worker.models.conventions import END_OF_PADDING, PADDING
from dsmops.worker.models.tts import LoadedTts, load_tts
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.tiny.stt import write_tiny_stt
from dsmops.worker.tiny.tts import VOICES, TinyTts, write_tiny_tts

STEPS = 120


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyTts:
    return write_tiny_tts(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def model(tiny: TinyTts) -> LoadedTts:
    return load_tts(tiny.files, device=torch.device("cpu"), dtype=ComputeDType.F32)


def voice(tiny: TinyTts, model: LoadedTts, name: str) -> NDArray[np.float32]:
    with safe_open(
        str(tiny.voice_folder / f"{name}{model.config.voice_suffix}"), framework="np"
    ) as file:
        assert file.metadata() == {"sig": "7e57da7a", "epoch": "1"}
        tensor: NDArray[np.float32] = file.get_tensor("speaker_wavs")
    assert tensor.shape == (1, 512, 125)
    return tensor[0]


def speak(
    model: LoadedTts, *requests: TtsRequest, words: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return PCM [B, samples] and predictions [B, STEPS] of streams that are fed random words, of
    generator `words`, and padding.
    """
    engine, chance, predictions, sound = (
        TtsEngine(model, len(requests)),
        np.random.default_rng(words),
        [],
        [],
    )
    engine.reset(range(len(requests)), requests)

    def choose(predicted: NDArray[np.int64]) -> NDArray[np.int64]:
        predictions.append(predicted)
        return np.repeat(
            PADDING if chance.random() < 0.5 else chance.integers(4, 320), len(requests)
        )

    for _ in range(STEPS):
        out = engine.step(np.ones(len(requests), np.bool_), choose)
        assert out.finite.all()
        sound += [out.pcm] if out.valid.all() else []
    return np.concatenate(sound, axis=1), np.stack(predictions, axis=1)


def test_files(tiny: TinyTts) -> None:
    """It is complete in two megabytes, and the server's config names every file as it is named in
    the folder.
    """
    folder = tiny.server_config.parent
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 2_000_000
    module = tomllib.loads(tiny.server_config.read_text())["modules"]["tts_py"]
    assert module["type"] == "Py"
    named = [
        module["py"][key] for key in ("moshi_weight", "mimi_weight", "tokenizer", "config_path")
    ]
    assert [folder / name for name in named] == [
        tiny.files.lm,
        tiny.files.mimi,
        tiny.files.tokenizer,
        tiny.files.config,
    ]
    assert folder / module["text_tokenizer_file"] == tiny.files.tokenizer
    assert folder / module["py"]["voice_folder"] == tiny.voice_folder
    assert module["py"]["default_voice"] == tiny.voice_name


@pytest.mark.slow
def test_same_bytes_everywhere(tiny: TinyTts, tmp_path: Path) -> None:
    """Another process writes the same bytes, another seed other weights."""
    script = (
        "from pathlib import Path; from dsmops.worker.tiny.tts import write_tiny_tts; "
        f"write_tiny_tts(Path({str(tmp_path / 'again')!r}))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    write_tiny_tts(tmp_path / "other", seed=1)
    folder = tiny.server_config.parent
    same = [
        hashlib.sha256((tmp_path / "again" / file.relative_to(folder)).read_bytes()).digest()
        for file in sorted(folder.rglob("*.*"))
        if file.is_file()
    ]
    assert same == [
        hashlib.sha256(file.read_bytes()).digest()
        for file in sorted(folder.rglob("*.*"))
        if file.is_file()
    ]
    assert (tmp_path / "other" / tiny.files.lm.name).read_bytes() != tiny.files.lm.read_bytes()


def test_codec_and_tokenizer_are_those_of_the_listener(tiny: TinyTts, tmp_path: Path) -> None:
    """What it speaks, the tiny speech-to-text model of the same seed transcribes through the same
    codec and pieces.
    """
    listener = write_tiny_stt(tmp_path)
    assert listener.files.mimi.read_bytes() == tiny.files.mimi.read_bytes()
    assert listener.files.tokenizer.read_bytes() == tiny.files.tokenizer.read_bytes()


@pytest.mark.slow
def test_sound(tiny: TinyTts, model: LoadedTts) -> None:
    """Every frame is loud enough to hear, no sample exceeds the range, and it asks for padding and
    for the next word, both of them often.
    """
    first, second = (voice(tiny, model, name) for name in VOICES)
    sound, predictions = speak(
        model,
        TtsRequest((first,)),
        TtsRequest((second,), seed=1),
        TtsRequest((first, second), seed=2),
    )
    assert np.abs(sound).max() < 0.95
    levels = np.sqrt(np.square(sound.reshape(3, -1, 1920)).mean(-1))
    assert levels.min() > 0.003
    assert 0.02 < np.sqrt(np.square(sound).mean()) < 0.2
    for token in (PADDING, END_OF_PADDING):
        assert 0.05 < (predictions == token).mean() < 0.9


@pytest.mark.slow
def test_everything_is_heard(tiny: TinyTts, model: LoadedTts) -> None:
    """At temperature 0 another voice, other words and another guidance each give another sound; the
    same of all give the same.
    """
    first, second = (voice(tiny, model, name) for name in VOICES)
    plain, other_voice, guided = (
        TtsRequest((one,), cfg=cfg, temperature=0)
        for one, cfg in ((first, 2.0), (second, 2.0), (first, 4.0))
    )
    sounds = [
        speak(model, request, words=words)[0]
        for request, words in ((plain, 0), (other_voice, 0), (guided, 0), (plain, 1))
    ]
    assert len({sound.tobytes() for sound in sounds}) == 4
    assert np.array_equal(speak(model, plain)[0], sounds[0])
