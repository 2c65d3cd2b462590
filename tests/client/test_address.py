"""What people type as a server's address."""

from __future__ import annotations

import pytest

from dsmops.client.address import websocket_url
from dsmops.errors import InputError

ASR = "/api/asr-streaming"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("127.0.0.1:8080", f"ws://127.0.0.1:8080{ASR}"),
        ("ws://host", f"ws://host{ASR}"),
        ("http://host:1/", f"ws://host:1{ASR}"),
        ("https://host/stt", "wss://host/stt"),
        ("WSS://Host/a/b", "wss://Host/a/b"),
        ("[::1]:8080", f"ws://[::1]:8080{ASR}"),
    ],
)
def test_addresses_are_completed(typed: str, meant: str) -> None:
    """Scheme and path follow from what the shipped configs use."""
    assert websocket_url(typed) == meant


@pytest.mark.parametrize(
    "typed",
    [
        "",
        "ftp://host",
        "ws://",
        "host:port",
        "ws://host:99999",
        "ws://[::1",
        "ws://host/a?auth_id=secret",
        "ws://user:secret@host",
        "ws://me:secret@host:80x",
        "ftp://me:secret@host",
        "ws://me:secret?more@host",
    ],
)
def test_what_is_no_address_is_refused_without_its_secrets(typed: str) -> None:
    """One error; keys and passwords in an address are not repeated."""
    with pytest.raises(InputError) as refused:
        websocket_url(typed)
    assert "secret" not in refused.value.message
    assert refused.value.message.split(" ", 1)[0]
