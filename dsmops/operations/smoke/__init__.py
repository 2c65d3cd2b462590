"""`smoke-test`: the truth about a server, found by talking to it."""

from dsmops.operations.smoke.checks import KINDS, Check, Kind, Status
from dsmops.operations.smoke.report import Backend, SmokeReport
from dsmops.operations.smoke.request import SmokeRequest
from dsmops.operations.smoke.run import smoke_test
from dsmops.operations.smoke.simulate import Parts, simulate_success

__all__ = [
    "KINDS",
    "Backend",
    "Check",
    "Kind",
    "Parts",
    "SmokeReport",
    "SmokeRequest",
    "Status",
    "simulate_success",
    "smoke_test",
]
