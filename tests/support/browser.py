"""A real browser without a window, whose microphone plays a file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_MS = 30_000


@contextmanager
def opened_browser(microphone: Path | None = None) -> Iterator[BrowserContext]:
    """Open the system's Chromium; skip the test where there is none."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip(f"no Chromium is installed ({', '.join(_NAMES)})")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",  # containers run tests as root
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                *([f"--use-file-for-fake-audio-capture={microphone}%noloop"] if microphone else []),
                "--autoplay-policy=no-user-gesture-required",
            ],
        )
        try:
            context = browser.new_context(viewport={"width": 900, "height": 1100})
            context.set_default_timeout(TIMEOUT_MS)
            yield context
        finally:
            browser.close()


class Watched:
    """A page, with what went wrong on it and what it asked for."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page: Page = context.new_page()
        self.complaints: list[str] = []
        self.asked: set[str] = set()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.asked.add(request.url))
        self.page.on("websocket", lambda socket: self.asked.add(socket.url))
        self.page.goto(url)

    def _note(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        # A refusal that a test provokes is reported as a failed load.
        if kind in ("error", "warning") and "status of 4" not in text:
            self.complaints.append(text)

    def give_key(self, key: str) -> None:
        """Fill in the dialog that asks for a key."""
        self.page.get_by_label("authorized_ids").fill(key)
        self.page.get_by_role("button", name="Use this key").click()
