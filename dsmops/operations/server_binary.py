"""Identifies a server's binary by the answer to `--help` and by the content of its file.

    upstream   Kyutai's moshi-server, `cargo install moshi-server`
    fork       a moshi-server with options of its own (`--log-style`)
    dsmops     this tool, whose `worker` takes the same flags
    python     the program of the same name in the Python package moshi until 0.2.8; it has no
               subcommand `worker`

The program runs with `--help` and `--version` only, under a time limit. The file shows what the
help does not: whether the server knows `dtype_override`, the release it was installed as, and, from
the PTX text that candle puts into it, the card and the CUDA version it was built for.
"""

from __future__ import annotations

import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dsmops.devices import ComputeCapability
from dsmops.errors import InputError
from dsmops.files import os_errors

DEFAULT_NAME = "moshi-server"
_TIME_LIMIT_S = 5.0
_MAX_OUTPUT_BYTES = 64 << 10
_CHUNK_BYTES = 8 << 20
_OVERLAP_BYTES = 256
"""Longer than anything searched for, so that no match is cut in two."""

_MACHINE_CODE = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_ABOUT = b"Kyutai moshi server"
_FORK_OPTION = "log-style"
_RELEASE = re.compile(rb"/moshi-server-(\d{1,3}\.\d{1,3}\.\d{1,3})/src/")
_PTX_TARGET = re.compile(rb"\.target sm_(\d{2,3})")
_PTX_VERSION = re.compile(rb"\n\.version (\d{1,2})\.(\d)\n")
_MISSING_LIBRARY = re.compile(
    r"error while loading shared libraries: ([^:\s]+)|Library not loaded: (\S+)"
)
_SECTION = re.compile(r"^([A-Z][^:\n]*):\n((?: +\S.*\n?)+)", re.MULTILINE)
"""Title and lines of a section of a help."""
_SUBCOMMAND = re.compile(r"^  ([a-z][\w-]*)", re.MULTILINE)
_USAGE_OF_DSMOPS = re.compile(r"^Usage: dsmops\b", re.MULTILINE)

# The first CUDA with a PTX version, and so the oldest driver that runs it.
# Source: PTX ISA, table of versions.
_TOOLKIT_OF_PTX = {
    (8, 0): "12.0",
    (8, 1): "12.1",
    (8, 2): "12.2",
    (8, 3): "12.3",
    (8, 4): "12.4",
    (8, 5): "12.5",
    (8, 6): "12.7",
    (8, 7): "12.8",
    (8, 8): "12.9",
    (9, 0): "13.0",
    (9, 1): "13.1",
}


class BinaryKind(StrEnum):
    """Which program it is. The module's docstring describes each."""

    UPSTREAM = "upstream"
    FORK = "fork"
    DSMOPS = "dsmops"
    PYTHON = "python"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Binary:
    """A program and its properties. None is unknown.

    `version` is a release, known for builds by `cargo install` and for dsmops. `architectures` are
    the targets of its CUDA kernels, empty for a build without CUDA or a script. `cuda_toolkit` is
    the oldest CUDA that runs them: the one they were compiled with, or the one before.
    `missing_library` is a shared library without which it does not start, `problem` why it printed
    no help. `evidence` holds sentences.
    """

    path: str
    kind: BinaryKind
    version: str | None = None
    has_dtype_override: bool | None = None
    subcommands: tuple[str, ...] = ()
    architectures: tuple[ComputeCapability, ...] = ()
    cuda_toolkit: str | None = None
    missing_library: str | None = None
    problem: str | None = None
    evidence: tuple[str, ...] = ()

    @property
    def can_serve(self) -> bool:
        """Whether it starts and takes `worker --config FILE`."""
        return self.problem is None and "worker" in self.subcommands

    @property
    def release(self) -> str:
        """The version, or what `dtype_override`, which came with 0.6.4, says about it."""
        if self.version is not None:
            return self.version
        if self.has_dtype_override is None:
            return "of unknown version"
        return "0.6.4 or newer" if self.has_dtype_override else "older than 0.6.4"

    @property
    def abilities(self) -> list[str]:
        """What it can do beside its release, in words: the keys it knows, the cards it is for."""
        known = []
        if self.has_dtype_override is not None:
            known.append(
                "knows dtype_override" if self.has_dtype_override else "ignores dtype_override"
            )
        if self.architectures:
            targets = ", ".join(each.sm for each in self.architectures)
            known.append(f"kernels for {targets}")
        return known


