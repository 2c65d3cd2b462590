"""Clients that mean harm, each until it must end: for the benchmark of attacks and the soak.

`python -m tests.support.attacks NAME URL KEY SECONDS` runs one in a process of its own, so that it
does not slow the honest clients beside it, and prints how often it struck.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import random
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import numpy as np

from dsmops.client.address import KEY_HEADER, STT_PATH, TTS_PATH
from dsmops.client.load.websocket import BINARY, PING, client_frame
from dsmops.protocol import Eos, Init, Text, encode

MOST_SOCKETS = 3_000
"""Connections that the attacks with many of them keep, where this process may have as many."""
_THREADS = 4
_WAIT_S = 0.05


@dataclass
class Attacker:
    """What an attack knows of its target. `strikes` counts what it did."""

    url: str
    key: str
    ended: threading.Event = field(default_factory=threading.Event)
    strikes: int = 0

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        sock = socket.create_connection((parts.hostname, parts.port), timeout=2)
        sock.settimeout(0.5)
        return sock

    def head(self, method: str, path: str, *fields: str, with_key: bool = True) -> bytes:
        """Return a request's head."""
        lines = [f"{method} {path} HTTP/1.1", "Host: x", *fields]
        if with_key:
            lines.append(f"{KEY_HEADER}: {self.key}")
        return "\r\n".join([*lines, "", ""]).encode()

    @contextlib.contextmanager
    def websocket(self, path: str) -> Iterator[socket.socket]:
        """Yield a connection behind a WebSocket's handshake, whatever was answered."""
        nonce = base64.b64encode(os.urandom(16)).decode()
        fields = (
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {nonce}",
        )
        with self.connect() as sock:
            sock.sendall(self.head("GET", path, *fields))
            sock.recv(1024)
            yield sock

    def again(self, strike: Callable[[], object]) -> None:
        """Repeat until the end. It goes on after refusals."""
        while not self.ended.is_set():
            try:
                strike()
            except OSError:
                self.ended.wait(_WAIT_S)
            self.strikes += 1

    def in_threads(self, strike: Callable[[], object], count: int = _THREADS) -> None:
        """Repeat in several threads."""
        threads = [threading.Thread(target=self.again, args=(strike,)) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def hold(self, sent: bytes, every_s: float = 0.0) -> None:
        """Open connections, as many as may be, send `sent`, and keep them; with `every_s` a byte of
        it each so many seconds.
        """
        most = min(MOST_SOCKETS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 64)
        held: list[socket.socket] = []
        turn_s, at = time.monotonic(), 0
        while not self.ended.is_set():
            try:
                sock = self.connect()
                if not every_s:
                    sock.sendall(sent)
                held.append(sock)
                self.strikes += 1
            except OSError:
                self.ended.wait(_WAIT_S)
            if len(held) >= most:
                held.pop(0).close()
            if every_s and time.monotonic() - turn_s >= every_s:
                for sock in held:
                    with contextlib.suppress(OSError):
                        sock.sendall(sent[at % len(sent) :][:1])
                at, turn_s = at + 1, time.monotonic()
        for sock in held:
            sock.close()


def _silent(attacker: Attacker) -> None:
    attacker.hold(b"")


def _half_head(attacker: Attacker) -> None:
    attacker.hold(b"GET /livez HTTP/1.1\r\nHost: x\r\nX: ")


def _half_body(attacker: Attacker) -> None:
    attacker.hold(attacker.head("POST", STT_PATH, "Content-Length: 1000") + b"RIFF")


def _slow_bytes(attacker: Attacker) -> None:
    attacker.hold(attacker.head("GET", "/livez"), every_s=1.0)


def _storm(attacker: Attacker) -> None:
    """Come and go at once, without a word."""
    attacker.in_threads(lambda: attacker.connect().close())


def _flood(attacker: Attacker, requests: list[bytes], connections: int) -> None:
    """Pipeline requests, and read what comes."""

    def strike() -> None:
        data = b"".join(requests) * (200 // len(requests))
        with attacker.connect() as sock:
            while not attacker.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    sock.sendall(data)
                with contextlib.suppress(TimeoutError):
                    if not sock.recv(1 << 16):
                        return
                attacker.strikes += 1

    attacker.in_threads(strike, connections)


def _one_flood(attacker: Attacker) -> None:
    _flood(attacker, [attacker.head("GET", "/metrics", with_key=False)], 1)


def _many_floods(attacker: Attacker) -> None:
    without = [
        attacker.head("GET", path, with_key=False)
        for path in ("/metrics", "/livez", "/readyz", "/", "/nowhere", STT_PATH, TTS_PATH)
    ]
    _flood(attacker, [*without, attacker.head("POST", STT_PATH, with_key=False)], 40)


def _keyed_floods(attacker: Attacker) -> None:
    empty = attacker.head("POST", STT_PATH, "Content-Length: 0")
    _flood(attacker, [attacker.head("GET", "/api/modules_info"), empty], 40)


def _new_requests(attacker: Attacker) -> None:
    """A connection for each request."""

    def strike() -> None:
        with attacker.connect() as sock:
            sock.sendall(attacker.head("GET", "/metrics", with_key=False))
            sock.recv(1 << 16)

    attacker.in_threads(strike, 16)


def _long_voices(attacker: Attacker) -> None:
    body = json.dumps({"text": "one", "voice": "v" * 2_000_000}).encode()
    fields = ("Content-Type: application/json", f"Content-Length: {len(body)}")

    def strike() -> None:
        with attacker.connect() as sock:
            sock.sendall(attacker.head("POST", TTS_PATH, *fields) + body)
            sock.recv(1024)

    attacker.in_threads(strike)


def _unsayable(attacker: Attacker) -> None:
    texts = ["☃" * 50_000, "<break time='1s'" * 5_000, "\x00\ufffe" * 1_000, "a" * 190_000]
    frames = [client_frame(BINARY, encode(Text(text))) for text in texts]

    def strike() -> None:
        with attacker.websocket(TTS_PATH) as sock:
            sock.sendall(random.choice(frames) + client_frame(BINARY, encode(Eos())))
            sock.recv(1024)

    attacker.in_threads(strike, 2)


def _messages(attacker: Attacker, data: Callable[[], bytes], connections: int = 2) -> None:
    """Send without a pause on conversations that hold a slot."""

    def strike() -> None:
        with attacker.websocket(STT_PATH) as sock:
            while not attacker.ended.is_set():
                sock.sendall(data())
                attacker.strikes += 1

    attacker.in_threads(strike, connections)


def _inits(attacker: Attacker) -> None:
    frames = client_frame(BINARY, encode(Init())) * 500
    _messages(attacker, lambda: frames)


def _pings(attacker: Attacker) -> None:
    frames = client_frame(PING, b"x" * 100) * 500
    _messages(attacker, lambda: frames)


def _fragments(attacker: Attacker) -> None:
    """One message that never ends, a byte in each fragment."""
    first, next_ = (bytes([code, 0x81]) + bytes(4) + b"x" for code in (0x02, 0x00))
    begun = threading.local()

    def data() -> bytes:
        head, begun.has = b"" if getattr(begun, "has", False) else first, True
        return head + next_ * 2_000

    def strike() -> None:
        begun.has = False
        with attacker.websocket(STT_PATH) as sock:
            while not attacker.ended.is_set():
                sock.sendall(data())
                attacker.strikes += 1

    attacker.in_threads(strike, 2)


def _garbage(attacker: Attacker) -> None:
    def strike() -> None:
        with attacker.websocket(STT_PATH) as sock:
            sock.sendall(client_frame(BINARY, os.urandom(random.randrange(1, 4000))))
            sock.recv(1024)

    attacker.in_threads(strike, 2)


def silence(seconds: int) -> bytes:
    """Return silence as FLAC, about 12 kB an hour."""
    import soundfile

    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 24_000, 1, "PCM_16", format="FLAC") as sound:
        block = np.zeros(24_000, np.int16)
        for _ in range(seconds):
            sound.write(block)
    return file.getvalue()


def without_length(flac: bytes) -> bytes:
    """Return a FLAC file whose header does not tell how long it is: 36 bits of STREAMINFO."""
    at = 4 + 4 + 13
    return flac[:at] + bytes([flac[at] & 0xF0]) + bytes(4) + flac[at + 5 :]


def _bombs(attacker: Attacker) -> None:
    """Hours in some kilobytes; the header tells it, or does not."""
    told = silence(2 * 3600)
    bombs = [told, without_length(told)]
    _posts(attacker, lambda: random.choice(bombs), 8)


def _recordings(attacker: Attacker) -> None:
    """More posts at once than may wait."""
    recording = silence(10)
    _posts(attacker, lambda: recording, 100)


def _posts(attacker: Attacker, make: Callable[[], bytes], connections: int) -> None:
    def strike() -> None:
        body = make()
        with attacker.connect() as sock:
            sock.sendall(attacker.head("POST", STT_PATH, f"Content-Length: {len(body)}") + body)
            while not attacker.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    sock.recv(1024)
                    return

    attacker.in_threads(strike, connections)


ATTACKS: dict[str, Callable[[Attacker], None]] = {
    "silent connections": _silent,
    "half a head": _half_head,
    "half a body": _half_body,
    "a byte a second": _slow_bytes,
    "storm of connections": _storm,
    "flood on one connection": _one_flood,
    "floods on 40 connections": _many_floods,
    "floods with a key": _keyed_floods,
    "a connection for each request": _new_requests,
    "voice names of 2 MB": _long_voices,
    "unsayable texts": _unsayable,
    "Init without end": _inits,
    "pings without end": _pings,
    "fragments of a byte": _fragments,
    "garbage": _garbage,
    "audio bombs": _bombs,
    "100 posts at once": _recordings,
}
NEEDS_TTS = {"voice names of 2 MB", "unsayable texts"}
"""What is aimed at a text-to-speech module."""
SLOTS = 2
"""Speech-to-text slots that conversations of one attack hold at most."""


def main(words: list[str] | None = None) -> int:
    """Run one attack."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.attacks", description=__doc__)
    parser.add_argument("name", choices=sorted(ATTACKS))
    parser.add_argument("url")
    parser.add_argument("key")
    parser.add_argument("seconds", type=float)
    chosen = parser.parse_args(words)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MOST_SOCKETS + 64 <= hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_SOCKETS + 64, hard))
    attacker = Attacker(chosen.url, chosen.key)
    threading.Timer(chosen.seconds, attacker.ended.set).start()
    ATTACKS[chosen.name](attacker)
    print(attacker.strikes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
