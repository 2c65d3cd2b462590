"""The command `export`: files for other programs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Literal

import typer

from dsmops.cli import values
from dsmops.cli.checkpoint import SourceArg, at_hand, without_blas_threads
from dsmops.cli.help import PREPARE
from dsmops.cli.options import (
    DebugOpt,
    DryRunOpt,
    JsonOpt,
    NoDigestOpt,
    NoFsyncOpt,
    QuietOpt,
    ReportOpt,
)
from dsmops.report import Reporter

# The values of checkpoint.export.Runtime, spelled out so that start-up does not load the package.
Program = Literal["gguf", "mlx", "moshi"]


def export(
    source: SourceArg,
    target: Annotated[
        Path,
        typer.Argument(
            metavar="TARGET",
            readable=False,
            help="The .gguf or .safetensors file to write; for MLX NAME.q8.safetensors.",
        ),
    ],
    to: Annotated[
        Program,
        typer.Option(
            "--to",
            help="gguf for stt-rs and candle, mlx for moshi_mlx, moshi for the PyTorch package.",
        ),
    ],
    quant: Annotated[
        str | None,
        typer.Option(
            "--quant",
            metavar="QUANT",
            autocompletion=values.quants,
            help=(
                "gguf: q8_0 (default), q4_0, q4_k, none (F16). mlx: q8 (default), q4, none (F16)."
                " moshi: int8."
            ),
        ),
    ] = None,
    report: ReportOpt = None,
    no_digest: NoDigestOpt = False,
    no_fsync: NoFsyncOpt = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Export even where the target is up to date; replace a file dsmops did not make.",
        ),
    ] = False,
    dry_run: DryRunOpt = False,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    debug: DebugOpt = False,
) -> None:
    """Write a quantised checkpoint for another program.

    Reports the error of every value that was rounded. Needs little memory, whatever the size. At
    any moment the target is absent, the old file, or complete. After a killed run, the next one
    continues. A target that is up to date is not written again. `dsmops verify SOURCE TARGET`
    checks the file, also one that another program wrote.

    \b
    Examples:
      dsmops export --to gguf model.safetensors model.q8.gguf
      dsmops export --to gguf --quant q4_k model.safetensors model.q4k.gguf
      dsmops export --to mlx --quant q4 model.safetensors model.q4.safetensors
      dsmops export --to moshi --dry-run model.safetensors model.int8.safetensors
    """
    without_blas_threads()
    from dsmops.checkpoint.export import Runtime, plan_export
    from dsmops.checkpoint.export.outcome import carry_out
    from dsmops.checkpoint.plan import require_apart
    from dsmops.cli.views.export import show_export
    from dsmops.files import replace_atomically

    out = Reporter.open("export", json=json, quiet=quiet, debug=debug)
    path = at_hand(source, out, download=not dry_run)
    plan = plan_export(path, target, Runtime(to), quant)
    if report is not None:
        require_apart(report, plan)
    # Opened first: a report that cannot be written is an error before the work.
    with nullcontext() if report is None else replace_atomically(report) as file:
        outcome = carry_out(
            plan,
            force=force,
            dry_run=dry_run,
            digest=not no_digest,
            fsync=not no_fsync,
            progress=out.progress(),
        )
        if file is not None:
            file.write(f"{out.document(outcome)}\n".encode())
    out.result(outcome, show_export(outcome))


def register(app: typer.Typer) -> None:
    """Add this group's command to the application."""
    app.command("export", rich_help_panel=PREPARE)(export)
