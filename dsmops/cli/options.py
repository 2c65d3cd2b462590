"""Options that several commands share, each with one name and one meaning."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dsmops import user_settings
from dsmops.cli import values
from dsmops.dtypes import ComputeDType, Quant, StorageDType

if TYPE_CHECKING:
    from dsmops.config.schema import ServerVersion
    from dsmops.report import Reporter

_DType = TypeVar("_DType", StorageDType, ComputeDType)

JsonOpt = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout instead of text.")
]
QuietOpt = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors only; the exit code tells the rest.")
]
DebugOpt = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks and debug logging (also DSMOPS_DEBUG=1).")
]
DryRunOpt = Annotated[
    bool, typer.Option("--dry-run", help="Show what would be done, with sizes, and write nothing.")
]
ForceOpt = Annotated[
    bool, typer.Option("--force", help="Do the work again even where the result is up to date.")
]
SimulateOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--simulate",
        metavar="SM",
        autocompletion=values.cards,
        help=(
            "Pretend this GPU is present instead of looking: a capability (sm75, 7.5), one with a"
            " name (75:Tesla T4), or a card from the catalogue (t4, rtx2070). Repeatable."
        ),
    ),
]
RayOpt = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Use a Ray cluster: HOST:PORT, or the one of this machine.",
    ),
]
RunDirOpt = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        readable=False,
        help="Keep the leases of a run into s3://… in this folder.",
    ),
]
DeviceOpt = Annotated[
    int | None,
    typer.Option(
        "--device",
        metavar="N",
        help="CUDA ordinal of the device to use. Default: 0, the one moshi-server takes.",
    ),
]


def is_default(ctx: typer.Context, name: str) -> bool:
    """Return whether the command line says nothing about an option."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "DEFAULT"


def prepared_model(ctx: typer.Context, model: str, types: tuple[str, ...], out: Reporter) -> str:
    """Return the newest config in `assets/` with a module of `types`, and say so.

    Returns `model` where the user gave one, and where `assets/` has none.
    """
    if not is_default(ctx, "model"):
        return model
    from dsmops.operations.configs.prepared import newest_prepared

    found = newest_prepared(types)
    if found is None:
        return model
    out.note(f"model: {found}, the newest prepared config")
    return str(found)


