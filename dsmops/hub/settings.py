"""What the environment says about the hub: which one, where its cache is, whether to stay offline.

The variables and defaults are huggingface_hub's own, read here without importing it (140 ms) and at
the time of the call. Where a token would come from is said here too; reading it is left to
huggingface_hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dsmops.errors import InputError
from dsmops.user_settings import CACHE

PUBLIC_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_DEFAULT_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class HubSettings:
    """`endpoint` has no slash at its end.

    `cache` is the absolute folder of `models--org--repo` folders. `timeout_s` bounds each wait for
    the network, not a whole download.
    """

    endpoint: str
    cache: Path
    offline: bool
    timeout_s: int

    @property
    def shown(self) -> str:
        """The endpoint as messages show it, without a user name and password."""
        return without_userinfo(self.endpoint)


def without_userinfo(text: str) -> str:
    """Return `text` with every `user:password@` taken out of the addresses in it."""
    return re.sub(r"//[^/\s@]*@", "//", text)


def read_settings() -> HubSettings:
    """Return the settings of this process.

    The hub is `HF_ENDPOINT`. The cache is `DSMOPS_CACHE`, else `HF_HUB_CACHE`, else
    `HUGGINGFACE_HUB_CACHE`, else `hub` in `HF_HOME`, else `huggingface/hub` in `XDG_CACHE_HOME` or
    `~/.cache`. `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` forbids requests.
    `HF_HUB_DOWNLOAD_TIMEOUT` bounds every wait; `HF_HUB_ETAG_TIMEOUT` is not read.

    Raises:
        InputError: a variable holds what cannot be used.
    """
    environ = os.environ
    endpoint = environ.get("HF_ENDPOINT", PUBLIC_ENDPOINT).rstrip("/")
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(
            f"HF_ENDPOINT is {without_userinfo(endpoint)!r}, which is not a web address",
            hint=f"Unset it for the public hub, or set it to an address such as {PUBLIC_ENDPOINT}.",
            code="hub.endpoint",
        )
    timeout = environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or str(_DEFAULT_TIMEOUT_S)
    if not timeout.isdecimal():
        raise InputError(
            f"HF_HUB_DOWNLOAD_TIMEOUT is {timeout!r}, and should be whole seconds",
            hint="Unset it.",
            code="hub.timeout",
        )
    stay_offline = environ.get("HF_HUB_OFFLINE") or environ.get("TRANSFORMERS_OFFLINE") or ""
    return HubSettings(
        endpoint=endpoint,
        cache=_cache_folder(),
        offline=stay_offline.upper() in _TRUE,
        timeout_s=int(timeout) or _DEFAULT_TIMEOUT_S,
    )


@dataclass(frozen=True, slots=True)
class Tokens:
    """Where this machine keeps a token.

    `variable` is the environment variable that is set. `file` is the token file, which need not
    exist.
    """

    variable: str | None
    file: Path
    has_file: bool


def find_tokens() -> Tokens:
    """Return where a token would be read from; the variable comes before the file.

    moshi-server reads only `token` beside its cache.
    """
    environ = os.environ
    variable = next(
        (name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environ.get(name, "").strip()),
        None,
    )
    file = Path(
        os.path.expandvars(environ.get("HF_TOKEN_PATH", str(Path(_home()) / "token")))
    ).expanduser()
    return Tokens(variable, file, file.is_file())


def server_cache() -> Path:
    """Return the cache that moshi-server uses in this environment.

    It reads `HF_HOME` and none of the other variables.

    Source: hf-hub 0.4.3, `Cache::from_env`.
    """
    home = os.environ.get("HF_HOME")
    return (Path(home) if home else Path("~/.cache/huggingface").expanduser()).absolute() / "hub"


def _home() -> str:
    return os.environ.get(
        "HF_HOME", str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    )


def _cache_folder() -> Path:
    environ = os.environ
    default = environ.get(
        "HUGGINGFACE_HUB_CACHE", str(Path(os.path.expandvars(_home())).expanduser() / "hub")
    )
    named = environ.get(CACHE) or environ.get("HF_HUB_CACHE", default)
    return Path(os.path.expandvars(named)).expanduser().absolute()
