"""A whole speech-to-text model: Mimi's encoder, the language model, the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from dsmops.errors import DeviceLostError, GpuMemoryError, InputError, ResourceError
from dsmops.facts import ComputeCapability, DType
from dsmops.worker.models.config import SttConfig
from dsmops.worker.models.loading import load_mimi_encoder, load_stt_lm
from dsmops.worker.models.mimi import MimiEncoder
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tokenizer import TextTokenizer

_SINGLE_THREAD_PARAMETERS = 20_000_000
"""On a CPU, models smaller than this run on one thread: their kernels take microseconds, and waking a second thread for each made a step
of the tiny test model 3.2 ms on one thread and 60 ms on two, on a machine with other work."""

TORCH_DTYPES = {DType.BF16: torch.bfloat16, DType.F16: torch.float16, DType.F32: torch.float32}


@dataclass(frozen=True, slots=True)
class SttFiles:
    """The three local files of a model."""

    lm: Path
    mimi: Path
    tokenizer: Path


@dataclass(frozen=True, slots=True)
class SttModel:
    """A loaded model. `lm` is in its serving dtype, `mimi` always in float32, both on `device`."""

    config: SttConfig
    lm: SttLm
    mimi: MimiEncoder
    tokenizer: TextTokenizer
    device: torch.device

    @property
    def dtype(self) -> DType:
        """Dtype of the language model."""
        return next(dtype for dtype, torchs in TORCH_DTYPES.items() if torchs is self.lm.dtype)

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return self.mimi.config.frame_samples


def load_stt(files: SttFiles, config: SttConfig, *, device: torch.device, dtype: DType) -> SttModel:
    """Load a model onto `device`, its language model cast to `dtype`. On a CPU it also sets how many threads torch uses in this process.

    Raises:
        CheckpointError: a file is not what `config` describes; the message names tensors and shapes.
        InputError: the tokenizer or Mimi does not fit the language model.
        GpuMemoryError: the device is too small.
    """
    tokenizer, mimi = load_companions(files, config, device=device)
    return SttModel(config, load_lm(files.lm, config, device=device, dtype=dtype), mimi, tokenizer, device)


def load_companions(files: SttFiles, config: SttConfig, *, device: torch.device) -> tuple[TextTokenizer, MimiEncoder]:
    """Load what a language model needs beside it, as `load_stt` does; `files.lm` is not read."""
    use_threads_for(config.lm.parameters, device)
    tokenizer = TextTokenizer(files.tokenizer)
    if tokenizer.size != config.lm.text_out_vocab_size:
        raise InputError(
            f"{files.tokenizer} has {tokenizer.size} pieces, the model {config.lm.text_out_vocab_size} text tokens",
            hint="Take the tokenizer from the model's own repository.",
            code="tokenizer.mismatch",
        )
    with device_errors(device):
        mimi = load_mimi_encoder(files.mimi, device=device)
    codec = mimi.config
    if codec.n_q < config.lm.audio_codebooks or codec.bins != config.lm.audio_vocab_size - 1:
        raise InputError(
            f"{files.mimi} has {codec.n_q} codebooks of {codec.bins}, "
            f"the model wants {config.lm.audio_codebooks} of {config.lm.audio_vocab_size - 1}",
            hint="Take Mimi from the model's own repository.",
            code="mimi.mismatch",
        )
    return tokenizer, mimi


def load_lm(path: Path, config: SttConfig, *, device: torch.device, dtype: DType) -> SttLm:
    """Load the language model alone, cast to `dtype`, as `load_stt` does."""
    with device_errors(device):
        return load_stt_lm(path, config.lm, config.max_period, device=device, dtype=TORCH_DTYPES[dtype])


def use_threads_for(parameters: int, device: torch.device) -> None:
    """Set torch to one thread in this process where a model of so many parameters is to run on a CPU and is small."""
    if device.type == "cpu" and parameters < _SINGLE_THREAD_PARAMETERS:
        torch.set_num_threads(1)


def find_device(*, cpu: bool) -> torch.device:
    """Return the device that models run on: CUDA ordinal 0, as moshi-server takes, or the CPU where asked or alone."""
    return torch.device("cpu" if cpu or not torch.cuda.is_available() else "cuda:0")


def best_dtype(device: torch.device) -> DType:
    """Return the dtype that `device` serves a language model in best: f32 on a CPU, by its compute capability on a GPU."""
    return DType.F32 if device.type == "cpu" else ComputeCapability(*torch.cuda.get_device_capability(device)).serving_dtype


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Turn torch's errors about memory and devices inside the block into `GpuMemoryError`, `ResourceError` or `DeviceLostError`."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as exc:
        free, total = torch.cuda.mem_get_info(device)
        raise GpuMemoryError(
            f"the GPU has no room: {free / 2**20:,.0f} of {total / 2**20:,.0f} MiB are free",
            hint="`dsmops plan --runtime embedded` shows what fits; see `nvidia-smi` for what else uses the card.",
        ) from exc
    except torch.AcceleratorError as exc:
        raise DeviceLostError(
            f"the GPU failed: {str(exc).splitlines()[0]}", hint="See `nvidia-smi` and `dmesg`; every stream on it is lost."
        ) from exc
    except RuntimeError as exc:
        # torch has no class of its own for this.
        if "DefaultCPUAllocator" not in str(exc):
            raise
        raise ResourceError(
            "this machine has no memory left for the model and its streams",
            hint="A smaller batch, or --dtype bf16, takes less of it; `dsmops plan --runtime embedded` shows what fits a card.",
            code="memory.full",
        ) from exc