@dataclass(slots=True)
class _Content:
    """What a file holds."""

    is_machine_code: bool = False
    is_script: bool = False
    head: bytes = b""
    has_dtype_override: bool = False
    has_about: bool = False
    has_fork_option: bool = False
    releases: set[str] = field(default_factory=set)
    targets: set[str] = field(default_factory=set)
    ptx_versions: set[tuple[int, int]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Answer:
    text: str
    problem: str | None = None


def cargo_folder() -> Path:
    """Return where `cargo install` puts this user's programs."""
    # The method of Path fails for a user without a home.
    return Path(os.path.expanduser("~/.cargo/bin"))  # noqa: PTH111


def find_binary(name: str = DEFAULT_NAME) -> Path | None:
    """Return the program of that name or path, on PATH or in `~/.cargo/bin`; None if missing."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), str(cargo_folder())])
    found = shutil.which(name, path=folders)
    return Path(found) if found else None


def identify_binary(path: Path, *, time_limit_s: float = _TIME_LIMIT_S) -> Binary:
    """Return what the program at `path` is.

    It runs at most three times, each for at most `time_limit_s`, and leaves no process behind.

    Raises:
        SourceError, FileAccessError: the file is missing or cannot be read.
        InputError: it is a folder, or not a program.
    """
    with os_errors(path):
        mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise InputError(
            f"{path} is not a file",
            hint="Give the server's binary, for example `~/.cargo/bin/moshi-server`.",
        )
    if not os.access(path, os.X_OK):
        raise InputError(
            f"{path} is not executable", hint=f"If it is the server: `chmod +x {path}`."
        )
    content = _read(path)
    # If started, this program imports torch and then refuses the subcommand.
    if content.is_script and b"moshi.server" in content.head:
        return Binary(
            str(path),
            BinaryKind.PYTHON,
            evidence=("it is a Python script that imports moshi.server",),
        )
    help_text = _ask(path, "--help", time_limit_s=time_limit_s)
    subcommands = _subcommands(help_text.text)
    worker_help = (
        _ask(path, "worker", "--help", time_limit_s=time_limit_s).text
        if "worker" in subcommands
        else ""
    )
    kind, reason = _kind(help_text.text, worker_help, subcommands, content)
    missing = _MISSING_LIBRARY.search(help_text.text)
    toolkit = _TOOLKIT_OF_PTX.get(max(content.ptx_versions)) if content.ptx_versions else None
    return Binary(
        path=str(path),
        kind=kind,
        version=_version(path, kind, content, time_limit_s),
        has_dtype_override=_knows_override(kind, content),
        subcommands=subcommands,
        architectures=tuple(sorted(map(ComputeCapability.parse, content.targets))),
        cuda_toolkit=toolkit,
        missing_library=(missing[1] or missing[2]) if missing else None,
        problem=help_text.problem if kind is not BinaryKind.PYTHON else None,
        evidence=tuple(_evidence(reason, content, toolkit)),
    )


def _kind(
    help_text: str, worker_help: str, subcommands: tuple[str, ...], content: _Content
) -> tuple[BinaryKind, str]:
    """Return the kind, and the evidence for it."""
    if "worker" in subcommands and _USAGE_OF_DSMOPS.search(help_text):
        return BinaryKind.DSMOPS, "its help is that of dsmops"
    if f"--{_FORK_OPTION}" in worker_help:
        return BinaryKind.FORK, f"`worker --help` offers --{_FORK_OPTION}"
    if {"worker", "validate", "configs"} <= set(subcommands):
        return BinaryKind.UPSTREAM, "its subcommands are worker, validate and configs"
    if "--gradio-tunnel" in help_text:
        return BinaryKind.PYTHON, "its help offers --gradio-tunnel"
    if content.has_about:
        kind = BinaryKind.FORK if content.has_fork_option else BinaryKind.UPSTREAM
        return kind, f"its file holds {_ABOUT.decode()!r}" + (
            f" and {_FORK_OPTION!r}" if content.has_fork_option else ""
        )
    return BinaryKind.UNKNOWN, "neither its help nor its file is that of a known server"


def _knows_override(kind: BinaryKind, content: _Content) -> bool | None:
    if kind is BinaryKind.DSMOPS:
        return True
    known = kind in (BinaryKind.UPSTREAM, BinaryKind.FORK)
    # A script is a wrapper: the server itself is elsewhere.
    return content.has_dtype_override if known and content.is_machine_code else None


def _version(path: Path, kind: BinaryKind, content: _Content, time_limit_s: float) -> str | None:
    if kind is BinaryKind.DSMOPS:
        match = re.search(
            r"^dsmops (\S+)", _ask(path, "--version", time_limit_s=time_limit_s).text, re.MULTILINE
        )
        return match[1] if match else None
    return next(iter(content.releases)) if len(content.releases) == 1 else None


def _evidence(reason: str, content: _Content, toolkit: str | None) -> list[str]:
    evidence = [reason]
    if content.is_machine_code:
        verb = "holds" if content.has_dtype_override else "does not hold"
        evidence.append(f"its file {verb} 'dtype_override'")
    if content.targets:
        targets = ", ".join(f"sm_{target}" for target in sorted(content.targets, key=int))
        evidence.append(
            f"its CUDA kernels are for {targets}"
            + (f", for CUDA {toolkit} or newer" if toolkit else "")
        )
    return evidence


def _subcommands(help_text: str) -> tuple[str, ...]:
    """Return the subcommands that a help lists, in one section or, as dsmops does, in groups."""
    sections = dict(_SECTION.findall(help_text))
    if not _USAGE_OF_DSMOPS.search(help_text):
        sections = {"Commands": sections.get("Commands", "")}
    names = [name for body in sections.values() for name in _SUBCOMMAND.findall(body)]
    return tuple(name for name in names if name != "help")


def _read(path: Path) -> _Content:
    """Read a file once, in pieces."""
    found = _Content()
    with os_errors(path), path.open("rb") as file:
        found.head = tail = file.read(4096)
        found.is_machine_code = tail.startswith(_MACHINE_CODE)
        found.is_script = tail.startswith(b"#!")
        while True:
            found.has_dtype_override |= b"dtype_override" in tail
            found.has_about |= _ABOUT in tail
            found.has_fork_option |= _FORK_OPTION.encode() in tail
            found.releases.update(match.decode() for match in _RELEASE.findall(tail))
            found.targets.update(match.decode() for match in _PTX_TARGET.findall(tail))
            found.ptx_versions.update(
                (int(major), int(minor)) for major, minor in _PTX_VERSION.findall(tail)
            )
            if not (chunk := file.read(_CHUNK_BYTES)):
                return found
            tail = tail[-_OVERLAP_BYTES:] + chunk


def _ask(path: Path, *arguments: str, time_limit_s: float) -> _Answer:
    """Run the program with arguments that print text, and return that. It gets no input."""
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            env={**os.environ, "NO_COLOR": "1"},
            start_new_session=True,
        )
    except OSError as exc:
        os.close(reader)
        return _Answer("", f"it cannot be started: {os.strerror(exc.errno or 0)}")
    finally:
        os.close(writer)
    try:
        text, ended = _listen(reader, time.monotonic() + time_limit_s)
        code = process.wait(1) if ended else None
    except subprocess.TimeoutExpired:  # it closed its output and still runs
        code = None
    finally:
        # Its child processes are in its group, and may outlive it.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        os.close(reader)
    if code == 0:
        return _Answer(text)
    if code is None:
        return _Answer(
            text,
            f"`{' '.join(arguments)}` did not end within {time_limit_s:g} s, or printed too much",
        )
    last = (text.strip().splitlines() or ["it printed nothing"])[-1][:200]
    return _Answer(text, f"`{' '.join(arguments)}` ended with code {code}: {last}")


def _listen(reader: int, deadline_s: float) -> tuple[str, bool]:
    """Return the text from a pipe, and whether it ended by the deadline on the monotonic clock."""
    data = b""
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        while len(data) < _MAX_OUTPUT_BYTES and selector.select(
            max(0.0, deadline_s - time.monotonic())
        ):
            chunk = os.read(reader, 65536)
            if not chunk:
                return data.decode(errors="replace"), True
            data += chunk
    return data.decode(errors="replace"), False
