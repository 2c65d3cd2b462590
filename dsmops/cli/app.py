"""The Typer application: the root command, and one line per module of commands."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops import __version__, user_settings
from dsmops.cli import (
    bench,
    checkpoint,
    config,
    doctor,
    export,
    fleet,
    gpu,
    log_report,
    logs,
    page,
    plan,
    prepare,
    publish,
    runbook,
    schema,
    smoke,
    stt,
    tts,
    up,
    voices,
    worker,
)
from dsmops.cli.completion import InstallOpt, ShowOpt
from dsmops.cli.help import GroupedHelp

commands = typer.Typer()
"""Holds the commands; `app` builds the one that runs."""


class _Root(GroupedHelp):
    registered = commands.registered_commands


app = typer.Typer(
    name="dsmops",
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Prepare, serve and check Kyutai speech models on any GPU, also an old one.",
    epilog=(
        "Start with `dsmops check-gpu`, then `dsmops prep-sm75`. Exit codes: 0 done, or yes; 1 a"
        " check found a problem; 2 wrong usage; 3 bad input; 4 something is missing on this"
        " machine; 5 disk, memory or port not available; 6 the other side failed; 70 a bug in"
        " dsmops; 130 Ctrl-C; 143 SIGTERM."
    ),
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
    ctx: typer.Context,
    version: Annotated[  # noqa: ARG001 it has acted
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_show_version
        ),
    ] = False,
    install_completion: InstallOpt = False,  # noqa: ARG001
    show_completion: ShowOpt = False,  # noqa: ARG001
) -> None:
    # These also say what is wrong with the settings, or what they may be.
    if ctx.invoked_subcommand not in ("doctor", "runbook", "schema"):
        user_settings.apply()


for group in (
    gpu,
    plan,
    prepare,
    checkpoint,
    export,
    config,
    up,
    worker,
    page,
    stt,
    tts,
    voices,
    smoke,
    bench,
    doctor,
    fleet,
    runbook,
    schema,
    logs,
    log_report,
    publish,
):
    group.register(commands)
