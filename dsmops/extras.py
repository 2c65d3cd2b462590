"""Which optional packages a command needs, checked without importing them."""

from __future__ import annotations

from importlib.util import find_spec

from dsmops.errors import ExtraMissingError

NETWORKS = ("torch", "safetensors", "sentencepiece")
CLIENT = ("aiohttp", "msgspec")
SERVER = (*NETWORKS, *CLIENT, "prometheus_client", "soundfile", "soxr", "sphn")


def require_worker(purpose: str, packages: tuple[str, ...] = NETWORKS) -> None:
    """Check that what the networks, a client or the server need is installed, without importing it. `purpose` is what the user asked for.

    Raises:
        ExtraMissingError: a package is not installed.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ExtraMissingError(purpose, package)
