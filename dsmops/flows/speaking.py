"""A text-to-speech checkpoint as `prep-sm75` meets it: what its own config.json says of it, before anything of it is downloaded.

A moshi-server TOML does not describe such a model; config.json does: dimensions, and the names of the other files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dsmops.checkpoint import TensorInfo, identify
from dsmops.errors import CheckpointError, InputError, SourceError
from dsmops.files import os_errors
from dsmops.flows.staging import Origin
from dsmops.hub import read_head
from dsmops.models import MODELS, PublishedModel, speaking_model

MODEL_CONFIG_FILE = "config.json"
_MAX_BYTES = 1 << 20
_SPEAKING_TENSOR = "depformer_text_emb.weight"
_NAMES = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
"""File name keys of a config.json, and what they mean where they are absent."""


def speaks(tensors: Mapping[str, TensorInfo]) -> bool:
    """Return whether a checkpoint holds a text-to-speech language model."""
    return _SPEAKING_TENSOR in tensors


def weights_in(folder: Path) -> Path:
    """Return the language model in a folder that has the config.json of a text-to-speech model, else the folder itself."""
    path = folder / MODEL_CONFIG_FILE
    if not path.is_file():
        return folder
    body = _read(path)
    named = folder / _file_name(body, "moshi_name", str(path))
    return named if body.get("model_type") == "tts" and named.is_file() else folder


def describe_speaking(weights: Origin, tensors: Mapping[str, TensorInfo]) -> PublishedModel:
    """Return the text-to-speech model in a checkpoint, with the file names that the config.json beside it has.

    Of a hub repository config.json is read, and not kept.

    Raises:
        SourceError: there is no config.json.
        InputError: it cannot be used, or describes no model that `dsmops worker` runs.
        CheckpointError: it describes another checkpoint.
        RemoteError, CredentialsError: the hub failed or refused.
    """
    from dsmops.worker.models.tts_config import TtsConfig  # noqa: PLC0415 with the networks, though it needs none of their packages

    where, body = _config_beside(weights)
    shape = TtsConfig.from_json(body).shape
    differing = [name for name, wanted in shape.tensors().items() if name not in tensors or tensors[name].shape != wanted]
    if differing:
        raise CheckpointError(
            f"{where} describes another checkpoint: {len(differing)} tensors are missing or of another shape, {differing[0]} first",
            hint="Take both from one repository.",
            code="checkpoint.other_config",
        )
    files = {key: _file_name(body, key, where) for key in _NAMES}
    published = MODELS.get(identify(tensors).name or "")
    if published is not None:
        return replace(published, mimi_file=files["mimi_name"], tokenizer_file=files["tokenizer_name"])
    template = speaking_model()
    return PublishedModel(
        name=files["moshi_name"].removesuffix(".safetensors"),
        hf_repo="",
        model_file=files["moshi_name"],
        tokenizer_file=files["tokenizer_name"],
        mimi_file=files["mimi_name"],
        preset=template.preset,
        lm=None,
        batch_size=template.batch_size,
        tts=shape,
    )


def _config_beside(weights: Origin) -> tuple[str, Mapping[str, Any]]:
    if isinstance(weights, Path):
        path = (weights if weights.is_dir() else weights.parent) / MODEL_CONFIG_FILE
        if not path.is_file():
            raise SourceError(
                f"{path} is not there, and a text-to-speech checkpoint cannot be served without it",
                hint=f"Put the {MODEL_CONFIG_FILE} of the checkpoint's own repository beside it.",
                code="source.no_model_config",
            )
        return str(path), _read(path)
    file = weights.sibling(MODEL_CONFIG_FILE)
    head, size_bytes = read_head(file, _MAX_BYTES)
    return str(file), _parse(head if size_bytes <= _MAX_BYTES else b"", str(file))


def _read(path: Path) -> Mapping[str, Any]:
    with os_errors(path), path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    return _parse(content if len(content) <= _MAX_BYTES else b"", str(path))


def _parse(content: bytes, where: str) -> Mapping[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{where} is no JSON of a config's size: {exc}", hint="Take it from the model's own repository.") from exc
    if not isinstance(body, dict):
        raise InputError(f"{where} is not an object of keys and values", hint="Take it from the model's own repository.")
    return body


def _file_name(body: Mapping[str, Any], key: str, where: str) -> str:
    name = body.get(key, _NAMES[key])
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise InputError(f"{where}: {key} = {name!r} is no file name", hint="Take it from the model's own repository.")
    return name
