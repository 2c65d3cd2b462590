"""`python -m tools.numerics_calibration`: what faults do to `verify --numerics` and words.

It plants faults of rising size in the trained model. Its limits follow from this table
(runbooks/fp16-numerics.md).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor

from dsmops.audio import FRAME_SAMPLES, frames
from dsmops.dtypes import ComputeDType
from dsmops.operations.models.stt import find_stt
from dsmops.operations.smoke.words import read_recordings
from dsmops.operations.speech.numerics_words import word_error_rate
from dsmops.worker.models.backbone import Layer
from dsmops.worker.models.conventions import LAST_SPECIAL
from dsmops.worker.models.stt import load_companions, load_lm
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.runtime.numerics import (
    SttLmRun,
    compare_logits,
    encode_frames,
    run_stt_lm,
)
from dsmops.worker.runtime.stt.transcription import Frame, Recording

CPU = torch.device("cpu")
Fault = Callable[[SttLm], None]


def layers_of(lm: SttLm) -> list[Layer]:
    """Return the layers of a language model."""
    return cast("list[Layer]", list(lm.layers))


def rounded(bits: int) -> Fault:
    """Keep `bits` bits of each weight's fraction."""

    def plant(lm: SttLm) -> None:
        for weights in lm.parameters():
            fraction, exponent = torch.frexp(weights.float())
            weights.copy_(torch.ldexp((fraction * 2**bits).round() / 2**bits, exponent))

    return plant


def noise(share: float) -> Fault:
    """Add noise of `share` of each tensor's own size."""

    def plant(lm: SttLm) -> None:
        generator = torch.Generator().manual_seed(1)
        for weights in lm.parameters():
            drawn = torch.randn(weights.shape, generator=generator)
            weights.add_(share * weights.float().square().mean().sqrt() * drawn)

    return plant


def scaled_layer(layer: int, factor: float) -> Fault:
    """Multiply what one layer adds by `factor`; 0 leaves it out."""

    def plant(lm: SttLm) -> None:
        scaled = layers_of(lm)[layer]
        scaled.self_attn.out_proj.weight.mul_(factor)
        scaled.gating.linear_out.weight.mul_(factor)

    return plant


def swapped_heads(layers: range) -> Fault:
    """Exchange queries, keys and values of the first two heads."""

    def plant(lm: SttLm) -> None:
        width = lm.shape.d_model // lm.shape.num_heads
        for number in layers:
            packed = cast("Tensor", layers_of(lm)[number].self_attn.in_proj_weight)
            for part in packed.chunk(3):
                part[: 2 * width] = part[: 2 * width].roll(width, 0).clone()

    return plant


def nothing(_: SttLm) -> None:
    """Plant nothing."""


FAULTS: tuple[tuple[str, ComputeDType, Fault], ...] = (
    ("f16", ComputeDType.F16, nothing),
    ("bf16", ComputeDType.BF16, nothing),
    *((f"weights of {bits} bits", ComputeDType.F32, rounded(bits)) for bits in (6, 5, 4, 3)),
    *(
        (f"noise of {share:.0%}", ComputeDType.F32, noise(share))
        for share in (0.02, 0.05, 0.1, 0.2, 0.4)
    ),
    *(
        (f"layer 2 × {factor:g}", ComputeDType.F32, scaled_layer(2, factor))
        for factor in (0.95, 0.8, 0.5, 0)
    ),
    ("two heads of layer 3 exchanged", ComputeDType.F32, swapped_heads(range(3, 4))),
    ("two heads of layer 0 exchanged", ComputeDType.F32, swapped_heads(range(1))),
    ("two heads of each layer exchanged", ComputeDType.F32, swapped_heads(range(4))),
)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    source = find_stt(arguments.model)
    tokenizer, mimi = load_companions(source.files, source.config, device=CPU)
    spoken = read_recordings("recordings")
    recordings = [
        Recording(frames([one.samples]), source.config, tokenizer, FRAME_SAMPLES) for one in spoken
    ]
    codes = [
        encode_frames(mimi, _fed(one), source.config.lm.audio_codebooks, device=CPU)
        for one in recordings
    ]

    def run(fault: Fault, dtype: ComputeDType, references: list[SttLmRun] | None) -> list[SttLmRun]:
        lm = load_lm(source.files.lm, source.config, device=CPU, dtype=dtype)
        with torch.no_grad():
            fault(lm)
        return [
            run_stt_lm(lm, one, reference=references[number] if references else None)
            for number, one in enumerate(codes)
        ]

    def errors(runs: list[SttLmRun]) -> float:
        texts = [
            tokenizer.decode([token for token in one.tokens if token > LAST_SPECIAL])
            for one in runs
        ]
        return word_error_rate(" ".join(one.text for one in spoken), " ".join(texts)).rate

    originals = run(nothing, ComputeDType.F32, None)
    before = errors(originals)
    print(f"| Planted | Logits off, of their size | Same choice | WER ({before:.1%} before) |")
    print("|---|---|---|---|")
    for name, dtype, fault in FAULTS:
        runs = run(fault, dtype, originals)
        found = compare_logits(_joined(originals), _joined(runs))
        print(
            f"| {name} | {found.relative_rms or 0:.2g} | {found.same_choice_share:.1%} |"
            f" {errors(runs):.1%} |",
            flush=True,
        )


def _fed(recording: Recording) -> Iterator[Frame]:
    while (frame := recording.next_frame()) is not None:
        yield frame


def _joined(runs: list[SttLmRun]) -> SttLmRun:
    first = runs[0]
    return SttLmRun(
        torch.cat([one.logits for one in runs]),
        tuple(token for one in runs for token in one.tokens),
        first.readings,
        first.faults,
        sum(one.compute_s for one in runs),
    )


if __name__ == "__main__":
    main()
