"""The memory model gives the figures that were derived by hand from the server's sources."""

from dataclasses import replace

import pytest

from dsmops.config.memory import (
    MIB,
    RUNTIME_BYTES,
    VOICE_POSITIONS,
    ServedModel,
    largest_batch,
    serving_memory,
)
from dsmops.devices import Runtime
from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised
from dsmops.models import STT_MODELS, TTS_MODELS, SttModel

ONE_B = STT_MODELS["stt-1b-en_fr"].shape
TWO_B = STT_MODELS["stt-2.6b-en"].shape
TTS = TTS_MODELS["tts-1.6b-en_fr"].shape


@pytest.mark.parametrize(
    ("lm", "dtype", "weights", "kv_per_stream"),
    [
        (ONE_B, ComputeDType.F16, 1_978_507_264, 98_304_000),
        (ONE_B, ComputeDType.F32, 3_957_014_528, 196_608_000),
        (TWO_B, ComputeDType.BF16, 5_234_237_440, 147_456_000),
        (TWO_B, ComputeDType.F32, 10_468_474_880, 294_912_000),
    ],
)
def test_weights_and_caches_are_exact(lm, dtype, weights, kv_per_stream) -> None:
    """Weights and KV bytes equal the published parameter counts and the cache formula."""
    split = serving_memory(ServedModel(lm, dtype), 3)
    assert split.weights_bytes == weights
    assert split.kv_bytes == 3 * kv_per_stream


@pytest.mark.parametrize(("lm", "batch", "mib"), [(ONE_B, 64, 9325), (TWO_B, 16, 7928)])
def test_the_shipped_configs_take_what_the_reference_says(lm, batch, mib) -> None:
    """The shipped 1B and 2.6B configs need 9,325 and 7,928 MiB before runtime and activations,
    within the rounding of conv state.
    """
    split = serving_memory(ServedModel(lm, ComputeDType.BF16), batch)
    assert (split.total_bytes - RUNTIME_BYTES - split.workspace_bytes) / MIB == pytest.approx(
        mib, abs=4
    )


@pytest.mark.parametrize(
    ("gib", "expected"),
    [(6, (25, 5, 0, 0)), (8, (43, 14, 11, 0)), (11, (69, 28, 29, 0)), (16, (112, 52, 60, 15))],
)
def test_the_sizing_table_is_reproduced(gib, expected) -> None:
    """97 % of a card holds the batch sizes of the hand-derived table, for both models in f16 and
    f32.
    """
    usable = int(gib * 2**30 * 0.97)
    sizes = tuple(
        largest_batch(ServedModel(lm, dtype), usable)
        for lm in (ONE_B, TWO_B)
        for dtype in (ComputeDType.F16, ComputeDType.F32)
    )
    assert sizes == expected


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    """`largest_batch` is the exact edge of `serving_memory`."""
    for usable in range(2 * 2**30, 20 * 2**30, 777_777_777):
        batch = largest_batch(ServedModel(ONE_B, ComputeDType.F16, context=375), usable)
        assert (
            batch == 0
            or serving_memory(ServedModel(ONE_B, ComputeDType.F16, context=375), batch).total_bytes
            <= usable
        )
        assert (
            serving_memory(ServedModel(ONE_B, ComputeDType.F16, context=375), batch + 1).total_bytes
            > usable
        )


# Bytes that one H200 lost to an embedded worker: torch 2.11, CUDA 13, 2026-11-23; `python -m
# tests.bench.memory` measures again.
MEASURED_ON_AN_H200 = (
    ("stt-1b-en_fr", ComputeDType.F16, 1, 3245146112),
    ("stt-1b-en_fr", ComputeDType.F16, 8, 4084006912),
    ("stt-1b-en_fr", ComputeDType.F16, 64, 10255925248),
    ("stt-1b-en_fr", ComputeDType.F16, 256, 31460229120),
    ("stt-1b-en_fr", ComputeDType.F16, 400, 47386001408),
    ("stt-1b-en_fr", ComputeDType.BF16, 1, 3245146112),
    ("stt-1b-en_fr", ComputeDType.BF16, 8, 4084006912),
    ("stt-1b-en_fr", ComputeDType.BF16, 64, 10255925248),
    ("stt-1b-en_fr", ComputeDType.BF16, 256, 31460229120),
    ("stt-1b-en_fr", ComputeDType.BF16, 400, 47386001408),
    ("stt-1b-en_fr", ComputeDType.F32, 1, 5308743680),
    ("stt-1b-en_fr", ComputeDType.F32, 64, 18495635456),
    ("stt-1b-en_fr", ComputeDType.F32, 200, 46949793792),
    ("stt-2.6b-en", ComputeDType.F16, 1, 6569132032),
    ("stt-2.6b-en", ComputeDType.F16, 8, 7745634304),
    ("stt-2.6b-en", ComputeDType.F16, 64, 16671113216),
    ("stt-2.6b-en", ComputeDType.F16, 256, 47335669760),
    ("stt-2.6b-en", ComputeDType.F16, 400, 70414827520),
    ("stt-2.6b-en", ComputeDType.BF16, 1, 6569132032),
    ("stt-2.6b-en", ComputeDType.BF16, 64, 16635461632),
    ("stt-2.6b-en", ComputeDType.F32, 1, 11956715520),
    ("stt-2.6b-en", ComputeDType.F32, 64, 31317622784),
    ("stt-2.6b-en", ComputeDType.F32, 200, 73225011200),
)


