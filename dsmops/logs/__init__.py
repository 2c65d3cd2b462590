"""Server logs: lines to records to lines, redacted, whatever the dialect."""

from dsmops.logs.redaction import Redacted, Redactor, load_or_create_key, redact, scan
from dsmops.logs.rules import RULE_SET_VERSION

__all__ = ["RULE_SET_VERSION", "Redacted", "Redactor", "load_or_create_key", "redact", "scan"]
