"""A config's modules, for rules and renderers.

They tolerate every wrong type, which `lint` reports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from dsmops.config.load import Config, KeyPath
from dsmops.config.schema import MODULES, Key, Section
from dsmops.config.values import Resolved, resolve, source_problem
from dsmops.models import LmShape


@dataclass(frozen=True, slots=True)
class Module:
    """One table under `modules` with a type that the server knows.

    The getters give None for what is absent or of another type.
    """

    name: str
    type: str
    table: Mapping[str, Any]

    @property
    def has_lm(self) -> bool:
        """Whether the server itself loads a language model for the module.

        Then it reads `dtype_override`.
        """
        return "dtype_override" in MODULES[self.type].keys

    @property
    def is_python(self) -> bool:
        """Whether a Python script does the work."""
        return "script" in MODULES[self.type].keys

    @property
    def py_keys(self) -> Mapping[str, Key]:
        """The keys that the embedded script reads from `py`.

        Empty where no script, or another one, reads the table.
        """
        py = MODULES[self.type].keys.get("py")
        return (
            py.type.keys
            if py and isinstance(py.type, Section) and "script" not in self.table
            else {}
        )

    def where(self, *keys: str) -> KeyPath:
        """Return the key path of something in this module."""
        return ("modules", self.name, *keys)

    def text(self, *keys: str) -> str | None:
        """Return the string at `keys`."""
        value = _at(self.table, keys)
        return value if isinstance(value, str) else None

    def whole(self, *keys: str) -> int | None:
        """Return the integer at `keys`, when it is not negative."""
        value = _at(self.table, keys)
        return value if type(value) is int and value >= 0 else None

    def subtable(self, *keys: str) -> Mapping[str, Any] | None:
        """Return the table at `keys`."""
        value = _at(self.table, keys)
        return value if isinstance(value, dict) else None

    def lm_shape(self) -> LmShape | None:
        """Return the dimensions in `[model]`.

        None when one is missing, zero or of another type.
        """
        sizes = [self.whole("model", "transformer", key) for key in _TRANSFORMER_SIZES] + [
            self.whole("model", key) for key in _MODEL_SIZES
        ]
        if not all(sizes):
            return None
        vad_heads, classes = (
            self.whole("model", "extra_heads", "num_heads"),
            self.whole("model", "extra_heads", "dim"),
        )
        extra_heads = (vad_heads, classes) if vad_heads and classes else None
        width, heads, layers, feedforward, context, text_in, text_out, audio_vocab, codebooks = (
            size or 0 for size in sizes
        )
        return LmShape(
            width,
            heads,
            layers,
            feedforward,
            context,
            text_in,
            text_out,
            audio_vocab,
            codebooks,
            extra_heads,
        )


_TRANSFORMER_SIZES = ("d_model", "num_heads", "num_layers", "dim_feedforward", "context")
_MODEL_SIZES = ("text_in_vocab_size", "text_out_vocab_size", "audio_vocab_size", "audio_codebooks")


def modules(config: Config) -> tuple[Module, ...]:
    """Return the modules of known type, in file order."""
    tables = config.values.get("modules")
    found = tables.items() if isinstance(tables, dict) else ()
    return tuple(
        Module(name, table["type"], table)
        for name, table in found
        if isinstance(table, dict)
        and isinstance(table.get("type"), str)
        and table["type"] in MODULES
    )


class FileRole(StrEnum):
    """What the server opens a file as."""

    LM = "language model"
    MIMI = "Mimi"
    TOKENIZER = "text tokenizer"
    MODEL_CONFIG = "model's own config"
    VOICES = "folder of voices"
    VOICE = "voice"
    OTHER = "file"


@dataclass(frozen=True, slots=True)
class FileReference:
    """A value that names a file which the server opens at start."""

    where: KeyPath
    role: FileRole
    value: Resolved


_ROLES = {
    "lm_model_file": FileRole.LM,
    "text_tokenizer_file": FileRole.TOKENIZER,
    "audio_tokenizer_file": FileRole.MIMI,
    "speaker_tokenizer_file": FileRole.MIMI,
    "voice_dir": FileRole.OTHER,
    "script": FileRole.OTHER,
}
_PY_ROLES = {
    "moshi_weight": FileRole.LM,
    "mimi_weight": FileRole.MIMI,
    "tokenizer": FileRole.TOKENIZER,
    "config_path": FileRole.MODEL_CONFIG,
}


def file_references(config: Config, environ: Mapping[str, str]) -> tuple[FileReference, ...]:
    """Return every file that the modules name, as the server sees it in this environment.

    Left out: keys that this type of module does not read, `speaker_tokenizer_file = ""`, which
    means a part of the language model's file, everything that a script of the operator's own gets,
    and names that the server cannot fetch, which a rule of their own reports.
    """
    found: list[FileReference] = []
    for module in modules(config):
        known = MODULES[module.type].keys
        named: dict[KeyPath, FileRole] = {
            (key,): role for key, role in _ROLES.items() if key in known
        }
        if "voices" in known:
            named |= {
                ("voices", voice): FileRole.OTHER for voice in module.subtable("voices") or {}
            }
        # PyPost encodes voices, with networks of its own.
        named |= {
            ("py", key): role if module.type != "PyPost" else FileRole.OTHER
            for key, role in _PY_ROLES.items()
            if key in module.py_keys
        }
        for keys, role in named.items():
            value = module.text(*keys)
            if (
                value is not None
                and (value or keys[0] != "speaker_tokenizer_file")
                and not source_problem(value)
            ):
                found.append(FileReference(module.where(*keys), role, resolve(value, environ)))
        found += _voices(module, environ)
    return tuple(found)


def _voices(module: Module, environ: Mapping[str, str]) -> Iterator[FileReference]:
    """Yield a module's own folder of voices and its default voice.

    Nothing where they come from the hub.
    """
    folder, voice = module.text("py", "voice_folder"), module.text("py", "default_voice")
    if "voice_folder" not in module.py_keys or folder is None or "://" in folder:
        return
    seen = resolve(folder, environ)
    yield FileReference(module.where("py", "voice_folder"), FileRole.VOICES, seen)
    if voice:
        yield FileReference(
            module.where("py", "default_voice"),
            FileRole.VOICE,
            replace(seen, text=f"{seen.text}/{voice}"),
        )


def _at(table: Mapping[str, Any], keys: tuple[str, ...]) -> object:
    value: object = table
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value
