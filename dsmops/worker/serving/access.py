"""Who may use the worker: API keys from a header or, for WebSockets, the query.

moshi-server's header counts first, then `Authorization: Bearer`, which OpenAI's clients send.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from aiohttp import web

HEADER = "kyutai-api-key"
QUERY = "auth_id"
_SCHEME = "bearer "


class Access:
    """The keys of a config. `on_refused` is called for every request without one of them."""

    def __init__(self, keys: Sequence[str], on_refused: Callable[[], None]) -> None:
        self._keys = [key.encode() for key in keys]
        self._on_refused = on_refused

    def require(self, request: web.Request, *, query: bool) -> None:
        """Check the key of a request.

        The key in the query counts only with `query`, and only where the header has none.

        Raises:
            HTTPBadRequest: the query has two keys.
            HTTPUnauthorized: the key is missing or wrong. The body is empty.
        """
        asked = request.query.getall(QUERY, []) if query else []
        if len(asked) > 1:
            raise web.HTTPBadRequest(
                text=f"Failed to deserialize query string: duplicate field `{QUERY}`"
            )
        key = _sent_key(request, asked[0] if asked else None)
        if key is None or not self._is_known(key.encode("utf-8", "surrogateescape")):
            self._on_refused()
            raise web.HTTPUnauthorized(text="")

    def is_known(self, request: web.Request) -> bool:
        """Return whether a request has a known key, in the header or in the query."""
        key = _sent_key(request, request.query.get(QUERY))
        return key is not None and self._is_known(key.encode("utf-8", "surrogateescape"))

    def _is_known(self, key: bytes) -> bool:
        """Compare with every key, in a time that does not depend on the keys."""
        return sum(hmac.compare_digest(key, known) for known in self._keys) > 0


def _sent_key(request: web.Request, asked: str | None) -> str | None:
    """Return the key in a request's headers, else `asked`, which its query names."""
    key = request.headers.get(HEADER)
    sent = request.headers.get("Authorization", "")
    if key is None and sent[: len(_SCHEME)].lower() == _SCHEME:
        key = sent[len(_SCHEME) :].strip()
    return asked if key is None else key
