"""The command `export`: files for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from dsmops.cli import values
from dsmops.cli.checkpoint import SourceArg, without_blas_threads, write_export
from dsmops.cli.help import PREPARE
from dsmops.cli.options import (
    DebugOpt,
    DryRunOpt,
    JsonOpt,
    NoDigestOpt,
    NoFsyncOpt,
    QuietOpt,
    ReportOpt,
    VerifyOpt,
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
    verify: VerifyOpt = False,
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
    checks the file, also one that another program wrote. Exits 1 when --verify finds a difference.

    \b
    Examples:
      dsmops export --to gguf model.safetensors model.q8.gguf
      dsmops export --to gguf --quant q4_k model.safetensors model.q4k.gguf
      dsmops export --to mlx --quant q4 model.safetensors model.q4.safetensors
      dsmops export --to moshi --dry-run model.safetensors model.int8.safetensors
    """
    without_blas_threads()
    write_export(
        source,
        target,
        to,
        quant,
        Reporter.open("export", json=json, quiet=quiet, debug=debug),
        report=report,
        force=force,
        dry_run=dry_run,
        check=verify,
        digest=not no_digest,
        fsync=not no_fsync,
    )


def register(app: typer.Typer) -> None:
    """Add this group's command to the application."""
    app.command("export", rich_help_panel=PREPARE)(export)