@pytest.mark.parametrize(("model", "dtype", "batch", "used_bytes"), MEASURED_ON_AN_H200)
def test_the_embedded_workers_memory_is_what_a_card_measured(
    model: str, dtype: ComputeDType, batch: int, used_bytes: int
) -> None:
    """The plan is within 3 % or 150 MiB, whichever is larger, of what the card lost."""
    lm = STT_MODELS[model].shape
    planned = serving_memory(ServedModel(lm, dtype, runtime=Runtime.EMBEDDED), batch).total_bytes
    assert abs(planned - used_bytes) <= max(0.03 * used_bytes, 150 * MIB)


# The same of a worker that speaks: codebooks, slots, bytes in f16 (to the byte those in bf16),
# bytes in f32.
SPEECH_MEASURED_ON_AN_H200 = (
    (32, 1, 5273878528, 9317187584),
    (32, 8, 6483935232, 11571625984),
    (32, 64, 15484911616, 28875227136),
    (32, 200, 37322555392, 71069925376),
    (32, 400, 69616599040, 133323882496),
    (24, 1, 5112397824, 8994226176),
    (24, 8, 6322454528, 11248664576),
    (24, 64, 15377956864, 28583723008),
    (24, 200, 37247057920, 70545637376),
    (24, 400, 69400592384, 132434690048),
    (8, 1, 4787339264, 8346206208),
    (8, 8, 5999493120, 10598547456),
    (8, 64, 15017246720, 27835039744),
    (8, 200, 36750032896, 69713068032),
    (8, 400, 68760961024, 131323199488),
)


@pytest.mark.parametrize(("n_q", "batch", "half_bytes", "full_bytes"), SPEECH_MEASURED_ON_AN_H200)
def test_the_embedded_workers_speech_takes_what_a_card_measured(
    n_q: int, batch: int, half_bytes: int, full_bytes: int
) -> None:
    """The plan is within 3 % or 150 MiB, whichever is larger, of what the card lost, in every
    dtype.
    """
    for dtype, used_bytes in (
        (ComputeDType.F16, half_bytes),
        (ComputeDType.BF16, half_bytes),
        (ComputeDType.F32, full_bytes),
    ):
        planned = serving_memory(
            ServedModel(TTS, dtype, runtime=Runtime.EMBEDDED, n_q=n_q), batch
        ).total_bytes
        assert abs(planned - used_bytes) <= max(0.03 * used_bytes, 150 * MIB)


def test_a_speaking_models_weights_and_caches_are_exact() -> None:
    """Weights are those of the published file but for one tensor that is not read; a slot's caches
    are the derived figures.
    """
    one, two = (serving_memory(ServedModel(TTS, ComputeDType.F16), slots) for slots in (1, 2))
    unread_bytes = 1024 * 128 * 2
    assert (
        one.weights_bytes + one.depformer_weights_bytes
        == 3_673_100_544 + 2 * 5_286_016 - unread_bytes
    )
    assert one.kv_bytes == two.kv_bytes - one.kv_bytes == 65_536_000
    assert one.cross_kv_bytes == two.cross_kv_bytes - one.cross_kv_bytes == 81_920_000
    assert one.new_voice_bytes == two.new_voice_bytes == one.cross_kv_bytes
    assert one.mimi_state_bytes == pytest.approx(16_500_000, rel=0.01)


