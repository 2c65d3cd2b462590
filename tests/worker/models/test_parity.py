"""Our networks beside the `moshi` package, version 0.2.13, from the same files of random weights.

`make parity` brings the package along; it is never needed to run dsmops. `-s` prints the
differences seen.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from dsmops.worker.models.loading import mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.stt import LoadedStt
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime.stt.engine import Alignment, SttEngine
from tests.support.networks import (
    CPU,
    FULL_STT_BODY,
    MIMI_BODY,
    STT_BODY,
    TTS_CONFIG_BODY,
    UNGUIDED_TTS_CONFIG_BODY,
    load_lm,
    load_mimi,
    load_tts_model,
    random_weights,
    tts_config,
    write_mimi,
    write_stt,
    write_tts,
)
from tests.support.steps import step_stt
from tests.support.tolerances import FULL_LOGITS, FULL_MIMI, LOGITS, MIMI, PAUSES
from tests.support.upstream import (
    Difference,
    Schedule,
    TtsRows,
    TtsTrace,
    agreement,
    our_lm,
    our_mimi,
    our_tts,
    upstream_lm,
    upstream_mimi,
    upstream_tts,
)

if find_spec("moshi") is None:
    pytest.skip(
        "the package moshi is not installed; `make parity` brings it", allow_module_level=True
    )

pytestmark = [
    pytest.mark.parity,
    # What upstream's own code makes the present torch say.
    pytest.mark.filterwarnings("ignore"),
]

HALVES = (torch.float16, torch.bfloat16)
ROWS, STEPS = 3, 40


@pytest.fixture(scope="module")
def stt_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny language model."""
    return write_stt(tmp_path_factory.mktemp("stt") / "model.safetensors")


@pytest.fixture(scope="module")
def mimi_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny codec, whose ring is full after five frames."""
    return write_mimi(tmp_path_factory.mktemp("mimi") / "mimi.safetensors")


@pytest.fixture(scope="module")
def full_mimi_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec of the released size with random weights: 384 MB."""
    weights = random_weights(mimi_tensors(MimiConfig()))
    return write_mimi(tmp_path_factory.mktemp("full") / "mimi.safetensors", weights, config=None)


def _schedules(steps: int, rows: int) -> list[Schedule]:
    return [
        Schedule.steady(steps, rows),
        Schedule.out_of_sync(steps, rows, seed=1),
        Schedule.out_of_sync(steps, rows, seed=2),
    ]


def _codes(body: Mapping[str, Any], steps: int, rows: int) -> Tensor:
    return torch.randint(
        body["card"], (steps, rows, body["n_q"]), generator=torch.Generator().manual_seed(steps)
    )


def _say(body: Mapping[str, Any], steps: int, rows: int) -> Tensor:
    return torch.randint(
        body["text_card"], (steps, rows), generator=torch.Generator().manual_seed(rows)
    )


def _pcm(frames: int, rows: int, samples: int) -> Tensor:
    return 0.3 * torch.randn(
        frames, rows, 1, samples, generator=torch.Generator().manual_seed(frames)
    )


def _within(what: str, one: Tensor, other: Tensor, active: Tensor, limit: float) -> None:
    seen = Difference.of(one, other, active)
    print(f"{what}: largest difference {seen.largest:.2e} of {seen.scale:.3g}, limit {limit:g}")
    assert seen.largest < limit


@pytest.mark.parametrize(
    "schedule", _schedules(STEPS, ROWS), ids=["steady", "out of sync 1", "out of sync 2"]
)
def test_language_model(stt_file: Path, schedule: Schedule) -> None:
    """Greedy streams give upstream's tokens, logits and pauses, the ring wrapped three times, rows
    idle and starting again.
    """
    codes = _codes(STT_BODY, STEPS, ROWS)
    ours, theirs = (follow(stt_file, STT_BODY, codes, schedule) for follow in (our_lm, upstream_lm))
    assert agreement(ours.tokens, theirs.tokens, schedule.masks) == 1
    assert (theirs.tokens[~schedule.masks] == -2).all()
    _within("logits", ours.logits, theirs.logits, schedule.masks, LOGITS[torch.float32])
    _within("pauses", ours.pauses, theirs.pauses, schedule.masks, PAUSES[torch.float32])


