"""An HTTP relay between a client and a real server, with one fault per request on demand.

    with Relay(server.url) as relay:
        relay.fault = lambda request: Fault.reset() if request.count == 3 else None

Requests pass unchanged, Host header included, so signatures stay right. `relay.seen` lists what was
asked.
"""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

TRICKLE_BYTES = 1024
TRICKLE_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for; `count` numbers requests from 1, header names are in lower case."""

    count: int
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave.

    `status`: answer with an error of that status and code and do not pass the request on. `drop`:
    close without an answer. `lose_answer`: pass the request on, then close without an answer.
    `reset`: like `drop`, with a TCP reset. `stall`: hold the request until the client hangs up or
        the
    relay closes. `cut`: send half of the answer's body, then close. `trickle`: send the answer in
    small pieces. `garble_request`, `garble_answer`: flip a bit of the body. `other_etag`: answer
    with an ETag that is not an MD5. `no_etag`: answer without the header ETag.
    """

    kind: Literal[
        "status",
        "drop",
        "lose_answer",
        "reset",
        "stall",
        "cut",
        "trickle",
        "garble_request",
        "garble_answer",
        "other_etag",
        "no_etag",
    ]
    status: int = 503
    code: str = "SlowDown"
    message: str = "as told"


class Relay:
    """Listens on loopback, on a port that the system chooses; forwards requests to `target`."""

    def __init__(self, target: str) -> None:
        self.fault: Callable[[Request], Fault | None] = lambda _request: None
        self.seen: list[Request] = []
        self.closing = threading.Event()
        self._lock = threading.Lock()
        relay = self

        class Handler(_Handler):
            target_netloc = urlsplit(target).netloc
            owner = relay

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> Relay:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def note(self, method: str, path: str, headers: dict[str, str]) -> Request:
        with self._lock:
            request = Request(len(self.seen) + 1, method, path, headers)
            self.seen.append(request)
            return request


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    target_netloc: str
    owner: Relay

    def log_message(self, format: str, *args: Any) -> None: ...

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        request = self.owner.note(
            self.command, self.path, {name.lower(): value for name, value in self.headers.items()}
        )
        fault = self.owner.fault(request)
        kind = fault.kind if fault else ""
        if fault and kind == "status":
            words = f"<Code>{fault.code}</Code><Message>{escape(fault.message)}</Message>"
            body = f"<Error>{words}</Error>".encode()
            self._answer(fault.status, "Fault", [("Content-Type", "application/xml")], body)
            return
        if kind in ("drop", "reset", "stall"):
            self._hang_up(kind)
            return
        status, reason, headers, answer = self._ask(
            _flipped(body) if kind == "garble_request" else body
        )
        if kind == "other_etag":
            headers = [
                (name, '"0123"' if name.lower() == "etag" else value) for name, value in headers
            ]
            answer = re.sub(rb"<ETag>.*?</ETag>", b"<ETag>&quot;0123&quot;</ETag>", answer)
        if kind == "no_etag":
            headers = [(name, value) for name, value in headers if name.lower() != "etag"]
        if kind == "lose_answer":
            self._hang_up("drop")
        elif kind == "cut":
            self._answer(status, reason, headers, answer, send=len(answer) // 2)
            self._hang_up("drop")
        elif kind == "trickle":
            self._answer(status, reason, headers, answer, send=0)
            for start in range(0, len(answer), TRICKLE_BYTES):
                self.wfile.write(answer[start : start + TRICKLE_BYTES])
                self.owner.closing.wait(TRICKLE_PAUSE_S)
        else:
            self._answer(
                status, reason, headers, _flipped(answer) if kind == "garble_answer" else answer
            )

    # The names that http.server looks for.
    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _relay  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.target_netloc, timeout=30)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
            skipped = ("transfer-encoding", "connection", "content-length")
            headers = [
                (name, value) for name, value in answer.getheaders() if name.lower() not in skipped
            ]
            return answer.status, answer.reason, headers, data
        finally:
            connection.close()

    def _answer(
        self,
        status: int,
        reason: str,
        headers: list[tuple[str, str]],
        body: bytes,
        send: int | None = None,
    ) -> None:
        self.send_response_only(status, reason)
        for name, value in headers:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:send])

    def _hang_up(self, kind: str) -> None:
        self.close_connection = True
        if kind == "stall":
            # Until the client gives up and closes: then there is an end of stream to read.
            self.connection.settimeout(0.05)
            while not self.owner.closing.is_set():
                try:
                    if not self.connection.recv(1):
                        return
                except TimeoutError:
                    continue
        if kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data
