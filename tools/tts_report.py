"""`python -m tools.tts_report`: whether text to speech gives on a CUDA card what it gives on the
CPU, as one table.

Random weights, float32 without TF32, temperature 0.6 with seeds, rows out of sync: codes and text
predictions should be the same but for ties that rounding breaks, after which a row's stream goes
its own way until it starts again. Then 16 bits against float32 on the card. `--full` adds the
released dimensions, which take 8 GB of memory and two minutes of a CPU of 16 cores.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from dsmops.dtypes import ComputeDType
from dsmops.models import TTS_MODELS, TtsShape
from dsmops.worker.models.device import TORCH_DTYPES
from dsmops.worker.models.mimi import MimiConfig
from dsmops.worker.models.random import random_tts
from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.models.tts_config import TtsConfig
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsLaunchedStep, TtsOutput, TtsRequest
from dsmops.worker.tiny.codec import MIMI_BODY
from dsmops.worker.tiny.tts import BODY
from tests.support.upstream import Schedule

ROWS = 4
CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")


@dataclass(frozen=True, slots=True)
class Spoken:
    """What an engine gave: predictions [S, B], codes [S, B, K], PCM [S, B, samples], its validity
    [S, B] and all text logits [S, B, V].
    """

    predictions: NDArray[np.int64]
    codes: NDArray[np.int64]
    pcm: NDArray[np.float32]
    valid: NDArray[np.bool_]
    logits: NDArray[np.float32]
    finite: bool


def moved(
    model: LoadedTts, device: torch.device, dtype: ComputeDType = ComputeDType.F32
) -> LoadedTts:
    """Return a copy of `model` on another device, its language model cast."""
    lm = deepcopy(model.lm).to(TORCH_DTYPES[dtype])
    lm.conditioning = deepcopy(model.lm.conditioning)
    return replace(model, lm=lm.to(device), mimi=deepcopy(model.mimi).to(device), device=device)


def speak(
    model: LoadedTts, schedule: Schedule, *, cuda_graph: bool = True, ahead: bool = False
) -> Spoken:
    """Run rows of different voices and seeds by `schedule`, fed the same random words everywhere.

    `ahead` launches each step before the sound of the last one is taken, as the model loop does.
    """
    engine = TtsEngine(model, ROWS, cuda_graph=cuda_graph)
    config, rng = model.config, np.random.default_rng(0)
    shape = config.voice_shape
    voices = [
        tuple(rng.standard_normal(shape).astype(np.float32) for _ in range(row % 3))
        for row in range(ROWS)
    ]
    requests = [TtsRequest(voices[row], cfg=1.0 + row / 2, seed=row) for row in range(ROWS)]
    words = rng.integers(4, config.shape.lm.text_out_vocab_size, (len(schedule.masks), ROWS))
    engine.reset(range(ROWS), requests)
    predictions: list[NDArray[np.int64]] = []
    steps = []
    launched_steps: list[_Over | TtsLaunchedStep] = []

    def choose(predicted: NDArray[np.int64]) -> NDArray[np.int64]:
        predictions.append(predicted)
        chosen: NDArray[np.int64] = words[len(predictions) - 1]
        return chosen

    for resets, mask in zip(schedule.resets, schedule.masks.numpy(), strict=True):
        again = resets.nonzero()[:, 0].tolist()
        engine.reset(again, [requests[row] for row in again])
        text_only = bool(mask.any() and (engine.offsets[mask] < config.delay_steps).all())
        if ahead:
            fed = np.repeat(words[len(predictions)][:, None], 2, axis=1)
            launched = engine.launch(mask, fed, text_only=text_only)
            predictions.append(launched.predicted())
            launched_steps.append(launched)
            # The tensors below are the device's: no sound is waited for.
        else:
            out = engine.step(mask, choose, text_only=text_only)
            launched_steps.append(_Over(out))
        steps.append(
            (
                engine.codes[:, : model.codebooks].cpu().numpy().copy(),
                engine.text_logits.cpu().numpy().copy(),
            )
        )
        if len(launched_steps) > 1:
            launched_steps[-2].wait()
    outs = [launched.wait() for launched in launched_steps]
    finite = all(
        bool(out.finite[mask].all()) for out, mask in zip(outs, schedule.masks.numpy(), strict=True)
    )
    codes, logits = (np.stack(part) for part in zip(*steps, strict=True))
    pcm, valid = np.stack([out.pcm for out in outs]), np.stack([out.valid for out in outs])
    return Spoken(np.stack(predictions), codes, pcm, valid, logits, finite)


@dataclass(frozen=True, slots=True)
class _Over:
    """A step that is over."""

    output: TtsOutput

    def wait(self) -> TtsOutput:
        return self.output


def compare(what: str, one: Spoken, other: Spoken, schedule: Schedule) -> str:
    """Return a line about how far two runs agree.

    PCM is compared in rows whose codes have been the same since their last start.
    """
    active = schedule.masks.numpy()
    same = (one.codes == other.codes).all(-1) | ~active
    agreed, still = np.zeros_like(active), np.ones(ROWS, np.bool_)
    for step, resets in enumerate(schedule.resets.numpy()):
        still = (still | resets) & same[step]
        agreed[step] = still
    sound = agreed & one.valid
    apart = np.abs(one.pcm - other.pcm)[sound].max() if sound.any() else float("nan")
    logits = np.abs(one.logits - other.logits)[agreed & active]
    said, coded = (
        _share((getattr(one, part) == getattr(other, part))[active])
        for part in ("predictions", "codes")
    )
    return (
        f"{what:34} predictions {said}, codes {coded}, rows in step {_share(agreed[active])}; there"
        f" logits {logits.max(initial=0):.1e}, PCM {apart:.1e} of"
        f" {np.abs(one.pcm[one.valid]).max():.2g}; finite: {one.finite and other.finite}"
    )


def _share(equal: NDArray[np.bool_]) -> str:
    return "all equal" if equal.all() else f"{100 * equal.mean():.2f} % equal"


def lines(name: str, shape: TtsShape, mimi: MimiConfig | None, steps: int) -> Iterator[str]:
    """Compare the CPU with the card, eager steps with captured ones, and 16 bits with float32."""
    model, schedule = (
        random_tts(shape, CPU, ComputeDType.F32, mimi=mimi),
        Schedule.out_of_sync(steps, ROWS),
    )
    on_card = moved(model, CUDA)
    cpu, eager, graph = (
        speak(model, schedule),
        speak(on_card, schedule, cuda_graph=False),
        speak(on_card, schedule),
    )
    yield compare(f"{name}: CPU, card eager", cpu, eager, schedule)
    yield compare(f"{name}: card eager, captured", eager, graph, schedule)
    yield compare(f"{name}: captured, captured again", graph, speak(on_card, schedule), schedule)
    ahead = speak(on_card, schedule, ahead=True)
    yield compare(f"{name}: captured, launched ahead", graph, ahead, schedule)
    del on_card
    for dtype in (ComputeDType.F16, ComputeDType.BF16):
        yield compare(
            f"{name}: captured f32, {dtype.value}",
            graph,
            speak(moved(model, CUDA, dtype), schedule),
            schedule,
        )


def main(words: list[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.tts_report", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the released dimensions too")
    chosen = parser.parse_args(words)
    if not torch.cuda.is_available():
        print("tts_report: no CUDA device, nothing compared")
        return 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name()}")
    for line in lines(
        "tiny", TtsConfig.from_json(BODY).shape, MimiConfig.from_json(MIMI_BODY), 150
    ):
        print(line, flush=True)
    if chosen.full:
        shape = TTS_MODELS["tts-1.6b-en_fr"].shape
        for line in lines("tts-1.6b", shape, None, 40):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
