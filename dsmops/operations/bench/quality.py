"""What storing less costs: how far logits are from float32, and which words come out wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dsmops.dtypes import ComputeDType, Quantised
from dsmops.models import MODELS, LmShape
from dsmops.operations.smoke.words import MANIFEST
from dsmops.shipped import shipped_folder

SEED = 0
"""Of random weights, and of the codes that such a model gets."""


@dataclass(frozen=True, slots=True)
class Quality:
    """What a model computes in one dtype and way of storing, beside itself in float32.

    `logits_error` is the rms of the differences of logits over the rms of the logits,
    `same_choice_share` the share of steps in which both choose the same token, given the same
    inputs; both None for text-to-speech. `wer` is the word error rate on the shipped recordings,
    None for random weights.
    """

    logits_error: float | None = None
    same_choice_share: float | None = None
    wer: float | None = None


MeasureQuality = Callable[[ComputeDType, Quantised], Quality]


def quality_of(model: str, *, device_name: str) -> MeasureQuality:
    """Return what measures a model: a published name, with random weights, or one that is loaded.

    What is compared with is computed once, when it is first needed.
    """
    if model not in MODELS:
        return _loaded(model, on_cpu=device_name == "cpu")
    shape = MODELS[model].shape
    if not isinstance(shape, LmShape):
        return lambda _dtype, _quantised: Quality()
    return _random(shape, device_name)


def _random(shape: LmShape, device_name: str) -> MeasureQuality:
    from dsmops.worker.runtime.numerics import random_comparison

    compare = random_comparison(shape, device_name, seed=SEED)

    def measure(dtype: ComputeDType, quantised: Quantised) -> Quality:
        error = compare(dtype, quantised)
        return Quality(error.relative_rms, error.same_choice_share)

    return measure


def _loaded(name: str, *, on_cpu: bool) -> MeasureQuality:
    from dsmops.operations.models.stt import find_stt
    from dsmops.operations.speech.evaluation import evaluate
    from dsmops.operations.speech.numerics import NumericsPlan, compare_numerics

    source = find_stt(name)
    manifest = shipped_folder("models") / "recordings" / MANIFEST

    def measure(dtype: ComputeDType, quantised: Quantised) -> Quality:
        lm = source.files.lm
        audio = min(manifest.parent.glob("*.flac"))
        plan = NumericsPlan(audio, lm, lm, dtype, kept_f32=0, same_layout=True, stt=source)
        error = compare_numerics(plan, cpu=on_cpu, quantised=quantised).logits
        words = evaluate(str(manifest), name, dtype=dtype, cpu=on_cpu, quantised=quantised).totals
        return Quality(error.relative_rms, error.same_choice_share, words.corpus_wer)

    return measure
