"""Steps and streams over time as CSV, for a spreadsheet or a notebook."""

from __future__ import annotations

import csv
import io
from dataclasses import fields

from dsmops.operations.log_report import LogReport, Moment
from dsmops.report import one_line
from dsmops.report.document import to_json

_COLUMNS = ("module", *(field.name for field in fields(Moment)))


def csv_text(report: LogReport) -> str:
    """Return a heading and a row for each module and stretch of time (RFC 4180).

    The columns are those of `over_time` in the JSON document. Times are in UTC.
    """
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(_COLUMNS)
    for module in report.modules:
        for moment in module.over_time:
            # A name comes from the log. Spreadsheets take one that begins with = for a formula.
            name = one_line(module.name)
            name = f"'{name}" if name.startswith(("=", "+", "-", "@")) else name
            rows.writerow([name, *to_json(moment).values()])
    return out.getvalue()
