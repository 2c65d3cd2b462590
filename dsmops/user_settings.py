"""What people would type again and again: a user's file, and an environment variable for each key.

A key of the file stands for its variable where the environment does not have it. So an option comes
before the environment, the environment before the file, and the file before the default.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from dsmops.errors import ConfigError, FileAccessError, InputError

FILE_VARIABLE = "DSMOPS_CONFIG"
ASSETS = "DSMOPS_ASSETS"
CACHE = "DSMOPS_CACHE"
API_KEY = "DSMOPS_API_KEY"
API_KEY_FILE = "DSMOPS_API_KEY_FILE"
BUCKET = "DSMOPS_BUCKET"
PREFIX = "DSMOPS_PREFIX"
PROFILE = "DSMOPS_PROFILE"
REGION = "DSMOPS_REGION"
ENDPOINT_URL = "DSMOPS_ENDPOINT_URL"
STT_MODEL = "DSMOPS_STT_MODEL"
TTS_MODEL = "DSMOPS_TTS_MODEL"

KEYS = {
    variable.removeprefix("DSMOPS_").lower(): variable
    for variable in (
        BUCKET,
        PREFIX,
        PROFILE,
        REGION,
        ENDPOINT_URL,
        STT_MODEL,
        TTS_MODEL,
        API_KEY,
        API_KEY_FILE,
        CACHE,
        ASSETS,
    )
}
"""Key of the file → environment variable. All values are text."""

_MOST_FILE_BYTES = 1 << 20
_taken: dict[str, int] = {}
"""Variable → line of the file from which `apply` took it in this process."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where the value of a key comes from. `line` None: from the environment."""

    key: str
    value: str
    line: int | None


@dataclass(frozen=True, slots=True)
class FileValue:
    """A value of the file, and its line from 1 on."""

    value: str
    line: int


def settings_file() -> Path:
    """Return the user's file, which need not exist.

    It is `DSMOPS_CONFIG`, else `dsmops/config.toml` in `XDG_CONFIG_HOME`, by default `~/.config`
    (on macOS `~/Library/Application Support`).
    """
    named = os.environ.get(FILE_VARIABLE, "")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base) / "dsmops" / "config.toml"
    usual = "Library/Application Support" if sys.platform == "darwin" else ".config"
    return Path.home() / usual / "dsmops" / "config.toml"


def read_settings_file() -> dict[str, FileValue]:
    """Return the values of the user's file by key; empty without a file.

    Raises:
        ConfigError: a line is not TOML, a key is unknown, or a value is not text.
        InputError: `DSMOPS_CONFIG` names no file, or others can read a file with a key in it.
        FileAccessError: it cannot be read.
    """
    path = settings_file()
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_FILE_BYTES)
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    except FileNotFoundError as exc:
        if os.environ.get(FILE_VARIABLE):
            raise InputError(
                f"{FILE_VARIABLE} names {path}, which does not exist",
                hint=f"Unset {FILE_VARIABLE}, or write the file.",
                code="settings.missing",
            ) from exc
        return {}
    except OSError as exc:
        raise FileAccessError(
            f"cannot read your settings in {path}: {exc.strerror}",
            hint=f"Set {FILE_VARIABLE} to another file, or make this one readable.",
        ) from exc
    found = _parsed(data, path)
    if "api_key" in found and mode & 0o077:
        raise InputError(
            f"other users can read the API key in {path}",
            hint=f"`chmod 600 {path}`",
            code="settings.readable",
        )
    return found


def _parsed(data: bytes, path: Path) -> dict[str, FileValue]:
    import tomllib  # noqa: PLC0415 only where there is a file

    try:
        text = data.decode("utf-8")
        values = tomllib.loads(text)
    except UnicodeDecodeError as exc:
        line = data[: exc.start].count(b"\n") + 1
        raise ConfigError("not UTF-8", path=str(path), line=line) from exc
    except tomllib.TOMLDecodeError as exc:
        place = re.search(r" \(at line (\d+), column (\d+)\)$", str(exc))
        raise ConfigError(
            re.sub(r" \(at [^()]*\)$", "", str(exc)),
            path=str(path),
            line=int(place[1]) if place else text.rstrip().count("\n") + 1,
            col=int(place[2]) if place else None,
            hint='A line is a key and a value in quotes, such as bucket = "my-logs".',
        ) from exc
    found = {}
    for key, value in values.items():
        line = _line_of(key, text)
        if key not in KEYS:
            from difflib import get_close_matches  # noqa: PLC0415

            near = get_close_matches(key, KEYS, n=1)
            raise ConfigError(
                f"{key!r} is not a setting",
                path=str(path),
                line=line,
                hint=f"Did you mean {near[0]}?" if near else f"Settings are {', '.join(KEYS)}.",
            )
        if not isinstance(value, str) or not value:
            raise ConfigError(
                f"{key} must be a text, not {value!r}",
                path=str(path),
                line=line,
                hint=f'Write it in quotes: {key} = "..."',
            )
        found[key] = FileValue(value, line)
    if "api_key" in found and "api_key_file" in found:
        raise ConfigError(
            "api_key and api_key_file exclude each other",
            path=str(path),
            line=found["api_key_file"].line,
            hint="Remove one of them.",
        )
    return found


def _line_of(key: str, text: str) -> int:
    """Return the line, from 1 on, where a key or a table of this name begins."""
    wanted = re.compile(rf"""\s*\[{{0,2}}\s*["']?{re.escape(key)}\b""")
    lines = text.split("\n")
    return next((number for number, line in enumerate(lines, 1) if wanted.match(line)), 1)


def apply(environ: MutableMapping[str, str] = os.environ) -> None:
    """Let the user's file stand for the variables that the environment does not have.

    A key file is read here too.

    Raises: as `read_settings_file`, and for a key file.
    """
    found = read_settings_file()
    if environ.get(API_KEY) or environ.get(API_KEY_FILE):
        # The key of the environment hides the file's, in whichever form each is.
        found = {name: value for name, value in found.items() if not name.startswith("api_key")}
    for key, given in found.items():
        if not environ.get(KEYS[key]):
            environ[KEYS[key]] = given.value
            _taken[KEYS[key]] = given.line
    if environ.get(API_KEY_FILE) and not environ.get(API_KEY):
        environ[API_KEY] = _read_key(Path(environ[API_KEY_FILE]).expanduser())
        if API_KEY_FILE in _taken:
            _taken[API_KEY] = _taken[API_KEY_FILE]


def _read_key(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read(_MOST_FILE_BYTES).strip()
    except OSError as exc:
        raise FileAccessError(
            f"cannot read the API key in {path}: {exc.strerror}",
            hint=f"Correct api_key_file or {API_KEY_FILE}.",
        ) from exc
    if mode & 0o077:
        raise InputError(
            f"other users can read the API key in {path}",
            hint=f"`chmod 600 {path}`",
            code="settings.readable",
        )
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise InputError(
            f"{path} does not hold an API key: one line of visible ASCII without spaces",
            code="settings.key_file",
        )
    return key


def sources(environ: MutableMapping[str, str] = os.environ) -> list[Source]:
    """Return where each value comes from that is not a default. Call it after `apply`."""
    return [
        Source(key, environ[variable], _taken.get(variable))
        for key, variable in KEYS.items()
        if environ.get(variable)
    ]


def assets_folder() -> Path:
    """Return the folder where `prep-sm75` puts models and configs, by default `assets`."""
    return Path(os.environ.get(ASSETS) or "assets").expanduser()
