"""Options that several commands share, each with one name and one meaning."""

from __future__ import annotations

from typing import Annotated

import typer

from dsmops.facts import DType

JsonOpt = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only; the exit code tells the rest.")]
DebugOpt = Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logging (also DSMOPS_DEBUG=1).")]
DryRunOpt = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, with sizes, and write nothing.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Do the work again even where the result is up to date.")]
SimulateOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--simulate",
        metavar="SM",
        help="Pretend this GPU is present instead of looking: a capability (sm75, 7.5), one with a name (75:Tesla T4), "
        "or a card from the catalogue (t4, rtx2070). Repeatable.",
    ),
]
DeviceOpt = Annotated[
    int | None,
    typer.Option("--device", metavar="N", help="CUDA ordinal of the device to use. Default: 0, the one moshi-server takes."),
]


def parse_dtype(text: str) -> DType:
    """Parser of `--dtype` options: every spelling of `DType.parse`, a usage error for the rest."""
    try:
        return DType.parse(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from exc


DTypeOpt = Annotated[
    DType | None,
    typer.Option("--dtype", metavar="DTYPE", parser=parse_dtype, help="bf16, f16 or f32 (also float16, fp16, ...). Default: the card's."),
]