def test_the_embedded_worker_leaves_out_what_fewer_codebooks_do_not_read() -> None:
    """Each eight codebooks fewer save heads and a weight set or more; what the backbone takes
    stays; moshi-server loads all the same.
    """
    splits = [
        serving_memory(ServedModel(TTS, ComputeDType.F16, runtime=Runtime.EMBEDDED, n_q=n_q), 4)
        for n_q in (8, 16, 24, 32)
    ]
    assert sorted({split.depformer_weights_bytes for split in splits}) == [
        split.depformer_weights_bytes for split in splits
    ]
    assert (
        len(
            {replace(split, depformer_weights_bytes=0, depformer_state_bytes=0) for split in splits}
        )
        == 1
    )
    assert serving_memory(ServedModel(TTS, ComputeDType.BF16, n_q=8), 4) == serving_memory(
        ServedModel(TTS, ComputeDType.BF16, n_q=32), 4
    )


def test_guidance_takes_every_cache_twice() -> None:
    """A model without the cfg conditioner is run with and without its conditions; only what a
    stream carries through Mimi stays single.
    """
    undistilled = replace(
        TTS, conditioners=tuple(one for one in TTS.conditioners if one.name != "cfg")
    )
    once, twice = (
        serving_memory(ServedModel(shape, ComputeDType.F16, runtime=Runtime.EMBEDDED), 4)
        for shape in (TTS, undistilled)
    )
    for part in ("kv_bytes", "cross_kv_bytes", "depformer_state_bytes"):
        assert getattr(twice, part) == 2 * getattr(once, part)
    assert twice.mimi_state_bytes == once.mimi_state_bytes


@pytest.mark.slow
@pytest.mark.parametrize("n_q", [1, 8, 24, 32])
def test_the_plan_counts_what_the_networks_hold(n_q: int) -> None:
    """Weights and streaming state of the embedded worker, tensor by tensor, are what the plan says,
    but for rows of zeros.
    """
    torch = pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.worker.models.mimi import MimiConfig, MimiDecoder
    from dsmops.worker.models.state import RowState
    from dsmops.worker.models.tts_config import TtsConfig
    from dsmops.worker.models.tts_lm import TtsLm

    config = TtsConfig(
        TTS, 10_000, (0, *[2] * 31), 16, 2, cfg_values=(1.0, 2.0), control_values=("ok",)
    )
    with torch.device("meta"):
        lm, mimi = TtsLm(config, n_q).to(torch.float16), MimiDecoder(MimiConfig())
    held = {"depformer": 0, "conditioning": 0, "rest": 0}
    for name, parameter in lm.named_parameters():
        held[name.partition(".")[0] if name.partition(".")[0] in held else "rest"] += (
            parameter.numel()
        )
    rings, voices = (
        RowState(2, torch.device("meta")),
        VOICE_POSITIONS * 2 * TTS.lm.num_layers * TTS.lm.d_model * 2,
    )
    lm.init_state(rings)
    split = serving_memory(ServedModel(TTS, ComputeDType.F16, runtime=Runtime.EMBEDDED, n_q=n_q), 2)
    zeros = TTS.lm.d_model * 2  # of the audio and the text tables
    assert split.weights_bytes == 2 * (held["rest"] - zeros) + 4 * held["conditioning"]
    tables = (
        lm.depformer.emb.shape[:2].numel() * TTS.depformer.d_model
    )  # made while loading, from these and their maps
    assert split.depformer_weights_bytes == 2 * (
        held["depformer"] - TTS.depformer.low_rank + tables
    )
    assert split.kv_bytes == rings.nbytes - 2 * 8
    assert split.cross_kv_bytes == 2 * voices
    decoding = RowState(2, torch.device("meta"))
    mimi.init_state(decoding)
    assert split.mimi_state_bytes == decoding.nbytes
    assert split.mimi_weights_bytes == sum(
        tensor.nbytes for tensor in (*mimi.parameters(), *mimi.buffers())
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [ComputeDType.F16, ComputeDType.F32])
def test_the_plan_counts_the_state_that_the_engine_takes(dtype: ComputeDType) -> None:
    """All slots' streaming state of the whole engine, but for a few kilobytes of numbers a slot."""
    torch = pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.worker.models.device import TORCH_DTYPES
    from dsmops.worker.models.mimi import MimiConfig, MimiDecoder
    from dsmops.worker.models.tts import LoadedTts
    from dsmops.worker.models.tts_config import TtsConfig
    from dsmops.worker.models.tts_lm import TtsLm
    from dsmops.worker.runtime.tts.engine import TtsEngine

    config = TtsConfig(
        TTS, 10_000, (0, *[2] * 31), 16, 2, cfg_values=(1.0, 2.0), control_values=("ok",)
    )
    with torch.device("meta"):
        lm, mimi = TtsLm(config, 24).to(TORCH_DTYPES[dtype]), MimiDecoder(MimiConfig())
    engine = TtsEngine(LoadedTts(config, lm, mimi, None, torch.device("meta")), 3)
    split = serving_memory(ServedModel(TTS, dtype, runtime=Runtime.EMBEDDED, n_q=24), 3)
    planned = split.kv_bytes + split.cross_kv_bytes + split.mimi_state_bytes
    assert planned <= engine.state_bytes <= planned + 3 * 16 * 1024


