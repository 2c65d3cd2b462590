"""The operator's redaction key: under it the same caller has the same pseudonym in every log."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from dsmops.errors import FileAccessError, InputError
from dsmops.files import state_folder, translate

KEY_VARIABLE = "DSMOPS_REDACTION_KEY"
MIN_KEY_BYTES = 16
MIN_DIFFERENT_BYTES = 6
"""A key of one letter repeated is as good as none."""
"""An attacker who guesses the key can try every IPv4 address in seconds. 16 random bytes cannot be
guessed."""


def load_or_create_key() -> bytes:
    """Return `DSMOPS_REDACTION_KEY`, else the key in this user's key file, made on first use.

    The file is `$XDG_STATE_HOME/dsmops/redaction.key`, by default under `~/.local/state`, with mode
    0600. Two first runs at the same time agree on one key.

    Raises:
        InputError: the key is too short, or others can read the file.
        FileAccessError: the file cannot be read or made.
    """
    given = os.environ.get(KEY_VARIABLE, "")
    if given:
        return _checked(
            given,
            f"the key in {KEY_VARIABLE}",
            f"Set {KEY_VARIABLE} to {MIN_KEY_BYTES} bytes or more (`openssl rand -hex 32`), or "
            f"unset it.",
        )
    path = _key_file()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create_once(path)
        readable_by_others = stat.S_IMODE(path.stat().st_mode) & 0o077
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as exc:
        hint = (
            "Make the file readable and its folder writable, or set "
            f"{KEY_VARIABLE} to {MIN_KEY_BYTES} secret bytes or more."
        )
        raise FileAccessError(
            translate(exc, path).message, hint=hint, code="logs.redaction_key"
        ) from exc
    if readable_by_others:
        raise InputError(
            f"other users can read the redaction key in {path}",
            hint=f"Remove the file: `rm {path}`. The next run makes a new key, and new pseudonyms. "
            f"If nobody else has read it: `chmod 600 {path}`.",
            code="logs.redaction_key",
        )
    return _checked(
        text,
        f"the redaction key in {path}",
        f"Remove the file: `rm {path}`. The next run makes a new key, and new pseudonyms.",
    )


def _checked(text: str, what: str, hint: str) -> bytes:
    key = text.encode("utf-8", "surrogateescape")
    if len(key) < MIN_KEY_BYTES:
        raise InputError(
            f"{what} has {len(key)} bytes; it needs at least {MIN_KEY_BYTES}",
            hint=hint,
            code="logs.redaction_key",
        )
    if len(set(key)) < MIN_DIFFERENT_BYTES:
        raise InputError(
            f"{what} repeats {len(set(key))} different bytes, so it can be guessed",
            hint=hint,
            code="logs.redaction_key",
        )
    return key


def _key_file() -> Path:
    return state_folder() / "redaction.key"


def _create_once(path: Path) -> None:
    """Write a new key under another name, then link it in place: the first of two runs wins."""
    own = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32) + "\n")
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink(missing_ok=True)
