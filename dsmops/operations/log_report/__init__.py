"""`log-report`: what the logs of a server say about how it did."""

from dsmops.operations.log_report.capacity import NOTHING, Served
from dsmops.operations.log_report.comparison import with_comparison
from dsmops.operations.log_report.reading import read_logs
from dsmops.operations.log_report.result import (
    Behind,
    CapacityPlan,
    Comparison,
    Difference,
    FailureCount,
    LogReport,
    Measure,
    ModuleReport,
    Moment,
    ServerRun,
    StepsAt,
    StreamCounts,
    Times,
    TtsCounts,
)

__all__ = [
    "NOTHING",
    "Behind",
    "CapacityPlan",
    "Comparison",
    "Difference",
    "FailureCount",
    "LogReport",
    "Measure",
    "ModuleReport",
    "Moment",
    "Served",
    "ServerRun",
    "StepsAt",
    "StreamCounts",
    "Times",
    "TtsCounts",
    "read_logs",
    "with_comparison",
]
