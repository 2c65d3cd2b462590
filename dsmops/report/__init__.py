"""How things are shown: text for people, one JSON document for programs, bars on a terminal, logging on stderr."""

from dsmops.report.reporter import Reporter
from dsmops.report.terminal import Block, Table

__all__ = ["Block", "Reporter", "Table"]
