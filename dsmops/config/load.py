"""A config as read from its file: the text, the values in it, and the line of every key.

Values come from the standard library's parser, which reads TOML 1.0 as the server's does; tomlkit
also accepts newer syntax that the server refuses. tomlkit knows where each key stands, which the
standard library does not tell.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Item, Key, Table

from dsmops.errors import ConfigError
from dsmops.files import os_errors, require_file

KeyPath = tuple[str, ...]

_MAX_BYTES = 1 << 20
"""A config is a few kilobytes; more is another file named by mistake, a checkpoint most likely."""
_I64_MIN, _I64_MAX = -(2**63), 2**63 - 1
"""The integers of TOML 1.0. The server's parser refuses a whole file for one beyond them; Python's
accepts any."""
_TOO_LARGE = "an integer is too large for 64 bits"
_BOM = "\ufeff"
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Config:
    """One TOML file.

    `path` is what to call it; `values` are plain Python values; `lines` count from 1.

    `text` is the file's own but for a byte order mark, which is dropped.
    """

    path: str
    text: str
    values: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def line(self, where: KeyPath) -> int:
        """Return the line of a key, or of the nearest table around it that is in the file.

        1 when there is none.
        """
        for length in range(len(where), 0, -1):
            if where[:length] in self.lines:
                return self.lines[where[:length]]
        return 1


def read_config(path: Path) -> Config:
    """Read a config from its file.

    Raises:
        ConfigError: it is not TOML 1.0 in UTF-8; the message has line and column.
        InputError, FileAccessError: the file is absent, a folder, a pipe, a device or unreadable.
    """
    require_file(path, "config")
    with os_errors(path), path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ConfigError(
            "larger than a config can be (1 MiB)",
            path=str(path),
            hint="Name the .toml file, not the checkpoint it refers to.",
        )
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        line, col = _position(data, exc.start)
        raise ConfigError(
            f"not UTF-8 text (byte 0x{data[exc.start]:02x})",
            path=str(path),
            line=line,
            col=col,
            hint="Save the file as UTF-8.",
        ) from exc
    return parse_config(text, path=str(path))


def parse_config(text: str, *, path: str = "<text>") -> Config:
    """Return the config written in `text`; `path` is what messages call it.

    Raises:
        ConfigError: it is not TOML 1.0.
    """
    text = text.removeprefix(_BOM)
    try:
        values = tomllib.loads(text, parse_float=_parse_float)
        document = tomlkit.parse(text)
    except tomllib.TOMLDecodeError as exc:
        raise _unparsable(exc, text, path) from exc
    except (TOMLKitError, RecursionError) as exc:
        raise ConfigError(
            f"not usable as a config: {exc}", path=path, hint="Write it in plainer TOML."
        ) from exc
    except _FloatOverflowError as exc:
        raise ConfigError(
            f"not TOML: {exc} is too large for a float",
            path=path,
            line=text[: text.find(str(exc))].count("\n") + 1,
            hint="Correct the number; moshi-server refuses the whole file.",
        ) from exc
    except ValueError as exc:  # thousands of digits, which Python does not convert
        raise ConfigError(
            f"not TOML: {_TOO_LARGE}", path=path, hint="Look for a number with thousands of digits."
        ) from exc
    lines: dict[KeyPath, int] = {}
    _find_lines(document.body, (), 1, lines)
    config = Config(path, text, values, lines)
    where = next(_too_large(values, ()), None)
    if where is not None:
        # Without the number: it may be an API key that lost its quotes.
        raise ConfigError(
            f"not TOML: {_TOO_LARGE}",
            path=path,
            line=config.line(where),
            hint="Correct the number, or put it in quotes.",
        )
    return config


def _too_large(value: object, where: KeyPath) -> Iterator[KeyPath]:
    """Yield the key of every integer that TOML cannot hold."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _too_large(item, (*where, name))
    elif isinstance(value, list):
        for item in value:
            yield from _too_large(item, where)
    elif isinstance(value, int) and not _I64_MIN <= value <= _I64_MAX:
        yield where


def _find_lines(
    body: Iterable[tuple[Key | None, Item]], prefix: KeyPath, line: int, lines: dict[KeyPath, int]
) -> int:
    """Enter the line of every key of a table, and return the line after its end.

    The first entry stands on `line`. A table that is opened in several places keeps its first line.
    Keys of inline tables are not entered.
    """
    for key, item in body:
        if key is None:
            line += item.as_string().count("\n")
            continue
        where = (*prefix, key.key)
        lines.setdefault(where, line + item.trivia.indent.count("\n"))
        if isinstance(item, Table):
            has_header = not (item.is_super_table() or key.is_dotted())
            line = _find_lines(item.value.body, where, line + has_header, lines)
        elif isinstance(item, AoT):
            for table in item.body:
                line = _find_lines(table.value.body, where, line + 1, lines)
        else:
            line += (item.as_string() + item.trivia.trail).count("\n")
    return line


class _FloatOverflowError(ValueError):
    """A number beyond what a float holds, such as 1e400, which the server's parser refuses."""


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value) and "inf" not in text:
        raise _FloatOverflowError(text)
    return value


def _unparsable(exc: tomllib.TOMLDecodeError, text: str, path: str) -> ConfigError:
    message = str(exc)
    found = _POSITION.search(message)
    line, col = (
        (int(found[1]), int(found[2]))
        if found and found[1]
        else (text.rstrip("\n").count("\n") + 1, None)
    )
    reason = _POSITION.sub("", message)
    return ConfigError(
        f"not TOML: {reason[:1].lower()}{reason[1:]}",
        path=path,
        line=line,
        col=col,
        hint=_BACKSLASH_HINT
        if _ESCAPE.search(reason) or _has_backslash(text, line)
        else "Correct the syntax there; the server reads TOML 1.0.",
    )


_BACKSLASH_HINT = (
    "In double quotes a backslash begins an escape. Put a Windows path in single quotes:"
    " 'C:\\models\\stt.safetensors'."
)
_ESCAPE = re.compile(r"unescaped '\\'|invalid hex value|escaped character", re.IGNORECASE)
_WINDOWS_PATH = re.compile(r'"[A-Za-z]:\\[^"]*\\"')
"""A path such as "C:\\models\\", whose last backslash takes the quote for itself."""


def _has_backslash(text: str, line: int) -> bool:
    """Whether a string on the line of an error, or above it, may have lost its closing quote."""
    return any(map(_WINDOWS_PATH.search, text.split("\n")[max(0, line - 2) : line]))


def _position(data: bytes, offset: int) -> tuple[int, int]:
    before = data[:offset]
    return before.count(b"\n") + 1, offset - (before.rfind(b"\n") + 1) + 1
