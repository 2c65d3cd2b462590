"""How things are shown: text for people, one JSON document for programs, bars on a terminal, logging on stderr."""

from dsmops.report.reporter import Block, Reporter, Table

__all__ = ["Block", "Reporter", "Table"]
