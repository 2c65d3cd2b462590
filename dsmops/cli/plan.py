"""`plan`: what fits on a card and what keeps up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dsmops.cli.options import DebugOpt, DeviceOpt, DTypeOpt, JsonOpt, QuietOpt, SimulateOpt
from dsmops.report import Reporter


def parse_size(text: str) -> int:
    """Return the bytes of `512MiB`, `0.5 GiB`, `500MB` or a plain number; a usage error for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?\s*", text, re.IGNORECASE)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size; write it like 512MiB or 1.5GB")
    unit = (match[2] or "B").upper()
    base = 1024 if "I" in unit else 1000
    return int(float(match[1]) * base ** "BKMGT".index(unit[0]))


def plan(
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Published model to serve.")] = "stt-1b-en_fr",
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    dtype: DTypeOpt = None,
    context: Annotated[
        int | None, typer.Option("--context", metavar="N", help="Attention window in frames of 80 ms. Default: the model's own.")
    ] = None,
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
        Path | None, typer.Option("--profile", metavar="FILE", help="Measured step times (JSON) instead of an estimate.")
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
