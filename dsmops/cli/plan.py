"""`plan`: what fits on a card and what keeps up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.options import ContextOpt, DebugOpt, DeviceOpt, DTypeOpt, JsonOpt, QuietOpt, SimulateOpt, parse_size
from dsmops.report import Reporter


def plan(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Published model to serve.")] = "stt-1b-en_fr",
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    dtype: DTypeOpt = None,
    context: ContextOpt = None,
    reserve: Annotated[
        int | None,
        typer.Option(
            "--reserve",
            metavar="SIZE",
            parser=parse_size,
            help="Memory to leave free, like 512MiB. Default: 3 % of the card, at least 256 MiB.",
        ),
    ] = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", metavar="FILE", help="Measured step times (JSON, schema dsmops.step-profile/1) instead of an estimate."),
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show where each number comes from.")] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Plan memory and step time of a model on a device.

    Shows the memory split, the largest safe batch_size, what limits it, and, when the model does not fit, what would. Exit code 1 means
    that it does not fit.

    \b
    Examples:
      dsmops plan
      dsmops plan --simulate t4 --explain
      dsmops plan --model stt-2.6b-en --simulate rtx2070 --json
    """
    from dsmops.cli.views.plan import show_plan
    from dsmops.flows.serving import find_device, find_model, plan_model

    out = Reporter.open("plan", json=json, quiet=quiet, debug=debug)
    found = plan_model(
        find_model(model),
        find_device(simulate, device),
        dtype=dtype,
        context=context,
        reserve_bytes=reserve,
        profile_file=profile,
    )
    out.result(found, show_plan(found, explain=explain))
    if not found.fits:
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("plan")(plan)
