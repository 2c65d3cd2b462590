"""Disks and ports: is there space for the next steps, and who listens on the port."""

from __future__ import annotations

import errno
import http.client
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dsmops.config.values import resolve
from dsmops.findings import Severity
from dsmops.hub import read_settings
from dsmops.models import DEFAULT_STT, PublishedModel
from dsmops.operations.doctor.findings import DoctorFinding, finding, ok
from dsmops.operations.doctor.site import Site
from dsmops.units import size
from dsmops.user_settings import assets_folder

DEFAULT_PORT = 8080
"""moshi-server's own."""
_TIMEOUT_S = 2.0
_MIMI_BYTES = 385 << 20
"""The published codec, in F32."""
_LOG_BYTES = 1 << 30
"""About one day of a busy server: a line for each step, and clients that make steps of 20 ms."""
_MOST_ANSWER_BYTES = 1 << 20


def disks(site: Site) -> Iterator[DoctorFinding]:
    """Report whether disks have space, and can be written.

    The space is for what is still to be downloaded, converted and logged.
    """
    models = site.models or (DEFAULT_STT,)
    missing = {file.filename for file in site.missing_hub_files}
    needs = {
        read_settings().cache: (
            sum(_download_bytes(model, missing) for model in models),
            "downloads",
        )
    }
    if site.lacks_bf16:
        folder = site.scope.folder / assets_folder() / "fp16"
        needs[folder] = (
            0 if any(folder.glob("*.safetensors")) else sum(map(_weight_bytes, models)),
            "converted checkpoints",
        )
    for config in site.configs:
        value = config.values.get("log_dir")
        if isinstance(value, str):
            needs[site.scope.folder / resolve(value, os.environ).text] = (_LOG_BYTES, "logs")
    found = [each for folder, (need, what) in needs.items() for each in _disk(folder, need, what)]
    yield from found
    if not found:
        free = shutil.disk_usage(_existing(site.scope.folder)).free
        yield ok(
            "disk",
            "room for what comes next, in folders that may be written",
            f"{size(free)} free in {site.scope.folder.absolute()}",
        )


def _download_bytes(model: PublishedModel, missing: set[str]) -> int:
    return _weight_bytes(model) * (model.model_file in missing) + _MIMI_BYTES * (
        model.mimi_file in missing
    )


def _weight_bytes(model: PublishedModel) -> int:
    return 2 * model.shape.parameters


def _disk(folder: Path, need_bytes: int, what: str) -> Iterator[DoctorFinding]:
    place = _existing(folder)
    free = shutil.disk_usage(place).free
    if not os.access(place, os.W_OK | os.X_OK):
        yield finding(
            "disk-not-writable",
            Severity.WARNING,
            f"{what} cannot be written to {folder}",
            f"{place} belongs to user {place.stat().st_uid}, and this is user {os.geteuid()}",
            fix=f"ls -ld {place}",
        )
    if free < need_bytes:
        logs = what == "logs"
        yield finding(
            "disk-low" if logs else "disk-too-small",
            Severity.WARNING if logs else Severity.ERROR,
            f"{size(free)} are free for {what} in {folder}, and {size(need_bytes)} are "
            + ("one busy day" if logs else "needed"),
            fix=f"df -h {place}",
        )


def _existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(
        place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir()
    )


def ports(site: Site) -> Iterator[DoctorFinding]:
    """Report who listens on the named port, or on the server's own.

    A server that answers is asked what it serves.
    """
    port = site.scope.port or DEFAULT_PORT
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S):
            pass
    except OSError as exc:
        yield from _unanswered(site, port, exc)
        return
    build = _get(port, "/api/build_info")
    if isinstance(build, dict) and "git_describe" in build:
        yield _server(port, build)
    else:
        yield _taken(site, port, "by another program", "it does not answer like a moshi-server")


def _unanswered(site: Site, port: int, refused: OSError) -> Iterator[DoctorFinding]:
    """Judge a port on which nothing answers on loopback.

    It may be taken on another address, or be reserved for root.
    """
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("0.0.0.0", port))  # noqa: S104 bound for an instant, never listening
    except PermissionError:
        yield finding(
            "port-refused",
            Severity.ERROR,
            f"this user may not listen on port {port}",
            fix="Choose one from 1024 up: moshi-server worker --port 8080 ...",
        )
    except OSError as exc:
        if exc.errno != errno.EADDRINUSE:
            raise
        yield _taken(
            site,
            port,
            "on an address that is not loopback",
            f"on loopback: {refused.strerror or refused}",
        )
    else:
        yield ok("port", f"port {port} is free")


def _taken(site: Site, port: int, how: str, cause: str) -> DoctorFinding:
    return finding(
        "port-taken",
        Severity.ERROR if site.scope.port else Severity.WARNING,
        f"port {port} is taken {how}",
        cause,
        *_listeners(port),
        fix=f"Give the server another: --port {port + 1 if port < 65535 else DEFAULT_PORT}",
    )


def _server(port: int, build: dict[str, Any]) -> DoctorFinding:
    modules = _get(port, "/api/modules_info")
    slots = (
        [each for each in modules if isinstance(each, dict)] if isinstance(modules, list) else []
    )
    usage = [
        f"{each.get('path')}: {each.get('used_slots')} of {each.get('total_slots')} slots used"
        for each in slots
    ]
    evidence = (
        f"git_describe {build['git_describe']}, built {build.get('build_timestamp')}",
        *usage,
        *_listeners(port),
    )
    if any(each.get("used_slots") == each.get("total_slots") not in (None, "0") for each in slots):
        return finding(
            "port-server-full",
            Severity.WARNING,
            f"the speech server on port {port} has no free slot: it is full, or its model loop died"
            " and clients wait forever",
            *evidence,
            fix=f"dsmops smoke-test --url ws://127.0.0.1:{port}",
        )
    return finding(
        "port-server",
        Severity.NOTE,
        f"a speech server listens on port {port}; that alone does not say that it works",
        *evidence,
        fix=f"dsmops smoke-test --url ws://127.0.0.1:{port}",
    )


def _get(port: int, path: str) -> object:
    """Return the JSON that a server on loopback answers with, None for anything else."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return json.loads(answer.read(_MOST_ANSWER_BYTES)) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()


def _listeners(port: int) -> Iterator[str]:
    """Yield the processes that listen on a port, as far as Linux shows them to this user."""
    inodes = set(_listening_inodes(port))
    for process in Path("/proc").glob("[0-9]*") if inodes else ():
        with suppress(OSError):
            if any(
                link.is_symlink() and str(link.readlink()) in inodes
                for link in (process / "fd").iterdir()
            ):
                name = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
                yield f"pid {process.name}, {name}"


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        with suppress(OSError):
            for row in (
                Path("/proc/net", table)
                .read_text(encoding="ascii", errors="replace")
                .splitlines()[1:]
            ):
                fields = row.split()
                # Local address and port in hexadecimal; 0A is LISTEN. Source: proc_pid_net(5).
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"
