"""`python -m tools.numerics_report`: what float16 does to models of the published sizes.

The models have random weights. Writes each model as bfloat16, converts it as `convert` does, and
compares the two as `verify --numerics` does, on generated sound through a random Mimi. Needs torch,
safetensors, sentencepiece, numpy and rich. With `--break`, two weights that fit float16 well are
planted in a layer whose gate product then does not.
"""

from __future__ import annotations

import argparse
import gc
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dsmops.checkpoint import convert, plan_conversion
from dsmops.cli.views.numerics import show_numerics
from dsmops.dtypes import ComputeDType, StorageDType
from dsmops.models import STT_MODELS
from dsmops.operations.speech.numerics_verdict import NumericsReport, Setting, judge
from dsmops.report import Reporter
from dsmops.worker.models.conventions import FRAMES_PER_S
from dsmops.worker.models.loading import load_mimi_encoder, mimi_tensors
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.random import NoText
from dsmops.worker.models.stt import load_lm
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.runtime.numerics import SttLmRun, compare_logits, encode_frames, run_stt_lm
from dsmops.worker.runtime.stt.transcription import Frame
from tests.support.networks import published_shape, random_weights, write_mimi
from tests.support.synthetic import write_checkpoint

FRAME_SAMPLES = 1920
BROKEN_LAYER = 7
LARGE = 0x46EA  # 29952, in bfloat16


def sound(seconds: float) -> Iterator[Frame]:
    """Yield frames of noise that comes and goes like syllables."""
    rng = np.random.default_rng(0)
    for number in range(round(seconds * FRAMES_PER_S)):
        time_s = (number * FRAME_SAMPLES + np.arange(FRAME_SAMPLES)) / 24_000
        swell = np.clip(np.sin(2 * np.pi * 1.7 * time_s), 0, None)
        yield (rng.uniform(-0.3, 0.3, FRAME_SAMPLES) * swell).astype(np.float32)


def report(
    name: str, folder: Path, device: torch.device, seconds: float, *, broken: bool = False
) -> NumericsReport:
    """Compare one random model with its conversion."""
    shape = published_shape(name)
    config = SttConfig(shape, 100_000.0, 6)
    files = folder / f"{name}.safetensors", folder / f"{name}.f16.safetensors"
    gates = f"transformer.layers.{BROKEN_LAYER}.gating.linear_in.weight"
    plant = {gates: {0: LARGE, shape.ffn_hidden * shape.d_model: LARGE}} if broken else {}
    write_checkpoint(
        files[0], {tensor: ("BF16", size) for tensor, size in shape.tensors().items()}, plant=plant
    )
    convert(plan_conversion(files[0], files[1], StorageDType.F16), digest=False, fsync=False)
    mimi_file = folder / "mimi.safetensors"
    if not mimi_file.exists():
        write_mimi(mimi_file, random_weights(mimi_tensors(MimiConfig())), config=None)
    codes = encode_frames(
        load_mimi_encoder(mimi_file, device=device),
        sound(seconds),
        shape.audio_codebooks,
        device=device,
    )

    def follow(file: Path, dtype: ComputeDType, reference: SttLmRun | None = None) -> SttLmRun:
        begin = time.perf_counter()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        lm = load_lm(file, config, device=device, dtype=dtype)
        loaded_s = time.perf_counter() - begin
        heard = run_stt_lm(lm, codes, reference=reference)
        peak = (
            torch.cuda.max_memory_allocated()
            if device.type == "cuda"
            else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        )
        print(
            f"{name} {dtype}: loaded in {loaded_s:.1f} s, computed in {heard.compute_s:.1f} s, peak"
            f" {peak / 2**30:.2f} GiB",
            flush=True,
        )
        return heard

    original = follow(files[0], ComputeDType.F32)
    gc.collect()
    converted = follow(files[1], ComputeDType.F16, original)
    for file in files:
        file.unlink()
    setting = Setting("generated sound", seconds, 0, f"{name}, random weights", str(device))
    return judge(
        setting,
        files,
        ComputeDType.F16,
        (original, converted),
        compare_logits(original, converted),
        NoText(),
    )


def main(arguments: list[str] | None = None) -> int:
    """Report on the models that the command line asks for."""
    models = sorted(STT_MODELS)
    parser = argparse.ArgumentParser(prog="python -m tools.numerics_report", description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", choices=models, action="append", help="default: all")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument(
        "--break", dest="broken", action="store_true", help="make one layer overflow in float16"
    )
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.model or models:
            found = report(
                name,
                Path(folder),
                torch.device(chosen.device),
                chosen.seconds,
                broken=chosen.broken,
            )
            Reporter("numerics", json=chosen.json).result(found, show_numerics(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
