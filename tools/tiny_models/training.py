"""What the trainings of the recipe share: device, examples, optimiser, learning rate, average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tools.tiny_models.batches import Audio, Index, Pauses, Planner, loader, read_shards
from tools.tiny_models.networks import Codec
from tools.tiny_models.settings import DELAY_STEPS, TTS_CODEBOOKS
from tools.tiny_models.tokenizer import pieces


def set_up(seed: int) -> torch.device:
    """Seed torch, let it trade precision for speed, and return where training runs."""
    torch.manual_seed(seed)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_shards(folder: Path) -> list[Path]:
    """Return the files of a folder that are for training, without those that are being written."""
    return sorted(folder.glob("train-*[0-9].npz"))


Speech = tuple[Index, np.ndarray, np.ndarray]
"""What `read_shards` returns."""


class Rereading:
    """The shards of a folder, read again in a thread after given times: more may have come."""

    def __init__(self, folder: Path, at_s: list[float]) -> None:
        self._folder, self._at_s = folder, sorted(at_s)
        self._reader = ThreadPoolExecutor(1)
        self._reading: Future[Speech] | None = None

    def fresh(self, passed_s: float) -> Speech | None:
        """Return the speech once it is read, else None."""
        if self._reading is None and self._at_s and passed_s > self._at_s[0]:
            self._at_s = [at for at in self._at_s if at >= passed_s]
            self._reading = self._reader.submit(read_shards, training_shards(self._folder))
        if self._reading is None or not self._reading.done():
            return None
        speech, self._reading = self._reading.result(), None
        return speech


def told_size(index: Index, audio: np.ndarray) -> str:
    """Return how much speech there is, for a person."""
    return f"{len(index.voice)} sentences, {len(audio) / 24_000 / 3600:.2f} hours"


@dataclass(frozen=True, slots=True)
class Examples:
    """Sentences on the device, and batches of them without end."""

    index: Index
    audio: Audio
    batches: Iterator[dict[str, Tensor]]


def plan_examples(
    speech: Speech,
    tokenizer: Path | None,
    device: torch.device,
    *,
    batch: int,
    frames: int,
    pauses: Pauses,
    seed: int,
    workers: int,
    vary: bool = True,
    delay: int = DELAY_STEPS,
) -> Examples:
    """Plan batches of the sentences that `read_shards` returned.

    Without a tokenizer no word has its own tokens.
    """
    index, audio, labels = speech
    print(told_size(index, audio), flush=True)
    words = {word for line in index.words for word in line}
    planner = Planner(
        index,
        pieces(tokenizer, words) if tokenizer else {word: [4] for word in words},
        batch=batch,
        frames=frames,
        pauses=pauses,
        seed=seed,
        vary=vary,
        delay=delay,
    )
    return Examples(index, Audio(audio, labels, device), loader(planner, workers))


def is_matrix(value: Tensor) -> bool:
    """Return whether weight decay applies to a parameter: not to biases and scales."""
    return value.dim() > 1


def is_tall_matrix(value: Tensor) -> bool:
    """Return the same, but for scales that are stored as matrices of one row."""
    return value.dim() > 1 and value.shape[0] > 1


def adamw(
    parameters: Iterable[Tensor],
    rate: float,
    *,
    weight_decay: float,
    decays: Callable[[Tensor], bool],
) -> torch.optim.AdamW:
    """Return an optimiser of the parameters, of which those that `decays` names decay."""
    values = list(parameters)
    return torch.optim.AdamW(
        [
            {"params": list(filter(decays, values)), "weight_decay": weight_decay},
            {"params": [one for one in values if not decays(one)], "weight_decay": 0.0},
        ],
        lr=rate,
        betas=(0.9, 0.98),
        fused=values[0].is_cuda,
    )


def rate_at(
    rate: float,
    number: int,
    passed: float,
    *,
    flat: float = 0.4,
    least: float = 0.02,
    warm_steps: int = 200,
) -> float:
    """Return the learning rate of step `number`, with `passed` of the training behind it.

    It rises for `warm_steps`, stays until `flat` of the training, and falls to `least` of itself.
    """
    falling = 1.0 if passed < flat else max(least, 1 - (passed - flat) / (1 - flat))
    return rate * min(1.0, (number + 1) / warm_steps) * falling


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all parameters a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def average(
    means: Iterable[Tensor],
    values: Iterable[Tensor],
    number: int,
    *,
    most: float,
    warm_steps: int = 10,
) -> None:
    """Move running means towards the values of step `number`. They forget sooner at first."""
    decay = min(most, number / (number + warm_steps))
    torch._foreach_lerp_(list(means), list(values), 1 - decay)


@torch.no_grad()
def decoded_again(codec: Codec, latents: Callable[[Tensor], Tensor], pcm: Tensor) -> Tensor:
    """Return `pcm` [B, N] as the codec gives it back, with the codebooks that speech has."""
    known = codec.quantizer.encode(latents(pcm[:, None]), TTS_CODEBOOKS)
    return codec.decoder.decode(known)[:, 0].clamp(-1, 1)
