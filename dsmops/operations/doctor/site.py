"""The subject of a diagnosis: the options, and facts about this machine that areas share."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dsmops.config.lint.tts import tts_modules
from dsmops.config.load import Config, read_config
from dsmops.config.modules import FileRole, file_references
from dsmops.devices import Device
from dsmops.errors import DsmopsError, SourceError
from dsmops.gpu import GpuReport, probe
from dsmops.hub import HubFile, in_cache, parse_source
from dsmops.models import DEFAULT_TTS, PublishedModel, TtsModel, model_of_repo
from dsmops.operations.configs.prepared import prepared_configs
from dsmops.operations.models.files import CONFIG_FILE
from dsmops.operations.server_binary import Binary, find_binary, identify_binary
from dsmops.shipped import shipped_folder

"""The one that is prepared where nothing else is named."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What was asked for.

    Everything that is not named is looked for in the usual places of `folder`.
    """

    folder: Path = Path()
    configs: tuple[Path, ...] = ()
    checkpoints: tuple[str, ...] = ()
    moshi_bin: str | None = None
    logs: tuple[Path, ...] = ()
    port: int | None = None
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """This machine, as far as more than one area needs it.

    `device` is the card that moshi-server would take, None where it would find none. `templates`
    are ready configs as they were shipped, which no server uses here yet; they are not judged.
    `binary` is the server, `binary_error` why there is none in spite of a file.
    """

    scope: Scope
    gpu: GpuReport
    device: Device | None
    configs: tuple[Config, ...]
    unreadable: tuple[DsmopsError, ...]
    templates: tuple[Path, ...]
    binary: Binary | None
    binary_error: DsmopsError | None

    @property
    def lacks_bf16(self) -> bool | None:
        """Whether the card that serves has no bf16.

        None without a card, or for one of unknown capability.
        """
        return self.gpu.visible[0].verdict.bf16_fails if self.gpu.visible else None

    @property
    def hub_files(self) -> tuple[HubFile, ...]:
        """The files of models that the servers take from the hub, each once.

        They are those that configs name, and those that a TTS module takes where it names none.
        Voices are not included.
        """
        names = (
            reference.value.text
            for config in self.configs
            for reference in file_references(config, os.environ)
            if reference.value.is_hub and reference.role is not FileRole.OTHER
        )
        found: dict[HubFile, None] = {}
        for name in names:
            with suppress(SourceError):  # the lint says what is wrong with the name
                found[parse_source(name)] = None
        for config in self.configs:
            found.update(dict.fromkeys(_unnamed_files(config)))
        return tuple(found)

    @property
    def missing_hub_files(self) -> tuple[HubFile, ...]:
        """Those of `hub_files` that are still to be downloaded."""
        return tuple(file for file in self.hub_files if in_cache(file) is None)

    @property
    def models(self) -> tuple[PublishedModel, ...]:
        """The published models that the configs load from the hub."""
        found = (model_of_repo(file.repo) for file in self.hub_files)
        return tuple(dict.fromkeys(model for model in found if model is not None))


def look(scope: Scope, gpu: GpuReport | None = None) -> Site:
    """Return this machine as it is now. `gpu` stands for the cards that a probe would find."""
    gpu = gpu or probe()
    configs, unreadable, templates = _find_configs(scope)
    binary, binary_error = _find_server(scope)
    return Site(
        scope=scope,
        gpu=gpu,
        device=gpu.visible[0].device if gpu.visible else None,
        configs=tuple(configs),
        unreadable=tuple(unreadable),
        templates=tuple(templates),
        binary=binary,
        binary_error=binary_error,
    )


def _unnamed_files(config: Config) -> Iterator[HubFile]:
    """Yield the hub files that the server's script takes for keys that are missing."""
    for module in tts_modules(config):
        repo = module.text("py", "hf_repo")
        model = model_of_repo(repo) if repo else DEFAULT_TTS
        if not isinstance(model, TtsModel):
            continue
        names = {
            "moshi_weight": model.model_file,
            "mimi_weight": model.mimi_file,
            "tokenizer": model.tokenizer_file,
            "config_path": CONFIG_FILE,
        }
        yield from (
            HubFile(model.hf_repo, "main", name)
            for key, name in names.items()
            if module.text("py", key) is None
        )


def _find_configs(scope: Scope) -> tuple[list[Config], list[DsmopsError], list[Path]]:
    """Return the users' configs, those that cannot be read, and unchanged ready configs."""
    ready = set() if scope.configs else _ready_digests()
    configs: list[Config] = []
    unreadable: list[DsmopsError] = []
    templates: list[Path] = []
    own = (*sorted((scope.folder / "configs").glob("*.toml")), *prepared_configs(scope.folder))
    for path in scope.configs or own:
        try:
            config = read_config(path)
        except DsmopsError as exc:
            unreadable.append(exc)
            continue
        if ready and hashlib.sha256(config.text.encode()).hexdigest() in ready:
            templates.append(path)
        else:
            configs.append(config)
    return configs, unreadable, templates


def _ready_digests() -> set[str]:
    """Return the digests of the ready configs as they were shipped.

    In a checkout the files themselves may have been edited.
    """
    return {
        line.split()[0]
        for line in (shipped_folder("configs") / "SHA256SUMS")
        .read_text(encoding="ascii")
        .splitlines()
    }


def _find_server(scope: Scope) -> tuple[Binary | None, DsmopsError | None]:
    path = find_binary(scope.moshi_bin) if scope.moshi_bin else find_binary()
    if path is None and scope.moshi_bin is None:
        return None, None
    try:
        # A name that leads to no program may still be a file, and its fault is reported.
        return identify_binary(path or Path(str(scope.moshi_bin))), None
    except DsmopsError as exc:
        return None, exc
