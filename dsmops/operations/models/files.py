"""Find the files of a model, for both directions.

They are beside its `config.json`, named in a moshi-server config, or on the hub.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsmops.config.load import read_config
from dsmops.config.modules import Module, modules
from dsmops.config.values import resolve
from dsmops.errors import ConfigError, InputError, SourceError
from dsmops.files import open_regular, os_errors
from dsmops.hub import HubFile, fetch, is_hub_source, parse_source, plan_download
from dsmops.models import MODELS, PublishedModel, TtsModel
from dsmops.progress import Progress
from dsmops.shipped import shipped_configs

CONFIG_FILE = "config.json"
_FILE_KEYS = {
    "moshi_name": "model.safetensors",
    "mimi_name": "tokenizer-e351c8d8-checkpoint125.safetensors",
    "tokenizer_name": "tokenizer_spm_32k_3.model",
}
"""File name keys of a config.json, and the names that `moshi` takes where they are absent."""
MAX_JSON_BYTES = 1 << 20
"""The published ones have 1 to 3 kB."""

Locate = Callable[[Sequence[str]], list[Path]]
"""Brings files of a model here by their names, in order."""


class Downloads:
    """Downloads hub files; `progress` announces each download before it begins."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def fetch(self, wanted: Sequence[HubFile]) -> list[Path]:
        plan = plan_download(list(wanted))
        if plan.fetch_bytes:
            self.progress.announce(plan.lines())
        paths = fetch(plan, progress=self.progress)
        return [paths[file] for file in wanted]


def find_model_config(
    source: str, default: PublishedModel, here: Downloads
) -> Path | tuple[str, Path, Locate]:
    """Return the moshi-server TOML that `source` is, or the parts of a model without one.

    These parts are its name, its `config.json` and the function that locates the files named there.
    Of the published models those for the purpose of `default` count; a shipped model's name comes
    before a folder's.

    Raises:
        InputError: `source` is a published model for the other purpose.
        SourceError: nothing is there, or it is neither.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
        refused.
    """
    published = MODELS.get(source)
    if published is not None:
        if published.purpose != default.purpose:
            raise InputError(
                f"{source} is a {published.purpose} model",
                hint=f"Use a {default.purpose} model, such as {default.name}.",
                code="model.not_tts" if isinstance(default, TtsModel) else "model.not_stt",
            )
        source = f"hf://{published.hf_repo}"
    if is_hub_source(source):
        return _on_hub(source, here)
    shipped = shipped_configs()
    if source in shipped:
        path = shipped[source]
        return source, path, lambda names: _beside(path, names)
    path = Path(os.path.expanduser(source))  # noqa: PTH111 the method fails at ~name where no user has that name
    if path.suffix == ".toml":
        return path
    # An empty name, of a variable that is not set, say, would be this folder.
    if source and path.is_dir():
        path /= CONFIG_FILE
    if path.suffix == ".json":
        return str(path.parent), path, lambda names: _beside(path, names)
    known = [
        *(name for name, model in MODELS.items() if model.purpose == default.purpose),
        # A config beside a model's own is for text-to-speech: `tiny` means either, by command.
        *(one for one in shipped if isinstance(default, TtsModel) or not one.endswith("-tts")),
    ]
    near = difflib.get_close_matches(source, known, n=1)
    raise SourceError(
        f"{source or 'an empty name'} names no model",
        hint=(
            f"{f'Did you mean {near[0]}? ' if near else ''}Name a moshi-server .toml, a folder with"
            f" {CONFIG_FILE}, hf://org/repo, or one of {', '.join(known)}."
        ),
        code="model.unknown",
    )


def find_module(path: Path, types: Sequence[str]) -> Module:
    """Return the first module of the moshi-server config in `path` that is of one of `types`.

    Raises:
        ConfigError: there is none.
    """
    for module in modules(read_config(path)):
        if module.type in types:
            return module
    raise ConfigError(
        f"it has no module of type {' or '.join(types)}",
        path=str(path),
        hint="`dsmops check-config` shows what a config serves.",
    )


def _on_hub(source: str, here: Downloads) -> tuple[str, Path, Locate]:
    try:
        config = parse_source(source)
    except SourceError:
        config = parse_source(f"{source.rstrip('/')}/{CONFIG_FILE}")
    if not config.filename.endswith(".json"):
        raise SourceError(
            f"{source} is a single file, and a model needs its config, tokenizer and Mimi too",
            hint=(
                f"Name the repository, hf://{config.repo}, or a moshi-server .toml that names the"
                " files."
            ),
            code="model.unknown",
        )
    return (
        f"hf://{config.repo}",
        here.fetch([config])[0],
        lambda names: here.fetch([config.sibling(name) for name in names]),
    )


def file_names(name: str, body: Mapping[str, Any]) -> list[str]:
    """Return the names of the language model, Mimi and tokenizer in a `config.json`.

    `name` is what messages call it.

    Raises:
        InputError: one of them is not a file name.
    """
    names = [body.get(key, default) for key, default in _FILE_KEYS.items()]
    for file in names:
        if (
            not isinstance(file, str)
            or not file
            or Path(file).is_absolute()
            or ".." in Path(file).parts
        ):
            raise InputError(
                f"{name}: {file!r} is not a file name",
                hint=f"Correct {' and '.join(_FILE_KEYS)} in its {CONFIG_FILE}.",
            )
    return names


def _beside(config: Path, names: Sequence[str]) -> list[Path]:
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


def locate(path: Path, module: Module, *key: str, here: Downloads) -> Path:
    """Return the file that a module of the config in `path` names at `key`.

    Raises:
        ConfigError: it names none.
        SourceError: it is not there.
        RemoteError, CredentialsError, ResourceError: the hub, the network or the disk failed or
        refused.
    """
    value = module.text(*key)
    if not value:
        raise unusable(path, module, f"{'.'.join(key)} is missing")
    resolved = resolve(value, os.environ)
    if resolved.is_hub:
        return here.fetch([parse_source(resolved.text)])[0]
    file = Path(resolved.text)
    if not file.exists():
        raise SourceError(
            f"{file}, the {'.'.join(key)} of {path}, is not there",
            hint=(
                f"Relative names count from the folder in which the command runs, {Path.cwd()}, as"
                " for the server."
            ),
            code="file.missing",
        )
    return file


def unusable(path: Path, module: Module, reason: str) -> ConfigError:
    """Return the error for a module that the embedded worker cannot run."""
    return ConfigError(
        f"[modules.{module.name}] cannot be run: {reason}",
        path=str(path),
        hint=f"`dsmops check-config {path}` says more.",
        code="config.unusable",
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """Return a model's own config.

    Raises:
        InputError: it is not a JSON object, or it is a pipe or a device.
        SourceError: it does not exist.
    """
    with os_errors(path), open_regular(path, "config") as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1), str(path))


def parse_json(data: bytes, name: str) -> Mapping[str, Any]:
    """Return the object in the bytes of a model's `config.json`.

    `name` is what messages call it. More than `MAX_JSON_BYTES` are an error.

    Raises:
        InputError: it is not a JSON object.
    """
    try:
        body = json.loads(data) if len(data) <= MAX_JSON_BYTES else None
    except (ValueError, RecursionError) as exc:
        raise InputError(
            f"{name} is not JSON: {exc}",
            hint=f"Take {CONFIG_FILE} from the model's own repository.",
        ) from exc
    if not isinstance(body, dict):
        raise InputError(
            f"{name} is not a model config",
            hint="Its top level is an object with keys such as model_type and dim.",
        )
    return body
