"""The way in and the only way out: every exception becomes words and an exit code here."""

from __future__ import annotations

import tempfile
import traceback
from pathlib import Path

from dsmops.errors import DsmopsError
from dsmops.report.reporter import Reporter

EXIT_BUG = 70


def main() -> int:
    """Run the command line of this process and return its exit code (`dsmops.errors` lists them)."""
    from dsmops.cli.app import app

    try:
        app(prog_name="dsmops")
    except DsmopsError as exc:
        reporter = Reporter.current or Reporter()
        if reporter.debug:
            traceback.print_exc()
        reporter.error(exc)
        return exc.exit_code
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except Exception as exc:  # noqa: BLE001 the one place that may: a bug must end in one line and a saved traceback
        return _report_bug(exc)
    return 0


def _report_bug(exc: Exception) -> int:
    reporter = Reporter.current or Reporter()
    if reporter.debug:
        traceback.print_exc()
    with tempfile.NamedTemporaryFile("w", prefix="dsmops-crash-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"dsmops {reporter.command}\n")
        traceback.print_exc(file=file)
    bug = DsmopsError(
        f"dsmops failed in a way it should not: {type(exc).__name__}: {exc}",
        hint=f"This is a bug. The traceback is in {Path(file.name)}; please report it with the command you ran.",
    )
    reporter.error(bug)
    return EXIT_BUG
