"""The server's binary: which one, does it start, do its kernels suit the card."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.devices import Device
from dsmops.findings import Severity
from dsmops.operations.doctor.findings import DoctorFinding, finding, ok
from dsmops.operations.doctor.site import Site
from dsmops.operations.server_binary import DEFAULT_NAME, Binary, BinaryKind, cargo_folder


def server(site: Site) -> Iterator[DoctorFinding]:
    """Report the server that was named, or that is found on PATH or where cargo installs."""
    if site.binary_error is not None:
        error = site.binary_error
        name = "server-missing" if error.code == "file.missing" else "server-unreadable"
        yield finding(
            name, Severity.ERROR, f"no server to look at: {error.message}", fix=error.hint
        )
    elif site.binary is None:
        yield finding(
            "server-none",
            Severity.NOTE,
            f"no {DEFAULT_NAME} on PATH or in ~/.cargo/bin",
            fix=(
                "`dsmops worker` serves speech to text and text to speech without it; to build it:"
                " runbooks/build-moshi-server-turing.md"
            ),
            unseen="whether the server knows dtype_override and has kernels for the card",
        )
    else:
        yield from _binary(site, site.binary)


def _binary(site: Site, binary: Binary) -> Iterator[DoctorFinding]:
    # A program that was only found may not be the one that serves.
    serious = Severity.ERROR if site.scope.moshi_bin else Severity.WARNING
    match binary.kind:
        case BinaryKind.PYTHON:
            cargo = cargo_folder() / DEFAULT_NAME
            yield finding(
                "server-python",
                serious,
                f"{binary.path} is the program of the Python package moshi, which has no subcommand"
                " `worker`",
                *binary.evidence,
                fix=(
                    f"Call the other by its path: {cargo}"
                    if cargo.exists()
                    else "pip install -U 'moshi>=0.2.8', which names it otherwise"
                ),
            )
            return
        case BinaryKind.UNKNOWN if binary.missing_library is None:
            fix = "Name the server: --moshi-bin ~/.cargo/bin/moshi-server"
            yield finding(
                "server-unknown",
                serious,
                f"{binary.path} is not a known server",
                *binary.evidence,
                binary.problem or "",
                fix=fix,
            )
            return
    found = list(_problems(site, binary, serious))
    yield from found
    if not any(each.severity in (Severity.ERROR, Severity.WARNING) for each in found):
        version = f" {binary.version}" if binary.version else ""
        yield ok("server", f"{binary.path} is {_name(binary.kind)}{version}", *binary.evidence)


def _name(kind: BinaryKind) -> str:
    return {BinaryKind.UPSTREAM: DEFAULT_NAME, BinaryKind.FORK: f"a fork of {DEFAULT_NAME}"}.get(
        kind, kind.value
    )


def _problems(site: Site, binary: Binary, serious: Severity) -> Iterator[DoctorFinding]:
    if binary.missing_library is not None:
        python = binary.missing_library.startswith("libpython")
        fix = (
            "LD_LIBRARY_PATH=$(python3 -c 'import sysconfig;"
            ' print(sysconfig.get_config_var("LIBDIR"))\') ' + DEFAULT_NAME + " --help"
        )
        yield finding(
            "server-library-missing",
            serious,
            f"{binary.path} does not start: {binary.missing_library} is not where the loader looks",
            binary.problem or "",
            fix=fix if python else f"ldd {binary.path} | grep 'not found'",
        )
    elif binary.problem is not None:
        yield finding(
            "server-not-starting",
            serious,
            f"{binary.path} does not answer",
            binary.problem,
            *binary.evidence,
            fix=f"{binary.path} --help",
        )
    if binary.kind is BinaryKind.FORK:
        yield finding(
            "server-fork",
            Severity.NOTE,
            f"{binary.path} is a fork, which chooses a dtype by itself, takes other keys and asks"
            " for other credentials",
            *binary.evidence,
            unseen="how far its config and its answers are those of moshi-server",
        )
    yield from _override(site, binary)
    if site.device is not None:
        yield from _kernels(site, binary, site.device)


def _override(site: Site, binary: Binary) -> Iterator[DoctorFinding]:
    if binary.has_dtype_override is not False:
        return
    yield finding(
        "server-ignores-override",
        {True: Severity.ERROR, False: Severity.NOTE, None: Severity.WARNING}[site.lacks_bf16],
        f"{binary.path} ignores `dtype_override` without a word"
        + (", and this card needs it" if site.lacks_bf16 else ""),
        *_evidence(binary, "dtype_override"),
        (
            f"it is moshi-server {binary.version}; the key came with 0.6.4"
            if binary.version
            else "the key came with 0.6.4"
        ),
        fix=_rebuild(site.device),
    )


_STALE_KERNELS = (
    "if it was rebuilt with another CUDA_COMPUTE_CAP, the build kept the old kernels: run"
    " `cargo clean -p candle-kernels` first"
)


def _kernels(site: Site, binary: Binary, device: Device) -> Iterator[DoctorFinding]:
    """Compare the PTX in the file with card and driver.

    It runs on its architecture and all later ones, where the driver compiles it.
    """
    if not binary.architectures:
        # What a wrapper starts is unknown.
        if binary.kind is not BinaryKind.DSMOPS and binary.has_dtype_override is not None:
            yield finding(
                "server-without-cuda",
                Severity.WARNING,
                f"{binary.path} shows no CUDA kernels: built without `--features cuda`, it computes"
                " on the CPU",
                fix=_rebuild(device),
            )
        return
    kernels = _evidence(binary, "CUDA kernels")
    oldest, capability = min(binary.architectures), device.compute_capability
    if capability is not None and capability < oldest:
        yield finding(
            "server-built-for-newer",
            Severity.ERROR,
            f"{binary.path} was built for {oldest.sm}, and {device.label} is older",
            *kernels,
            _STALE_KERNELS,
            fix=_rebuild(device),
        )
    elif capability is not None and capability.native_bf16 and not oldest.native_bf16:
        yield finding(
            "server-built-for-older",
            Severity.WARNING,
            f"{binary.path} was built for {oldest.sm} and lacks the bf16 kernels that it looks for"
            f" on {device.label}",
            *kernels,
            _STALE_KERNELS,
            fix=_rebuild(device),
        )
    driver = site.gpu.cuda_driver_version
    if binary.cuda_toolkit and driver and _numbers(binary.cuda_toolkit) > _numbers(driver):
        yield finding(
            "server-toolkit-newer",
            Severity.ERROR,
            f"{binary.path} needs a driver for CUDA {binary.cuda_toolkit}, and this one runs CUDA"
            f" up to {driver}",
            *kernels,
            fix=(
                f"Update the NVIDIA driver, or build with a toolkit up to {driver}:"
                " runbooks/build-moshi-server-turing.md"
            ),
        )


def _evidence(binary: Binary, about: str) -> tuple[str, ...]:
    return tuple(sentence for sentence in binary.evidence if about in sentence)


def _rebuild(device: Device | None) -> str:
    """Return the command that builds a server for a card."""
    capability = device.compute_capability if device else None
    target = f"CUDA_COMPUTE_CAP={capability.cuda_compute_cap} " if capability else ""
    return f"{target}cargo install --locked --force --features cuda moshi-server@0.6.4"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
