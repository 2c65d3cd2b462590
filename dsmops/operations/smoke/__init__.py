"""`smoke-test`: find out whether a server works, by talking to it."""

from dsmops.operations.smoke.checks import CHECKS, Check, CheckResult, CheckStatus
from dsmops.operations.smoke.report import Backend, SmokeReport
from dsmops.operations.smoke.request import SmokeRequest
from dsmops.operations.smoke.run import smoke_test
from dsmops.operations.smoke.simulate import Simulation, simulate_success

__all__ = [
    "CHECKS",
    "Backend",
    "Check",
    "CheckResult",
    "CheckStatus",
    "Simulation",
    "SmokeReport",
    "SmokeRequest",
    "simulate_success",
    "smoke_test",
]
