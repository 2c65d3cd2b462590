"""The memory model gives the figures that were derived by hand from the server's sources."""

import pytest

from dsmops.config.memory import MIB, RUNTIME_BYTES, largest_batch, serving_memory
from dsmops.facts import DType, Runtime
from dsmops.models import MODELS

ONE_B = MODELS["stt-1b-en_fr"].lm
TWO_B = MODELS["stt-2.6b-en"].lm
assert ONE_B is not None
assert TWO_B is not None


@pytest.mark.parametrize(
    ("lm", "dtype", "weights", "kv_per_stream"),
    [
        (ONE_B, DType.F16, 1_978_507_264, 98_304_000),
        (ONE_B, DType.F32, 3_957_014_528, 196_608_000),
        (TWO_B, DType.BF16, 5_234_237_440, 147_456_000),
        (TWO_B, DType.F32, 10_468_474_880, 294_912_000),
    ],
)
def test_weights_and_caches_are_exact(lm, dtype, weights, kv_per_stream) -> None:
    """Weights and KV bytes equal the published parameter counts and the cache formula."""
    split = serving_memory(lm, dtype, 3)
    assert split.weights_bytes == weights
    assert split.kv_bytes == 3 * kv_per_stream


@pytest.mark.parametrize(("lm", "batch", "mib"), [(ONE_B, 64, 9325), (TWO_B, 16, 7928)])
def test_the_shipped_configs_take_what_the_reference_says(lm, batch, mib) -> None:
    """The shipped 1B and 2.6B configs need 9,325 and 7,928 MiB before runtime and activations, within the rounding of conv state."""
    split = serving_memory(lm, DType.BF16, batch)
    assert (split.total_bytes - RUNTIME_BYTES - split.workspace_bytes) / MIB == pytest.approx(mib, abs=4)


@pytest.mark.parametrize(("gib", "expected"), [(6, (26, 5, 0, 0)), (8, (43, 15, 11, 0)), (11, (69, 29, 30, 0)), (16, (113, 53, 61, 16))])
def test_the_sizing_table_is_reproduced(gib, expected) -> None:
    """97 % of a card holds the batch sizes of the hand-derived table, for both models in f16 and f32."""
    usable = int(gib * 2**30 * 0.97)
    sizes = tuple(largest_batch(lm, dtype, usable) for lm in (ONE_B, TWO_B) for dtype in (DType.F16, DType.F32))
    assert sizes == expected


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    """`largest_batch` is the exact edge of `serving_memory`."""
    for usable in range(2 * 2**30, 20 * 2**30, 777_777_777):
        batch = largest_batch(ONE_B, DType.F16, usable, context=375)
        assert batch == 0 or serving_memory(ONE_B, DType.F16, batch, context=375).total_bytes <= usable
        assert serving_memory(ONE_B, DType.F16, batch + 1, context=375).total_bytes > usable


# Bytes that one H200 lost to an embedded worker: torch 2.11, CUDA 13, 2026-11-23; `python -m tests.bench.memory` measures again.
MEASURED_ON_AN_H200 = (
    ("stt-1b-en_fr", DType.F16, 1, 3245146112),
    ("stt-1b-en_fr", DType.F16, 8, 4084006912),
    ("stt-1b-en_fr", DType.F16, 64, 10255925248),
    ("stt-1b-en_fr", DType.F16, 256, 31460229120),
    ("stt-1b-en_fr", DType.F16, 400, 47386001408),
    ("stt-1b-en_fr", DType.BF16, 1, 3245146112),
    ("stt-1b-en_fr", DType.BF16, 8, 4084006912),
    ("stt-1b-en_fr", DType.BF16, 64, 10255925248),
    ("stt-1b-en_fr", DType.BF16, 256, 31460229120),
    ("stt-1b-en_fr", DType.BF16, 400, 47386001408),
    ("stt-1b-en_fr", DType.F32, 1, 5308743680),
    ("stt-1b-en_fr", DType.F32, 64, 18495635456),
    ("stt-1b-en_fr", DType.F32, 200, 46949793792),
    ("stt-2.6b-en", DType.F16, 1, 6569132032),
    ("stt-2.6b-en", DType.F16, 8, 7745634304),
    ("stt-2.6b-en", DType.F16, 64, 16671113216),
    ("stt-2.6b-en", DType.F16, 256, 47335669760),
    ("stt-2.6b-en", DType.F16, 400, 70414827520),
    ("stt-2.6b-en", DType.BF16, 1, 6569132032),
    ("stt-2.6b-en", DType.BF16, 64, 16635461632),
    ("stt-2.6b-en", DType.F32, 1, 11956715520),
    ("stt-2.6b-en", DType.F32, 64, 31317622784),
    ("stt-2.6b-en", DType.F32, 200, 73225011200),
)


@pytest.mark.parametrize(("model", "dtype", "batch", "used_bytes"), MEASURED_ON_AN_H200)
def test_the_embedded_workers_memory_is_what_a_card_measured(model: str, dtype: DType, batch: int, used_bytes: int) -> None:
    """The plan is within 3 % or 150 MiB, whichever is larger, of what the card lost."""
    lm = MODELS[model].lm
    assert lm is not None
    planned = serving_memory(lm, dtype, batch, runtime=Runtime.EMBEDDED).total_bytes
    assert abs(planned - used_bytes) <= max(0.03 * used_bytes, 150 * MIB)
