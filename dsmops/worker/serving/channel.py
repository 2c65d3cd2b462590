"""Messages between the supervisor and its processes: JSON over a socket pair.

The socket pair keeps messages apart. Nothing that a step waits for passes here. A sender never
blocks: what the other side does not take is kept for a while, or dropped where that does no harm.
"""

from __future__ import annotations

import json
import socket
import threading
from collections import deque
from typing import Any

from dsmops import errors
from dsmops.errors import DsmopsError, ModelLoopError
from dsmops.worker.serving.logs import Level, Log, Origin, Record, Shown

MOST_BYTES = 60_000
"""Of one message: the socket would cut a longer one in two."""
_MOST_KEPT = 10_000

Message = dict[str, Any]


class Channel:
    """One end of a socket pair. One thread may `receive`, any thread may `send`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._lock = threading.Lock()
        self._kept: deque[bytes] = deque()
        self.dropped = 0
        """Messages that were lost since this was set to 0 last."""

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Return both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        """Return the descriptor that is readable when a message has come."""
        return self._sock.fileno()

    def send(self, message: Message, *, may_drop: bool = False) -> None:
        """Send a message, or keep it until the other side has space."""
        data = json.dumps(message).encode()
        if len(data) > MOST_BYTES:
            self.dropped += 1
            return
        with self._lock:
            if may_drop and len(self._kept) >= _MOST_KEPT:
                self.dropped += 1
                return
            self._kept.append(data)
            self._flush()

    def flush(self) -> bool:
        """Send what is kept, and return whether nothing is left."""
        with self._lock:
            self._flush()
            return not self._kept

    def receive(self) -> Message | None:
        """Return the next message, None where none waits.

        Raises:
            EOFError: the other side has ended.
        """
        try:
            data = self._sock.recv(2 * MOST_BYTES)
        except BlockingIOError:
            return None
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError
        message: Message = json.loads(data)
        return message

    def close(self) -> None:
        self._sock.close()

    def _flush(self) -> None:
        try:
            while self._kept:
                self._sock.send(self._kept[0])
                self._kept.popleft()
        except BlockingIOError:
            return
        except OSError:
            # The other side has ended; `receive` says so.
            self._kept.clear()


class ChannelLog(Log):
    """Sends records to the supervisor, which has the file."""

    def __init__(self, channel: Channel, level: Level) -> None:
        self._channel, self._level = channel, level

    def put(self, record: Record) -> None:
        if record.level > self._level:
            return
        fields = [[name, value, isinstance(value, Shown)] for name, value in record.fields.items()]
        self._channel.send(
            {
                "log": [
                    record.time_ns,
                    record.level,
                    record.origin.target,
                    record.origin.file,
                    record.message[:_MOST_TEXT],
                    fields,
                    [line[:_MOST_LINE] for line in record.continuation[-_MOST_LINES:]],
                ]
            },
            may_drop=True,
        )


_MOST_TEXT, _MOST_LINE, _MOST_LINES = 8_000, 400, 80


def parse_record(values: list[Any]) -> Record:
    """Return the record of a `log` message."""
    time_ns, level, target, file, message, fields, continuation = values
    return Record(
        time_ns,
        Level(level),
        Origin(target, file),
        message,
        {name: Shown(value) if shown else value for name, value, shown in fields},
        continuation,
    )


def describe_error(exc: DsmopsError) -> Message:
    """Return an error as a message."""
    chain, cause = [], exc.__cause__
    while cause is not None:
        chain.append(f"{type(cause).__name__}: {cause}"[:_MOST_LINE])
        cause = cause.__cause__
    return {
        "kind": type(exc).__name__,
        "message": exc.message[:_MOST_TEXT],
        "hint": exc.hint[:_MOST_TEXT],
        "code": exc.code,
        "causes": chain,
    }


def parse_error(message: Message) -> DsmopsError:
    """Return the error that `describe_error` described."""
    kind = getattr(errors, message["kind"], ModelLoopError)
    error = DsmopsError.__new__(kind)
    DsmopsError.__init__(error, message["message"], hint=message["hint"], code=message["code"])
    for cause in reversed(message["causes"]):
        below = RuntimeError(cause)
        below.__cause__ = error.__cause__
        error.__cause__ = below
    return error
