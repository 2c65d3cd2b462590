"""A template and what is to change in it become a new TOML, with every untouched line as it was.

Pure and deterministic.
"""

from __future__ import annotations

import difflib
import re
import secrets
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit

from dsmops.config.load import Config, KeyPath, parse_config
from dsmops.config.modules import Module, modules
from dsmops.config.schema import MODULES, PUBLIC_TOKEN
from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError


@dataclass(frozen=True, slots=True)
class ConfigSettings:
    """What to set in a template; None leaves what it says.

    All but the last four belong to the one module that loads a language model, or to the only
    module there is. In a module whose script speaks, the files go into its `py` table;
    `model_config_file` and `n_q` are for such a module alone.
    """

    lm_model_file: str | None = None
    text_tokenizer_file: str | None = None
    audio_tokenizer_file: str | None = None
    model_config_file: str | None = None
    n_q: int | None = None
    dtype_override: ComputeDType | None = None
    batch_size: int | None = None
    context: int | None = None
    authorized_ids: tuple[str, ...] | None = None
    log_dir: str | None = None
    static_dir: str | None = None
    instance_name: str | None = None


_TOP_KEYS = ("static_dir", "log_dir", "instance_name", "authorized_ids")
_MODULE_KEYS = (
    "lm_model_file",
    "text_tokenizer_file",
    "audio_tokenizer_file",
    "model_config_file",
    "n_q",
    "batch_size",
    "dtype_override",
    "context",
)
_PLACES: dict[str, tuple[KeyPath, ...]] = {"context": (("model", "transformer", "context"),)}
_TTS_PLACES: dict[str, tuple[KeyPath, ...]] = {
    "lm_model_file": (("py", "moshi_weight"),),
    "text_tokenizer_file": (("text_tokenizer_file",), ("py", "tokenizer")),
    "audio_tokenizer_file": (("py", "mimi_weight"),),
    "model_config_file": (("py", "config_path"),),
    "n_q": (("py", "n_q"),),
}
"""The key of a setting in a module, where it is not its own name: in any module, and in one of the
TTS script."""


def render(template_text: str, settings: ConfigSettings, *, name: str = "the template") -> str:
    """Return the template with `settings` in it.

    Comments, order and line endings of everything else stay. A value that is there already is
    replaced in its line, and left alone when it is the wanted one. A new `dtype_override` goes
    below `batch_size`, under a comment that says what it is for.

    Raises:
        ConfigError: the template is not TOML.
        InputError: it has no module, or more than one, that the settings could belong to, or that
            module has no such key.
    """
    template = parse_config(template_text, path=name)
    changes = _changes(template, settings)
    # Edits keep what stands around them, so the values in the result say whether every one of them
    # worked.
    wanted = _with_changes(template.values, changes)
    text = template.text
    for where, value in changes.items():
        text = _set(text, where, value)
    if tomllib.loads(text) != wanted:
        raise InputError(
            "the template is laid out in a way that cannot be edited",
            hint="Write one key = value on each line, below a [modules.NAME].",
        )
    return text


_WITHOUT_EFFECT = re.compile(
    r"^(?:conditioning_learnt_padding|cfg_is_no_text)\s*=.*\n", re.MULTILINE
)
"""Keys in upstream's configs without effect. One needs a model with conditioners, which the STT
ones are not; the other is never read."""


def retitle(text: str, title: str) -> str:
    """Return the text of a ready config with `title` as its opening comment.

    Keys without effect are omitted. The opening comment ends at the first empty comment or other
    line.
    """
    lines = text.splitlines(keepends=True)
    rest = next(
        (number for number, line in enumerate(lines) if not line.startswith("# ")), len(lines)
    )
    return _WITHOUT_EFFECT.sub(
        "", "".join([*(f"# {line}\n" for line in title.splitlines()), *lines[rest:]])
    )


def diff(old_text: str, new_text: str, *, name: str = "config.toml", context_lines: int = 3) -> str:
    """Return the change between two texts as a unified diff, empty when there is none."""
    lines = difflib.unified_diff(
        old_text.splitlines(),
        new_text.splitlines(),
        f"{name} (before)",
        f"{name} (after)",
        lineterm="",
        n=context_lines,
    )
    return "\n".join(lines)


def masked_diff(before: Config, after: Config) -> str:
    """Return the change from one config to another as a unified diff without API keys.

    Empty when there is none.
    """
    if before.text == after.text:
        return ""
    same_keys = before.values.get("authorized_ids") == after.values.get("authorized_ids")
    shown = [
        _without_keys(before, "hidden"),
        _without_keys(after, "hidden" if same_keys else "hidden, another one"),
    ]
    # No lines around the changes: a comment there may hold a key too.
    return diff(shown[0], shown[1], name=after.path, context_lines=0)


def _without_keys(config: Config, word: str) -> str:
    if "authorized_ids" not in config.values:
        return config.text
    return render(config.text, ConfigSettings(authorized_ids=(f"<{word}>",)))


