"""Describe a TTS checkpoint by its config.json, before it is downloaded.

A moshi-server TOML does not describe such a model; config.json does: dimensions, and the names of
the other files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsmops.checkpoint import TensorInfo, identify
from dsmops.errors import CheckpointError, SourceError
from dsmops.hub import read_head
from dsmops.models import DEFAULT_TTS, TTS_MODELS, TtsModel
from dsmops.operations.models.files import (
    CONFIG_FILE,
    MAX_JSON_BYTES,
    file_names,
    parse_json,
    read_json,
)
from dsmops.operations.models.staging import Origin

_TTS_TENSOR = "depformer_text_emb.weight"


def is_tts(tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether a checkpoint holds a text-to-speech language model."""
    return _TTS_TENSOR in tensors


def weights_in(folder: Path) -> Path:
    """Return the TTS language model in a folder, by its config.json.

    Without such a config.json, return the folder.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        return folder
    body = read_json(path)
    named = folder / file_names(str(path), body)[0]
    return named if body.get("model_type") == "tts" and named.is_file() else folder


def describe_tts_checkpoint(weights: Origin, tensors: Mapping[str, TensorInfo]) -> TtsModel:
    """Return the TTS model in a checkpoint, with the file names in its config.json.

    The config.json of a hub repository is read and not kept.

    Raises:
        SourceError: there is no config.json.
        InputError: it cannot be used, or describes no model that `dsmops worker` runs.
        CheckpointError: it describes another checkpoint.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    from dsmops.worker.models.tts_config import TtsConfig

    where, body = _config_beside(weights)
    shape = TtsConfig.from_json(body).shape
    differing = [
        name
        for name, wanted in shape.tensors().items()
        if name not in tensors or tensors[name].shape != wanted
    ]
    if differing:
        raise CheckpointError(
            f"{where} describes another checkpoint: {len(differing)} tensors are missing or of"
            f" another shape, {differing[0]} first",
            hint="Take both from one repository.",
            code="checkpoint.other_config",
        )
    lm, mimi, tokenizer = file_names(where, body)
    known = TTS_MODELS.get(identify(tensors).name or "")
    unknown = replace(DEFAULT_TTS, name=Path(lm).stem, hf_repo="", model_file=lm, shape=shape)
    return replace(known or unknown, mimi_file=mimi, tokenizer_file=tokenizer)


def _config_beside(weights: Origin) -> tuple[str, Mapping[str, Any]]:
    if isinstance(weights, Path):
        path = (weights if weights.is_dir() else weights.parent) / CONFIG_FILE
        if not path.is_file():
            raise SourceError(
                f"{path} is not there, and a text-to-speech checkpoint cannot be served without it",
                hint=f"Put the {CONFIG_FILE} of the checkpoint's own repository beside it.",
                code="source.no_model_config",
            )
        return str(path), read_json(path)
    file = weights.sibling(CONFIG_FILE)
    return str(file), parse_json(read_head(file, MAX_JSON_BYTES + 1)[0], str(file))
