"""`smoke-test`: the truth about a server, found by talking to it."""

from dsmops.flows.smoke.checks import KINDS, Check, Kind, Status
from dsmops.flows.smoke.report import Backend, SmokeReport
from dsmops.flows.smoke.request import SmokeRequest
from dsmops.flows.smoke.run import smoke_test
from dsmops.flows.smoke.simulate import Parts, simulate_success

__all__ = ["KINDS", "Backend", "Check", "Kind", "Parts", "SmokeReport", "SmokeRequest", "Status", "simulate_success", "smoke_test"]