@pytest.mark.parametrize(
    ("slots", "measured_mib"), [(1, 3151), (8, 3951), (64, 10415), (256, 32111), (400, 48495)]
)
def test_moshi_servers_measured_memory_is_met(slots: int, measured_mib: int) -> None:
    """The 1B in f16 under moshi-server 0.6.4 on an H200, within 3 %."""
    total = serving_memory(ServedModel(ONE_B, ComputeDType.F16), slots).total_bytes
    assert total / MIB == pytest.approx(measured_mib, rel=0.03)


@pytest.mark.parametrize(("slots", "measured_mib"), [(1, 5017), (32, 10693), (64, 16445)])
def test_the_python_modules_measured_memory_is_met(slots: int, measured_mib: int) -> None:
    """The TTS 1.6B in moshi-server's Py module on an H200, 24 codebooks, within 3 %."""
    total = serving_memory(ServedModel(TTS, ComputeDType.BF16, n_q=24), slots).total_bytes
    assert total / MIB == pytest.approx(measured_mib, rel=0.03)


INT8 = Quantised(Quant.INT8, Quant.INT8)


@pytest.mark.parametrize("model", list(STT_MODELS.values()), ids=list(STT_MODELS))
def test_int8_weights_and_caches_are_counted_as_the_networks_hold_them(model: SttModel) -> None:
    """Tensor by tensor: codes, scales, and what stays in the dtype."""
    torch = pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.worker.models.state import RowState
    from dsmops.worker.models.stt_lm import SttLm

    shape = model.shape
    with torch.device("meta"):
        lm = SttLm(shape, 1e5).to(torch.float16)
    lm.kv = Quant.INT8
    lm.hold_int8()
    rings = RowState(3, torch.device("meta"))
    lm.init_state(rings)
    split = serving_memory(
        ServedModel(shape, ComputeDType.F16, runtime=Runtime.EMBEDDED, quantised=INT8), 3
    )
    assert split.weights_bytes == sum(tensor.nbytes for tensor in (*lm.parameters(), *lm.buffers()))
    assert split.kv_bytes == rings.nbytes - 3 * 8


@pytest.mark.parametrize("n_q", [8, 32])
def test_int8_of_a_speaking_model_is_counted_as_the_networks_hold_it(n_q: int) -> None:
    """Backbone, depformer, rings and voices; guidance apart, which doubles the rows of both."""
    torch = pytest.importorskip("torch", reason="the worker extra is not installed")
    from dsmops.worker.models.matrix import Int8Matrix
    from dsmops.worker.models.state import RowState
    from dsmops.worker.models.tts_config import TtsConfig
    from dsmops.worker.models.tts_lm import TtsLm

    config = TtsConfig(
        TTS, 10_000, (0, *[2] * 31), 16, 2, cfg_values=(1.0, 2.0), control_values=("ok",)
    )
    with torch.device("meta"):
        lm = TtsLm(config, n_q).to(torch.float16)
    lm.kv = Quant.INT8
    lm.hold_int8()
    split, plain = (
        serving_memory(
            ServedModel(
                TTS, ComputeDType.F16, runtime=Runtime.EMBEDDED, n_q=n_q, quantised=quantised
            ),
            2,
        )
        for quantised in (INT8, PLAIN)
    )
    matrices = [one for one in lm.modules() if isinstance(one, Int8Matrix)]
    saved = sum(2 * one.rows * one.columns - one.nbytes for one in matrices)
    weights, plain_weights = (
        one.weights_bytes + one.depformer_weights_bytes for one in (split, plain)
    )
    assert plain_weights - weights == saved
    rings, voices = RowState(2, torch.device("meta")), RowState(2, torch.device("meta"))
    lm.init_state(rings)
    lm.init_cross(voices, VOICE_POSITIONS)
    assert split.kv_bytes == rings.nbytes - 2 * 8
    assert split.cross_kv_bytes == voices.nbytes
