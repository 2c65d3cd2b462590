"""How many connections a server holds, and how long one may take for its first request.

Without a cap, clients that connect and send nothing take every file descriptor of the process, and
then no other client gets in. At the cap the connection that has waited longest without a request is
cut for the new one. So an honest client, which sends its request at once, gets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from collections.abc import Callable
from typing import cast

from aiohttp import web

from dsmops.worker.serving.throttle import Bucket

RESERVED_DESCRIPTORS = 128
"""For the log, the models, the card, and what libraries open."""
_MOST_DESCRIPTORS = 65_536
ACCEPTED_AT_ONCE = 400
"""New connections that a process takes without a pause."""
ACCEPTED_PER_S = 300.0
"""New connections that it takes in the long run."""
_ACCEPTED_PER_TURN = 4
"""Each costs about 0.1 ms of the event loop."""
_EXHAUSTED_S = 0.2
_BACKLOG = 1024
REQUESTS_PER_S, REQUESTS_AT_ONCE = 20.0, 50.0
"""Requests on one connection: so many a second in the long run, and without a pause."""
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


class Acceptor:
    """Takes connections from a port, a few at a time.

    So a storm of new connections does not hold up the open conversations. The others wait in the
    system's queue.
    """

    def __init__(self, listener: socket.socket, admission: Admission) -> None:
        """Listen on a bound socket."""
        self._listener, self._admission = listener, admission
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[object]] = set()
        self._rest: asyncio.TimerHandle | None = None
        self._tokens, self._filled_s = float(ACCEPTED_AT_ONCE), self._loop.time()
        listener.setblocking(False)
        listener.listen(_BACKLOG)
        self._loop.add_reader(listener, self._accept)

    def close(self) -> None:
        """Close the port."""
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        if self._rest is not None:
            self._rest.cancel()

    def _accept(self) -> None:
        now_s = self._loop.time()
        self._tokens = min(
            self._tokens + (now_s - self._filled_s) * ACCEPTED_PER_S, float(ACCEPTED_AT_ONCE)
        )
        self._filled_s = now_s
        for _ in range(_ACCEPTED_PER_TURN):
            if self._tokens < 1:
                self._pause(_ACCEPTED_PER_TURN / ACCEPTED_PER_S)
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:
                # No descriptor is free.
                self._pause(_EXHAUSTED_S)
                return
            self._tokens -= 1
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                # As asyncio does for servers of its own: small messages go out at once.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._admission, sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._rest = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._rest = None
        self._loop.add_reader(self._listener, self._accept)


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
        self.requests = Bucket(per_s=REQUESTS_PER_S, at_once=REQUESTS_AT_ONCE)
        """How often this connection may ask."""
        self.deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if not self.admission.enter(self):
            cast("asyncio.Transport", transport).abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.admission.leave(self)
        super().connection_lost(exc)


async def note_request(request: web.Request) -> bool:
    """Note the head of a request, and return whether it had to wait.

    A request waits where its connection asks too often.
    """
    connection = request.protocol
    if not isinstance(connection, GuardedConnection):
        return False
    connection.admission.note_request(connection)
    return await connection.requests.take()
