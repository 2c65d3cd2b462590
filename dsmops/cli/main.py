"""The way in and the only way out: every exception becomes words and an exit code here."""

from __future__ import annotations

import io
import os
import sys
import tempfile
import traceback
from pathlib import Path

from dsmops.errors import DsmopsError
from dsmops.files import translate
from dsmops.report.reporter import Reporter

EXIT_BUG = 70


def main() -> int:
    """Run the command line of this process and return its exit code (`dsmops.errors` lists them)."""
    _prepare_streams()
    from dsmops.cli.app import app

    try:
        app(prog_name="dsmops")
    except DsmopsError as exc:
        reporter = Reporter.current or Reporter()
        if reporter.debug:
            traceback.print_exc()
        reporter.error(exc)
        return exc.exit_code
    except OSError as exc:
        # Met where no room expects one: a folder that vanished under us, a name too long, a full disk behind stdout.
        error = translate(exc, exc.filename or "the system")
        (Reporter.current or Reporter()).error(error)
        return error.exit_code
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except Exception as exc:  # noqa: BLE001 the one place that may: a bug must end in one line and a saved traceback
        return _report_bug(exc)
    return 0


def _prepare_streams() -> None:
    """Let output never fail for its encoding, nor for a stream that the caller closed."""
    # These stay open for as long as the process lives.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
