"""The command `runbook`: the pages that hints point to, without a browser."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops.cli import values
from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Document, Reporter, Table


def runbook(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=values.pages,
            help="A page, as in smoke-test. Default: the list.",
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Show a page of the runbooks, or list them.

    The pages travel with the package. Hints and findings name them.

    \b
    Examples:
      dsmops runbook
      dsmops runbook smoke-test
      dsmops runbook cuda-error-not-found | less
    """
    from dsmops.operations.runbooks import find_page, list_pages

    out = Reporter.open("runbook", json=json, quiet=quiet, debug=debug)
    if name is None:
        pages = list_pages()
        rows = [(page.name, page.title) for page in pages]
        out.result({"pages": pages}, [Table(("page", "title"), rows)])
        return
    page = find_page(name)
    out.result(page, [Document(page.text.removesuffix("\n"))])


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("runbook", rich_help_panel=CHECK)(runbook)
