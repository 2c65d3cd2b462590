"""How a preparation ended, and what was done with each item."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from dsmops.checkpoint import ConversionReport
from dsmops.config.lint import LintReport
from dsmops.config.plan import ServingPlan
from dsmops.devices import Device
from dsmops.dtypes import ComputeDType
from dsmops.operations.prepare.items import Item


class PrepareOutcome(StrEnum):
    """How a preparation ended."""

    DONE = "done"
    UP_TO_DATE = "up to date"
    DRY_RUN = "dry run"
    DOES_NOT_FIT = "does not fit"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What was done, or would be.

    `lint` is None where no config was written: in a dry run, or when nothing fits. `config_diff` is
    the change to a config that was already there, without API keys.
    """

    outcome: PrepareOutcome
    device: Device
    model: str
    dtype: ComputeDType
    batch_size: int | None
    items: tuple[Item, ...] = field(metadata={"json": "parts"})
    serving: ServingPlan
    conversion: ConversionReport | None
    config_path: Path
    config_diff: str
    lint: LintReport | None
    next_commands: tuple[str, ...]
    notes: tuple[str, ...]
