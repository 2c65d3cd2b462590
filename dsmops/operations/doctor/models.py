"""Configs and checkpoints: is a config right for this machine, and are files whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dsmops.checkpoint import Header, identify, read_header
from dsmops.config.load import Config
from dsmops.config.modules import FileRole, file_references
from dsmops.config.schema import ServerVersion
from dsmops.errors import DsmopsError, SourceError
from dsmops.findings import Severity
from dsmops.hub import HubFile, in_cache, read_settings
from dsmops.models import DEFAULT_STT
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.doctor.findings import DoctorFinding, finding, ok
from dsmops.operations.doctor.site import Site
from dsmops.operations.models.sources import locate
from dsmops.operations.server_binary import BinaryKind
from dsmops.units import counted, size
from dsmops.user_settings import assets_folder


def _converted(site: Site) -> Path:
    """Return the folder where `prep-sm75` puts what it converts to f16."""
    return site.scope.folder / assets_folder() / "fp16"


def configs(site: Site) -> Iterator[DoctorFinding]:
    """Report errors and warnings in every config.

    They are judged for this card and this server, as far as these are known.
    """
    for error in site.unreadable:
        yield finding("config-unreadable", Severity.ERROR, error.message, fix=error.hint)
    for config in site.configs:
        yield from _config(site, config)
    if not (site.configs or site.unreadable):
        ready = (
            f"{counted(len(site.templates), 'ready config')} in {site.templates[0].parent}, as"
            " shipped"
            if site.templates
            else ""
        )
        yield finding(
            "config-none",
            Severity.NOTE,
            f"no config of your own in {site.scope.folder / 'configs'}"
            f" or {site.scope.folder / assets_folder()}",
            ready,
            fix=(
                "dsmops prep-sm75"
                if site.lacks_bf16
                else "dsmops make-config" + ("" if site.device else " --simulate t4")
            ),
            unseen="whether the config that serves is right; name it with --config",
        )


def _config(site: Site, config: Config) -> Iterator[DoctorFinding]:
    report = lint_config(config, device=site.device, server_version=_version(site))
    for each in report.findings:
        if each.severity is not Severity.NOTE:
            where = f"{config.path}:{each.line}:" + (f" {each.where}" if each.where else "")
            yield finding(
                f"config-{each.code}",
                each.severity,
                f"{config.path}: {each.message}",
                where,
                fix=each.hint,
            )
    if not report.has_errors:
        notes = counted(report.counts.notes, "note")
        judged = f"judged for {site.device.label}" if site.device else "not judged for a card"
        yield ok(
            "config",
            f"{config.path} has no errors",
            f"{judged}; {notes}: dsmops check-config {config.path}",
        )


def _version(site: Site) -> ServerVersion | None:
    binary = site.binary
    return (
        ServerVersion.parse(binary.version)
        if binary and binary.version and binary.kind is BinaryKind.UPSTREAM
        else None
    )


def checkpoints(site: Site) -> Iterator[DoctorFinding]:
    """Report checkpoints that are cut off or something else, by their headers.

    They are those named; else those converted here, Kyutai's in the cache, and those that configs
    name.
    """
    named = [_located(source) for source in site.scope.checkpoints]
    yield from (each for each in named if isinstance(each, DoctorFinding))
    usual = () if named else (*_usual(site), *_of_configs(site))
    files = list(
        {path.resolve(): path for path in (*named, *usual) if isinstance(path, Path)}.values()
    )
    for path in files:
        yield from _checkpoint(site, path)
    yield from _leftovers(site)
    if not named and not files:
        repo = (site.models or (DEFAULT_STT,))[0].hf_repo
        yield finding(
            "checkpoint-none",
            Severity.NOTE,
            f"no checkpoint of Kyutai's in {_converted(site)} or in the hub cache"
            f" {read_settings().cache}",
            fix=f"dsmops prep-sm75 --hf-repo {repo}" if site.lacks_bf16 else f"hf download {repo}",
            unseen="whether a checkpoint is whole; name it with --checkpoint",
        )


def _located(source: str) -> Path | DoctorFinding:
    try:
        found = locate(source)
    except SourceError as exc:
        return finding("checkpoint-missing", Severity.ERROR, exc.message, fix=exc.hint)
    if isinstance(found, HubFile):
        path = in_cache(found)
        if path is None:
            return finding(
                "checkpoint-none",
                Severity.NOTE,
                f"{source} is not in the hub cache",
                fix=f"dsmops inspect {source}",
                unseen=f"what is in {source}",
            )
        return path
    return found


def _usual(site: Site) -> Iterator[Path]:
    yield from sorted((_converted(site)).glob("*.safetensors"))
    # One file of each name and repository: the newest snapshot that the cache has.
    newest: dict[tuple[str, str], Path] = {}
    for path in read_settings().cache.glob("models--kyutai--*/snapshots/*/*.safetensors"):
        key = (path.parents[2].name, path.name)
        if path.is_file() and (
            key not in newest or path.lstat().st_mtime > newest[key].lstat().st_mtime
        ):
            newest[key] = path
    yield from (newest[key] for key in sorted(newest))


def _of_configs(site: Site) -> Iterator[Path]:
    """Yield the local weights that configs name and that can be read.

    The findings of the config report the others.
    """
    for config in site.configs:
        for reference in file_references(config, os.environ):
            path = site.scope.folder / reference.value.text
            if reference.role in (FileRole.LM, FileRole.MIMI) and not reference.value.is_hub:
                with suppress(DsmopsError):
                    read_header(path)
                    yield path


def _checkpoint(site: Site, path: Path) -> Iterator[DoctorFinding]:
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        yield finding(
            "checkpoint-missing",
            Severity.ERROR,
            f"{path} holds no .safetensors file",
            fix="Name the file, or another folder.",
        )
    for file in files:
        try:
            header = read_header(file)
        except DsmopsError as exc:
            yield finding(
                "checkpoint-damaged",
                Severity.ERROR,
                exc.message,
                f"{size(file.stat().st_size)} on the disk" if file.is_file() else "",
                fix=exc.hint or f"Download or convert it again: rm {file}",
            )
            continue
        yield from _whole(site, file, header)


def _whole(site: Site, path: Path, header: Header) -> Iterator[DoctorFinding]:
    identity = identify(header.tensors)
    held: dict[str, int] = {}
    for tensor in header.tensors.values():
        held[tensor.dtype] = held.get(tensor.dtype, 0) + tensor.nbytes
    dtypes = ", ".join(
        f"{size(nbytes)} in {dtype}"
        for dtype, nbytes in sorted(held.items(), key=lambda item: -item[1])
    )
    if "BF16" in held and site.lacks_bf16 and identity.name != "mimi":
        yield finding(
            "checkpoint-bf16",
            Severity.NOTE,
            f"{path} is in bf16, which {site.device.label if site.device else 'this card'} does not"
            " compute: it is cast at every load",
            dtypes,
            fix=(
                f"dsmops convert {path}"
                f" {_converted(site) / path.with_suffix('.fp16.safetensors').name}"
            ),
        )
    yield ok("checkpoint", f"{path} is whole by its header", identity.description, dtypes)


def _leftovers(site: Site) -> Iterator[DoctorFinding]:
    cache, blobs = read_settings().cache, "models--kyutai--*/blobs"
    for folder, pattern in (
        (_converted(site), ".*.dsmops-partial"),
        (cache, f"{blobs}/.*.dsmops-partial"),
        (cache, f"{blobs}/*.incomplete"),
    ):
        for path in sorted(folder.glob(pattern)):
            yield finding(
                "checkpoint-partial",
                Severity.NOTE,
                f"{path} is part of a file: something writes it now, or was interrupted",
                size(path.stat().st_size),
                fix="Run the same command again: it goes on, or starts again.",
            )
