"""Detect, choose and judge GPUs, without torch."""

from dsmops.gpu.detection import probe
from dsmops.gpu.report import (
    DeviceReport,
    DeviceState,
    GpuReport,
    choose,
    has_pre_ampere,
    require_visible,
)
from dsmops.gpu.simulation import simulate

__all__ = [
    "DeviceReport",
    "DeviceState",
    "GpuReport",
    "choose",
    "has_pre_ampere",
    "probe",
    "require_visible",
    "simulate",
]
