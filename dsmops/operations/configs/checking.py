"""`check-config`: lint configs with the files, the hub's cache and the device they name.

Downloads nothing.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from dsmops.checkpoint import read_header
from dsmops.config.lint import ConfigFinding, FileState, KnownFile, LintInputs, LintReport, lint
from dsmops.config.load import Config, read_config
from dsmops.config.modules import FileRole, file_references
from dsmops.config.schema import ServerVersion
from dsmops.config.tokenizer import count_pieces
from dsmops.devices import Device
from dsmops.dtypes import PLAIN, Quantised
from dsmops.errors import DsmopsError, SourceError
from dsmops.files import os_errors
from dsmops.findings import Counts
from dsmops.hub import in_cache, parse_source
from dsmops.operations.models.files import read_json

_MAX_TOKENIZER_BYTES = 4 << 20
"""The published ones are 60 to 140 kB."""


@dataclass(frozen=True, slots=True)
class CheckedConfig:
    """The findings of one file."""

    path: str
    findings: tuple[ConfigFinding, ...]


@dataclass(frozen=True, slots=True)
class ConfigCheck:
    """The findings of every file, in the order in which the files were named.

    Also what they were judged for; None was not judged.
    """

    files: tuple[CheckedConfig, ...]
    device: Device | None
    server_version: str | None
    addr: str | None
    errors: int
    warnings: int
    notes: int

    def is_clean(self, *, strict: bool) -> bool:
        """Return whether there are no errors, and with `strict` no warnings either."""
        return Counts(self.errors, self.warnings, self.notes).is_clean(strict=strict)


def check_files(
    paths: Sequence[Path],
    *,
    device: Device | None = None,
    server_version: ServerVersion | None = None,
    addr: str | None = None,
    quantised: Quantised = PLAIN,
) -> ConfigCheck:
    """Lint every file for what is known of its server.

    `quantised` is what the embedded worker, which then is meant, keeps in int8.

    Raises:
        ConfigError, InputError: a file is not readable TOML, or not a file; none is judged then.
    """
    configs = [read_config(path) for path in paths]
    reports = [
        lint_config(
            config, device=device, server_version=server_version, addr=addr, quantised=quantised
        )
        for config in configs
    ]
    counts = Counts.of(chain.from_iterable(report.findings for report in reports))
    return ConfigCheck(
        files=tuple(
            CheckedConfig(config.path, report.findings)
            for config, report in zip(configs, reports, strict=True)
        ),
        device=device,
        server_version=str(server_version) if server_version else None,
        addr=addr,
        errors=counts.errors,
        warnings=counts.warnings,
        notes=counts.notes,
    )


def lint_config(
    config: Config,
    *,
    device: Device | None = None,
    server_version: ServerVersion | None = None,
    addr: str | None = None,
    quantised: Quantised = PLAIN,
) -> LintReport:
    """Lint one config, with the files it names as this machine and this environment have them."""
    found: dict[tuple[str, FileRole], KnownFile] = {}
    for reference in file_references(config, os.environ):
        name, role = reference.value.text, reference.role
        if (name, role) not in found:
            found[name, role] = (
                _hub_file(name, role) if reference.value.is_hub else _local_file(name, role)
            )
    return lint(
        config,
        LintInputs(
            environ=os.environ,
            files=found,
            device=device,
            server_version=server_version,
            addr=addr,
            quantised=quantised,
        ),
    )


def _hub_file(name: str, role: FileRole) -> KnownFile:
    try:
        path = in_cache(parse_source(name))
    except SourceError:
        path = None  # the lint itself says what is wrong with the name
    return KnownFile(FileState.NOT_CACHED) if path is None else _local_file(str(path), role)


def _local_file(name: str, role: FileRole) -> KnownFile:
    path = Path(name)
    try:
        exists, is_file, is_folder = path.exists(), path.is_file(), path.is_dir()
    except (OSError, ValueError):  # a name too long, or with a NUL in it
        exists = is_file = is_folder = False
    if role is FileRole.VOICES:
        return KnownFile(FileState.PRESENT if path.expanduser().is_dir() else FileState.MISSING)
    if role is FileRole.VOICE:
        return KnownFile(FileState.PRESENT if _is_voice(path.expanduser()) else FileState.MISSING)
    if not (exists and name):
        return KnownFile(FileState.MISSING)
    if role is FileRole.OTHER:
        return KnownFile(FileState.PRESENT)
    if not is_file:
        return KnownFile(
            FileState.PRESENT, problem="it is a folder" if is_folder else "it is a pipe or a device"
        )
    try:
        if role is FileRole.TOKENIZER:
            return _tokenizer(path)
        if role is FileRole.MODEL_CONFIG:
            return KnownFile(FileState.PRESENT, values=read_json(path))
        header = read_header(path)
    except DsmopsError as exc:
        return KnownFile(FileState.PRESENT, problem=exc.message)
    return KnownFile(
        FileState.PRESENT,
        tensors={name: (tensor.dtype, tensor.shape) for name, tensor in header.tensors.items()},
    )


def _is_voice(path: Path) -> bool:
    """Whether a voice of this name is there.

    It is the file itself, or one with a model's suffix behind its name.
    """
    return path.is_file() or (
        path.parent.is_dir() and any(path.parent.glob(f"{glob.escape(path.name)}.*safetensors"))
    )


def _tokenizer(path: Path) -> KnownFile:
    with os_errors(path), path.open("rb") as file:
        data = file.read(_MAX_TOKENIZER_BYTES + 1)
    if len(data) > _MAX_TOKENIZER_BYTES:
        return KnownFile(FileState.PRESENT, problem="it is larger than any tokenizer")
    pieces = count_pieces(data)
    return KnownFile(
        FileState.PRESENT, pieces=pieces, problem="" if pieces else "its content is something else"
    )
