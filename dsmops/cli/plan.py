"""`plan`: what fits on a card and what keeps up."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from dsmops.cli import values
from dsmops.cli.help import PREPARE
from dsmops.cli.options import (
    ContextOpt,
    DebugOpt,
    DeviceOpt,
    DTypeOpt,
    JsonOpt,
    KvOpt,
    QuietOpt,
    SimulateOpt,
    WeightsOpt,
    parse_size,
)
from dsmops.dtypes import Quant, Quantised
from dsmops.models import DEFAULT_STT
from dsmops.report import Reporter

if TYPE_CHECKING:
    from dsmops.config.plan import ServingPlan


def plan(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME",
            autocompletion=values.models,
            help="Published model, its repository, or tiny.",
        ),
    ] = DEFAULT_STT.name,
    runtime: Annotated[
        Literal["moshi-server", "embedded"],
        typer.Option(
            "--runtime", help="Who serves it: moshi-server, or the embedded PyTorch worker."
        ),
    ] = "moshi-server",
    device: DeviceOpt = None,
    simulate: SimulateOpt = None,
    dtype: DTypeOpt = None,
    weights: WeightsOpt = None,
    kv: KvOpt = Quant.NONE,
    context: ContextOpt = None,
    n_q: Annotated[
        int | None,
        typer.Option(
            "--n-q",
            metavar="N",
            min=1,
            help="Codebooks that a text-to-speech model makes; fewer are faster. Default: all.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size", metavar="N", min=1, help="Check whether N streams fit; exit code 1: no."
        ),
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
        Path | None,
        typer.Option(
            "--profile",
            metavar="FILE",
            readable=False,
            help="Measured step times (JSON, schema dsmops.step-profile/1) instead of an estimate.",
        ),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help=(
                "First measure the embedded worker's step times on the card, with random weights,"
                " and keep them."
            ),
        ),
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show where each number comes from.")
    ] = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Compute memory and step time of a model on a GPU.

    Shows the memory split, the largest safe batch_size, and what limits it. If the model does not
    fit, shows what would. Step times are measured ones where this machine has them (--measure), and
    an estimate otherwise.

    Exit code 1 means that the model does not fit. With --batch-size it means that N streams do not
    fit, or that the memory of the card is unknown. --explain also says what fewer codebooks would
    change for a text-to-speech model. The model tiny needs --runtime embedded: moshi-server reads
    only the published Mimi.

    \b
    Examples:
      dsmops plan
      dsmops plan --simulate t4 --explain
      dsmops plan --simulate t4 --batch-size 100
      dsmops plan --model stt-2.6b-en --simulate rtx2070 --json
      dsmops plan --model tts-1.6b-en_fr --runtime embedded --n-q 24 --simulate t4 --explain
      dsmops plan --runtime embedded --weights int8 --kv int8 --simulate rtx2070
      dsmops plan --runtime embedded --measure
    """
    from dsmops.cli.views.plan import show_plan
    from dsmops.devices import Runtime
    from dsmops.operations.configs.planning import find_device, find_model, plan_model

    if measure and (runtime != "embedded" or profile):
        raise typer.BadParameter(
            "--measure is for --runtime embedded, without --profile", param_hint="--measure"
        )
    out = Reporter.open("plan", json=json, quiet=quiet, debug=debug)
    published, card = find_model(model), find_device(simulate, device)

    def plan_it() -> ServingPlan:
        return plan_model(
            published,
            card,
            runtime=Runtime(runtime),
            dtype=dtype,
            context=context,
            n_q=n_q,
            reserve_bytes=reserve,
            profile_file=profile,
            asked_batch_size=batch_size,
            quantised=Quantised(weights, kv),
        )

    found = plan_it()
    if measure:
        from dsmops.operations.configs.measuring import measure_profile

        out.note(f"measured: {measure_profile(found, published, progress=out.progress())}")
        found = plan_it()
    out.result(found, show_plan(found, explain=explain))
    if not (found.fits if found.asked is None else found.asked.fits):
        raise typer.Exit(1)


def register(app: typer.Typer) -> None:
    """Add this group's commands to the application."""
    app.command("plan", rich_help_panel=PREPARE)(plan)
