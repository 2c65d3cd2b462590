"""The hour that occurs twice, the one that never does, and zones with odd offsets."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.logs import Clock

ZONES = [
    "UTC",
    "America/New_York",
    "Europe/Paris",
    "Asia/Kolkata",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "America/Sao_Paulo",
]
TIMES = st.datetimes(datetime(2000, 1, 2), datetime(2037, 12, 30)).map(
    lambda time: time.replace(tzinfo=UTC, microsecond=0)
)


def read_local(clock: Clock, wall: datetime) -> datetime | None:
    return clock.instant(wall.strftime("%Y-%m-%d %H:%M"), wall.strftime("%S.%f"), "")


@given(time=TIMES, zone=st.sampled_from(ZONES), hours24=st.booleans())
def test_a_friendly_stamp_says_exactly_one_instant(
    time: datetime, zone: str, hours24: bool
) -> None:
    """Zone, half of the day and offset lead back to the instant, in the hour that occurs
    twice too.
    """
    clock = Clock(ZoneInfo(zone), hours24=hours24)
    stamp = clock.stamp(time)
    assert clock.instant(stamp[1:17], stamp[18:24], stamp[24:-1]) == time


@given(time=TIMES, zone=st.sampled_from(ZONES))
def test_stamps_are_what_strftime_says(time: datetime, zone: str) -> None:
    """The stamp made from cached minutes is the one that `datetime` makes."""
    here = time.astimezone(ZoneInfo(zone))
    assert (
        Clock(ZoneInfo(zone)).stamp(time)
        == f"[{here:%Y-%m-%d %I:%M:%S}.000 {here:%p %Z} ({here:%z})]"
    )


@pytest.mark.parametrize(
    ("zone", "start"),
    [
        ("America/New_York", datetime(2025, 11, 2, 4, 30)),
        ("Europe/Paris", datetime(2025, 10, 25, 23, 30)),
        ("Australia/Lord_Howe", datetime(2025, 4, 5, 14)),
    ],
)
def test_local_stamps_through_the_hour_that_occurs_twice(zone: str, start: datetime) -> None:
    """A log without zones that runs through the change is recognized by the step back, and a little
    disorder does no harm.
    """
    clock = Clock(ZoneInfo(zone))
    for seconds in range(0, 3 * 3600, 30):
        for disorder_s in (0, -5):
            time = start.replace(tzinfo=UTC) + timedelta(seconds=seconds + disorder_s)
            assert read_local(clock, time.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) == time


def test_an_hour_that_was_skipped_is_taken_by_the_offset_before() -> None:
    """02:30 on the day the clocks go forward is shown as 03:30, which is what the same clock would
    have said.
    """
    clock = Clock(ZoneInfo("America/New_York"))
    time = read_local(clock, datetime(2025, 3, 9, 2, 30))
    assert time == datetime(2025, 3, 9, 7, 30, tzinfo=UTC)
    assert clock.stamp(time) == "[2025-03-09 03:30:00.000 AM EDT (-0400)]"


def test_the_machines_own_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a zone stamps follow the environment, summer time included."""
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        clock = Clock()
        assert (
            clock.stamp(datetime(2025, 7, 1, 12, tzinfo=UTC))
            == "[2025-07-01 08:00:00.000 AM EDT (-0400)]"
        )
        assert (
            clock.stamp(datetime(2025, 12, 1, 12, tzinfo=UTC))
            == "[2025-12-01 07:00:00.000 AM EST (-0500)]"
        )
        assert read_local(clock, datetime(2025, 12, 1, 7)) == datetime(2025, 12, 1, 12, tzinfo=UTC)
    finally:
        monkeypatch.undo()
        time.tzset()
