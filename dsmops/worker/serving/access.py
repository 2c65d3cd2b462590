"""Who may use the worker: API keys and tokens, from a header or, for WebSockets, the query.

moshi-server's header counts first, then `Authorization: Bearer`, which OpenAI's clients send. A
token (JWT) is taken in the same places, and in the query as `token`, where clients of the fork of
moshi-server put it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from dsmops.worker.serving.token_keys import Tokens
from dsmops.worker.serving.tokens import TokenRefusedError

HEADER = "kyutai-api-key"
QUERY = "auth_id"
TOKEN_QUERY = "token"  # noqa: S105 the name of a parameter
_SCHEME = "bearer "
_PROTOCOL = "openai-insecure-api-key."
"""OpenAI's own client sends a key in a browser as a subprotocol with this beginning."""
# Where `identify` keeps its finding in a request. aiohttp before 3.14 knows names only.
_IDENTITY: Any = web.RequestKey("identity", object) if hasattr(web, "RequestKey") else "identity"


class TokenRefused(web.HTTPUnauthorized):
    """401 with why a token was refused, as RFC 6750 has it. The body is empty."""

    def __init__(self, why: str) -> None:
        challenge = f'Bearer error="invalid_token", error_description="{why}"'
        super().__init__(text="", headers={"WWW-Authenticate": challenge})
        self.why = why


@dataclass(frozen=True, slots=True)
class _Identity:
    """What is known of a request's sender."""

    is_known: bool
    by_query: bool = False
    caller: str = ""
    refused_because: str = ""


class Access:
    """The keys of a config, and the tokens that count beside them. Event loop only.

    `on_refused` is called for every request without one of them, with what is wrong with its
    token, empty where it has none.
    """

    def __init__(
        self,
        keys: Sequence[str],
        on_refused: Callable[[str], None],
        tokens: Tokens | None = None,
    ) -> None:
        self._keys = [key.encode() for key in keys]
        self._on_refused, self._tokens = on_refused, tokens

    def start(self) -> None:
        """Read the keys that check tokens."""
        if self._tokens is not None:
            self._tokens.start()

    async def identify(self, request: web.Request) -> bool:
        """Find out who sends a request, for `require` to act on, and return whether it is known."""
        identity = await self._identity(request)
        request[_IDENTITY] = identity
        return identity.is_known

    def require(self, request: web.Request, *, query: bool) -> None:
        """Check the key or token of a request that was identified.

        One in the query counts only with `query`, and only where the header has none.

        Raises:
            HTTPBadRequest: the query has two keys.
            HTTPUnauthorized: it is missing or wrong. The body is empty.
        """
        for name in (QUERY, TOKEN_QUERY) if query else ():
            if len(request.query.getall(name, [])) > 1:
                raise web.HTTPBadRequest(
                    text=f"Failed to deserialize query string: duplicate field `{name}`"
                )
        identity: _Identity = request[_IDENTITY]
        if identity.is_known and (query or not identity.by_query):
            return
        self._on_refused(identity.refused_because)
        if identity.refused_because:
            raise TokenRefused(identity.refused_because)
        raise web.HTTPUnauthorized(text="")

    async def _identity(self, request: web.Request) -> _Identity:
        key, by_query = self._sent_key(request)
        if key is None:
            return _Identity(is_known=False)
        if self._is_known(key.encode("utf-8", "surrogateescape")):
            return _Identity(is_known=True, by_query=by_query)
        if self._tokens is None or key.count(".") != 2:
            return _Identity(is_known=False)
        try:
            caller = await self._tokens.caller(key)
        except TokenRefusedError as exc:
            return _Identity(is_known=False, refused_because=exc.reason)
        return _Identity(is_known=True, by_query=by_query, caller=caller)

    def _sent_key(self, request: web.Request) -> tuple[str | None, bool]:
        """Return what a request sends as its key or token, and whether its query does."""
        key = request.headers.get(HEADER)
        sent = request.headers.get("Authorization", "")
        if key is None and sent[: len(_SCHEME)].lower() == _SCHEME:
            key = sent[len(_SCHEME) :].strip()
        if key is None:
            offered = request.headers.get("Sec-WebSocket-Protocol", "").split(",")
            keys = [one.strip() for one in offered if one.strip().startswith(_PROTOCOL)]
            key = keys[0].removeprefix(_PROTOCOL) if keys else None
        if key is not None:
            return key, False
        key = request.query.get(QUERY)
        if key is None and self._tokens is not None:
            key = request.query.get(TOKEN_QUERY)
        return key, True

    def _is_known(self, key: bytes) -> bool:
        """Compare with every key, in a time that does not depend on the keys."""
        return sum(hmac.compare_digest(key, known) for known in self._keys) > 0


def caller_of(request: web.Request) -> str:
    """Return whose token a request was let in with, empty where it was another key."""
    identity: _Identity | None = request.get(_IDENTITY)
    return "" if identity is None else identity.caller
