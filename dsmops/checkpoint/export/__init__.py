"""Export checkpoints to the files that other programs load: GGUF, MLX, the int8 file of `moshi`.

Importing this package loads numpy.
"""

from __future__ import annotations

from dsmops.checkpoint.export.plan import QUANTS, ExportPlan, Runtime, plan_export
from dsmops.checkpoint.export.record import ExportReport, is_current
from dsmops.checkpoint.export.writing import can_resume, export

__all__ = [
    "QUANTS",
    "ExportPlan",
    "ExportReport",
    "Runtime",
    "can_resume",
    "export",
    "is_current",
    "plan_export",
]