@pytest.mark.parametrize("dtype", HALVES)
def test_language_model_in_16_bits(stt_file: Path, dtype: torch.dtype) -> None:
    """In 16 bits, told the same words, logits are upstream's but for rounding, and no further from
    float32 than upstream's are.
    """
    codes, say, schedule = (
        _codes(STT_BODY, STEPS, ROWS),
        _say(STT_BODY, STEPS, ROWS),
        Schedule.steady(STEPS, ROWS),
    )
    ours, theirs = (
        follow(stt_file, STT_BODY, codes, schedule, say=say, dtype=dtype)
        for follow in (our_lm, upstream_lm)
    )
    exact = upstream_lm(stt_file, STT_BODY, codes, schedule, say=say)
    _within(f"{dtype} logits", ours.logits, theirs.logits, schedule.masks, LOGITS[dtype])
    _within(f"{dtype} pauses", ours.pauses, theirs.pauses, schedule.masks, PAUSES[dtype])
    error, reference = (
        (trace.logits - exact.logits).square().mean().sqrt().item() for trace in (ours, theirs)
    )
    print(f"{dtype} logits against float32, rms: ours {error:.2e}, upstream's {reference:.2e}")
    assert error < 1.2 * reference


def test_language_model_without_heads(tmp_path: Path) -> None:
    """A model without semantic-VAD heads, as the 2.6B one is, agrees too."""
    body = STT_BODY | {"extra_heads_num_heads": 0}
    path = write_stt(
        tmp_path / "model.safetensors",
        random_weights(SttConfig.from_json(body).lm.tensors(), seed=5),
    )
    codes, schedule = _codes(body, STEPS, ROWS), Schedule.steady(STEPS, ROWS)
    ours, theirs = (follow(path, body, codes, schedule) for follow in (our_lm, upstream_lm))
    assert agreement(ours.tokens, theirs.tokens, schedule.masks) == 1
    _within("logits", ours.logits, theirs.logits, schedule.masks, LOGITS[torch.float32])


@pytest.mark.parametrize("hidden_scale", [4, 4.125, 3.7])
def test_hidden_width(tmp_path: Path, hidden_scale: float) -> None:
    """The hidden width that we read out of a config is the one that upstream builds, the odd case
    of exactly 4 included.
    """
    body = STT_BODY | {"hidden_scale": hidden_scale}
    path = write_stt(
        tmp_path / "model.safetensors", random_weights(SttConfig.from_json(body).lm.tensors())
    )
    upstream_lm(path, body, _codes(body, 2, 1), Schedule.steady(2, 1))


def test_language_model_of_published_width(tmp_path: Path) -> None:
    """Two layers of the 1B model agree in float32, stored as bfloat16 as the published files
    are.
    """
    body = FULL_STT_BODY | {"num_layers": 2}
    path = write_stt(
        tmp_path / "model.safetensors",
        random_weights(SttConfig.from_json(body).lm.tensors()),
        dtype=torch.bfloat16,
    )
    codes, schedule = _codes(body, 10, 2), Schedule.out_of_sync(10, 2)
    ours, theirs = (follow(path, body, codes, schedule) for follow in (our_lm, upstream_lm))
    assert agreement(ours.tokens, theirs.tokens, schedule.masks) == 1
    _within("logits", ours.logits, theirs.logits, schedule.masks, FULL_LOGITS)
    _within("pauses", ours.pauses, theirs.pauses, schedule.masks, PAUSES[torch.float32])


def test_weights_saved_by_upstream(stt_file: Path, mimi_file: Path, tmp_path: Path) -> None:
    """What upstream's live modules save, their attention weights split and renamed, loads as what
    they were loaded from.
    """
    from moshi.models import loaders

    lm = loaders.get_moshi_lm(stt_file, lm_kwargs=dict(STT_BODY), device="cpu", dtype=torch.float32)
    codec = loaders.get_mimi(mimi_file, mimi_config=MIMI_BODY, device="cpu")
    save_file(lm.state_dict(), tmp_path / "lm.safetensors")
    write_mimi(tmp_path / "mimi.safetensors", codec.state_dict())
    ours, original = load_lm(tmp_path / "lm.safetensors"), load_lm(stt_file)
    assert all(
        torch.equal(value, original.state_dict()[name]) for name, value in ours.state_dict().items()
    )
    for half, first in zip(
        load_mimi(tmp_path / "mimi.safetensors"), load_mimi(mimi_file), strict=True
    ):
        assert all(
            torch.equal(value, first.state_dict()[name])
            for name, value in half.state_dict().items()
        )


