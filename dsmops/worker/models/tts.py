"""A whole TTS model: language model with depformer, Mimi's decoder, tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dsmops.dtypes import PLAIN, ComputeDType, Quantised
from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.worker.models.device import TORCH_DTYPES, device_errors, dtype_of, use_threads_for
from dsmops.worker.models.loading import load_mimi_decoder, load_tts_lm, require_codebooks
from dsmops.worker.models.mimi import MimiDecoder
from dsmops.worker.models.tokenizer import TextTokenizer, load_tokenizer
from dsmops.worker.models.tts_config import TtsConfig, TtsFiles
from dsmops.worker.models.tts_lm import TtsLm


@dataclass(frozen=True, slots=True)
class LoadedTts:
    """A loaded model.

    `lm` is in its serving dtype, its conditioners and `mimi` always in float32, all on `device`.
    """

    config: TtsConfig
    lm: TtsLm
    mimi: MimiDecoder
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

    @property
    def codebooks(self) -> int:
        """Codebooks that are generated, `n_q` of `load_tts`."""
        return self.lm.codebooks


def read_tts_config(path: Path) -> TtsConfig:
    """Return what the `config.json` at `path` says.

    Raises:
        InputError: it is not JSON, or not the config of a text-to-speech model that the networks
            here can run.
        SourceError: it is not there.
    """
    with os_errors(path):
        content = path.read_bytes()
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"{path} is not JSON: {exc}", hint="Take config.json from the model's own repository."
        ) from exc
    if not isinstance(body, dict):
        raise InputError(
            f"{path} is not an object of keys and values",
            hint="Take config.json from the model's own repository.",
        )
    return TtsConfig.from_json(body)


def load_tts(
    files: TtsFiles,
    *,
    device: torch.device,
    dtype: ComputeDType,
    n_q: int | None = None,
    quantised: Quantised = PLAIN,
) -> LoadedTts:
    """Load a model onto `device`, its language model cast to `dtype`.

    `quantised` says what of it, and of its streams, is in int8.

    On a CPU it also sets how many threads torch uses in this process.

    `n_q` codebooks are generated, all unless it is given: fewer are faster, take less memory and
    sound worse.

    Raises:
        CheckpointError: a file is not what the config describes; the message names tensors and
            shapes.
        InputError: the config cannot be used, `n_q` is out of range, or tokenizer or
            Mimi do not fit.
        GpuMemoryError: the device is too small.
    """
    config = read_tts_config(files.config)
    shape = config.shape.lm
    codebooks = shape.audio_codebooks if n_q is None else n_q
    if not 1 <= codebooks <= shape.audio_codebooks:
        raise InputError(
            f"n_q = {n_q}, and the model has 1 to {shape.audio_codebooks} codebooks",
            hint="Published values are 8 to 32.",
        )
    use_threads_for(config.shape.parameters, device)
    tokenizer = load_tokenizer(files.tokenizer, shape.text_out_vocab_size)
    with device_errors(device):
        mimi = load_mimi_decoder(files.mimi, device=device)
        require_codebooks(files.mimi, mimi.config, shape, codebooks)
        lm = load_tts_lm(
            files.lm,
            config,
            codebooks,
            device=device,
            dtype=TORCH_DTYPES[dtype],
            quantised=quantised,
        )
    return LoadedTts(config, lm, mimi, tokenizer, device)
