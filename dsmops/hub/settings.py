"""What the environment says about the hub: which one, where its cache is, whether to stay offline.

The variables and defaults are huggingface_hub's own, read here without importing it (140 ms) and at the time of the call.
The token is left to huggingface_hub.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from dsmops.errors import InputError

PUBLIC_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_DEFAULT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class HubSettings:
    """`endpoint` has no slash at its end. `cache` is the absolute folder of `models--org--repo` folders. `timeout_s` bounds each
    wait for the network, not a whole download."""

    endpoint: str
    cache: Path
    offline: bool
    timeout_s: int


def read_settings() -> HubSettings:
    """Return the settings of this process.

    The hub is `HF_ENDPOINT`. The cache is `HF_HUB_CACHE`, else `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else `huggingface/hub`
    in `XDG_CACHE_HOME` or `~/.cache`. `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` forbids requests. `HF_HUB_DOWNLOAD_TIMEOUT` bounds
    every wait; `HF_HUB_ETAG_TIMEOUT` is not read.

    Raises:
        InputError: a variable holds what cannot be used.
    """
    environ = os.environ
    endpoint = environ.get("HF_ENDPOINT", PUBLIC_ENDPOINT).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(
            f"HF_ENDPOINT is {endpoint!r}, which is no web address",
            hint=f"Unset it for the public hub, or set it to an address such as {PUBLIC_ENDPOINT}.",
            code="hub.endpoint",
        )
    timeout = environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or str(_DEFAULT_TIMEOUT_S)
    if not timeout.isdecimal():
        raise InputError(f"HF_HUB_DOWNLOAD_TIMEOUT is {timeout!r}, and should be whole seconds", hint="Unset it.", code="hub.timeout")
    stay_offline = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or ""
    return HubSettings(
        endpoint=endpoint,
        cache=_cache_folder(),
        offline=stay_offline.upper() in _TRUE,
        timeout_s=int(timeout) or _DEFAULT_TIMEOUT_S,
    )


def _cache_folder() -> Path:
    environ = os.environ
    home = environ.get("HF_HOME", str(Path(environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"))
    default = environ.get("HUGGINGFACE_HUB_CACHE", str(Path(os.path.expandvars(home)).expanduser() / "hub"))
    return Path(os.path.expandvars(environ.get("HF_HUB_CACHE", default))).expanduser().absolute()
