"""Checks that the optional packages of a command are installed, without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from dsmops.errors import ExtraMissingError

NETWORKS = ("torch", "safetensors", "sentencepiece")
CLIENT = ("aiohttp", "msgspec")
TOKENS = ("jwt", "cryptography")
SERVER = (*NETWORKS, *CLIENT, "soundfile", "soxr", "sphn")


def require_worker(purpose: str, packages: tuple[str, ...] = NETWORKS) -> None:
    """Check that packages of the networks, the client or the server are installed.

    `purpose` is what the user asked for, for the error message.

    Raises:
        ExtraMissingError: a package is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ExtraMissingError(purpose, package)
