"""How many connections a server holds, and how long one may take for its first request.

Without a cap, clients that connect and send nothing take every file descriptor of the process, and
then no other client gets in. At the cap the connection that has waited longest without a request is
cut for the new one. So an honest client, which sends its request at once, gets in.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import cast

from aiohttp import web

RESERVED_DESCRIPTORS = 128
"""For the log, the models, the card, and what libraries open."""
_MOST_DESCRIPTORS = 65_536
KEEP_ALIVE_S = 75.0
"""For which a connection may wait for its next request."""


def most_connections() -> int:
    """Raise the limit of open files as far as this user may, and return how many may be sockets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    soft = _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    return max(soft - RESERVED_DESCRIPTORS, soft // 2)


class Admission:
    """Makes the protocol of every connection: the factory for `create_server`."""

    def __init__(
        self,
        server: web.Server,
        *,
        most: int,
        first_request_s: float,
        on_dropped: Callable[[], None],
    ) -> None:
        """At most `most` connections are open. `on_dropped` is called for each that is cut."""
        self._server = server
        self._most, self._first_request_s = most, first_request_s
        self._on_dropped = on_dropped
        self._open: set[GuardedConnection] = set()
        self._silent: dict[GuardedConnection, None] = {}
        """Connections without a request so far, oldest first."""

    def __call__(self) -> GuardedConnection:
        return GuardedConnection(self, self._server)

    def enter(self, connection: GuardedConnection) -> bool:
        """Admit a new connection, and return False where the cap leaves no place for it."""
        if len(self._open) >= self._most:
            self._on_dropped()
            if not self._silent:
                return False
            self.drop(next(iter(self._silent)))
        self._open.add(connection)
        self._silent[connection] = None
        connection.deadline = asyncio.get_running_loop().call_later(
            self._first_request_s, self._expire, connection
        )
        return True

    def note_request(self, connection: GuardedConnection) -> None:
        """Remember that a whole request head has come."""
        self._silent.pop(connection, None)
        if connection.deadline is not None:
            connection.deadline.cancel()
            connection.deadline = None

    def leave(self, connection: GuardedConnection) -> None:
        """Forget a connection that is closed."""
        self.note_request(connection)
        self._open.discard(connection)

    def drop(self, connection: GuardedConnection) -> None:
        """Cut a connection."""
        self.leave(connection)
        if connection.transport is not None:
            connection.transport.abort()

    def _expire(self, connection: GuardedConnection) -> None:
        self._on_dropped()
        self.drop(connection)


class GuardedConnection(web.RequestHandler):
    """aiohttp's protocol of one connection, which reports to its `Admission`."""

    def __init__(self, admission: Admission, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self.admission = admission
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.admission.enter(self):
            cast("asyncio.Transport", transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.admission.leave(self)
        super().connection_lost(exc)


def note_request(request: web.Request) -> None:
    """Tell the connection's `Admission` that the head of a request has come."""
    if isinstance(request.protocol, GuardedConnection):
        request.protocol.admission.note_request(request.protocol)
