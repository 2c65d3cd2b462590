"""The made-up model: complete, the same everywhere, and well enough behaved to stand in for a real
one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from dsmops.dtypes import ComputeDType
from dsmops.worker.models.conventions import END_OF_PADDING, LAST_SPECIAL, PADDING
from dsmops.worker.models.loading import load_mimi_decoder
from dsmops.worker.models.state import RowState
from dsmops.worker.models.stt import LoadedStt, load_stt
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.tiny.stt import LM, TinyStt, write_tiny_stt
from tests.support.cli import dsmops

CPU = torch.device("cpu")
FRAME = 1920
SECONDS = 4
REST_S = 2


@dataclass(frozen=True, slots=True)
class Heard:
    """What the model made of recordings: codes [B, K, T], tokens [B, T + 1], pause probabilities
    [B, T + 1, heads], finite everywhere or not.
    """

    codes: Tensor
    tokens: Tensor
    pauses: Tensor
    finite: bool


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Steps this small gain nothing from threads, and on a busy machine they wait for each
    other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyStt:
    return write_tiny_stt(tmp_path_factory.mktemp("tiny"))


def model_of(tiny: TinyStt, dtype: ComputeDType = ComputeDType.F32) -> LoadedStt:
    config = SttConfig.from_json(json.loads(tiny.model_config.read_text()))
    return load_stt(tiny.files, config, device=CPU, dtype=dtype)


@torch.inference_mode()
def hear(model: LoadedStt, clips: NDArray[np.float32]) -> Heard:
    """Run `clips` [B, samples] through codec and language model, frame t - 1 at step t and the
    initial tokens at step 0.
    """
    lm = model.lm
    codes = model.mimi.encode(torch.from_numpy(clips)[:, None], LM.audio_codebooks)
    rows = RowState(len(clips), CPU)
    ring, everyone = lm.init_state(rows), torch.ones(len(clips), dtype=torch.bool)
    text = torch.full((len(clips),), lm.initial_text)
    heard = torch.cat([torch.full_like(codes[..., :1], lm.initial_audio), codes], dim=-1)
    tokens, pauses, finite = [], [], True
    for audio in heard.split(1, dim=-1):
        logits, states = lm(text[:, None], audio, ring, everyone)
        text = logits[:, 0].argmax(-1)
        tokens.append(text)
        pauses.append(lm.pause_probabilities(states)[:, 0])
        finite &= bool(logits.isfinite().all())
    return Heard(codes, torch.stack(tokens, 1), torch.stack(pauses, 1), finite)


def syllables(number: int, *, peak: float = 0.2) -> NDArray[np.float32]:
    """Noise that comes and goes a few times a second, then rest."""
    rng = np.random.default_rng(number)
    time_s = np.arange(SECONDS * 24_000) / 24_000
    envelope = np.clip(np.sin(2 * np.pi * (rng.uniform(1, 3) * time_s + rng.uniform())), 0, None)
    return np.concatenate(
        [rng.uniform(-peak, peak, time_s.size) * envelope, np.zeros(REST_S * 24_000)]
    ).astype(np.float32)


def words(tokens: Tensor) -> list[tuple[int, ...]]:
    """The runs of text tokens between the tokens without text, in order."""
    found: list[tuple[int, ...]] = [()]
    for token in tokens.tolist():
        found = [*found[:-1], (*found[-1], token)] if token > LAST_SPECIAL else [*found, ()]
    return [word for word in found if word]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.slow
def test_one_seed_gives_one_set_of_bytes(tiny: TinyStt, tmp_path: Path) -> None:
    """Another process writes the same bytes whatever its hash seed and threads.

    Another seed gives other weights and nothing else new.
    """
    folder = tiny.model_config.parent
    script = (
        "from pathlib import Path; from dsmops.worker.tiny.stt import write_tiny_stt; "
        f"write_tiny_stt(Path({str(tmp_path / 'again')!r}))"
    )
    environ = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script], check=True, env=environ)
    assert digests(tmp_path / "again") == digests(folder)
    write_tiny_stt(tmp_path / "other", seed=1)
    changed = {
        name
        for name, digest in digests(tmp_path / "other").items()
        if digest != digests(folder)[name]
    }
    assert changed == {tiny.files.lm.name, tiny.files.mimi.name}


def test_the_weights_are_those_of_every_machine(tiny: TinyStt) -> None:
    """The values of seed 0 are these: a report about a tiny model can be repeated elsewhere."""
    with safe_open(tiny.files.lm, "pt") as lm, safe_open(tiny.files.mimi, "pt") as mimi:
        row, kernel = (
            lm.get_tensor("text_linear.weight")[PADDING],
            mimi.get_tensor("encoder.model.0.conv.conv.weight")[0, 0],
        )
    assert row[-4:].tolist() == [-0.482421875, -0.2412109375, -0.66015625, -0.380859375]
    assert kernel[:3].tolist() == [2.796863317489624, -1.0205376148223877, -0.31358855962753296]


def test_it_looks_like_a_published_repository(tiny: TinyStt) -> None:
    """BF16 with pause detectors, Mimi in F32, 6 steps of delay, a config.json and a server config
    that mean the same; 1 MB in all.
    """
    with safe_open(tiny.files.lm, "pt") as lm, safe_open(tiny.files.mimi, "pt") as mimi:
        assert {str(lm.get_slice(name).get_dtype()) for name in lm.keys()} == {"BF16"}  # noqa: SIM118 not a dict
        assert {str(mimi.get_slice(name).get_dtype()) for name in mimi.keys()} == {"F32"}  # noqa: SIM118 not a dict
        assert lm.metadata() is None
    model = model_of(tiny)
    assert model.config.text_delay_steps == 6
    assert model.lm.shape.tensors() == LM.tensors()
    assert model.frame_samples == FRAME
    module = tomllib.loads(tiny.server_config.read_text())["modules"]["asr"]
    assert module["asr_delay_in_tokens"] == model.config.text_delay_steps
    assert module["model"]["transformer"]["max_period"] == model.config.max_period
    folder = tiny.model_config.parent
    files = (tiny.files.lm, tiny.files.tokenizer, tiny.files.mimi)
    assert [
        folder / module[key]
        for key in ("lm_model_file", "text_tokenizer_file", "audio_tokenizer_file")
    ] == list(files)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 1_100_000


def test_text_survives_the_tokenizer(tiny: TinyStt) -> None:
    """English and French with the characters of its corpus come back unchanged.

    What carries text has ids above the special ones.
    """
    tokenizer = model_of(tiny).tokenizer
    assert tokenizer.size == LM.text_out_vocab_size
    for text in ("the question is closed, I walked along", "où est la vieille boîte ? ça m'a plu"):
        ids = tokenizer.encode(text)
        assert min(ids) > LAST_SPECIAL
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("Ω")[-1] == 0
    assert tokenizer.decode(range(LAST_SPECIAL + 1)).strip(" ⁇") == ""


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sounds_become_words_and_silence_ends_them(tmp_path: Path, seed: int) -> None:
    """Each recording gives several whole words, other recordings others, both kinds of pause.

    Rest gives padding and sure pause detectors.
    """
    model = model_of(write_tiny_stt(tmp_path, seed=seed))
    heard = hear(
        model,
        np.stack([syllables(1), syllables(2), syllables(3, peak=0.5), np.zeros_like(syllables(1))]),
    )
    said = [words(tokens) for tokens in heard.tokens]
    assert all(len(clip) >= 4 for clip in said[:3]), [len(clip) for clip in said]
    assert len({str(clip) for clip in said[:3]}) == 3
    for clip in said:
        spelt = [model.tokenizer.decode(word) for word in clip]
        assert all(spelt)
        assert model.tokenizer.decode([token for word in clip for token in word]) == " ".join(spelt)
    spoken = heard.tokens[:3, : SECONDS * 12]
    assert 0.3 < float((spoken <= LAST_SPECIAL).float().mean()) < 0.95
    assert {PADDING, END_OF_PADDING} <= set(spoken.flatten().tolist())
    assert not {1, 2} & set(spoken.flatten().tolist())
    # The codec's last sounds reach a little beyond their end.
    rest = slice(round((SECONDS + 0.5) * 12.5), None)
    assert set(heard.tokens[:, rest].flatten().tolist()) == {PADDING}
    assert float(heard.pauses[:, rest].min()) > 0.5
    assert float(heard.pauses[:3, : SECONDS * 12].min()) < 0.5
    assert words(heard.tokens[3, 1:]) == []
    assert not heard.codes[3].any()


@pytest.mark.slow
def test_sixteen_bits_say_almost_the_same(tiny: TinyStt) -> None:
    """In f16 and bf16 every value is finite.

    Nearly all tokens are those of f32, also after one that is not.
    """
    clips = np.stack([syllables(number, peak=0.1 * number) for number in range(1, 9)])
    exact = hear(model_of(tiny), clips)
    for dtype, least in ((ComputeDType.F16, 0.97), (ComputeDType.BF16, 0.9)):
        rounded = hear(model_of(tiny, dtype), clips)
        assert rounded.finite
        assert torch.equal(rounded.codes, exact.codes)
        assert float((rounded.tokens == exact.tokens).float().mean()) >= least


def test_speech_becomes_words(tiny: TinyStt, shared_data: Path) -> None:
    """A real recording gives words at a pace between one and six a second, and another recording
    others.
    """
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    model, said = model_of(tiny), []
    for name in ("bria.mp3", "loona.mp3"):
        samples, rate_hz = soundfile.read(
            shared_data / "audio" / name, dtype="float32", always_2d=True
        )
        pcm = soxr.resample(samples.mean(1), rate_hz, 24_000)[: 10 * 24_000]
        pcm = pcm[: pcm.size // FRAME * FRAME]
        heard = hear(model, pcm[None])
        said.append(words(heard.tokens[0]))
        assert heard.finite
        assert 0 < len(said[-1]) < 6 * pcm.size / 24_000
    assert len(said[0]) > 10
    assert said[0][:3] != said[1][:3]


def test_the_decoder_makes_sound_of_codes(tiny: TinyStt) -> None:
    """The file's other half decodes what the first one encoded to as many finite samples, not all
    alike.
    """
    clips = syllables(4)[None, None, : 10 * FRAME]
    with torch.inference_mode():
        codes = model_of(tiny).mimi.encode(torch.from_numpy(clips), LM.audio_codebooks)
        pcm = load_mimi_decoder(tiny.files.mimi, device=CPU).decode(codes)
    assert pcm.shape == clips.shape
    assert pcm.isfinite().all()
    assert 1e-3 < float(pcm.std()) < 1e3


def test_the_commands_take_it_for_a_model(tiny: TinyStt, tmp_path: Path) -> None:
    """The config suits a card that computes bf16.

    For a T4 prep-sm75 converts the weights and makes a config that suits it.
    """
    folder = tiny.model_config.parent
    checked = dsmops(
        "check-config", tiny.server_config.name, "--simulate", "l4", "--json", cwd=folder
    )
    assert (
        checked.code,
        [finding["code"] for finding in checked.document["files"][0]["findings"]],
    ) == (
        0,
        ["addr-not-given", "other-mimi"],
    )
    output = tmp_path / "tiny.fp16.safetensors"
    prepare = (
        "prep-sm75",
        "--simulate",
        "t4",
        "--input-path",
        tiny.files.lm,
        "--template",
        tiny.server_config,
        "--output",
        output,
    )
    prepared = dsmops(*prepare, cwd=tmp_path)
    assert prepared.code == 0, prepared.stdout + prepared.stderr
    module = tomllib.loads(output.with_suffix(".toml").read_text())["modules"]["asr"]
    assert (module["lm_model_file"], module["dtype_override"]) == (str(output), "f16")
    assert module["text_tokenizer_file"] == str(tiny.files.tokenizer)
    assert dsmops("verify", tiny.files.lm, output, cwd=tmp_path).code == 0
    assert (
        dsmops(
            "check-config",
            output.with_suffix(".toml"),
            "--simulate",
            "t4",
            "--server-version",
            "0.6.4",
            cwd=tmp_path,
        ).code
        == 0
    )
    with safe_open(output, "pt") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F16"}  # noqa: SIM118 not a dict
