"""Arguments that are names of files: what people type by mistake, and what they meant."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand

_OTHER_STORES = ("gs", "gcs", "az", "abfs", "abfss", "wasb", "hdfs")
_DASHED_FILE = re.compile(r"-[^-].*\.\w{1,5}")


class FileCommand(TyperCommand):
    """A command whose arguments are files: a name that begins with a dash is recognised as one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {
            name
            for parameter in self.params
            for name in parameter.opts
            if name.startswith("-") and not getattr(parameter, "is_flag", False)
        }
        short = {name[1] for parameter in self.params for name in parameter.opts if len(name) == 2}
        for before, arg in zip(["", *args], args, strict=False):
            if arg == "--" or ctx.resilient_parsing:
                break
            looks_like_file = _DASHED_FILE.fullmatch(arg) and arg[1] not in short
            if before not in takes_value and (looks_like_file or _is_dashed_file(arg)):
                raise typer.BadParameter(
                    f"{arg} begins with a dash and is read as options; write ./{arg}"
                )
        return super().parse_args(ctx, args)


class RayCommand(FileCommand):
    """A `FileCommand` with `--ray [ADDRESS]`: what follows is the address if it has its form."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [*_with_ray_address(args)] if "--ray" in args else args)


def _with_ray_address(args: list[str]) -> Iterator[str]:
    from dsmops.operations.cluster import ADDRESS, AUTO

    ends = args.index("--") if "--" in args else len(args)
    for place, arg in enumerate(args):
        following = args[place + 1] if place + 1 < ends else ""
        bare = arg == "--ray" and place < ends and not ADDRESS.fullmatch(following)
        yield f"--ray={AUTO}" if bare else arg


def _is_dashed_file(arg: str) -> bool:
    return len(arg) > 2 and arg.startswith("-") and os.path.isfile(arg)  # noqa: PTH113 any string


def expanded(name: str) -> Path:
    """Return the path that a name means; `~` is the home folder where there is one."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 the method fails at ~name for an unknown name


def require_no_address(name: str, param_hint: str) -> None:
    """Usage error where an address stands for a file."""
    scheme, separator, _ = name.partition("://")
    if not separator or not scheme.isalpha() or Path(name).exists():
        return
    if scheme.lower() in ("ws", "wss"):
        advice = f"a server goes behind --url: --url {name}"
    elif scheme.lower() == "s3":
        advice = "--output-dir DIR takes objects of a bucket"
    elif scheme.lower() in _OTHER_STORES:
        advice = "of object stores only s3:// is read; copy the files here, or mount the bucket"
    else:
        advice = f"curl -LO {name}"
    raise typer.BadParameter(f"{name} is an address, not a file: {advice}", param_hint=param_hint)


def require_file_or_object(name: str, param_hint: str) -> None:
    """Usage error where an address stands for a file, other than that of an object in a bucket."""
    if not name.startswith("s3://"):
        require_no_address(name, param_hint)


def require_other_file(option: str, target: Path | None, read: Mapping[str, Path | None]) -> None:
    """Check that the target of `option` is not one of the files that are read.

    It would replace that file. Raises a usage error.
    """
    from dsmops.files import is_same_file

    for what, path in read.items():
        if target is not None and path is not None and is_same_file(target, path):
            raise typer.BadParameter(
                f"{option} is the {what} itself; name another file", param_hint=option
            )


def refuse_with_url(chosen: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Usage error for options that a server decides: its model, its dtype, its rules."""
    named = [
        f"--{name.replace('_', '-')}"
        for name, value in chosen.items()
        if value != defaults.get(name)
    ]
    if named:
        raise typer.BadParameter(f"with --url the server decides; omit {' and '.join(named)}")


def refuse_with_many(given: Mapping[str, bool]) -> None:
    """Usage error for what does not go with a folder of many results."""
    for option, is_given in given.items():
        if is_given:
            raise typer.BadParameter(
                f"{option} does not go with --output-dir",
                param_hint="--output-dir",
            )


def parse_output_dir(name: str, run_dir: Path | None) -> tuple[Path, str | None]:
    """Return the run folder and, where results go into one, the address of a bucket.

    Raises usage errors.
    """
    if not name.startswith("s3://"):
        if "://" in name:
            raise typer.BadParameter(
                f"{name} is neither a folder nor s3://BUCKET/PREFIX", param_hint="--output-dir"
            )
        if run_dir is not None:
            raise typer.BadParameter(
                "it belongs to --output-dir s3://BUCKET/PREFIX", param_hint="--run-dir"
            )
        return Path(name), None
    from dsmops.operations.speech.many.outputs import default_run_folder

    bucket = name.rstrip("/")
    return run_dir or default_run_folder(bucket), bucket


def parse_shard(text: str | None) -> tuple[int, int]:
    """Return the part and the number of parts in `2/8`; a usage error for anything else."""
    if text is None:
        return 1, 1
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise typer.BadParameter(f"{text!r} is not like 1/8, part 1 of 8", param_hint="--shard")
    return int(match[1]), int(match[2])
