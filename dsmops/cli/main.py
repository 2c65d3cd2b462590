"""The way in and the only way out: every exception becomes words and an exit code here."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path

from dsmops.errors import DsmopsError
from dsmops.report import Reporter

COMPLETION = "_DSMOPS_COMPLETE"
"""Set by the scripts when a shell asks for completions."""


def main() -> int:
    """Run the command line of this process and return its exit code.

    `dsmops.errors` lists the codes.
    """
    _prepare_streams()
    _prepare_signals()
    # A shell that completes a line has the cursor in it.
    if COMPLETION not in os.environ:
        Reporter.begin_starting()
    try:
        from dsmops.cli.app import app
        from dsmops.cli.completion import PROGRAM, answer_shells

        answer_shells()
        app(prog_name=PROGRAM)
    except DsmopsError as exc:
        return _report(exc)
    except OSError as exc:
        # Met where no room expects one: a folder that vanished under us, a name too long, a full
        # disk behind stdout.
        from dsmops.files import translate

        return _report(
            translate(
                exc,
                exc.filename or ("standard output" if exc.errno == errno.ENOSPC else "the system"),
            )
        )
    except KeyboardInterrupt:
        # While the program was still loading: Typer answers those that come later.
        return 128 + signal.SIGINT
    except SystemExit as exc:
        return exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except Exception as exc:  # noqa: BLE001 the one place that may: a bug must end in one line and a saved traceback
        return _report_bug(exc)
    finally:
        Reporter.end_starting()
    return 0


def _prepare_streams() -> None:
    """Let output never fail for its encoding, nor for a stream that the caller closed."""
    # These stay open for as long as the process lives.
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _prepare_signals() -> None:
    """Let SIGTERM, or a closed terminal, end a command like Ctrl-C.

    So partial files of gigabytes are removed.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        # What the caller wants ignored (nohup) stays ignored.
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _report(error: DsmopsError) -> int:
    """Report the error and return its exit code.

    With --debug the traceback of the exception being handled follows.
    """
    reporter = Reporter.current or Reporter()
    if reporter.debug:
        import traceback

        traceback.print_exc()
    reporter.error(error)
    return error.exit_code


def _report_bug(exc: Exception) -> int:
    # Imported here: together they take 20 ms, a fifth of what a command may cost to start.
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile(
        "w", prefix="dsmops-crash-", suffix=".txt", delete=False, encoding="utf-8"
    ) as file:
        file.write(f"dsmops {Reporter.current.command if Reporter.current else ''}\n")
        traceback.print_exc(file=file)
    bug = DsmopsError(
        f"dsmops failed in a way it should not: {type(exc).__name__}: {exc}",
        hint=(
            f"This is a bug. The traceback is in {Path(file.name)}; please report it with the"
            " command you ran."
        ),
    )
    return _report(bug)
