"""The command `schema`: what the JSON documents hold."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops.cli import values
from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter, Table


def schema(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            autocompletion=values.documents,
            help="A document, as in plan. Default: the list.",
        ),
    ] = None,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Show the JSON Schema of a document, or list them.

    Each document that --json prints or that dsmops writes into a file has one (draft 2020-12). Its
    key `schema` names it.

    \b
    Examples:
      dsmops schema
      dsmops schema plan > plan.schema.json
      dsmops schema dsmops.conversion-record/1
    """
    from dsmops.operations.schemas import list_schemas, schema_text

    out = Reporter.open("schema", json=json, quiet=quiet, debug=debug)
    if name is not None:
        out.file(schema_text(name))
        return
    found = list_schemas()
    rows = [(one.name, one.source) for one in found.schemas]
    out.result(found, [Table(("document", "comes from"), rows)])


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("schema", rich_help_panel=CHECK)(schema)
