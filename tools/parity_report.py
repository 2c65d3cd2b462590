"""`python -m tools.parity_report`: compare our networks with those of the `moshi` package.

The result is one table. Random weights, written as bfloat16, as published files are; both sides
load the same files. Needs `moshi` 0.2.13 and `einops` on the import path (`make parity` keeps them
in `.peers`). On a CUDA card: `--device cuda --dtype f16`. A full-size model on a CPU takes minutes.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsmops.worker.models.loading import mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.stt_config import SttConfig
from tests.support.networks import (
    FULL_STT_BODY,
    FULL_TTS_CONFIG_BODY,
    MIMI_BODY,
    STT_BODY,
    TTS_CONFIG_BODY,
    random_weights,
    tts_config,
    write_mimi,
    write_stt,
    write_tts,
)
from tests.support.upstream import (
    Difference,
    LmTrace,
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

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
HEAD = (
    "what",
    "dtype",
    "steps",
    "rows",
    "ours-moshi",
    "ours-f32",
    "moshi-f32",
    "scale",
    "same choices",
)


@dataclass(frozen=True, slots=True)
class Size:
    """A model pair and how long it is fed. `mimi` None is the released codec."""

    name: str
    stt: dict[str, Any]
    tts: dict[str, Any]
    mimi: dict[str, Any] | None
    codebooks: int
    rows: int
    steps: int
    frames: int
    tts_name: str

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return MimiConfig.from_json(self.mimi or {}).frame_samples


TINY = Size(
    "tiny",
    STT_BODY,
    TTS_CONFIG_BODY,
    MIMI_BODY,
    codebooks=8,
    rows=4,
    steps=60,
    frames=60,
    tts_name="tiny tts",
)
FULL = Size(
    "stt-1b",
    FULL_STT_BODY,
    FULL_TTS_CONFIG_BODY,
    None,
    codebooks=32,
    rows=2,
    steps=12,
    frames=12,
    tts_name="tts-1.6b",
)


def lm_lines(size: Size, folder: Path, dtypes: list[str], device: str) -> Iterator[tuple[str, ...]]:
    """Compare language models with rows out of step.

    Each row gets the same words, so that one rounding does not change all that follows.
    """
    weights = random_weights(SttConfig.from_json(size.stt).lm.tensors())
    path = write_stt(folder / f"{size.name}.safetensors", weights, dtype=torch.bfloat16)
    del weights
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(
        size.stt["card"], (size.steps, size.rows, size.stt["n_q"]), generator=generator
    )
    say = torch.randint(size.stt["text_card"], (size.steps, size.rows), generator=generator)
    schedule = Schedule.out_of_sync(size.steps, size.rows)

    def trace(follow: Any, dtype: torch.dtype, words: Tensor | None) -> LmTrace:
        made: LmTrace = follow(
            path, size.stt, codes, schedule, say=words, dtype=dtype, device=device
        )
        gc.collect()
        return made

    exact = trace(upstream_lm, torch.float32, say)
    for name in dtypes:
        dtype = DTYPES[name]
        theirs = exact if name == "f32" else trace(upstream_lm, dtype, say)
        ours = trace(our_lm, dtype, say)
        best = agreement(ours.logits.argmax(-1), theirs.logits.argmax(-1), schedule.masks)
        yield _line(
            f"{size.name} logits",
            name,
            codes,
            (ours.logits, theirs.logits, exact.logits),
            schedule.masks,
            best,
        )
        yield _line(
            f"{size.name} pauses",
            name,
            codes,
            (ours.pauses, theirs.pauses, exact.pauses),
            schedule.masks,
            None,
        )
        said, expected = (trace(follow, dtype, None).tokens for follow in (our_lm, upstream_lm))
        same = _share(agreement(said, expected, schedule.masks))
        yield (
            f"{size.name} tokens, fed back",
            name,
            str(size.steps),
            str(size.rows),
            *[""] * 4,
            same,
        )
    path.unlink()


def tts_lines(
    size: Size, folder: Path, dtypes: list[str], device: str
) -> Iterator[tuple[str, ...]]:
    """Compare text-to-speech models that take the most probable codes.

    In 16 bits they are compared until codes are fed back: then a rounding may change all that
    follows.
    """
    config, name = tts_config(size.tts), size.tts_name
    path = write_tts(folder / f"{name}.safetensors", body=size.tts, dtype=torch.bfloat16)
    mimi = write_mimi(
        folder / f"{name}-mimi.safetensors",
        random_weights(mimi_tensors(MimiConfig.from_json(size.mimi or {}))),
        config=size.mimi,
    )
    generator = torch.Generator().manual_seed(0)
    silent = config.delay_steps + 1
    steps = max(size.steps, silent + 8)
    table = config.shape.lm.text_in_vocab_size
    words = torch.randint(table - 1, (steps, size.rows), generator=generator)
    voices = [
        torch.randn(row % 3, config.voice_width, config.voice_frames, generator=generator)
        for row in range(size.rows)
    ]

    def trace(ours: bool, dtype: torch.dtype, steps: int) -> TtsTrace:
        rows, schedule = (
            TtsRows(words[:steps] + table, voices, 2.0),
            Schedule.steady(steps, size.rows),
        )
        made = (
            our_tts(path, mimi, size.tts, rows, schedule, dtype=dtype, device=device)
            if ours
            else upstream_tts(path, size.tts, rows, schedule, dtype=dtype, device=device)
        )
        gc.collect()
        return made

    exact = trace(False, torch.float32, steps)
    for dtype in dtypes:
        count = steps if dtype == "f32" else silent
        active = Schedule.steady(count, size.rows).masks
        ours = trace(True, DTYPES[dtype], count)
        theirs = exact if dtype == "f32" else trace(False, DTYPES[dtype], count)
        text = (ours.text_logits, theirs.text_logits, exact.text_logits[:count])
        first = (
            ours.audio_logits[:, :, 0],
            theirs.audio_logits[:, :, 0],
            exact.audio_logits[:count, :, 0],
        )
        best = agreement(ours.text_logits.argmax(-1), theirs.text_logits.argmax(-1), active)
        yield _line(f"{name} text logits", dtype, words[:count], text, active, best)
        yield _line(
            f"{name} codebook 0 logits",
            dtype,
            words[:count],
            first,
            active,
            agreement(ours.codes, theirs.codes, active),
        )
    path.unlink()
    mimi.unlink()


def mimi_lines(size: Size, folder: Path, device: str) -> Iterator[tuple[str, ...]]:
    """Compare codecs, always in float32: streams out of sync, then whole signals."""
    weights = random_weights(mimi_tensors(MimiConfig.from_json(size.mimi or {})))
    path = write_mimi(folder / f"{size.name}-mimi.safetensors", weights, config=size.mimi)
    pcm = 0.3 * torch.randn(
        size.frames, size.rows, 1, size.frame_samples, generator=torch.Generator().manual_seed(0)
    )
    whole = pcm.permute(1, 2, 0, 3).reshape(1, size.rows, 1, -1)
    for what, sound, schedule in (
        ("stream", pcm, Schedule.out_of_sync(size.frames, size.rows)),
        ("whole", whole, None),
    ):
        ours = our_mimi(path, sound, schedule, codebooks=size.codebooks, device=device)
        theirs = upstream_mimi(
            path, size.mimi, sound, schedule, codebooks=size.codebooks, device=device
        )
        active = Schedule.steady(1, size.rows).masks if schedule is None else schedule.masks
        name = f"{size.name} Mimi {what}"
        yield _line(
            f"{name} latents",
            "f32",
            pcm,
            (ours.latents, theirs.latents),
            active,
            agreement(ours.codes, theirs.codes, active),
        )
        yield _line(f"{name} PCM", "f32", pcm, (ours.pcm, theirs.pcm), active, None)
    path.unlink()


def _line(
    what: str,
    dtype: str,
    fed: Tensor,
    values: tuple[Tensor, ...],
    active: Tensor,
    same: float | None,
) -> tuple[str, ...]:
    ours, theirs, *exact = values
    apart = [
        Difference.of(ours, theirs, active),
        *(Difference.of(one, exact[0], active) for one in (ours, theirs) if exact),
    ]
    seen = [f"{difference.largest:.2e}" for difference in apart] + [""] * (3 - len(apart))
    return (
        what,
        dtype,
        str(fed.shape[0]),
        str(fed.shape[1]),
        *seen,
        f"{apart[0].scale:.3g}",
        "" if same is None else _share(same),
    )


def _share(value: float) -> str:
    return "all" if value == 1 else f"{100 * value:.2f} %"


def main(words: list[str] | None = None) -> int:
    """Print the table that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tools.parity_report", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--size", nargs="+", choices=("tiny", "full"), default=["tiny", "full"])
    parser.add_argument("--layers", type=int, help="fewer layers for the full-size language models")
    parser.add_argument("--steps", type=int, help="more or fewer steps of the full-size models")
    chosen = parser.parse_args(words)
    # Else float32 products are rounded to 10 bits on a card, and what is compared is two choices of
    # kernel.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = (
        torch.cuda.get_device_name()
        if chosen.device == "cuda"
        else f"CPU, {torch.get_num_threads()} threads"
    )
    print(f"Largest absolute differences; torch {torch.__version__}, {device}")
    _show(HEAD)
    for name in chosen.size:
        size = TINY if name == "tiny" else FULL
        if name == "full":
            steps = chosen.steps or FULL.steps
            stt = FULL_STT_BODY | {"num_layers": chosen.layers or FULL_STT_BODY["num_layers"]}
            tts = FULL_TTS_CONFIG_BODY | {
                "num_layers": chosen.layers or FULL_TTS_CONFIG_BODY["num_layers"]
            }
            size = replace(FULL, stt=stt, tts=tts, steps=steps, frames=steps)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            for line in mimi_lines(size, Path(folder), chosen.device):
                _show(line)
            for line in lm_lines(size, Path(folder), chosen.dtype, chosen.device):
                _show(line)
            for line in tts_lines(size, Path(folder), chosen.dtype, chosen.device):
                _show(line)
    return 0


def _show(line: tuple[str, ...]) -> None:
    widths = (28, 5, 5, 4, 10, 9, 9, 6, 12)
    print(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip(),
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
