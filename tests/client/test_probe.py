"""The probe shows what a server does: the real worker, and servers that answer oddly."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from dsmops.client.connection import Closed
from dsmops.client.probe import Probe, get
from dsmops.errors import TransferError
from dsmops.operations.smoke.process import free_port
from dsmops.protocol import Audio, Marker, Ready, Step, decode_stt_answer
from tests.support.engines import EchoEngine
from tests.support.workers import KEY, PATH, ThreadedServer


@pytest.fixture
def server() -> Iterator[ThreadedServer]:
    with ThreadedServer(EchoEngine) as running:
        yield running


def address(server: ThreadedServer) -> str:
    return server.url.replace("http", "ws") + PATH


def used_slots(server: ThreadedServer) -> int:
    return sum(module.loop.used_slots for module in server._server._modules)


@pytest.mark.slow
def test_a_conversation_is_seen_message_by_message(server: ThreadedServer) -> None:
    """Ready, a Step for a frame, the Close frame's answer with its code."""

    async def talk() -> list[object]:
        probe = await Probe.open(address(server), KEY, decode_stt_answer)
        assert isinstance(probe, Probe)
        seen: list[object] = [await probe.receive()]
        await probe.send(Audio(np.zeros(1920, np.float32)))
        seen.append(await probe.receive())
        return [*seen, await probe.close()]

    ready, step, closed = asyncio.run(talk())
    assert ready == Ready()
    assert isinstance(step, Step)
    assert closed == Closed(1000)


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, "wrong"])
def test_a_refusal_is_a_status(server: ThreadedServer, key: str | None) -> None:
    """And nothing is raised for it."""
    assert asyncio.run(Probe.open(address(server), key, decode_stt_answer)) == 401


def test_a_server_that_closes_is_seen_with_its_code(server: ThreadedServer) -> None:
    """A message that it cannot read ends the stream: the error first, then the code."""

    async def talk() -> list[object]:
        probe = await Probe.open(address(server), KEY, decode_stt_answer)
        assert isinstance(probe, Probe)
        await probe.receive()
        await probe._connection.send(b"nonsense")
        seen = [await probe.receive(), await probe.receive()]
        await probe.send(Marker(1))  # into the void
        await probe.vanish()
        return seen

    assert asyncio.run(talk())[1] == Closed(1007)


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True])
def test_vanishing_frees_the_slot(server: ThreadedServer, reset: bool) -> None:
    """Without a Close frame the server sees a connection that broke."""

    async def vanish() -> None:
        probe = await Probe.open(address(server), KEY, decode_stt_answer)
        assert isinstance(probe, Probe)
        await probe.receive()
        assert used_slots(server) == 1
        await probe.vanish(reset=reset)

    asyncio.run(vanish())
    until_s = time.monotonic() + 10
    while used_slots(server) and time.monotonic() < until_s:
        time.sleep(0.01)
    assert used_slots(server) == 0
    server.stop()
    server.join()
    assert (
        "Connection reset without closing handshake" in server.log
        or "closed connection" in server.log
    )


def test_nobody_there_is_an_error() -> None:
    """For both kinds of question."""
    url = f"127.0.0.1:{free_port()}/"
    with pytest.raises(TransferError, match="cannot be reached"):
        asyncio.run(Probe.open(f"ws://{url}", None, decode_stt_answer))
    with pytest.raises(TransferError, match="cannot be reached"):
        asyncio.run(get(f"http://{url}"))


def test_get_returns_status_and_text(server: ThreadedServer) -> None:
    """Whatever they are."""
    assert asyncio.run(get(f"{server.url}/api/modules_info"))[0] == 200
    assert asyncio.run(get(f"{server.url}/nothing"))[0] == 404


def test_no_redirection_is_followed() -> None:
    """A key goes to the address that was named, and nowhere else."""
    asked: list[str] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("kyutai-api-key", ""))
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    class Redirecting(Elsewhere):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{there.server_port}{self.path}")
            self.end_headers()

    with (
        ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as there,
        ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as here,
    ):
        threads = [
            threading.Thread(target=server.serve_forever, daemon=True) for server in (there, here)
        ]
        for thread in threads:
            thread.start()
        url = f"127.0.0.1:{here.server_port}/api/asr-streaming"
        with pytest.raises(TransferError, match="answered 302 and points to"):
            asyncio.run(Probe.open(f"ws://{url}", KEY, decode_stt_answer))
        with pytest.raises(TransferError, match="answered 302 and points to"):
            asyncio.run(get(f"http://{url}"))
        for server in (there, here):
            server.shutdown()
    assert asked == []


def test_an_endless_answer_is_not_taken() -> None:
    """No document about a server is that long."""

    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(100):
                    self.wfile.write(b"x" * 1_000_000)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TransferError, match="more than 4"):
            asyncio.run(get(f"http://127.0.0.1:{server.server_port}/"))
        server.shutdown()
