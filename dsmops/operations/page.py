"""`page`: the worker's page for a server elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dsmops.client.address import websocket_url
from dsmops.extras import CLIENT, require_worker

if TYPE_CHECKING:
    from dsmops.worker.serving.addresses import Listening


@dataclass(frozen=True, slots=True)
class ShownPage:
    """Where the page is, and for which server."""

    page: str
    server: str


def show_page(url: str, addr: str, port: int, on_ready: Callable[[ShownPage], None]) -> None:
    """Serve the page for the server at `url` until a signal ends the process.

    Raises:
        InputError, ResourceError: one of the addresses cannot be used.
        RemoteError: the server does not answer.
        ExtraMissingError: aiohttp is not installed.
    """
    require_worker("serving the page", CLIENT)
    from dsmops.worker.serving.page_proxy import serve_page

    server = websocket_url(url, "")

    def ready(listening: Listening) -> None:
        on_ready(ShownPage(f"{listening.url}/", server))

    asyncio.run(serve_page(server, addr, port, ready))
