"""Server logs: lines to records to lines, redacted, whatever the dialect."""
