"""Where the keys that check tokens come from: a file or an address, read again when keys change.

A token that names an unknown key makes the server look again, at most every `PAUSE_S`. Known keys
are used meanwhile. Keys older than `FRESH_S` are read again beside the requests that use them, and
those older than `USABLE_S` are not used. A source that does not answer delays no other request.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.worker.serving.tokens import (
    KeySet,
    KeySetError,
    TokenKey,
    TokenRefusedError,
    TokenRules,
    caller_of,
    header_of,
    parse_key_set,
    secret_key,
)

PAUSE_S = 10.0
FRESH_S = 300.0
USABLE_S = 86_400.0
FETCH_S = 5.0
MOST_BYTES = 256 << 10
_UNKNOWN = "it was signed with an unknown key"


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Which tokens let a caller in. `keys` is a file or an address, `secret` a shared one."""

    keys: str | None = None
    secret: str | None = field(default=None, repr=False)
    rules: TokenRules = field(default_factory=TokenRules)
    show_caller: Callable[[str], str] = str
    """How a caller is written into the log."""


def is_address(source: str) -> bool:
    """Return whether keys come from an address, rather than from a file."""
    return "://" in source


def check_tokens(settings: TokenSettings) -> list[str]:
    """Return what the operator should know of where keys come from; nothing is fetched.

    Raises:
        InputError: a key is weak, a file is not a key set, or an address is invalid.
        FileAccessError: the file cannot be read.
    """
    if settings.secret is not None:
        try:
            secret_key(settings.secret)
        except KeySetError as exc:
            raise InputError(
                f"--jwt-secret: {exc}",
                hint="Make one with `openssl rand -base64 48`, for the auth server and this one.",
                code="jwt.secret",
            ) from exc
    if settings.keys is None:
        return []
    if is_address(settings.keys):
        return _check_address(settings.keys)
    try:
        return list(
            parse_key_set(_read(Path(settings.keys)), shared_keys=True, strict=True).skipped
        )
    except KeySetError as exc:
        raise InputError(
            f"{settings.keys} cannot check tokens: {exc}",
            hint="Save the auth server's key set: `curl -o jwks.json https://HOST/api/auth/jwks`.",
            code="jwt.keys",
        ) from exc


def _check_address(address: str) -> list[str]:
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.fragment:
        raise InputError(
            f"{address!r} is not an address of keys",
            hint="Write it like https://auth.example.org/api/auth/jwks, or name a file.",
            code="jwt.keys",
        )
    if parts.scheme == "http" and not _is_loopback(host):
        return [f"the keys come over plain http from {host}: who is between can replace them"]
    return []


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> bytes:
    """Return a file's content.

    Raises:
        FileAccessError: it cannot be read.
        KeySetError: it is too large.
    """
    with os_errors(path), path.open("rb") as file:
        return _bounded(file.read(MOST_BYTES + 1))


def _bounded(data: bytes) -> bytes:
    if len(data) > MOST_BYTES:
        raise KeySetError(f"it is larger than {MOST_BYTES >> 10} KiB")
    return data


async def fetch(address: str, timeout_s: float = FETCH_S) -> bytes:
    """Return what an address answers. A redirect is an error: it could lead anywhere.

    Raises:
        KeySetError: it answers with anything but a document of at most `MOST_BYTES`.
        aiohttp.ClientError, TimeoutError, OSError: it does not answer in time.
    """
    timeout = aiohttp.ClientTimeout(total=timeout_s)
    headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
    async with (
        aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session,
        session.get(address, allow_redirects=False) as answer,
    ):
        if 300 <= answer.status < 400:
            raise KeySetError("it redirects to another address; name that one")
        if answer.status != 200:
            raise KeySetError(f"it answers with status {answer.status}")
        data = b""
        async for piece in answer.content.iter_any():
            data = _bounded(data + piece)
    return data


class Tokens:
    """Tells whose a token is. Event loop only."""

    def __init__(self, settings: TokenSettings, warn: Callable[[str], None]) -> None:
        """`warn` is called with why keys could not be read."""
        self._rules, self._show, self._warn = settings.rules, settings.show_caller, warn
        self._secret = None if settings.secret is None else secret_key(settings.secret)
        source = settings.keys
        self._load: Callable[[], Awaitable[KeySet]] | None = None
        if source is not None:
            self._load = lambda: _load(source)
        self._set = KeySet(())
        self._loaded_s = self._tried_s = -USABLE_S
        self._loading: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Read the keys now, so that what is wrong with them is seen before a client comes."""
        self._start_loading()

    async def caller(self, token: str) -> str:
        """Return the caller of a token as the log shows it, empty where the token names none.

        Raises:
            TokenRefusedError: it must not be let in.
        """
        algorithm, kid = header_of(token)
        caller = caller_of(token, await self._key(algorithm, kid), self._rules)
        return self._show(caller) if caller else ""

    async def _key(self, algorithm: str, kid: str | None) -> TokenKey:
        age_s = time.monotonic() - self._loaded_s
        if age_s >= USABLE_S:
            self._set = KeySet(())
        found = self._set.for_token(algorithm, kid)
        if found is not None:
            if age_s >= FRESH_S:
                self._start_loading()
            return found
        secret = self._secret
        if secret is not None and secret.algorithm == algorithm:
            return secret
        loading = self._start_loading()
        if loading is not None:
            # A client that leaves meanwhile must not stop it for the others.
            await asyncio.shield(loading)
            found = self._set.for_token(algorithm, kid)
        if found is None:
            raise TokenRefusedError(_UNKNOWN)
        return found

    def _start_loading(self) -> asyncio.Task[None] | None:
        """Return the task that reads the keys, None where they were read a moment ago."""
        if self._loading is None and self._load is not None:
            now_s = time.monotonic()
            if now_s - self._tried_s < PAUSE_S:
                return None
            self._tried_s = now_s
            self._loading = asyncio.get_running_loop().create_task(self._read_keys(self._load))
        return self._loading

    async def _read_keys(self, load: Callable[[], Awaitable[KeySet]]) -> None:
        try:
            self._set = await load()
            self._loaded_s = time.monotonic()
            if self._set.skipped:
                self._warn("; ".join(self._set.skipped))
        except (KeySetError, InputError, OSError, TimeoutError, aiohttp.ClientError) as exc:
            self._warn(str(exc) or type(exc).__name__)
        finally:
            self._loading = None


async def _load(source: str) -> KeySet:
    if is_address(source):
        return parse_key_set(await fetch(source), shared_keys=False, strict=False)
    data = await asyncio.to_thread(_read, Path(source))
    return parse_key_set(data, shared_keys=True, strict=True)
