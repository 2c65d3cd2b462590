"""Server addresses: what users type, and the WebSocket address that it means."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

from dsmops.errors import InputError

STT_PATH = "/api/asr-streaming"
"""The path in the shipped speech-to-text configs."""
TTS_PATH = "/api/tts_streaming"
"""The path in the shipped text-to-speech config."""

KEY_HEADER = "kyutai-api-key"

_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}


def websocket_url(text: str, default_path: str = STT_PATH) -> str:
    """Return the WebSocket address that `text` means.

    `ws://` is added where `text` has no scheme, and `default_path` where it has no path.

    Raises:
        InputError: the text is not an address, or it holds a user name, a password, a query or a
        fragment.
    """
    parts = _split(text if "://" in text else f"ws://{text}", text)
    scheme = _SCHEMES.get(parts.scheme.lower())
    if scheme is None or not parts.hostname:
        raise _unusable(text, "is not a server address")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise _unusable(text, "holds more than scheme, host, port and path")
    path = parts.path if parts.path.strip("/") else default_path
    return urlunsplit((scheme, parts.netloc, path, "", ""))


def _split(address: str, text: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises where the port is not a number
    except ValueError as exc:
        raise _unusable(text, "is not a server address") from exc
    return parts


def _unusable(text: str, reason: str) -> InputError:
    # Keys in addresses would end up in logs. Where a password ends is unknown in text that is not
    # an address.
    shown = "the address" if "@" in text else text.partition("?")[0].partition("#")[0]
    return InputError(
        f"{shown or repr(shown)} {reason}",
        hint="Write it like ws://127.0.0.1:8080; give a key with --api-key.",
        code="url.unusable",
    )
