"""The command that looks at everything: `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.help import CHECK
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt
from dsmops.report import Reporter


def doctor(
    config: Annotated[
        list[Path] | None,
        typer.Option(
            "--config",
            metavar="FILE",
            readable=False,
            help="Server TOML to judge. Repeatable. Default: those in ./configs.",
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            metavar="PATH",
            help=(
                "Checkpoint to look at. Repeatable. Default: assets/fp16 and Kyutai's in the hub"
                " cache."
            ),
        ),
    ] = None,
    moshi_bin: Annotated[
        str | None,
        typer.Option(
            "--moshi-bin",
            metavar="PATH",
            help="Server binary. Default: moshi-server on PATH, then in ~/.cargo/bin.",
        ),
    ] = None,
    log: Annotated[
        list[Path] | None,
        typer.Option(
            "--log",
            metavar="FILE|DIR",
            readable=False,
            help="Server log, or a folder of them. Repeatable. Default: ./logs and each log_dir.",
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            "-p",
            metavar="N",
            min=1,
            max=65535,
            help="Port of the server. Default: 8080.",
        ),
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Make no request to another machine.")
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Diagnose this machine: GPU, torch, files, configs, ports.

    Checks GPU and driver, torch, the server's binary, configs, checkpoints, the hub and its token,
    disks, ports and recent logs. Each finding has cause, evidence, public report, fix and runbook
    page. It takes seconds and needs no GPU, torch or network. It changes nothing, and says what it
    could not see. Exits 1 when there are errors.

    \b
    Examples:
      dsmops doctor
      dsmops doctor --offline --json > report.json
      dsmops doctor --config my.toml --moshi-bin ~/.cargo/bin/moshi-server --port 8998
    """
    from dsmops.cli.views.doctor import show_diagnosis
    from dsmops.operations.doctor import Scope, diagnose

    out = Reporter.open("doctor", json=json, quiet=quiet, debug=debug)
    scope = Scope(
        configs=tuple(config or ()),
        checkpoints=tuple(checkpoint or ()),
        moshi_bin=moshi_bin,
        logs=tuple(log or ()),
        port=port,
        offline=offline,
    )
    diagnosis = diagnose(scope)
    out.result(diagnosis, show_diagnosis(diagnosis))
    if diagnosis.errors:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("doctor", rich_help_panel=CHECK)(doctor)
