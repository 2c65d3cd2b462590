"""`log-report`: what the logs of a server say about how it did."""

from dsmops.operations.log_report.reading import read_logs
from dsmops.operations.log_report.result import (
    Behind,
    FailureCount,
    LogReport,
    Moment,
    ServerRun,
    StepsAt,
    StreamCounts,
    Times,
    TtsCounts,
)

__all__ = [
    "Behind",
    "FailureCount",
    "LogReport",
    "Moment",
    "ServerRun",
    "StepsAt",
    "StreamCounts",
    "Times",
    "TtsCounts",
    "read_logs",
]
