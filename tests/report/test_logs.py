"""dsmops' own logging, as people meet it on stderr."""

import logging

import pytest

from dsmops.report import Reporter
from dsmops.report.logs import setup_logging

LOG = logging.getLogger("dsmops.some.room")


def speak() -> None:
    LOG.debug("a detail of %s", "it")
    LOG.warning("look at \x1b[2J%s", "it")
    LOG.error("it failed")


@pytest.mark.parametrize(
    ("debug", "quiet", "shown"),
    [
        (False, False, ["warning: look at \\x1b[2Jit", "error: it failed"]),
        (False, True, ["error: it failed"]),
        (
            True,
            True,
            [
                "DEBUG dsmops.some.room: a detail of it",
                "WARNING dsmops.some.room: look at \\x1b[2Jit",
                "ERROR dsmops.some.room: it failed",
            ],
        ),
    ],
)
def test_levels(
    debug: bool, quiet: bool, shown: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Warnings are sentences, quiet leaves errors only, debug shows everything with its origin;
    nothing drives the terminal.
    """
    setup_logging(debug=debug, quiet=quiet)
    speak()
    assert capsys.readouterr() == ("", "".join(f"{line}\n" for line in shown))


def test_a_second_run_in_a_process_does_not_speak_twice(capsys: pytest.CaptureFixture[str]) -> None:
    """Setting up again replaces the first set-up."""
    setup_logging(debug=False)
    setup_logging(debug=False)
    LOG.warning("once")
    assert capsys.readouterr().err == "warning: once\n"


@pytest.mark.parametrize(
    ("value", "debug"), [("1", True), ("yes", True), ("0", False), ("", False)]
)
def test_the_environment_can_ask_for_debugging(
    value: str, debug: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`DSMOPS_DEBUG` does what --debug does; empty and 0 mean no."""
    monkeypatch.setenv("DSMOPS_DEBUG", value)
    assert Reporter.open("x", json=False, quiet=False, debug=False).debug is debug
    assert logging.getLogger("dsmops").isEnabledFor(logging.DEBUG) is debug