def generate_api_key() -> str:
    """Return a new random API key, 43 characters that are safe in a header and in a URL."""
    return secrets.token_urlsafe(32)


def own_api_keys(config: Config) -> tuple[str, ...]:
    """Return the API keys to keep when a config is rendered again.

    The public key and empty ones are not among them.
    """
    keys = config.values.get("authorized_ids")
    return (
        tuple(key for key in keys if isinstance(key, str) and key.strip() and key != PUBLIC_TOKEN)
        if isinstance(keys, list)
        else ()
    )


def _changes(template: Config, settings: ConfigSettings) -> dict[KeyPath, Any]:
    """Return key path → plain TOML value of everything that must change in the template."""
    changes: dict[KeyPath, Any] = {(key,): getattr(settings, key) for key in _TOP_KEYS}
    of_module = {
        key: value for key in _MODULE_KEYS if (value := getattr(settings, key)) is not None
    }
    if of_module:
        module = _module(template)
        places = _TTS_PLACES if module.type == "Py" and module.py_keys else _PLACES
        for key, value in of_module.items():
            for where in places.get(key, ((key,),)):
                if where[0] not in MODULES[module.type].keys:
                    raise InputError(
                        f"a module of type {module.type} has no {where[-1]}",
                        hint="Use a template with a BatchedAsr module.",
                    )
                changes[module.where(*where)] = (
                    value.candle_name if isinstance(value, ComputeDType) else value
                )
    plain = {
        where: list(value) if isinstance(value, tuple) else value
        for where, value in changes.items()
        if value is not None
    }
    return {where: value for where, value in plain.items() if _get(template.values, where) != value}


def _module(template: Config) -> Module:
    found = modules(template)
    chosen = [module for module in found if module.has_lm] or list(found)
    if len(chosen) != 1:
        names = ", ".join(module.name for module in chosen) or "none"
        raise InputError(
            f"{template.path} must have one module that loads a language model; it has"
            f" {len(chosen)} ({names})",
            hint="Use one config for each model.",
        )
    return chosen[0]


def _set(text: str, where: KeyPath, value: Any) -> str:
    config = parse_config(text)
    below = _line_above(config, where) if _get(config.values, where) is None else None
    if below is not None:
        added = [*_comments(where, value), f"{where[-1]} = {tomlkit.item(value).as_string()}"]
        return _with_lines(text, added, below)
    document = tomlkit.parse(text)
    table: Any = document
    for key in where[:-1]:
        table = table.setdefault(key, {})
    table[where[-1]] = value
    edited = tomlkit.dumps(document)
    # What tomlkit adds ends in "\n", also among lines that end in "\r\n".
    return edited if "\n" in text.replace("\r\n", "") else re.sub(r"(?<!\r)\n", "\r\n", edited)


def _line_above(config: Config, where: KeyPath) -> int | None:
    """Return the line below which a new key may have a line of its own.

    0 is the top of the file. None: no line can be added.
    """
    lines = config.text.split("\n")
    for key in ("batch_size", "type") if where[0] == "modules" else _TOP_KEYS:
        line = config.lines.get((*where[:-1], key))
        # Not within an inline table, below a dotted key, or after the first line of a value that
        # has several.
        if line is not None and re.match(
            rf"[ \t]*{key}[ \t]*=[ \t]*(?!\"\"\"|'''|\[|\{{)", lines[line - 1]
        ):
            return line
    return None if where[0] == "modules" else 0


def _with_lines(text: str, added: list[str], below: int) -> str:
    """Return the text with lines added below a line.

    They get that line's indentation and the file's line ending.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.split("\n")
    above, rest = lines[:below], "\n".join(lines[below:])
    indent = above[-1][: len(above[-1]) - len(above[-1].lstrip(" \t"))] if above else ""
    # The last line of a file may have no end.
    above_text = "\n".join(above) + ("\n" if below < len(lines) else newline) if above else ""
    return above_text + "".join(indent + line + newline for line in added) + rest


def _comments(where: KeyPath, value: Any) -> list[str]:
    if where[-1] != "dtype_override":
        return []
    if value == ComputeDType.BF16.candle_name:
        return ["# What the server takes on a GPU by itself, written out."]
    return [
        (
            "# Without this line the server computes in bf16, which cards older than Ampere (8.0)"
            " cannot: it would listen and never answer."
        ),
        "# moshi-server reads it from 0.6.4 on; older ones ignore it.",
    ]


def _get(values: Mapping[str, Any], where: KeyPath) -> Any:
    value: Any = values
    for key in where:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _with_changes(values: Mapping[str, Any], changes: Mapping[KeyPath, Any]) -> dict[str, Any]:
    """Return a copy of `values` with the changes in it.

    Tables on the way are copied or made; everything else is shared.
    """
    result = dict(values)
    for where, value in changes.items():
        table = result
        for key in where[:-1]:
            inner = table.get(key)
            table[key] = dict(inner) if isinstance(inner, dict) else {}
            table = table[key]
        table[where[-1]] = value
    return result
