"""`dsmops page`: the page for a server that has none, and what passes through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.exceptions import InvalidStatus

from dsmops.errors import RemoteError
from dsmops.worker.serving.addresses import Listening
from dsmops.worker.serving.page_proxy import serve_page
from tests.support.browser import Watched, opened_browser
from tests.support.original_server import KEY, OriginalServer
from tests.support.stt_client import FRAME, SttClient
from tests.support.tts_client import TtsClient, words
from tests.support.workers import KEY as WORKER_KEY
from tests.support.workers import ThreadedServer, request


@contextmanager
def shown(upstream: str) -> Iterator[str]:
    """Serve the page for a server, and return where."""
    ready, found, loop = threading.Event(), [], asyncio.new_event_loop()

    def on_ready(listening: Listening) -> None:
        found.append(listening.url)
        ready.set()

    serving = loop.create_task(serve_page(upstream, "127.0.0.1", 0, on_ready))

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serving)
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        assert ready.wait(20)
        yield found[0]
    finally:
        loop.call_soon_threadsafe(serving.cancel)
        thread.join(10)
        assert not thread.is_alive()


def test_streams_pass_as_they_are() -> None:
    """Words, the end of a text without a close code, and figures of an original server."""
    with OriginalServer() as server, shown(f"ws://127.0.0.1:{server.port}") as url:
        assert b"dsmops" in request(url, "GET", "/").body
        with SttClient(url, KEY) as client:
            assert client.hello == {"type": "Ready"}
            client.send({"type": "Audio", "pcm": [0.0] * 15 * FRAME})
            while client.receive()["type"] != "Word":
                pass
        assert b"asr_model_step" in request(url, "GET", "/metrics").body
        with pytest.raises(InvalidStatus, match="401"):
            SttClient(url, "another key")
    with (
        OriginalServer("Py") as server,
        shown(f"ws://127.0.0.1:{server.port}") as url,
        TtsClient(url, KEY) as client,
    ):
        client.say("one two three")
        assert [text for text, _, _ in words(client.rest())] == ["one", "two", "three"]


@pytest.mark.slow
def test_posts_and_refusals_pass(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.zeros(24_000), 24_000)
    with ThreadedServer() as server, shown(server.url.replace("http", "ws")) as url:
        headers = {"kyutai-api-key": WORKER_KEY}
        body = sound.read_bytes()
        answer = request(url, "POST", "/api/asr-streaming", body=body, headers=headers)
        assert (answer.status, answer.body) == (200, b"[]")
        assert request(url, "GET", "/v1/models").status == 401
        foreign = {"Origin": "https://elsewhere.example"}
        assert request(url, "GET", "/v1/models", headers=foreign).status == 403


def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(RemoteError, match="does not answer"):
        asyncio.run(serve_page("ws://127.0.0.1:9", "127.0.0.1", 0, lambda _: None))


@pytest.mark.slow
def test_the_page_works_with_an_original_server(tmp_path: Path) -> None:
    sound = tmp_path / "sound.wav"
    soundfile.write(sound, np.zeros(72_000), 24_000)
    with (
        OriginalServer() as server,
        shown(f"ws://127.0.0.1:{server.port}") as url,
        opened_browser(sound) as browser,
    ):
        watched = Watched(browser, url)
        page = watched.page
        page.locator("#stt").wait_for()
        page.get_by_label("or drop a recording here").set_input_files(sound)
        watched.give_key(KEY)
        page.locator("#transcript .word").first.wait_for()
        page.get_by_text("words.").wait_for()
        assert "The server answers." in page.locator("#health").inner_text()
        page.locator("#modules").get_by_text("ms of 80 ms").wait_for()
        assert watched.complaints == []
