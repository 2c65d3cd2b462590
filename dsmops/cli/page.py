"""The command `page`."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops.cli.help import SERVE
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter


def page(
    url: Annotated[
        str,
        typer.Option("--url", metavar="URL", help="The server, as in ws://127.0.0.1:8080."),
    ] = "ws://127.0.0.1:8080",
    addr: Annotated[
        str,
        typer.Option("--addr", "-a", metavar="IP", help="Address of the page."),
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(
            "--port", "-p", metavar="N", min=0, max=65535, help="Port; 0 lets the system choose."
        ),
    ] = 8090,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Open a page in the browser for any moshi-server.

    `dsmops worker` has this page at its own address; an original moshi-server has none. The page
    is served here until Ctrl-C. What the browser asks of the server passes through unchanged, and
    no key is kept.

    \b
    Examples:
      dsmops page --url ws://127.0.0.1:8080
      dsmops page --url wss://stt.example.org --port 8091
    """
    from dsmops.operations.page import show_page

    out = Reporter.open("page", json=json, quiet=quiet, debug=debug)
    show_page(
        url,
        addr,
        port,
        lambda shown: out.result(
            shown, [f"page: {shown.page}", f"server: {shown.server}", "Ctrl-C ends it."]
        ),
    )


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("page", rich_help_panel=SERVE)(page)
