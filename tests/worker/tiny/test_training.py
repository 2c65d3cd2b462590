"""The recipe's training forward passes and the product's streaming ones give the same numbers.

What is trained over whole streams is what the engines compute step by step: random weights, the
trained dimensions, float32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the worker extra is not installed")
pytest.importorskip("tools.tiny_models", reason="only a checkout holds the recipe")

import torch

from dsmops.dtypes import ComputeDType
from dsmops.shipped import shipped_models
from dsmops.worker.models.state import RowState
from dsmops.worker.models.tts import load_tts
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.machine import NEW_WORD, TtsEntry, TtsPacing, TtsTextMachine
from tools.tiny_models.batches import read_shards, voice_weights
from tools.tiny_models.data import KOKORO_HELD_OUT, SHARES, VOICES, Shard
from tools.tiny_models.export import TOKENIZER_FILE, tts_files, write_tts
from tools.tiny_models.networks import SttNet, greedy, stt_inputs
from tools.tiny_models.settings import BINS, CODEBOOKS, STT, TTS_BODY
from tools.tiny_models.soup import mixed
from tools.tiny_models.speech import Spoken
from tools.tiny_models.tts_network import TtsNet
from tools.tiny_models.tts_streams import IGNORED, schedule

CLOSE = 2e-4
"""Between two orders of the same float32 sums; logits lie within ±10."""


@pytest.fixture(scope="module")
def config() -> TtsConfig:
    return TtsConfig.from_json(TTS_BODY)


def test_a_voice_with_few_sentences_keeps_its_share_of_the_streams() -> None:
    """The voices present share by their weights; speech of other voices counts by sentences."""
    few, many = VOICES.index("kokoro"), VOICES.index("slt")
    weights = voice_weights(np.array([few, *[many] * 9], np.uint8))
    assert weights[few] / weights[many] == pytest.approx(SHARES["kokoro"] / SHARES["slt"])
    assert weights.sum() == pytest.approx(1.0)
    weights = voice_weights(np.array([VOICES.index("hibari-low"), *[many] * 3], np.uint8))
    assert weights[many] == pytest.approx(0.75)


def test_shards_are_read_as_one(tmp_path: Path) -> None:
    """Sentences of several files follow each other, each with its own sound, labels and times."""
    rng = np.random.default_rng(2)
    said = [("slt", ["good", "day"], 1000), ("ked", ["stop"], 700), ("joe", ["go", "on"], 960)]
    for number, chosen in enumerate((said[:2], said[2:])):
        shard = Shard()
        for name, words, length in chosen:
            spans = [(0.001 * i, 0.001 * i + 0.01) for i in range(len(words))]
            sound = rng.standard_normal(length).astype(np.float32)
            shard.add(name, words, Spoken(sound, spans, [(0.0, 0.01)], [number + 3]))
        shard.write(tmp_path / f"train-1-{number:02d}-0000.npz")
    index, audio, labels = read_shards(sorted(tmp_path.glob("*.npz")))
    assert index.words == [words for _, words, _ in said]
    assert [VOICES[voice] for voice in index.voice] == [name for name, _, _ in said]
    assert index.first.tolist() == [0, 1200, 1920, 2880]
    assert [len(starts) for starts in index.starts] == [2, 1, 2]
    assert labels[index.first[:-1] // 240].tolist() == [3, 3, 4]
    assert audio[:1000].std() > 0
    assert not audio[1000:1200].any()


def test_held_out_speakers_are_in_no_training() -> None:
    """Models are chosen by speakers of Kokoro that no stream of a training may have."""
    assert "kokoro-new" not in SHARES
    assert len(set(KOKORO_HELD_OUT)) == 4


def test_a_mean_of_models_weighs_each() -> None:
    models = [{"w": torch.full((2,), value, dtype=torch.bfloat16)} for value in (1.0, 3.0)]
    parts = list(zip((0.25, 0.75), models, strict=True))
    assert mixed(parts)["w"].tolist() == [2.5, 2.5]


@torch.no_grad()
def test_speech_to_text_learns_what_the_engine_computes() -> None:
    torch.manual_seed(1)
    net = SttNet(STT).eval()
    steps, rows = 30, 2
    codes = torch.randint(BINS, (rows, CODEBOOKS, steps))
    tokens = torch.randint(STT.text_out_vocab_size, (rows, steps))
    audio, text = stt_inputs(codes, tokens, net.lm)
    wanted, heads = net(net.audio(audio), text)
    lm = net.lm
    slots = RowState(rows, torch.device("cpu"))
    ring, everyone = lm.init_state(slots), torch.ones(rows, dtype=torch.bool)
    for step in range(steps):
        at = slice(step, step + 1)
        logits, states = lm(text[:, at], audio[..., at], ring, everyone)
        assert (logits - wanted[:, at]).abs().max() < CLOSE
        pauses = lm.pause_probabilities(states)
        assert (pauses - heads[:, at].softmax(-1)[..., 0]).abs().max() < CLOSE


@torch.no_grad()
def test_the_recipes_decoding_is_greedy_streaming() -> None:
    torch.manual_seed(2)
    net = SttNet(STT).eval()
    codes = torch.randint(BINS, (1, CODEBOOKS, 12))
    tokens, _ = greedy(net, codes)
    audio, text = stt_inputs(codes, tokens, net.lm)
    logits, _ = net(net.audio(audio), text)
    assert (logits.argmax(-1) == tokens).all()


@pytest.mark.slow
@torch.no_grad()
def test_text_to_speech_learns_what_the_engine_computes(config: TtsConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = TtsNet(config).eval()
    for parameter in net.parameters():
        parameter.copy_(parameter.bfloat16())
    write_tts(net.lm, tmp_path)
    tiny = shipped_models()["tiny"]
    for name in ("mimi-tiny@1.safetensors", TOKENIZER_FILE):
        (tmp_path / name).symlink_to(tiny / name)
    loaded = load_tts(tts_files(tmp_path), device=torch.device("cpu"), dtype=ComputeDType.F32)
    engine = TtsEngine(loaded, 2, guidance=True)
    rng = np.random.default_rng(3)
    voice = rng.standard_normal(config.voice_shape).astype(np.float32)
    engine.reset([0], [TtsRequest((voice,), cfg=1.0, temperature=0.0)])
    machine = TtsTextMachine(
        ahead=config.second_stream_ahead,
        text_rows=config.shape.lm.text_in_vocab_size,
        pacing=TtsPacing(),
    )
    machine.extend(TtsEntry((500 + word, 300), "", 2) for word in range(6))
    fed: list[int] = []

    def choose(predictions: np.ndarray) -> np.ndarray:
        fed.append(machine.step(len(fed), NEW_WORD if len(fed) % 5 == 0 else 7)[0])
        predictions[0] = fed[-1]
        return predictions

    length = config.delay_steps + 30
    text, sound, codes = [], [], []
    for _ in range(length):
        engine.step(np.array([True, False]), choose)
        text.append(engine.text_logits[0].clone())
        sound.append(engine.audio_logits[0].clone())
        codes.append(engine.codes[0].clone())
    # The codes of a frame, from the steps that made them.
    frames = length - config.delay_steps - config.max_delay
    whole = torch.stack(
        [
            torch.stack([codes[config.delay_steps + delay + f][book] for f in range(frames)])
            for book, delay in enumerate(config.delays)
        ]
    )[None]
    tokens = torch.tensor(fed)[None]
    heard, told, made = net.inputs(whole, tokens)
    voices = torch.from_numpy(voice).t()[None].repeat(1, config.max_speakers, 1)
    known = torch.arange(voices.shape[1])[None] < config.voice_frames
    summed, sequence = net.conditions(voices, known, torch.tensor([True]))
    logits, states = net(told, heard, summed, sequence)
    # From the frame on of which a late codebook is not known, inputs differ.
    for step in range(frames + config.delay_steps):
        assert (logits[0, step] - text[step]).abs().max() < CLOSE
    for step in range(config.delay_steps + config.max_delay, frames + config.delay_steps):
        guesses = net.depform(states[:, step], tokens[:, step], made[:, :, step])
        assert (guesses[0] - sound[step]).abs().max() < CLOSE


def test_schedule_asks_for_each_word_when_it_sounds(config: TtsConfig) -> None:
    words = [(500,), (501, 502), (503,)]
    tokens, actions = schedule(words, [0.25, 0.7, 1.2], 1.6, 40, config)
    rows = config.shape.lm.text_in_vocab_size
    begun = [step for step, token in enumerate(tokens) if token // rows - 1 == NEW_WORD]
    # The steps before the frames in which words sound, and one when the last has ended.
    assert begun == [2, 7, 14, 19]
    assert [tokens[step] % rows for step in begun] == [500, 501, 503, 3]
    assert list(np.flatnonzero(actions == NEW_WORD)) == begun[1:]
    assert actions[0] == IGNORED
    # Two words ahead: with the first word the third is shown, right behind it.
    assert tokens[3] // rows - 1 == 503
