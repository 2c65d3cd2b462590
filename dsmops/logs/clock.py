"""Time stamps: from every dialect to UTC, and to the friendly stamp of one zone.

Every dialect writes `YYYY-MM-DD HH:MM`, then `:SS.fraction`, then what says the zone (the tail).
Time zones change on whole minutes, so a minute is worked out once and the seconds are copied.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo

STAMP = (
    r"(?P<minute>20\d\d-\d\d-\d\d[T ]\d\d:\d\d):(?P<seconds>[0-5]\d(?:\.\d{1,9})?)"
    r"(?P<tail>Z|[+-]\d\d:\d\d|)"
)
"""Pattern of the stamps that servers write: RFC 3339, or the fork's local time without a zone."""

FRIENDLY_STAMP = (
    r"\[(?P<minute>20\d\d-\d\d-\d\d \d\d:\d\d):(?P<seconds>[0-5]\d\.\d{3})"
    r"(?P<tail>(?: [AP]M)? \S{1,40} \([+-]\d{4}\))\]"
)
"""Pattern of the stamps that `Clock.stamp` writes, with 12 or 24 hours."""

_FRIENDLY_TAIL = re.compile(r"(?: (?P<half>[AP]M))? \S+ \((?P<offset>[+-]\d{4})\)")
_MINUTES_KEPT = 4096
_JITTER = timedelta(minutes=1)
"""Threads write a little out of order. A larger step back in time begins the second pass of that
hour."""


class Clock:
    """Reads stamps and writes friendly ones in one zone.

    The zone None is the machine's own, as the environment says. Stamps without a zone are taken to
    be in the same zone. In the hour that occurs twice such a stamp is taken for the first pass,
    unless that would be a step back in time. So `instant` depends on the stamps before, and wants
    them in order.
    """

    def __init__(self, zone: tzinfo | None = None, *, hours24: bool = False) -> None:
        self.zone = zone
        self._hours24 = hours24
        self._minutes: dict[tuple[str, str], datetime | tuple[datetime, datetime] | None] = {}
        self._around: dict[datetime, tuple[str, str]] = {}
        self.last: datetime | None = None
        """What the last stamp without a zone was taken for, in UTC."""
        self.guessed = False
        """Whether the first stamp without a zone was ambiguous. Then the stamps before it would
        matter."""

    def fresh(self) -> Clock:
        """Return a clock of the same zone that has seen nothing."""
        return Clock(self.zone, hours24=self._hours24)

    def instant(self, minute: str, seconds: str, tail: str) -> datetime | None:
        """Return the UTC time of a stamp's three parts, or None where no such time exists."""
        found = self.minute(minute, tail)
        if found is None:
            return None
        parts = timedelta(seconds=int(seconds[:2]), microseconds=int(seconds[3:9].ljust(6, "0")))
        if isinstance(found, tuple):
            first, second = (begin + parts for begin in found)
            self.guessed |= self.last is None
            time = second if self.last and first < self.last - _JITTER else first
        else:
            time = found + parts
        if not tail:
            self.last = time
        return time

    def minute(self, minute: str, tail: str) -> datetime | tuple[datetime, datetime] | None:
        """Return the UTC time at which a stamp's minute begins.

        None where it does not exist, two times where it occurs twice (no tail).
        """
        key = (minute, tail)
        if key not in self._minutes:
            if len(self._minutes) >= _MINUTES_KEPT:
                self._minutes.clear()
            try:
                self._minutes[key] = self._resolve(datetime.fromisoformat(minute), tail)
            except ValueError:
                self._minutes[key] = None
        return self._minutes[key]

    def around(self, minute: datetime) -> tuple[str, str]:
        """Return the text before and after the seconds in the friendly stamps of a UTC minute."""
        if minute not in self._around:
            if len(self._around) >= _MINUTES_KEPT:
                self._around.clear()
            here = minute.astimezone(self.zone)
            hour = here.hour if self._hours24 else here.hour % 12 or 12
            half = "" if self._hours24 else " AM" if here.hour < 12 else " PM"
            self._around[minute] = (
                f"[{here.year}-{here.month:02d}-{here.day:02d} {hour:02d}:{here.minute:02d}:",
                f"{half} {here.tzname()} ({here:%z})]",
            )
        return self._around[minute]

    def stamp(self, time: datetime) -> str:
        """Return the friendly stamp of a time in UTC, milliseconds truncated.

        It is `[2025-11-15 08:39:03.595 AM UTC (+0000)]`.
        """
        before, after = self.around(time.replace(second=0, microsecond=0))
        return f"{before}{time.second:02d}.{time.microsecond // 1000:03d}{after}"

    def _resolve(self, wall: datetime, tail: str) -> datetime | tuple[datetime, datetime]:
        if tail == "Z":
            return wall.replace(tzinfo=UTC)
        if not tail:
            # A wall time skipped in spring gives first > second; the first is the one that the
            # offset before the jump says.
            first, second = (
                wall.replace(tzinfo=self.zone, fold=fold).astimezone(UTC) for fold in (0, 1)
            )
            return (first, second) if first < second else first
        friendly = _FRIENDLY_TAIL.fullmatch(tail)
        offset = friendly["offset"] if friendly else tail.replace(":", "")
        if friendly and friendly["half"]:
            if not 1 <= wall.hour <= 12:
                raise ValueError("an hour of 12-hour time is 1 to 12")
            wall = wall.replace(hour=wall.hour % 12 + (12 if friendly["half"] == "PM" else 0))
        east = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:5]))
        return wall.replace(tzinfo=timezone(-east if offset[0] == "-" else east)).astimezone(UTC)
