"""`prep-sm75`: from a card to a converted checkpoint and a config that fits.

Everything is planned first, then done, and only where needed.

A second run finds everything up to date and changes nothing. An operator's changes to an existing
config stay.
"""

from __future__ import annotations

import shutil
from collections import defaultdict
from pathlib import Path
from shlex import quote

from dsmops.checkpoint import ConversionReport, convert, plan_conversion
from dsmops.config.lint import LintReport
from dsmops.config.modules import modules
from dsmops.config.plan import visible_to_server
from dsmops.config.render import masked_diff
from dsmops.devices import Runtime
from dsmops.dtypes import ComputeDType
from dsmops.errors import DriverMissingError, TensorRangeError
from dsmops.files import os_errors, require_free_space, write_text_atomically
from dsmops.gpu.findings import GpuCode
from dsmops.hub import fetch
from dsmops.operations.configs.checking import lint_config
from dsmops.operations.prepare.items import Action, Item
from dsmops.operations.prepare.plan import PreparePlan, PrepareRequest, plan_preparation
from dsmops.operations.prepare.published import is_published, preview_published
from dsmops.operations.prepare.report import PrepareOutcome, PrepareReport
from dsmops.progress import SILENT, Progress

__all__ = [
    "Action",
    "Item",
    "PrepareOutcome",
    "PreparePlan",
    "PrepareReport",
    "PrepareRequest",
    "is_published",
    "means_no_card",
    "plan_preparation",
    "prepare",
    "preview",
    "preview_published",
]

_NO_CARD = {
    GpuCode.DRIVER_MISSING,
    GpuCode.DEVICE_MISSING,
    GpuCode.CONTAINER_WITHOUT_GPU,
    GpuCode.WSL_WITHOUT_GPU,
    GpuCode.WSL_DRIVER_MISSING,
}
"""Findings that mean a machine without a GPU; any other means one with a GPU that does not work."""


def preview(plan: PreparePlan) -> PrepareReport:
    """Return what acting on `plan` would do, or that it would be pointless."""
    return _report(plan, PrepareOutcome.DRY_RUN if plan.fits else PrepareOutcome.DOES_NOT_FIT)


def prepare(
    plan: PreparePlan,
    *,
    progress: Progress = SILENT,
) -> PrepareReport:
    """Do what `plan` says: download, convert, write the config, lint it.

    What is up to date is not touched.

    `progress` announces the downloads, with their sizes, before they begin.

    Raises:
        DiskFullError: for downloads and conversion together, before either begins.
        TensorRangeError: weights that do not fit the dtype; no checkpoint and no config is written.
        TransferError, IntegrityError, CredentialsError: the download failed.
        TargetBusyError: another process writes the same file.
    """
    _require_room(plan)
    if plan.staging.downloads is not None and not plan.staging.is_here:
        progress.announce(plan.staging.downloads.lines())
        fetch(plan.staging.downloads, progress=progress)
    conversion = None
    if plan.output is not None and any(item.action is Action.CONVERT for item in plan.items):
        conversion = _convert(plan.staging.weights, plan.output, plan.serving.dtype, progress)
    path = Path(plan.config.path)
    if plan.before is None or plan.before.text != plan.config.text:
        if plan.afresh and path.exists():
            with os_errors(path):
                shutil.copy2(path, path.with_name(f"{path.name}.bak"))
        write_text_atomically(path, plan.config.text, private=not path.exists())
    lint = lint_config(
        plan.config,
        device=plan.device,
        server_version=plan.server_version,
        quantised=plan.serving.quantised,
    )
    return _report(
        plan,
        PrepareOutcome.DONE if plan.changes_something else PrepareOutcome.UP_TO_DATE,
        conversion=conversion,
        lint=lint,
    )


def means_no_card(error: DriverMissingError) -> bool:
    """Return whether the error says that this machine has no GPU.

    False for a GPU that does not work or is hidden.
    """
    return error.code in _NO_CARD


def _require_room(plan: PreparePlan) -> None:
    """Check the room for downloads and conversion together, disk by disk.

    Raises:
        DiskFullError: one of the disks has less than it would have to take.
    """
    needs: defaultdict[int, int] = defaultdict(int)
    folders: dict[int, Path] = {}
    wanted = [
        (plan.output.parent, item.size_bytes or 0)
        for item in plan.items
        if plan.output and item.action is Action.CONVERT
    ]
    if plan.staging.downloads is not None:
        wanted.append((plan.staging.downloads.settings.cache, plan.staging.downloads.fetch_bytes))
    for folder, need_bytes in wanted:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        disk = there.stat().st_dev
        needs[disk] += need_bytes
        folders[disk] = folder
    for disk, need_bytes in needs.items():
        require_free_space(folders[disk], need_bytes)


def _convert(
    source: Path, target: Path, dtype: ComputeDType, progress: Progress
) -> ConversionReport:
    try:
        return convert(plan_conversion(source, target, dtype.storage), progress=progress)
    except TensorRangeError as exc:
        command = (
            f"dsmops convert {quote(str(source))} clamped.safetensors --dtype {dtype.candle_name}"
            " --on-overflow clamp"
        )
        hint = (
            f"Choose what becomes of them, for example `{command}`, then give the result as"
            " --input-path."
        )
        raise TensorRangeError(exc.message, hint=hint) from exc


def _report(
    plan: PreparePlan,
    outcome: PrepareOutcome,
    *,
    conversion: ConversionReport | None = None,
    lint: LintReport | None = None,
) -> PrepareReport:
    name = quote(plan.config.path)
    visible = f"{visible_to_server(plan.device)} " if plan.device.cuda_ordinal else ""
    in_int8 = "".join(f" {word}" for word in plan.serving.quantised.worker_options)
    commands = [
        f"dsmops check-config {name}{in_int8}",
        f"{visible}dsmops smoke-test --config {name}{in_int8}",
    ]
    if plan.serving.runtime is Runtime.MOSHI_SERVER:
        commands.append(f"{visible}moshi-server worker --config {name} --addr 127.0.0.1")
    commands.append(f"{visible}dsmops worker --config {name} --addr 127.0.0.1{in_int8}")
    if plan.output is not None:
        commands.insert(
            0, f"dsmops verify {quote(str(plan.staging.weights))} {quote(str(plan.output))}"
        )
    return PrepareReport(
        outcome=outcome,
        device=plan.device,
        model=plan.model.name,
        dtype=plan.serving.dtype,
        batch_size=next(
            (
                module.whole("batch_size")
                for module in modules(plan.config)
                if module.has_lm or module.type == "Py"
            ),
            None,
        ),
        items=plan.items,
        serving=plan.serving,
        conversion=conversion,
        config_path=Path(plan.config.path),
        config_diff=masked_diff(plan.before, plan.config) if plan.before else "",
        lint=lint,
        next_commands=tuple(commands)
        if outcome in {PrepareOutcome.DONE, PrepareOutcome.UP_TO_DATE}
        else (),
        notes=plan.notes,
    )
