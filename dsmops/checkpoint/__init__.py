"""Read, convert and verify safetensors checkpoints, streaming and without torch.

Functions that read only headers are imported at once. Those that read tensor data, and with them
numpy, are imported on first use. What reads headers only is imported at once; what touches tensor
data, and with it numpy, on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsmops.checkpoint.header import Header, TensorInfo, parse_header
from dsmops.checkpoint.identity import ModelIdentity, identify
from dsmops.checkpoint.losses import LossCounts, LossReport, TensorLoss
from dsmops.checkpoint.plan import ConversionPlan, OverflowPolicy, plan_conversion
from dsmops.checkpoint.record import ConversionReport, is_current, made_by_conversion
from dsmops.checkpoint.shards import (
    Checkpoint,
    Shard,
    open_checkpoint,
    read_header,
    require_unchanged,
)

if TYPE_CHECKING:
    from dsmops.checkpoint.conversion import convert, scan
    from dsmops.checkpoint.verification import VerifyReport, verify

__all__ = [
    "Checkpoint",
    "ConversionPlan",
    "ConversionReport",
    "Header",
    "LossCounts",
    "LossReport",
    "ModelIdentity",
    "OverflowPolicy",
    "Shard",
    "TensorInfo",
    "TensorLoss",
    "VerifyReport",
    "convert",
    "identify",
    "is_current",
    "made_by_conversion",
    "open_checkpoint",
    "parse_header",
    "plan_conversion",
    "read_header",
    "require_unchanged",
    "scan",
    "verify",
]

_NEEDS_NUMPY = {
    "convert": "conversion",
    "scan": "conversion",
    "VerifyReport": "verification",
    "verify": "verification",
}


def __getattr__(name: str) -> Any:
    if name not in _NEEDS_NUMPY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_NUMPY[name]}"), name)
