"""Bars: on a terminal only, once the work has lasted, and honest when work is redone."""

import io
import re
import sys
import threading
from types import SimpleNamespace

import pytest

from dsmops.report import Reporter
from dsmops.report.bars import SHOW_AFTER_S, BarProgress


class Terminal(io.StringIO):
    """A stderr that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Put a terminal in place of stderr; not a fixture, since pytest puts its own stderr back
    before the test.
    """
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    return screen


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands at `now_s` until the test moves it."""
    still = SimpleNamespace(now_s=100.0)
    monkeypatch.setattr("dsmops.report.bars.time", SimpleNamespace(monotonic=lambda: still.now_s))
    return still


def last_drawn(screen: Terminal) -> str:
    """Return the last line that the bar drew, without its escape sequences."""
    lines = [
        re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip()
        for line in re.split(r"[\r\n]", screen.getvalue())
    ]
    return next(line for line in reversed(lines) if line)


def test_short_work_shows_nothing(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work that ends before half a second has passed leaves the terminal alone."""
    terminal = on_terminal(monkeypatch)
    bar = BarProgress()
    bar.start("Converting", 10)
    clock.now_s += SHOW_AFTER_S - 0.1
    bar.advance(10)
    bar.finish()
    assert terminal.getvalue() == ""


def test_long_work_shows_what_is_done(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After half a second the bar appears with everything done so far, and the label as it is,
    brackets and all.
    """
    terminal = on_terminal(monkeypatch)
    bar = BarProgress()
    bar.start("Reading [bold]\x1b[2J", 8, "files")
    bar.advance(3)
    clock.now_s += SHOW_AFTER_S
    bar.advance(2)
    bar.finish()
    assert re.match(r"Reading \[bold\]\\x1b\[2J .* 5/8 ", last_drawn(terminal))


def test_redone_work_moves_the_bar_back(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A negative advance, as after a restarted download, is drawn as such."""
    terminal = on_terminal(monkeypatch)
    bar = BarProgress(show_after_s=0)
    bar.start("Downloading", 100, "files")
    bar.advance(80)
    bar.advance(-80)
    bar.advance(7)
    bar.finish()
    assert re.search(r" +7/100 ", last_drawn(terminal))


def test_a_second_task_begins_anew(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting ends the task before; its amounts and its clock do not carry over."""
    terminal = on_terminal(monkeypatch)
    bar = BarProgress()
    bar.start("First", 10, "files")
    clock.now_s += SHOW_AFTER_S
    bar.advance(10)
    seen = len(terminal.getvalue())
    bar.start("Second", 4, "files")
    bar.advance(1)
    bar.finish()
    assert "Second" not in terminal.getvalue()[seen:]


def test_finishing_what_never_started_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    """`finish` may be called at any time, also twice."""
    terminal = on_terminal(monkeypatch)
    bar = BarProgress()
    bar.finish()
    bar.start("Work", None)
    bar.finish()
    bar.finish()
    assert terminal.getvalue() == ""


@pytest.mark.parametrize(
    ("flags", "draws"), [({}, True), ({"json": True}, False), ({"quiet": True}, False)]
)
def test_only_people_at_a_terminal_get_a_bar(
    flags: dict[str, bool], draws: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bar only on a terminal; elsewhere announcements alone; nothing with --json or --quiet."""
    on_terminal(monkeypatch)
    assert isinstance(Reporter("x", **flags).progress(), BarProgress) == draws
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    progress = Reporter("x", **flags).progress()
    assert not isinstance(progress, BarProgress)
    progress.announce(["Downloading 1 file, 3 B", "  hf://org/repo/file  3 B"])
    expected = "Downloading 1 file, 3 B\n  hf://org/repo/file  3 B\n" if draws else ""
    assert sys.stderr.getvalue() == expected


def test_work_without_a_step_is_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that loads says so after the time, not only with its first step."""
    terminal = on_terminal(monkeypatch)
    shown = threading.Event()
    bar = BarProgress(show_after_s=0.01)
    drawn = bar._open
    monkeypatch.setattr(bar, "_open", lambda: (drawn(), shown.set())[0])
    bar.start("Loading", None, "")
    assert shown.wait(10)
    bar.finish()
    assert "Loading" in terminal.getvalue()


def test_the_rate_has_its_unit(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Words for what is counted, and how many a second."""
    terminal = on_terminal(monkeypatch)
    bar = BarProgress(show_after_s=0)
    bar.start("Transcribing", 8, "recordings")
    for _ in range(4):
        bar.advance(1)
    bar.finish()
    assert re.search(r"4/8 recordings", last_drawn(terminal))


def test_a_gauge_moves_the_bar_where_units_take_different_times(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is that of units, the time left follows the share, and figures are shown."""
    terminal = on_terminal(monkeypatch)
    bar = BarProgress()
    bar.start("Transcribing", 10, "recordings")
    clock.now_s += 1
    bar.advance(1)
    bar.gauge(0.75, "2.0 h of audio, 85 × real time")
    assert bar._completed == 7.5
    bar.finish()
    assert "1/10 recordings, 2.0 h of audio, 85 × real time" in last_drawn(terminal)
    bar.start("Hashing", 10, "files")
    assert bar._completed == 0
    bar.finish()
