"""The text-to-speech engine: rows that know nothing of each other, draws that can be repeated, and
requests that are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsmops.errors import InputError
from dsmops.worker.models.attention import KeysValues
from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsOutput, TtsRequest
from tests.support.networks import (
    TTS_VOICE_FRAMES,
    UNGUIDED_TTS_CONFIG_BODY,
    load_tts_model,
    random_weights,
    tts_config,
    write_mimi,
    write_tts,
)
from tests.support.tolerances import LOGITS, MIMI

STEPS, SLOTS = 60, 4
EVERYONE = np.ones(SLOTS, np.bool_)
TEXT = np.random.default_rng(0).integers(4, 48, (STEPS, SLOTS))
POISON_TOKEN = 47


def _voice(number: int) -> NDArray[np.float32]:
    return np.random.default_rng(number).standard_normal((24, TTS_VOICE_FRAMES)).astype(np.float32)


REQUESTS = (
    TtsRequest((_voice(0),), cfg=2.0, seed=1),
    TtsRequest((_voice(0), _voice(1)), cfg=4.0, seed=1, temperature=0.9),
    TtsRequest((), cfg=1.0, seed=7, temperature=0.0),
    TtsRequest((_voice(2),), cfg=2.5, seed=2**63 + 5, padding_bonus=1.5),
)


def feed(tokens: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """Return a choice of `tokens`, whatever was predicted."""
    return lambda _: tokens


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny language model and codec, with random weights."""
    folder = tmp_path_factory.mktemp("tts")
    return write_tts(folder / "model.safetensors"), write_mimi(folder / "mimi.safetensors")


@pytest.fixture(scope="module")
def model(files: tuple[Path, Path]) -> LoadedTts:
    return load_tts_model(*files)


@pytest.fixture(scope="module")
def unguided(tmp_path_factory: pytest.TempPathFactory, files: tuple[Path, Path]) -> LoadedTts:
    """A model that does not take guidance as an input."""
    path = tmp_path_factory.mktemp("unguided") / "model.safetensors"
    return load_tts_model(
        write_tts(path, body=UNGUIDED_TTS_CONFIG_BODY), files[1], body=UNGUIDED_TTS_CONFIG_BODY
    )


class Alone:
    """One row in an engine of its own."""

    def __init__(self, model: LoadedTts, request: TtsRequest, *, guidance: bool = False) -> None:
        self.engine, self.request = TtsEngine(model, 1, guidance=guidance), request
        self.predicted = 0
        self.reset()

    def reset(self) -> None:
        self.engine.reset([0], [self.request])

    def step(self, token: int, *, text_only: bool = False) -> TtsOutput:
        def choose(predicted: NDArray[np.int64]) -> NDArray[np.int64]:
            self.predicted = int(predicted[0])
            return np.array([token])

        return self.engine.step(np.array([True]), choose, text_only=text_only)


def test_a_step_of_nobody_changes_nothing(model: LoadedTts) -> None:
    """Steps in which no slot advances leave a stream as it was, before its sound and in it."""
    plain, disturbed = Alone(model, REQUESTS[0]), Alone(model, REQUESTS[0])
    for step in range(12):
        disturbed.engine.step(np.array([False]), feed(np.array([5])))
        one, other = plain.step(4 + step), disturbed.step(4 + step)
        assert (plain.predicted, one.valid[0]) == (disturbed.predicted, other.valid[0])
        np.testing.assert_array_equal(one.pcm[one.valid], other.pcm[other.valid])
    assert one.valid[0]


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [False, True])
@pytest.mark.parametrize("seed", range(2))
def test_rows_are_independent(
    model: LoadedTts, unguided: LoadedTts, seed: int, guidance: bool
) -> None:
    """A row among busy, idle and resetting neighbours of other voices, seeds and temperatures
    predicts, chooses and sounds as alone.
    """
    chance = np.random.default_rng(seed)
    requests = [replace(request, cfg=1.5) for request in REQUESTS] if guidance else list(REQUESTS)
    used = unguided if guidance else model
    together = TtsEngine(used, SLOTS, guidance=guidance)
    together.reset(range(SLOTS), requests)
    alone = [Alone(used, request, guidance=guidance) for request in requests]
    sounded = 0
    for step in range(STEPS):
        mask = chance.random(SLOTS) < 0.75
        mask[0] &= step >= 5
        again = [slot for slot in range(1, SLOTS) if chance.random() < 0.04]
        together.reset(again, [requests[slot] for slot in again])
        text_only = bool((together.offsets[mask] < 5).all()) and chance.random() < 0.8
        predicted = np.zeros(SLOTS, np.int64)

        def choose(
            seen: NDArray[np.int64], step: int = step, predicted: NDArray[np.int64] = predicted
        ) -> NDArray[np.int64]:
            predicted[:] = seen
            return TEXT[step]

        out = together.step(mask, choose, text_only=text_only)
        for slot in range(SLOTS):
            if slot in again:
                alone[slot].reset()
            if mask[slot]:
                own = alone[slot].step(int(TEXT[step, slot]), text_only=text_only)
                assert predicted[slot] == alone[slot].predicted
                assert together.codes[slot].tolist() == alone[slot].engine.codes[0].tolist()
                assert (out.valid[slot], out.finite[slot]) == (own.valid[0], own.finite[0])
                if own.valid[0]:
                    sounded += 1
                    np.testing.assert_allclose(out.pcm[slot], own.pcm[0], atol=MIMI, rtol=0)
    assert sounded > STEPS


