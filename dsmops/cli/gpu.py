"""`check-gpu`: what is in this machine, and what it is good for."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops.cli.help import PREPARE
from dsmops.cli.options import DebugOpt, JsonOpt, QuietOpt, SimulateOpt
from dsmops.report import Reporter


def check_gpu(
    simulate: SimulateOpt = None,
    fail_on_pre_ampere: Annotated[
        bool,
        typer.Option(
            "--fail-on-pre-ampere",
            help="Exit 1 when a visible device has no bf16 (compute capability below 8.0).",
        ),
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Show the GPUs of this machine and what each can serve.

    Shows capability, memory, driver, MIG and the processes that use the memory. Says which dtype to
    serve in, what moshi-server needs for it, how to build the server for the card, and whether the
    installed torch has kernels for it.

    Cards that CUDA_VISIBLE_DEVICES hides are shown too. moshi-server takes CUDA ordinal 0. Exit
    code 4 means that no CUDA program would find a device here. The report is printed all the same,
    and the error says why and what to do.

    \b
    Examples:
      dsmops check-gpu
      dsmops check-gpu --json
      dsmops check-gpu --simulate t4 --simulate sm80
      dsmops check-gpu --fail-on-pre-ampere --quiet || echo "no bf16 here"
    """
    from dsmops.cli.views.gpu import show_gpus
    from dsmops.gpu import has_pre_ampere, probe, require_visible
    from dsmops.gpu import simulate as simulated

    out = Reporter.open("check-gpu", json=json, quiet=quiet, debug=debug)
    report = simulated(simulate) if simulate else probe()
    out.result(report, show_gpus(report))
    require_visible(report)
    if fail_on_pre_ampere and has_pre_ampere(report):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("check-gpu", rich_help_panel=PREPARE)(check_gpu)
