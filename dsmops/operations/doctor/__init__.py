"""`doctor`: what can be known of this machine in seconds, as findings.

Each has a cause, evidence and a fix. Nothing is changed, downloaded or loaded: no torch, no CUDA
context. Each area is a function from `Site` to findings, listed in `AREAS`; one that cannot look
says so, and the others go on.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dsmops import __version__
from dsmops.errors import DsmopsError
from dsmops.files import translate
from dsmops.findings import Counts, Severity
from dsmops.gpu import GpuReport
from dsmops.operations.doctor.cards import cards, packages, torch
from dsmops.operations.doctor.findings import NAMES, RUNBOOKS, DoctorFinding, finding
from dsmops.operations.doctor.hub import hub
from dsmops.operations.doctor.logs import logs
from dsmops.operations.doctor.machine import disks, ports
from dsmops.operations.doctor.models import checkpoints, configs
from dsmops.operations.doctor.server import server
from dsmops.operations.doctor.settings import settings
from dsmops.operations.doctor.site import Scope, Site, look

__all__ = [
    "AREAS",
    "NAMES",
    "RUNBOOKS",
    "Area",
    "Diagnosis",
    "DoctorFinding",
    "Scope",
    "diagnose",
]

AREAS: tuple[tuple[str, Callable[[Site], Iterator[DoctorFinding]]], ...] = (
    ("GPU", cards),
    ("torch", torch),
    ("packages", packages),
    ("settings", settings),
    ("server", server),
    ("configs", configs),
    ("checkpoints", checkpoints),
    ("hub", hub),
    ("disk", disks),
    ("ports", ports),
    ("logs", logs),
)
"""What is looked at, in the order in which it is reported."""


@dataclass(frozen=True, slots=True)
class Area:
    """What was found in one area."""

    name: str
    findings: tuple[DoctorFinding, ...]


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The findings of every area, their counts, and what could not be judged.

    Also the version that produced them.
    """

    dsmops_version: str
    python_version: str
    system: str
    areas: tuple[Area, ...]
    errors: int
    warnings: int
    notes: int
    not_seen: tuple[str, ...]


def diagnose(scope: Scope, gpu: GpuReport | None = None) -> Diagnosis:
    """Look at this machine and return what is found.

    `gpu` stands for the cards that a probe would find.

    Takes seconds, at worst: each program that is asked, and the hub, have time limits. Never raises
    for what it looks at.
    """
    site = look(scope, gpu)
    areas = tuple(Area(name, tuple(_ask(name, area, site))) for name, area in AREAS)
    findings = [each for area in areas for each in area.findings]
    counts = Counts.of(findings)
    return Diagnosis(
        dsmops_version=__version__,
        python_version=platform.python_version(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        areas=areas,
        errors=counts.errors,
        warnings=counts.warnings,
        notes=counts.notes,
        not_seen=tuple(dict.fromkeys(each.unseen for each in findings if each.unseen)),
    )


def _ask(
    name: str, area: Callable[[Site], Iterator[DoctorFinding]], site: Site
) -> Iterator[DoctorFinding]:
    try:
        yield from area(site)
    except DsmopsError as exc:
        yield _unseen(name, exc)
    except OSError as exc:
        # A file that vanished, a folder that may not be read: met where an area expects none.
        yield _unseen(name, translate(exc, exc.filename or "the system"))


def _unseen(name: str, error: DsmopsError) -> DoctorFinding:
    return finding(
        "area-unseen",
        Severity.WARNING,
        f"could not look further: {error.message}",
        fix=error.hint,
        unseen=f"all of {name}",
    )