@pytest.mark.slow
@pytest.mark.parametrize("guidance", [False, True])
def test_steps_launched_ahead_give_what_steps_give(
    model: LoadedTts, unguided: LoadedTts, guidance: bool
) -> None:
    """The next step is launched before the sound of the last one is taken, rows are reset between
    them, and every number is that of `step`.
    """
    used, chance = unguided if guidance else model, np.random.default_rng(5)
    # So warm that some rows ask for a word.
    warm = [replace(request, temperature=50.0) for request in REQUESTS]
    requests = [replace(request, cfg=1.5) for request in warm] if guidance else warm
    one, other = (TtsEngine(used, SLOTS, guidance=guidance) for _ in range(2))
    expected: list[TtsOutput] = []
    launched, asked = [], 0
    for step in range(30):
        mask = chance.random(SLOTS) < 0.8
        again = [0, 1, 2, 3] if step == 0 else [slot for slot in (1, 3) if chance.random() < 0.1]
        voices = chance.permutation(SLOTS)
        for engine in (one, other):
            engine.reset(again, [requests[voices[slot]] for slot in again])
        text_only = bool(mask.any() and (one.offsets[mask] < 5).all())
        tokens = chance.integers(4, 48, (SLOTS, 2))
        seen: list[NDArray[np.int64]] = []

        def choose(
            predicted: NDArray[np.int64],
            tokens: NDArray[np.int64] = tokens,
            seen: list[NDArray[np.int64]] = seen,
        ) -> NDArray[np.int64]:
            seen.append(predicted)
            chosen: NDArray[np.int64] = np.where(predicted == 0, tokens[:, 1], tokens[:, 0])
            return chosen

        expected.append(one.step(mask, choose, text_only=text_only))
        launched.append(other.launch(mask, tokens, text_only=text_only))
        assert launched[-1].predicted()[mask].tolist() == seen[0][mask].tolist()
        asked += int((seen[0][mask] == 0).sum())
        assert one.codes[mask].tolist() == other.codes[mask].tolist()
        if step:
            _require_same(launched[step - 1].wait(), expected[step - 1])
    _require_same(launched[-1].wait(), expected[-1])
    assert asked or guidance
    assert sum(output.valid.sum() for output in expected) > 20


def _require_same(output: TtsOutput, expected: TtsOutput) -> None:
    assert output.valid.tolist() == expected.valid.tolist()
    assert output.finite[output.valid].tolist() == expected.finite[output.valid].tolist()
    np.testing.assert_array_equal(output.pcm[output.valid], expected.pcm[output.valid])


