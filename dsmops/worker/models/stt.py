"""A whole speech-to-text model: Mimi's encoder, the language model, the tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.worker.models.device import TORCH_DTYPES, device_errors, dtype_of, use_threads_for
from dsmops.worker.models.loading import load_mimi_encoder, load_stt_lm, require_codebooks
from dsmops.worker.models.mimi import MimiEncoder
from dsmops.worker.models.stt_config import SttConfig, SttFiles
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tokenizer import TextTokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class LoadedStt:
    """A loaded model. `lm` is in its serving dtype, `mimi` always in float32, both on `device`."""

    config: SttConfig
    lm: SttLm
    mimi: MimiEncoder
    tokenizer: TextTokenizer
    device: torch.device

    @property
    def dtype(self) -> ComputeDType:
        """Dtype of the language model."""
        return dtype_of(self.lm.dtype)

    @property
    def frame_samples(self) -> int:
        """Samples of one frame."""
        return self.mimi.config.frame_samples


def load_stt(
    files: SttFiles,
    config: SttConfig,
    *,
    device: torch.device,
    dtype: ComputeDType,
    quantised: Quantised = PLAIN,
) -> LoadedStt:
    """Load a model onto `device`, its language model cast to `dtype`.

    `quantised` says what of it, and of its streams, is in int8.

    On a CPU it also sets how many threads torch uses in this process.

    Raises:
        CheckpointError: a file is not what `config` describes; the message names tensors and
            shapes.
        InputError: the tokenizer or Mimi does not fit the language model.
        GpuMemoryError: the device is too small.
    """
    tokenizer, mimi = load_companions(files, config, device=device)
    lm = load_lm(files.lm, config, device=device, dtype=dtype, quantised=quantised)
    return LoadedStt(config, lm, mimi, tokenizer, device)


def load_companions(
    files: SttFiles, config: SttConfig, *, device: torch.device
) -> tuple[TextTokenizer, MimiEncoder]:
    """Load what a language model needs beside it, as `load_stt` does; `files.lm` is not read."""
    use_threads_for(config.lm.parameters, device)
    tokenizer = load_tokenizer(files.tokenizer, config.lm.text_out_vocab_size)
    with device_errors(device):
        mimi = load_mimi_encoder(files.mimi, device=device)
    require_codebooks(files.mimi, mimi.config, config.lm, config.lm.audio_codebooks)
    return tokenizer, mimi


def load_lm(
    path: Path,
    config: SttConfig,
    *,
    device: torch.device,
    dtype: ComputeDType,
    quantised: Quantised = PLAIN,
) -> SttLm:
    """Load the language model alone, cast to `dtype`, as `load_stt` does."""
    with device_errors(device):
        return load_stt_lm(
            path,
            config.lm,
            config.max_period,
            device=device,
            dtype=TORCH_DTYPES[dtype],
            quantised=quantised,
        )
