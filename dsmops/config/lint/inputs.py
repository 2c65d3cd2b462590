"""What a lint may know besides the text: files, device, server, address.

The caller finds it out; rules only read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from dsmops.config.modules import FileRole
from dsmops.config.schema import ServerVersion
from dsmops.devices import Device
from dsmops.dtypes import PLAIN, Quantised


class FileState(StrEnum):
    """Where a file stands."""

    PRESENT = "present"
    MISSING = "missing"
    NOT_CACHED = "not in the hub cache"


@dataclass(frozen=True, slots=True)
class KnownFile:
    """What was found at one path or `hf://` name.

    `tensors` is the header of a safetensors file, name → (dtype as the format spells it, shape),
    None where it was not or could not be read; `problem` then says why, if that was tried. `pieces`
    counts the pieces of a sentencepiece model likewise, `values` is what a model's config.json
    says.
    """

    state: FileState
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] | None = None
    pieces: int | None = None
    values: Mapping[str, Any] | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class LintInputs:
    """What a lint judges a config for. Everything is optional: what is not known is not judged.

    `files` is keyed by the value as the server sees it, relative paths as written, and by what the
    server opens it as. `addr` is what the server's `--addr` will be, `environ` the environment that
    it will have. `quantised` is what the embedded worker keeps in int8: with anything in int8, the
    config is judged for that worker.
    """

    environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[tuple[str, FileRole], KnownFile] = field(default_factory=dict)
    device: Device | None = None
    server_version: ServerVersion | None = None
    addr: str | None = None
    quantised: Quantised = PLAIN
