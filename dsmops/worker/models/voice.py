"""Read a voice file of `kyutai/tts-voices`.

It holds ten seconds of a speaker as latents of a codec that was made for one model. That codec's
encoder is not published, so voices cannot be made here. A voice of one model is useless to another.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from dsmops.errors import CheckpointError, InputError
from dsmops.files import os_errors
from dsmops.worker.models.tts_config import VOICE, TtsConfig

_SIGNED_NAME = re.compile(r"\.(?P<sig>[0-9a-zA-Z]+)@(?P<epoch>\d+)\.safetensors\Z")


def read_voice(path: Path, config: TtsConfig) -> NDArray[np.float32]:
    """Return the voice in `path`, float32 [512, 125]: channels, frames.

    Raises:
        CheckpointError: it is not a voice file, or one for another model.
        InputError: its numbers are not all finite.
        SourceError: it is not there.
    """
    with os_errors(path):
        path.open("rb").close()
    stored = [1, *config.voice_shape]
    hint = (
        f"Voice files are those of hf://kyutai/tts-voices whose names end in {config.voice_suffix}."
    )
    try:
        with safe_open(str(path), framework="np") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
            if names != [VOICE]:
                raise CheckpointError(
                    f"{path} is not a voice: it does not hold one tensor {VOICE}",
                    hint=hint,
                    code="voice.unusable",
                )
            header = file.get_slice(VOICE)
            dtype, shape = header.get_dtype(), list(header.get_shape())
            if dtype != "F32" or shape != stored:
                raise CheckpointError(
                    f"{path} was not made for this model: {VOICE} is {dtype} {shape}, not F32 "
                    f"{stored}",
                    hint=hint,
                    code="voice.unusable",
                )
            _require_same_model(path, metadata, config, hint)
            voice: NDArray[np.float32] = file.get_tensor(VOICE)[0]
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(
            f"{path} is not a voice: it is not a complete safetensors file ({exc})",
            hint=hint,
            code="voice.unusable",
        ) from exc
    require_voice(voice, config, name=str(path))
    return voice


def require_voice(values: NDArray[np.float32], config: TtsConfig, *, name: str) -> None:
    """Check that `values`, which the error calls `name`, are a voice: finite numbers [512, 125].

    Raises:
        InputError: they have another shape, or are not all finite.
    """
    if values.shape != config.voice_shape:
        raise InputError(
            f"{name} has the shape {list(values.shape)}; "
            f"voices of this model have {list(config.voice_shape)}",
            hint=f"Voices made for this model are files that end in {config.voice_suffix}.",
            code="voice.unusable",
        )
    if not np.isfinite(values).all():
        raise InputError(
            f"{name} holds numbers that are not finite",
            hint="Take the voice from its source again.",
            code="voice.unusable",
        )


def _require_same_model(path: Path, metadata: dict[str, str], config: TtsConfig, hint: str) -> None:
    """Check that the file was made for the model of `config`.

    A file or a config that does not say passes.
    """
    ours = _SIGNED_NAME.search(config.voice_suffix)
    theirs = metadata if {"sig", "epoch"} <= metadata.keys() else _SIGNED_NAME.search(path.name)
    if ours and theirs and (theirs["sig"], theirs["epoch"]) != (ours["sig"], ours["epoch"]):
        raise CheckpointError(
            f"{path} was made for the model {theirs['sig']}@{theirs['epoch']}, "
            f"not for {ours['sig']}@{ours['epoch']}",
            hint=hint,
            code="voice.other_model",
        )