def _same_codec(
    path: Path,
    config: Mapping[str, Any] | None,
    pcm: Tensor,
    schedule: Schedule | None,
    codebooks: int,
) -> None:
    ours = our_mimi(path, pcm, schedule, codebooks=codebooks)
    theirs = upstream_mimi(path, config, pcm, schedule, codebooks=codebooks)
    active = torch.ones(pcm.shape[:2], dtype=torch.bool) if schedule is None else schedule.masks
    limit = MIMI if config else FULL_MIMI
    _within("latents", ours.latents, theirs.latents, active, limit)
    assert agreement(ours.codes, theirs.codes, active) == 1
    _within("pcm", ours.pcm, theirs.pcm, active, limit)


@pytest.mark.parametrize(
    "schedule", _schedules(STEPS, ROWS), ids=["steady", "out of sync 1", "out of sync 2"]
)
def test_mimi(mimi_file: Path, schedule: Schedule) -> None:
    """Streams give upstream's latents, codes and PCM, long after their rings are full, rows idle
    and starting again.
    """
    _same_codec(mimi_file, MIMI_BODY, _pcm(STEPS, ROWS, 96), schedule, 8)


@pytest.mark.parametrize("codebooks", [1, 3, 8])
def test_mimi_whole(mimi_file: Path, codebooks: int) -> None:
    """Whole signals give upstream's latents, codes and PCM, for as many codebooks as asked for."""
    _same_codec(mimi_file, MIMI_BODY, _pcm(2, ROWS, 96 * 20), None, codebooks)


def test_full_size_mimi(full_mimi_file: Path) -> None:
    """A codec of the released size agrees while rows idle and start again, all 32 codebooks."""
    _same_codec(full_mimi_file, None, _pcm(10, 2, 1920), Schedule.out_of_sync(10, 2), 32)


def test_full_size_mimi_whole(full_mimi_file: Path) -> None:
    """A codec of the released size agrees on whole signals."""
    _same_codec(full_mimi_file, None, _pcm(1, 2, 1920 * 10), None, 32)


@pytest.mark.heavy
def test_full_size_mimi_beyond_its_window(full_mimi_file: Path) -> None:
    """A codec of the released size agrees after the ten seconds that it remembers."""
    _same_codec(full_mimi_file, None, _pcm(135, 1, 1920), Schedule.steady(135, 1), 32)


@pytest.mark.parametrize("alignment", Alignment)
def test_engine(stt_file: Path, mimi_file: Path, alignment: Alignment) -> None:
    """The engine gives what upstream's codec and `LMGen` give, fed each frame once.

    By the server's alignment frames come one step late, and the codec begins with zeros.
    """
    pcm = _pcm(STEPS, ROWS, 96)
    schedule = Schedule.steady(STEPS, ROWS)
    is_server = alignment is Alignment.SERVER
    heard = upstream_mimi(
        mimi_file, MIMI_BODY, pcm, schedule, codebooks=4, zero_start=is_server
    ).codes[..., 0]
    if is_server:
        heard = torch.cat([heard[:1], heard[:-1]])
    theirs = upstream_lm(stt_file, STT_BODY, heard, schedule)
    encoder, _ = load_mimi(mimi_file)
    engine = SttEngine(
        LoadedStt(SttConfig.from_json(STT_BODY), load_lm(stt_file), encoder, None, CPU),
        ROWS,
        alignment=alignment,
    )  # type: ignore[arg-type]
    for step in range(STEPS):
        out = step_stt(engine, pcm[step], schedule.masks[step])
        assert torch.equal(out.text_tokens, theirs.tokens[step])
        torch.testing.assert_close(
            engine.logits, theirs.logits[step], atol=LOGITS[torch.float32], rtol=0
        )
        torch.testing.assert_close(
            out.pause_probabilities, theirs.pauses[step], atol=PAUSES[torch.float32], rtol=0
        )
        assert out.finite.all()