def typed(ctx: typer.Context, name: str) -> bool:
    """Return whether the command line itself names an option, not the environment or a file."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def check_api_key(text: str | None) -> str | None:
    """Callback of `--api-key`: what an HTTP header can carry, a usage error for the rest.

    The key itself is not repeated.
    """
    if text is not None and re.fullmatch(r"[\x21-\x7e]+", text) is None:
        raise typer.BadParameter("a key is one or more visible ASCII characters, without spaces")
    return text


TemplateOpt = Annotated[
    str | None,
    typer.Option(
        "--template",
        metavar="FILE|NAME",
        help="Config to start from: a file, or a ready one by name. Default: the model's.",
    ),
]
BatchSizeOpt = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        help="Streams at once. Default: what fits and keeps up, at most the published size.",
    ),
]
ContextOpt = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=1,
        help="Attention window in frames of 80 ms. Default: the model's own.",
    ),
]


def api_key_option(help_text: str) -> Any:
    """Return the option `--api-key`, whose meaning depends on the command."""
    return typer.Option(
        "--api-key",
        metavar="KEY",
        envvar=user_settings.API_KEY,
        callback=check_api_key,
        help=help_text,
    )


ApiKeyOpt = Annotated[str | None, api_key_option("Key that clients send. Default: a new one.")]
UrlOpt = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="Use this server, like ws://127.0.0.1:8080."),
]
ServerKeyOpt = Annotated[str | None, api_key_option("Key that the server of --url takes.")]
CpuOpt = Annotated[bool, typer.Option("--cpu", help="Compute on the CPU, also with a GPU.")]
TimestampsOpt = Annotated[
    bool, typer.Option("--timestamps", help="Show each word with its start and stop.")
]
ReportOpt = Annotated[
    Path | None,
    typer.Option(
        "--report", metavar="FILE", readable=False, help="Write the JSON document there as well."
    ),
]
VerifyOpt = Annotated[
    bool, typer.Option("--verify", help="Read the target back and compare every value.")
]
NoDigestOpt = Annotated[
    bool, typer.Option("--no-digest", help="Skip the SHA-256 of source and target.")
]
NoFsyncOpt = Annotated[
    bool, typer.Option("--no-fsync", help="Do not wait until the target is on the disk.")
]


def list_sound_devices(ctx: typer.Context, name: str | None) -> str | None:
    """Callback of `--device`: `list` shows the devices and ends the command."""
    if name == "list" and not ctx.resilient_parsing:
        from dsmops.audio.devices import list_devices
        from dsmops.cli.views.devices import show_devices

        for line in show_devices(list_devices()):
            typer.echo(line)
        raise typer.Exit
    return name


SoundDeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME|N|list",
        callback=list_sound_devices,
        is_eager=True,
        help="Sound device, by name or number; list shows them.",
    ),
]
ServerVersionOpt = Annotated[
    str | None,
    typer.Option(
        "--server-version",
        metavar="V",
        help="Check for this moshi-server release, for example 0.6.4.",
    ),
]
CheckedAddrOpt = Annotated[
    str | None,
    typer.Option("--addr", metavar="IP", help="Check the config for a server with this --addr."),
]
StrictOpt = Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings too.")]


def dtype_parser(parse: Callable[[str], _DType]) -> Callable[[str], _DType]:
    """Return the parser of a `--dtype` option: what `parse` refuses is a usage error."""

    def parse_dtype(text: str) -> _DType:
        try:
            return parse(text)
        except ValueError as exc:
            raise typer.BadParameter(str(exc)) from exc

    return parse_dtype


ListenAddrOpt = Annotated[
    str,
    typer.Option(
        "--addr", "-a", metavar="IP", help="Address to listen on; 0.0.0.0 is every network."
    ),
]
ListenPortOpt = Annotated[
    int,
    typer.Option(
        "--port", "-p", metavar="N", min=0, max=65535, help="Port; 0 lets the system choose."
    ),
]
ServerCpuOpt = Annotated[
    bool, typer.Option("--cpu", help="Compute on the CPU instead of CUDA device 0.")
]


DTypeOpt = Annotated[
    ComputeDType | None,
    typer.Option(
        "--dtype",
        metavar="DTYPE",
        autocompletion=values.compute_dtypes,
        parser=dtype_parser(ComputeDType.parse),
        help="bf16, f16 or f32 (also float16, fp16, ...). Default: the card's.",
    ),
]


WeightsOpt = Annotated[
    Quant | None,
    typer.Option("--weights", help="Store the layers in int8 or not. Default: as in the file."),
]
KvOpt = Annotated[Quant, typer.Option("--kv", help="Store the keys and values of streams in int8.")]


def parse_server_version(text: str | None) -> ServerVersion | None:
    """Return the version of a `--server-version` option, or raise a usage error."""
    from dsmops.config.schema import ServerVersion

    try:
        return None if text is None else ServerVersion.parse(text)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--server-version") from exc


def parse_size(text: str) -> int:
    """Return the bytes of `512MiB`, `0.5 GiB`, `500MB` or `0`; a usage error for anything else.

    A bare number would be read as GiB by one person and as bytes by another.
    """
    match = re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,6})?)\s*([KMGT]i?B?|B)?\s*", text, re.IGNORECASE)
    if match and not match[2] and float(match[1]):
        raise typer.BadParameter(
            f"{text} is a size without a unit; write {match[1]}GiB or {match[1]}MiB"
        )
    if match is None:
        raise typer.BadParameter(f"{text!r} is not a size; write it like 512MiB or 1.5GB")
    unit = (match[2] or "B").upper()
    base = 1024 if "I" in unit else 1000
    return int(float(match[1]) * base ** "BKMGT".index(unit[0]))
