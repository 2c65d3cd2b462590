"""Where a server is: what people type, and what a WebSocket client needs."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

from dsmops.errors import InputError

ASR_PATH = "/api/asr-streaming"
"""The path of the shipped speech-to-text configs."""
TTS_PATH = "/api/tts_streaming"
"""The path of the shipped text-to-speech config."""

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def websocket_url(text: str, default_path: str = ASR_PATH) -> str:
    """Return the WebSocket address that `text` means: `ws://` where it names no scheme, `default_path` where it names no path.

    Raises:
        InputError: the text is no address, or holds a user name, password, query or fragment.
    """
    parts = _split(text if "://" in text else f"ws://{text}", text)
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname:
        raise _unusable(text, "is no server address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _unusable(text, "holds more than scheme, host, port and path")
    path = parts.path if parts.path.strip("/") else default_path
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def _split(address: str, text: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where it is none
    except ValueError as exc:
        raise _unusable(text, "is no server address") from exc
    return parts


def _unusable(text: str, reason: str) -> InputError:
    # Keys in addresses end up in logs; and where a password ends cannot be told in an address that
    # is none.
    shown = "the address" if "@" in text else text.partition("?")[0].partition("#")[0]
    return InputError(
        f"{shown or repr(shown)} {reason}",
        hint="Write it like ws://127.0.0.1:8080; give a key with --api-key.",
        code="url.unusable",
    )