def test_a_voice_is_projected_once(model: LoadedTts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that speak with the voice of another row get a copy, and sound as with their own."""
    projected = []
    project = model.lm.voice
    monkeypatch.setattr(
        model.lm, "voice", lambda sequence: projected.append(1) or project(sequence)
    )
    together = TtsEngine(model, SLOTS)
    together.reset([0, 1], [REQUESTS[0], replace(REQUESTS[0], seed=9)])
    together.reset([0], [REQUESTS[3]])
    together.reset([2, 1], [REQUESTS[0], REQUESTS[0]])
    together.reset([1], [replace(REQUESTS[0], cfg=4.0)])
    assert len(projected) == 2
    alone = {
        0: Alone(model, REQUESTS[3]),
        1: Alone(model, replace(REQUESTS[0], cfg=4.0)),
        2: Alone(model, REQUESTS[0]),
    }
    for step in range(12):
        out = together.step(np.array([True, True, True, False]), feed(TEXT[step]))
        for slot, row in alone.items():
            own = row.step(int(TEXT[step, slot]))
            np.testing.assert_allclose(
                together.text_logits[slot], row.engine.text_logits[0], atol=1e-5, rtol=0
            )
            if own.valid[0]:
                np.testing.assert_allclose(out.pcm[slot], own.pcm[0], atol=MIMI, rtol=0)


def test_text_only_steps_change_nothing(model: LoadedTts) -> None:
    """A stream whose first steps were text-only goes on as one whose steps all ran the
    depformer.
    """
    short, whole = Alone(model, REQUESTS[0]), Alone(model, REQUESTS[0])
    for step in range(20):
        one, other = (
            row.step(int(TEXT[step, 0]), text_only=text_only)
            for row, text_only in ((short, step < 5), (whole, False))
        )
        assert short.predicted == whole.predicted
        assert torch.equal(short.engine.codes, whole.engine.codes)
        assert one.valid == other.valid == (step >= 7)
        if one.valid[0]:
            assert np.array_equal(one.pcm, other.pcm)


def test_streaming_equals_one_pass(model: LoadedTts) -> None:
    """Text logits, logits of codes and sound, step by step, are those of one pass over the tokens
    and codes that were fed.
    """
    steps = 35
    alone, text_logits, audio_logits, codes, sound = Alone(model, REQUESTS[0]), [], [], [], []
    for step in range(steps):
        out = alone.step(int(TEXT[step, 0]))
        text_logits.append(alone.engine.text_logits[0].clone())
        audio_logits.append(alone.engine.audio_logits[0].clone())
        codes.append(alone.engine.codes[0].clone())
        sound += [out.pcm[0]] if out.valid[0] else []
    lm, config = model.lm, model.config
    with torch.no_grad():
        made = torch.stack(codes, dim=1)
        begun = torch.arange(steps) <= torch.tensor(config.delays)[:, None]
        audio = torch.where(begun, lm.initial_audio, made.roll(1, dims=1))
        text = torch.tensor([lm.initial_text, *TEXT[: steps - 1, 0].tolist()])
        cross = [
            KeysValues(entries[None])
            for entries in lm.voice(lm.conditioning.cross([torch.from_numpy(_voice(0))]))
        ]
        logits, states = lm(text[None], audio[None], lm.conditioning.summed(2.0)[None], cross)
        torch.testing.assert_close(
            torch.stack(text_logits), logits[0], atol=LOGITS[torch.float32], rtol=0
        )
        again = _depformer_in_one_pass(model, states[0], torch.from_numpy(TEXT[:steps, 0]), made)
        begin = (
            config.delay_steps + config.max_delay
        )  # before, the depformer went on with codes that were not kept
        torch.testing.assert_close(
            torch.stack(audio_logits)[begin:], again[begin:], atol=LOGITS[torch.float32], rtol=0
        )
        frames = torch.stack(
            [
                made[q, config.delay_steps + delay :][: len(sound)]
                for q, delay in enumerate(config.delays)
            ]
        )
        # As many frames as the codec's window holds: beyond it, streaming sees one key less.
        whole = model.mimi.decode(frames[None, :, :4])[0, 0]
    np.testing.assert_allclose(np.concatenate(sound[:4]), whole, atol=MIMI, rtol=0)


def _depformer_in_one_pass(model: LoadedTts, states: Tensor, text: Tensor, codes: Tensor) -> Tensor:
    """Return logits [S, K, card] of all codebooks at once: a causal mask instead of steps, plain
    formulas instead of fused ones.
    """
    inner, logits = model.lm.depformer, []
    width, heads = inner.heads.shape[-1], 2
    inputs = []
    for q, weight_set in enumerate(inner.schedule):
        if q == 0:
            left, right = text % 49, text // 49 - 1
            table, (first, second) = inner.text_emb.weight, inner.text_emb.out.chunk(2, dim=1)
            token = table[left] @ first.t() + torch.where(
                right[:, None] >= 0, table[right.clamp(min=0)] @ second.t(), 0
            )
        else:
            token = inner.emb[q - 1][codes[q - 1].clamp(min=0)] @ inner.low_rank[q - 1].t()
        inputs.append(
            states @ inner.inputs.view(-1, width, states.shape[-1])[weight_set].t() + token
        )
    x = torch.stack(inputs, dim=1)

    def by_set(x: Tensor, weights: Tensor) -> Tensor:
        return torch.stack(
            [x[:, q] @ weights[weight_set].t() for q, weight_set in enumerate(inner.schedule)],
            dim=1,
        )

    for layer in inner.layers:
        query, key, value = (
            by_set(layer.norm1(x), layer.in_proj)
            .unflatten(-1, (3, heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        scores = query @ key.transpose(-1, -2) / (width // heads) ** 0.5
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).tril() == 0, -torch.inf)
        x = x + by_set((scores.softmax(-1) @ value).transpose(1, 2).flatten(-2), layer.out_proj)
        gate, up = by_set(layer.norm2(x), layer.linear_in).chunk(2, dim=-1)
        x = x + by_set(torch.nn.functional.silu(gate) * up, layer.linear_out)
    logits = [x[:, q] @ inner.heads[q].t() for q in range(len(inner.schedule))]
    return torch.stack(logits, dim=1)


def _codes(model: LoadedTts, request: TtsRequest, steps: int = 30) -> list[list[int]]:
    alone = Alone(model, request)
    return [
        (alone.step(int(TEXT[step, 0])), alone.engine.codes[0].tolist())[1] for step in range(steps)
    ]


@pytest.mark.slow
def test_a_seed_repeats_a_stream(model: LoadedTts) -> None:
    """The same seed gives the same codes, another seed, be it 2**32 further, others."""
    first = _codes(model, REQUESTS[0])
    assert _codes(model, REQUESTS[0]) == first
    others = [_codes(model, replace(REQUESTS[0], seed=seed)) for seed in (2, 1 + 2**32, -1)]
    assert len({str(codes) for codes in (first, *others)}) == 4


def test_temperature_0_has_no_seed(model: LoadedTts) -> None:
    """At temperature 0 every code is the most probable one, whatever the seed."""
    alone = Alone(model, replace(REQUESTS[0], temperature=0.0, seed=5))
    for step in range(20):
        alone.step(int(TEXT[step, 0]))
        codes, best = alone.engine.codes[0], alone.engine.audio_logits[0].argmax(-1)
        assert torch.equal(codes, torch.where(codes < 0, -1, best))
        assert alone.predicted == alone.engine.text_logits[0].argmax()


@pytest.mark.slow
@pytest.mark.parametrize("n_q", [1, 3])
def test_fewer_codebooks(files: tuple[Path, Path], model: LoadedTts, n_q: int) -> None:
    """With fewer codebooks the first step that differs is the one after codes were left out, and
    the rest are never generated.
    """
    fewer, all_codebooks = (
        Alone(used, REQUESTS[2]) for used in (load_tts_model(*files, n_q=n_q), model)
    )
    for step in range(25):
        out = fewer.step(int(TEXT[step, 0]))
        all_codebooks.step(int(TEXT[step, 0]))
        codes = fewer.engine.codes[0]
        assert (codes[n_q:] == -1).all()
        if step <= 5:
            assert codes[:n_q].tolist() == all_codebooks.engine.codes[0, :n_q].tolist()
            assert torch.equal(fewer.engine.text_logits, all_codebooks.engine.text_logits)
    assert out.valid.all()
    assert np.abs(out.pcm).max() > 0
    weights = sum(parameter.numel() for parameter in fewer.engine.model.lm.parameters())
    assert weights < sum(parameter.numel() for parameter in model.lm.parameters())


@pytest.mark.slow
def test_padding_bonus(model: LoadedTts) -> None:
    """A large bonus makes padding the only prediction, a large malus bars it; the reported logits
    are without either.
    """
    plain, never, always = (
        Alone(model, replace(REQUESTS[2], padding_bonus=bonus)) for bonus in (0.0, -100.0, 100.0)
    )
    for step in range(STEPS):
        for row in (plain, never, always):
            row.step(int(TEXT[step, 0]))
        assert always.predicted == 3 != never.predicted
        assert torch.equal(plain.engine.text_logits, always.engine.text_logits)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits(files: tuple[Path, Path], model: LoadedTts, dtype: torch.dtype) -> None:
    """Weights and caches in 16 bits give the logits of float32 but for rounding, and finite sound;
    conditioners and codec stay float32.
    """
    half = load_tts_model(*files, dtype=dtype)
    assert {parameter.dtype for parameter in half.lm.conditioning.parameters()} == {torch.float32}
    assert {
        parameter.dtype
        for name, parameter in half.lm.named_parameters()
        if not name.startswith("conditioning.")
    } == {dtype}
    exact, rounded = (Alone(used, REQUESTS[2]) for used in (model, half))
    for step in range(20):
        exact.step(int(TEXT[step, 0]))
        out = rounded.step(int(TEXT[step, 0]))
        assert out.finite.all()
        if step <= 5:  # later a code that a rounding changed may have been fed back
            torch.testing.assert_close(
                rounded.engine.text_logits, exact.engine.text_logits, atol=LOGITS[dtype], rtol=0
            )


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("text_emb.weight", POISON_TOKEN),
        ("depformer_text_emb.weight", POISON_TOKEN),
        ("linears.3.weight", 0),
    ],
)
def test_what_is_not_finite_is_told(
    tmp_path: Path, files: tuple[Path, Path], name: str, row: int
) -> None:
    """A NaN in a row's logits, of text or of codes, is reported for this row alone.

    A reset cures it.
    """
    weights = random_weights(tts_config().shape.tensors())
    weights[name][row] = float("nan")
    engine = TtsEngine(
        load_tts_model(write_tts(tmp_path / "lm.safetensors", weights), files[1]), SLOTS
    )
    engine.reset(range(SLOTS), REQUESTS)
    tokens = TEXT[0] % POISON_TOKEN
    poisoned = tokens.copy()
    poisoned[1] = POISON_TOKEN
    all_rows = name.startswith("linears")
    assert (engine.step(EVERYONE, feed(tokens)).finite == (not all_rows)).all()
    outs = [engine.step(EVERYONE, feed(poisoned)) for _ in range(2)]
    if not all_rows:
        assert outs[-1].finite.tolist() == [True, False, True, True]
        engine.reset([1], [REQUESTS[1]])
        for _ in range(10):
            assert engine.step(EVERYONE, feed(tokens)).finite.all()


def test_sound_that_is_not_finite_is_told(tmp_path: Path, files: tuple[Path, Path]) -> None:
    """A codec that gives NaN is reported as soon as a row sounds, and not before."""
    model = load_tts_model(*files)
    model.mimi.decoder.model["14"].bias.fill_(float("nan"))
    alone = Alone(model, REQUESTS[0])
    assert [bool(alone.step(5).finite[0]) for _ in range(10)] == [True] * 7 + [False] * 3


def test_a_choice_that_fails_moves_no_row(model: LoadedTts) -> None:
    """Should the choice raise, every row stands where it stood."""
    disturbed, plain = Alone(model, REQUESTS[0]), Alone(model, REQUESTS[0])

    def fail(_: NDArray[np.int64]) -> NDArray[np.int64]:
        raise RuntimeError("no choice")

    for step in range(12):
        with pytest.raises(RuntimeError, match="no choice"):
            disturbed.engine.step(np.array([True]), fail)
        one, other = disturbed.step(int(TEXT[step, 0])), plain.step(int(TEXT[step, 0]))
        assert np.array_equal(one.pcm, other.pcm)
        assert torch.equal(disturbed.engine.codes, plain.engine.codes)
    assert disturbed.engine.offsets.tolist() == [12]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (TtsRequest((np.zeros((24, 4), np.float32),)), [r"[24, 5]", "[24, 4]"]),
        (TtsRequest((np.full((24, 5), np.inf, np.float32),)), ["finite"]),
        (TtsRequest((_voice(0),) * 3), ["3 voices", "2 speakers"]),
        (TtsRequest(cfg=2.2), ["cfg 2.2", "1, 1.5, 2, 2.5, 3, 3.5, 4"]),
        (TtsRequest(cfg=float("nan")), ["cfg nan"]),
        (TtsRequest(temperature=-0.1), ["temperature -0.1"]),
        (TtsRequest(temperature=float("nan")), ["temperature nan"]),
        (TtsRequest(temperature=1e39), ["temperature 1e+39"]),
        (TtsRequest(padding_bonus=float("inf")), ["padding bonus inf"]),
        (TtsRequest(padding_bonus=-1e39), ["padding bonus -1e+39"]),
    ],
)
def test_requests_that_are_refused(
    model: LoadedTts, request_: TtsRequest, words: list[str]
) -> None:
    """A voice of another shape, too many voices or an unknown guidance are refused by name, and no
    row has been touched.
    """
    engine, plain = TtsEngine(model, 2), TtsEngine(model, 2)
    for used in (engine, plain):
        used.reset([0, 1], REQUESTS[:2])
        used.step(np.ones(2, np.bool_), feed(TEXT[0, :2]))
    with pytest.raises(InputError) as raised:
        engine.reset([0, 1], [REQUESTS[0], request_])
    assert all(word in f"{raised.value} {raised.value.hint}" for word in words)
    for used in (engine, plain):
        used.step(np.ones(2, np.bool_), feed(TEXT[1, :2]))
    assert torch.equal(engine.text_logits, plain.text_logits)


def test_a_voice_may_be_read_only(model: LoadedTts) -> None:
    """It is copied, without a warning, however its owner holds it: mapped from a file, or seen in a
    message.
    """
    voice = _voice(0)
    voice.setflags(write=False)
    given, copied = TtsEngine(model, 1), TtsEngine(model, 1)
    for engine, request in ((given, TtsRequest((voice,))), (copied, TtsRequest((_voice(0),)))):
        engine.reset([0], [request])
        engine.step(np.ones(1, np.bool_), feed(TEXT[0, :1]))
    assert torch.equal(given.text_logits, copied.text_logits)


def test_guidance_belongs_to_models_that_are_not_distilled(
    model: LoadedTts, unguided: LoadedTts
) -> None:
    """A distilled model refuses to be guided again.

    Another is guided only where the engine was opened for it.
    """
    with pytest.raises(InputError, match="guidance as an input"):
        TtsEngine(model, 1, guidance=True)
    engine = TtsEngine(unguided, 1)
    engine.check(TtsRequest(cfg=1.0))
    with pytest.raises(InputError, match="guidance, which is off"):
        engine.check(TtsRequest(cfg=2.0))
    TtsEngine(unguided, 1, guidance=True).check(TtsRequest(cfg=2.2))


def test_calls_that_are_bugs(model: LoadedTts) -> None:
    """Shapes that do not fit, rows that do not exist and text-only steps of rows that must speak
    raise ValueError.
    """
    engine = TtsEngine(model, 2)
    everyone = np.ones(2, np.bool_)
    for slots, requests in (([2], [TtsRequest()]), ([-1], [TtsRequest()]), ([0], [])):
        with pytest.raises(ValueError, match="slots"):
            engine.reset(slots, requests)
    with pytest.raises(ValueError, match="exec_mask"):
        engine.step(np.ones(3, np.bool_), feed(np.zeros(2, np.int64)))
    with pytest.raises(ValueError, match="chosen"):
        engine.step(everyone, feed(np.zeros(3, np.int64)))
    for token in (-2, 49 * 50):
        with pytest.raises(ValueError, match="pairs of 49"):
            engine.step(everyone, feed(np.array([3, token])))
        engine.step(np.array([True, False]), feed(np.array([3, token])))
    engine.reset([0, 1], [TtsRequest(), TtsRequest()])
    for _ in range(model.config.delay_steps):
        engine.step(everyone, feed(np.zeros(2, np.int64)), text_only=True)
    with pytest.raises(ValueError, match="text-only"):
        engine.step(everyone, feed(np.zeros(2, np.int64)), text_only=True)


def test_state_is_counted(model: LoadedTts) -> None:
    """`state_bytes` grows with the slots, and holds at least the rings and the voices' keys and
    values.
    """
    config: TtsConfig = model.config
    one, two = (TtsEngine(model, slots).state_bytes for slots in (1, 2))
    positions = 40 + config.max_speakers * config.voice_frames
    assert two == 2 * one > 2 * 2 * config.shape.lm.num_layers * positions * 64 * 4
