"""The Typer application: the root command and one line per command group."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops import __version__
from dsmops.cli import (
    checkpoint,
    config,
    doctor,
    gpu,
    logs,
    plan,
    prepare,
    publish,
    smoke,
    stt,
    tts,
    worker,
)

app = typer.Typer(
    name="dsmops",
    help="From a GPU, maybe an old one, to a verified Kyutai speech server.",
    epilog="Start with `dsmops prep-sm75`. Exit codes: 0 yes, 1 checked and no, 2 usage, 3 bad input, 4 something is missing here, "
    "5 no room or busy, 6 the other side failed.",
    no_args_is_help=True,
    # Plain help starts 70 ms faster than rich help, and exceptions must reach main().
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"dsmops {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
) -> None: ...


for group in (
    gpu,
    checkpoint,
    plan,
    config,
    prepare,
    logs,
    publish,
    stt,
    tts,
    worker,
    smoke,
    doctor,
):
    group.register(app)
