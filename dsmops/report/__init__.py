"""How results are shown: text for people, one JSON document for programs, bars and logging."""

from dsmops.report.reporter import Reporter
from dsmops.report.terminal import Block, Document, Table, one_line

__all__ = ["Block", "Document", "Reporter", "Table", "one_line"]
