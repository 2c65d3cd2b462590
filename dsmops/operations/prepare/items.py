"""The items of a preparation (files, conversion, config), and what is done with each.

For people and scripts, and for the steps that follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dsmops.checkpoint import TensorInfo, is_current, plan_conversion
from dsmops.config.load import Config
from dsmops.dtypes import ComputeDType, StorageDType
from dsmops.models import PublishedModel
from dsmops.operations.models.staging import Staging


class Action(StrEnum):
    """What will be done with one item, or was done."""

    PRESENT = "present"
    UP_TO_DATE = "up to date"
    NOT_NEEDED = "not needed"
    LEFT_TO_SERVER = "left to the server"
    DOWNLOAD = "download"
    CONVERT = "convert"
    WRITE = "write"
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a preparation: what is done with it, and where it is or will be.

    `size_bytes` is None for an item without bytes of its own, or of unknown size.
    """

    name: str
    action: Action = field(metadata={"json": "step"})
    where: str
    size_bytes: int | None
    reason: str = ""


def file_items(staging: Staging, model: PublishedModel) -> list[Item]:
    """Return what happens to the model's files before any conversion."""
    if staging.downloads is not None:
        return [
            Item(planned.file.filename, Action.DOWNLOAD, str(planned.file), planned.fetch_bytes)
            if planned.path is None
            else Item(
                planned.file.filename,
                Action.PRESENT,
                str(planned.file),
                planned.version.size_bytes,
                "in the Hugging Face cache",
            )
            for planned in staging.downloads.files
        ]
    items = [Item("weights", Action.PRESENT, str(staging.weights), None, "local")]
    for name, file_name, path in (
        ("tokenizer", model.tokenizer_file, staging.tokenizer),
        ("Mimi", model.mimi_file, staging.mimi),
    ):
        if path is not None:
            items.append(
                Item(name, Action.PRESENT, str(path), path.stat().st_size, "beside the weights")
            )
        else:
            items.append(
                Item(
                    name,
                    Action.LEFT_TO_SERVER,
                    file_name,
                    None,
                    "not beside the weights; stays as the template names it",
                )
            )
    if staging.model_config is not None:
        path = staging.model_config
        items.append(
            Item(path.name, Action.PRESENT, str(path), path.stat().st_size, "beside the weights")
        )
    return items


def conversion_item(
    staging: Staging,
    output: Path | None,
    dtype: ComputeDType,
    tensors: Mapping[str, TensorInfo],
    *,
    afresh: bool,
) -> Item:
    """Return what happens to the weights: converted, already converted, or served as they are."""
    if output is None:
        reasons = {
            ComputeDType.BF16: "the device computes bf16",
            ComputeDType.F32: "the server casts to f32 without loss while loading",
        }
        has_bf16 = any(tensor.dtype is StorageDType.BF16 for tensor in tensors.values())
        reason = reasons.get(dtype, "") if has_bf16 else "the file holds no bf16"
        return Item("conversion", Action.NOT_NEEDED, str(staging.weights), None, reason)
    if (
        staging.is_here
        and not afresh
        and is_current(plan_conversion(staging.weights, output, dtype.storage))
    ):
        return Item(
            "conversion",
            Action.UP_TO_DATE,
            str(output),
            output.stat().st_size,
            "made from this source by this recipe",
        )
    size_bytes = sum(
        tensor.nbytes * (dtype.itemsize // 2 if tensor.dtype is StorageDType.BF16 else 1)
        for tensor in tensors.values()
    )
    return Item(
        "conversion", Action.CONVERT, str(output), size_bytes, f"bf16 to {dtype.candle_name}"
    )


def config_item(config: Config, before: Config | None, *, afresh: bool) -> Item:
    """Return what happens to the config: written, changed, or left as it is."""
    size_bytes = len(config.text.encode())
    if before is None:
        return Item("config", Action.WRITE, config.path, size_bytes)
    if before.text == config.text:
        return Item("config", Action.UP_TO_DATE, config.path, size_bytes)
    return Item(
        "config",
        Action.CHANGE,
        config.path,
        size_bytes,
        "the old one stays as .bak" if afresh else "what you edited stays",
    )
