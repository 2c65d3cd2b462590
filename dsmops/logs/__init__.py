"""Server logs: lines to records to lines, redacted, in any format.

format_log      one run: source, file or stream, report
parse, render   lines to `LogRecord`s, and back to friendly lines or JSON
Formatter       whole blocks at a time, step lines in bulk
redact, scan    bytes without what the rules find; how much they would find
"""

from dsmops.logs.clock import Clock
from dsmops.logs.filters import Filter, parse_moment
from dsmops.logs.follow import can_follow
from dsmops.logs.formatter import Counts, Formatter
from dsmops.logs.job import FormatReport, FormatReports, format_log, merge_logs
from dsmops.logs.keys import load_or_create_key
from dsmops.logs.merge import logs_in
from dsmops.logs.reader import parse
from dsmops.logs.records import LogRecord
from dsmops.logs.redaction import Redacted, Redactor, redact, scan, without_secrets
from dsmops.logs.render import Style, render
from dsmops.logs.sinks import plan_output
from dsmops.logs.sources import decompressed, open_source
from dsmops.logs.wrappers import WRAPPERS, is_wrapped, unwrapped
from dsmops.versions import RULE_SET_VERSION

__all__ = [
    "RULE_SET_VERSION",
    "WRAPPERS",
    "Clock",
    "Counts",
    "Filter",
    "FormatReport",
    "FormatReports",
    "Formatter",
    "LogRecord",
    "Redacted",
    "Redactor",
    "Style",
    "can_follow",
    "decompressed",
    "format_log",
    "is_wrapped",
    "load_or_create_key",
    "logs_in",
    "merge_logs",
    "open_source",
    "parse",
    "parse_moment",
    "plan_output",
    "redact",
    "render",
    "scan",
    "unwrapped",
    "without_secrets",
]
