"""The server of a load test: does it work at all, and what does it say about itself?"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from dsmops.audio import Samples, frames
from dsmops.client.load.first_answer import sends_steps
from dsmops.client.probe import get
from dsmops.client.session import Patience
from dsmops.client.tts import synthesize
from dsmops.errors import RemoteError
from dsmops.operations.bench.result import ServerDescription
from dsmops.operations.smoke.step_times import Histogram

_FIRST_FRAMES = 13
_HISTOGRAMS = {"stt": "asr_model_step_duration", "tts": "py_model_step_duration"}
_FREE_S = 10.0
_ASK_AGAIN_S = 0.25


class Server:
    """One module of a server, at a WebSocket address."""

    def __init__(self, url: str, kind: str, api_key: str | None) -> None:
        self.url, self._kind, self._api_key = url, kind, api_key

    def check_stt(self, blocks: Sequence[Samples]) -> bool:
        """Send a second of audio; return whether the module answers with `Step`.

        Raises:
            CredentialsError, TransferError: as `client.stt.transcribe`.
        """
        audio = list(islice(frames(blocks), _FIRST_FRAMES))
        return asyncio.run(sends_steps(self.url, self._api_key, audio))

    def check_tts(self, voice: str | None) -> None:
        """Have two words synthesized.

        Raises:
            CredentialsError, InputError, TransferError: as `client.tts.synthesize`.
        """

        async def drain() -> None:
            async for _ in synthesize(
                self.url,
                ["Good morning."],
                voice=voice,
                api_key=self._api_key,
                patience=Patience(attempts=2, silence_s=120.0),
            ):
                pass

        asyncio.run(drain())

    def describe(self) -> ServerDescription:
        """Return what the server says about itself."""
        found = ServerDescription(self.url, None, None, None, None)
        build = self._json("/api/build_info")
        if isinstance(build, dict):
            words = [
                str(build[key])[:80]
                for key in ("git_describe", "git_hash", "build_timestamp")
                if isinstance(build.get(key), str) and "VERGEN" not in build[key]
            ]
            found = replace(found, build=" ".join(words) or None)
        module = self._module()
        return replace(
            found,
            module_type=str(module["type"])[:40] if "type" in module else None,
            slots=_number(module.get("total_slots")),
            slots_used_before=_number(module.get("used_slots")),
        )

    def step_times(self) -> Histogram:
        """Return the histogram of model steps so far, an empty one where there is none."""
        return Histogram.parse(self._text("/metrics") or "", _HISTOGRAMS[self._kind])

    def await_free(self, used: int | None) -> None:
        """Wait until no more than `used` slots are taken, for some seconds at most."""
        deadline_s = time.monotonic() + _FREE_S
        while time.monotonic() < deadline_s:
            taken = _number(self._module().get("used_slots"))
            if taken is None or taken <= (used or 0):
                return
            time.sleep(_ASK_AGAIN_S)

    def is_there(self) -> bool:
        """Whether it still answers."""
        return self._text("/api/modules_info") is not None

    def _module(self) -> dict[str, Any]:
        """Return what is listed at this path, nothing where the server lists nothing there."""
        listed = self._json("/api/modules_info")
        path = urlsplit(self.url).path
        if not isinstance(listed, list):
            return {}
        found = (each for each in listed if isinstance(each, dict) and each.get("path") == path)
        return next(found, {})

    def _json(self, path: str) -> Any:
        with suppress(ValueError):
            return json.loads(self._text(path) or "null")
        return None

    def _text(self, path: str) -> str | None:
        """Return what is at an HTTP path of the server, None where it does not answer with 200."""
        parts = urlsplit(self.url)
        address = urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, path, "", ""))
        try:
            status, text = asyncio.run(get(address))
        except RemoteError:
            return None
        return text if status == 200 else None


def is_this_host(url: str) -> bool:
    """Whether an address is one of this machine's."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, _, _, _, address in found:
        if ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
            return True
        # Only a machine that has an address can listen on it.
        with suppress(OSError), socket.socket(family, socket.SOCK_STREAM) as own:
            own.bind((address[0], 0))
            return True
    return False


def _number(value: object) -> int | None:
    """Return a number of slots, which moshi-server writes as text."""
    return int(str(value)) if str(value).isdecimal() else None