@pytest.fixture(scope="module")
def tts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny text-to-speech model."""
    return write_tts(tmp_path_factory.mktemp("tts") / "model.safetensors")


def _rows(config: TtsConfig, steps: int, count: int, *, cfg: float = 2.0) -> TtsRows:
    """Multiplexed random text, rows with no voice, one and two."""
    generator = torch.Generator().manual_seed(steps + count)
    table = config.shape.lm.text_in_vocab_size
    main, second = (
        torch.randint(low, table - 1, (steps, count), generator=generator) for low in (0, -1)
    )
    voices = [
        torch.randn(row % 3, config.voice_width, config.voice_frames, generator=generator)
        for row in range(count)
    ]
    return TtsRows((second + 1) * table + main, voices, cfg)


def _same_speech(ours: TtsTrace, theirs: TtsTrace, active: Tensor, limit: float) -> None:
    _within("text logits", ours.text_logits, theirs.text_logits, active, limit)
    _within("audio logits", ours.audio_logits, theirs.audio_logits, active, limit)
    assert agreement(ours.codes, theirs.codes, active) == 1


@pytest.mark.parametrize(
    "schedule", _schedules(STEPS, ROWS), ids=["steady", "out of sync 1", "out of sync 2"]
)
@pytest.mark.parametrize("n_q", [None, 2, 1])
def test_speech(tts_file: Path, mimi_file: Path, schedule: Schedule, n_q: int | None) -> None:
    """Greedy streams give upstream's logits and codes, for as many codebooks as asked for, rows
    idle and starting again.
    """
    rows = _rows(tts_config(), STEPS, ROWS)
    ours = our_tts(tts_file, mimi_file, TTS_CONFIG_BODY, rows, schedule, n_q=n_q)
    theirs = upstream_tts(tts_file, TTS_CONFIG_BODY, rows, schedule, n_q=n_q)
    _same_speech(ours, theirs, schedule.masks, LOGITS[torch.float32])


@pytest.mark.parametrize(
    "schedule", _schedules(STEPS, ROWS), ids=["steady", "out of sync 1", "out of sync 2"]
)
@pytest.mark.parametrize("cfg", [1.0, 2.5])
def test_guided_speech(tmp_path: Path, mimi_file: Path, schedule: Schedule, cfg: float) -> None:
    """A model that is not distilled, guided away from what it says without text and voice, gives
    upstream's logits and codes.
    """
    path = write_tts(tmp_path / "model.safetensors", body=UNGUIDED_TTS_CONFIG_BODY)
    rows = _rows(tts_config(UNGUIDED_TTS_CONFIG_BODY), STEPS, ROWS, cfg=cfg)
    ours = our_tts(path, mimi_file, UNGUIDED_TTS_CONFIG_BODY, rows, schedule)
    theirs = upstream_tts(path, UNGUIDED_TTS_CONFIG_BODY, rows, schedule)
    _same_speech(ours, theirs, schedule.masks, cfg * LOGITS[torch.float32])


@pytest.mark.parametrize("dtype", HALVES)
def test_speech_in_16_bits(tts_file: Path, mimi_file: Path, dtype: torch.dtype) -> None:
    """In 16 bits, where no codes were fed back yet, logits are upstream's but for rounding, and no
    further from float32 than upstream's.
    """
    # Codes are taken greedily, so that a rounding may change one, and all that follows: only the
    # first steps compare.
    steps = tts_config().delay_steps + 1
    rows, schedule = _rows(tts_config(), steps, 8), Schedule.steady(steps, 8)
    ours = our_tts(tts_file, mimi_file, TTS_CONFIG_BODY, rows, schedule, dtype=dtype)
    theirs, exact = (
        upstream_tts(tts_file, TTS_CONFIG_BODY, rows, schedule, dtype=kind)
        for kind in (dtype, torch.float32)
    )
    _within(
        f"{dtype} text logits", ours.text_logits, theirs.text_logits, schedule.masks, LOGITS[dtype]
    )
    _within(
        f"{dtype} first audio logits",
        ours.audio_logits[:, :, 0],
        theirs.audio_logits[:, :, 0],
        schedule.masks,
        LOGITS[dtype],
    )
    error, reference = (
        (trace.text_logits - exact.text_logits).square().mean().sqrt().item()
        for trace in (ours, theirs)
    )
    print(f"{dtype} text logits against float32, rms: ours {error:.2e}, upstream's {reference:.2e}")
    assert error < 1.2 * reference


def test_speech_weights_saved_by_upstream(tts_file: Path, mimi_file: Path, tmp_path: Path) -> None:
    """What upstream's live module saves, the attention weights of every weight set apart, loads as
    what it was loaded from.
    """
    from moshi.models import loaders

    body = {
        key: value
        for key, value in TTS_CONFIG_BODY.items()
        if key not in ("model_type", "tts_config")
    }
    lm = loaders.get_moshi_lm(
        tts_file, lm_kwargs=copy.deepcopy(body), device="cpu", dtype=torch.float32
    )
    save_file(lm.state_dict(), tmp_path / "lm.safetensors")
    ours, original = (
        load_tts_model(path, mimi_file).lm.state_dict()
        for path in (tmp_path / "lm.safetensors", tts_file)
    )
    assert all(torch.equal(value, original[name]) for name, value in ours.items())
