"""Levels, targets and times: which events come through, and that their lines come with them."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dsmops.errors import InputError
from dsmops.logs import Clock, Filter, Formatter, Style, parse_moment
from tests.logs.server_logs import CAUSES, START, TRACEBACK, Event, ansi, plain

NOW = datetime(2025, 11, 16, 1, 30, tzinfo=UTC)
PARIS = ZoneInfo("Europe/Paris")


def event(seconds: int, level: str, target: str = "moshi_server") -> Event:
    return Event(START + timedelta(seconds=seconds), level, target, "src/x.rs", 1, f"at {seconds}")


LOG = [
    "printed before all",
    ansi(event(0, "INFO")),
    "printed",
    plain(event(10, "ERROR", "moshi_server::utils")),
    *CAUSES,
    ansi(event(20, "WARN", "moshi_server::utils::deep")),
    *TRACEBACK,
    ansi(event(30, "DEBUG", "moshi_server_other")),
]


def kept(wanted: Filter) -> list[str]:
    """Return what is left of `LOG`, stamps and heads cut off."""
    out = Formatter(Style(Clock(UTC), source=False), wanted=wanted).feed("\n".join(LOG).encode())
    return [line.rpartition("] ")[2] for line in out.decode().splitlines()]


def test_without_limits_all_lines_come_through() -> None:
    """Lines before the first event included."""
    assert len(kept(Filter())) == len(LOG)


def test_a_level_brings_what_is_above_with_all_its_lines() -> None:
    """Causes come with their error, a traceback of its own counts as an error, and prints go with
    the event before them.
    """
    assert kept(Filter(level="ERROR")) == ["at 10", *CAUSES, *TRACEBACK]
    assert kept(Filter(level="WARN")) == ["at 10", *CAUSES, "at 20", *TRACEBACK]
    assert kept(Filter(level="INFO"))[:2] == ["at 0", "printed"]


def test_a_target_brings_what_is_below_it() -> None:
    """`moshi_server::utils` includes its submodules and not a module whose name only begins so."""
    assert kept(Filter(targets=("moshi_server::utils",))) == ["at 10", *CAUSES, "at 20"]
    assert kept(Filter(targets=("moshi_server",)))[-1] == "at 20"
    assert kept(Filter(targets=("moshi", "moshi_server_other"))) == ["at 30"]


def test_times_include_the_first_instant_and_not_the_last() -> None:
    """A record at `since` is in, one at `until` is out.

    A traceback happened when the record before it did.
    """
    limits = Filter(since=START + timedelta(seconds=10), until=START + timedelta(seconds=20))
    assert kept(limits) == ["at 10", *CAUSES]
    assert kept(Filter(since=START + timedelta(seconds=20))) == ["at 20", *TRACEBACK, "at 30"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2025-11-15", datetime(2025, 11, 14, 23, tzinfo=UTC)),
        ("2025-11-15 08:39", datetime(2025, 11, 15, 7, 39, tzinfo=UTC)),
        ("2025-11-15T08:39:03.5", datetime(2025, 11, 15, 7, 39, 3, 500_000, tzinfo=UTC)),
        ("2025-11-15T08:39:03Z", datetime(2025, 11, 15, 8, 39, 3, tzinfo=UTC)),
        ("2025-11-15T08:39:03-05:00", datetime(2025, 11, 15, 13, 39, 3, tzinfo=UTC)),
        ("08:39", datetime(2025, 11, 16, 7, 39, tzinfo=UTC)),
        ("today", datetime(2025, 11, 15, 23, tzinfo=UTC)),
        ("yesterday", datetime(2025, 11, 14, 23, tzinfo=UTC)),
        ("now", NOW),
        ("-3h", NOW - timedelta(hours=3)),
        ("-1.5d", NOW - timedelta(hours=36)),
        ("-90s", NOW - timedelta(seconds=90)),
        ("-5min", NOW - timedelta(minutes=5)),
        ("-2w", NOW - timedelta(weeks=2)),
    ],
)
def test_moments(text: str, expected: datetime) -> None:
    """Dates, times of today, words and distances, in the zone of the command."""
    assert parse_moment(text, NOW, PARIS) == expected


@pytest.mark.parametrize(
    "text",
    ["", "soon", "3h", "-3y", "25:00", "2025-13-01", "-999999w", "0001-01-01T00:00:00+14:00"],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    """The error quotes the text, and the hint shows how to write a time."""
    with pytest.raises(InputError, match="is not a time") as error:
        parse_moment(text, NOW, PARIS)
    assert "-3h" in error.value.hint
