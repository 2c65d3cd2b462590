"""From the name of a model to a loaded one: a moshi-server config, a repository's `config.json`, the hub.

What the server runs and what the embedded worker runs are described in two languages; both end here in one `SttSource`.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsmops.config.load import read_config
from dsmops.config.modules import Module, modules
from dsmops.config.values import resolve
from dsmops.errors import ConfigError, InputError, SourceError
from dsmops.facts import DType
from dsmops.files import os_errors
from dsmops.hub import DownloadPlan, HubFile, fetch, is_hub_source, parse_source, plan_download
from dsmops.models import MODELS
from dsmops.progress import SILENT, Progress
from dsmops.worker import require_worker

if TYPE_CHECKING:
    from dsmops.worker.models.config import SttConfig
    from dsmops.worker.models.stt import SttFiles, SttModel

DEFAULT_MODEL = "stt-1b-en_fr"
SPEECH_TO_TEXT = ("BatchedAsr", "Asr")
_CONFIG_FILE = "config.json"
# What the networks do; a TOML that says otherwise describes another network.
_TRANSFORMER = {"norm": "RmsNorm", "gating": "silu", "positional_embedding": "Rope", "bias_ff": False, "bias_attn": False, "kv_repeat": 1}
# File name keys of a config.json, and the names that `moshi` takes where they are absent.
_FILE_KEYS = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
_MAX_JSON_BYTES = 1 << 20
_MOST_DELAY_STEPS = 750
"""A minute. The published models write their text half a second or two and a half after they heard it."""

Announce = Callable[[DownloadPlan], None]


@dataclass(frozen=True, slots=True)
class SttSource:
    """A speech-to-text model that is at hand: where its files are and what they hold. `dtype` None: nobody has chosen one."""

    name: str
    files: SttFiles
    config: SttConfig
    dtype: DType | None


def find_stt(source: str, *, lm: Path | None = None, progress: Progress = SILENT, announce: Announce = lambda _: None) -> SttSource:
    """Return the model that `source` names, its files downloaded where they were not here.

    `source` is a moshi-server TOML, a folder with a `config.json`, such a file, `hf://org/repo[@revision]`, or a published model's name.
    `lm` takes the place of its language model's file, which is then not looked for. `announce` gets a download's plan before it begins.

    Raises:
        SourceError: nothing is there, or it is none of these.
        InputError, ConfigError: it does not describe a speech-to-text model that the embedded worker runs.
        ExtraMissingError: the worker's libraries are not installed.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or refused.
    """
    require_worker("transcribing")
    here = _Downloads(progress, announce)
    if source in MODELS:
        if MODELS[source].lm is None:
            raise InputError(f"{source} is a text-to-speech model", hint=f"Transcribe with {DEFAULT_MODEL}.", code="model.not_stt")
        source = f"hf://{MODELS[source].hf_repo}"
    if is_hub_source(source):
        return _from_hub(source, lm, here)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 the method fails at ~name where nobody has that name
    if path.suffix == ".toml":
        return _from_toml(path, lm, here)
    # An empty name, of a variable that is not set, say, would be this folder.
    if source and path.is_dir():
        path /= _CONFIG_FILE
    if path.suffix == ".json":
        return _from_json(str(path.parent), _read_json(path), lm, lambda names: _beside(path, names))
    near = difflib.get_close_matches(source, MODELS, n=1)
    raise SourceError(
        f"{source or 'an empty name'} names no model",
        hint=f"{f'Did you mean {near[0]}? ' if near else ''}Name a moshi-server .toml, a folder with {_CONFIG_FILE}, hf://org/repo, "
        f"or one of {', '.join(model.name for model in MODELS.values() if model.lm)}.",
        code="model.unknown",
    )


def load_stt_source(source: SttSource, *, dtype: DType | None = None, cpu: bool = False) -> SttModel:
    """Load a model in `dtype`; by default in its source's, else in the one its device serves best, which is f32 on a CPU.

    Raises:
        CheckpointError, InputError: a file is not what the config describes.
        GpuMemoryError, DeviceLostError: the device has no room, or failed.
    """
    from dsmops.worker.models.stt import best_dtype, find_device, load_stt  # noqa: PLC0415 takes torch along, 1.4 s

    device = find_device(cpu=cpu)
    return load_stt(source.files, source.config, device=device, dtype=dtype or source.dtype or best_dtype(device))


def require_spared(target: Path | None, source: SttSource) -> None:
    """Check that `target`, which a command is going to write, is none of the model's files.

    Raises:
        InputError: it is one, and would be lost.
    """
    files = source.files
    for file in (files.lm, files.mimi, files.tokenizer):
        if target is not None and target.exists() and target.samefile(file):
            raise InputError(f"{target} is a file of the model itself", hint="Write to another file.", code="target.is_source")


class _Downloads:
    """Brings hub files here."""

    def __init__(self, progress: Progress, announce: Announce) -> None:
        self._progress = progress
        self._announce = announce

    def fetch(self, wanted: list[HubFile]) -> list[Path]:
        plan = plan_download(wanted)
        if plan.fetch_bytes:
            self._announce(plan)
        paths = fetch(plan, progress=self._progress)
        return [paths[file] for file in wanted]


def _from_hub(source: str, lm: Path | None, here: _Downloads) -> SttSource:
    try:
        config = parse_source(source)
    except SourceError:
        config = parse_source(f"{source.rstrip('/')}/{_CONFIG_FILE}")
    if not config.filename.endswith(".json"):
        raise SourceError(
            f"{source} is a single file, and a model needs its config, tokenizer and Mimi too",
            hint=f"Name the repository, hf://{config.repo}, or a moshi-server .toml that names the files.",
            code="model.unknown",
        )
    body = _read_json(here.fetch([config])[0])
    return _from_json(f"hf://{config.repo}", body, lm, lambda names: here.fetch([config.sibling(name) for name in names]))


def _from_json(name: str, body: Mapping[str, Any], lm: Path | None, locate: Callable[[list[str]], list[Path]]) -> SttSource:
    from dsmops.worker.models.config import SttConfig  # noqa: PLC0415 with the worker, whose packages may be absent
    from dsmops.worker.models.stt import SttFiles  # noqa: PLC0415 takes torch along

    config = SttConfig.from_json(body)
    names = [body.get(key, default) for key, default in _FILE_KEYS.items()]
    for file in names:
        if not isinstance(file, str) or not file or Path(file).is_absolute() or ".." in Path(file).parts:
            raise InputError(f"{name}: {file!r} is no file name", hint=f"Correct {' and '.join(_FILE_KEYS)} in its {_CONFIG_FILE}.")
    files = locate(names) if lm is None else [lm, *locate(names[1:])]
    return SttSource(name, SttFiles(*files), config, None)


def _beside(config: Path, names: list[str]) -> list[Path]:
    """Return the files `names` in the folder of `config`, which names them."""
    paths = [config.parent / name for name in names]
    for path in paths:
        if not path.exists():
            raise SourceError(
                f"{path}, which {config} names, is not there",
                hint="Download the whole repository, or correct the name.",
                code="file.missing",
            )
    return paths


def _from_toml(path: Path, lm: Path | None, here: _Downloads) -> SttSource:
    found = [module for module in modules(read_config(path)) if module.kind in SPEECH_TO_TEXT]
    if not found:
        raise ConfigError(
            f"no module of type {' or '.join(SPEECH_TO_TEXT)}", path=str(path), hint="`dsmops check-config` shows what a config serves."
        )
    return _of_module(path, found[0], lm, here)


def find_stt_module(path: Path, module: Module, *, progress: Progress = SILENT, announce: Announce = lambda _: None) -> SttSource:
    """Return the model of one speech-to-text module of the config in `path`, its files downloaded; errors as for `find_stt`."""
    return _of_module(path, module, None, _Downloads(progress, announce))


def _of_module(path: Path, module: Module, lm: Path | None, here: _Downloads) -> SttSource:
    from dsmops.worker.models.stt import SttFiles  # noqa: PLC0415 takes torch along

    config = _server_config(path, module)
    mimi, tokenizer = (_locate(path, module, key, here) for key in ("audio_tokenizer_file", "text_tokenizer_file"))
    files = SttFiles(lm or _locate(path, module, "lm_model_file", here), mimi, tokenizer)
    override = module.text("dtype_override")
    try:
        return SttSource(f"{path} [modules.{module.name}]", files, config, None if override is None else DType.parse(override))
    except ValueError as exc:
        raise _unusable(path, module, f"dtype_override = {override!r}") from exc


def _server_config(path: Path, module: Module) -> SttConfig:
    from dsmops.worker.models.config import (  # noqa: PLC0415 with the worker, whose packages may be absent
        SttConfig,
        check_heads,
        finite_number,
        whole_number,
    )

    shape = module.lm_shape()
    transformer = module.subtable("model", "transformer") or {}
    for key, wanted in _TRANSFORMER.items():
        if transformer.get(key) != wanted:
            raise _unusable(path, module, f"model.transformer.{key} = {transformer.get(key)!r}, and {wanted!r} is what STT models have")
    for table in ("conditioners", "depformer"):
        if module.subtable("model", table):
            raise _unusable(path, module, f"model.{table} is there, and STT models have none")
    if shape is None:
        raise _unusable(path, module, "a dimension in its model is missing or no whole number")
    try:
        check_heads(shape.d_model, shape.num_heads)
        whole_number(transformer, "context")
        return SttConfig(
            shape,
            max_period=whole_number(transformer, "max_period", most=10**9),
            text_delay_steps=whole_number(module.table, "asr_delay_in_tokens", least=0, most=_MOST_DELAY_STEPS),
            silence_prefix_s=next((model.silence_prefix_s for model in MODELS.values() if model.lm == shape), 0.0),
            temperature=finite_number(module.table, "temperature", 0.0),
        )
    except ValueError as exc:
        raise _unusable(path, module, str(exc)) from exc


def _locate(path: Path, module: Module, key: str, here: _Downloads) -> Path:
    value = module.text(key)
    if not value:
        raise _unusable(path, module, f"{key} is missing")
    resolved = resolve(value, os.environ)
    if resolved.is_hub:
        return here.fetch([parse_source(resolved.text)])[0]
    file = Path(resolved.text)
    if not file.exists():
        raise SourceError(
            f"{file}, the {key} of {path}, is not there",
            hint=f"Relative names count from the folder in which the command runs, {Path.cwd()}, as for the server.",
            code="file.missing",
        )
    return file


def _unusable(path: Path, module: Module, reason: str) -> ConfigError:
    return ConfigError(
        f"[modules.{module.name}] cannot be run: {reason}",
        path=str(path),
        hint=f"`dsmops check-config {path}` says more.",
        code="config.unusable",
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    with os_errors(path), path.open("rb") as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    try:
        body = json.loads(data) if len(data) <= _MAX_JSON_BYTES else None
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path} is not JSON: {exc}", hint=f"Take {_CONFIG_FILE} from the model's own repository.") from exc
    if not isinstance(body, dict):
        raise InputError(f"{path} is no model config", hint="Its top level is an object with keys such as model_type and dim.")
    return body
