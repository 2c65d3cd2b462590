"""Which records are wanted: by level, target and time.

Lines that belong to a record share its fate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo

from dsmops.errors import InputError
from dsmops.logs.reader import Line
from dsmops.logs.records import LEVELS, LogRecord

_RELATIVE = re.compile(r"-(\d{1,6}(?:\.\d{1,6})?)\s*(s|sec|m|min|h|d|w)")
_UNIT_S = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class Filter:
    """What is wanted. `level` is the least; `targets` are module paths, each with all below it.

    `since` is the first wanted instant and `until` the first that is not, both in UTC.
    """

    level: str | None = None
    targets: tuple[str, ...] = ()
    since: datetime | None = None
    until: datetime | None = None

    @property
    def wants_all(self) -> bool:
        """Whether no level and no target is asked for."""
        return not self.level and not self.targets

    def wants(self, record: LogRecord) -> bool:
        """Return whether level and target of a record are wanted."""
        if self.level and (
            record.level not in LEVELS or LEVELS.index(record.level) < LEVELS.index(self.level)
        ):
            return False
        name = record.target or ""
        return not self.targets or any(
            name == target or name.startswith(f"{target}::") for target in self.targets
        )

    def in_time(self, first: datetime, last: datetime) -> bool | None:
        """Return whether all instants from `first` to `last` are wanted.

        None when only some may be.
        """
        if (self.since and last < self.since) or (self.until and first >= self.until):
            return False
        return (
            True
            if (not self.since or first >= self.since) and (not self.until or last < self.until)
            else None
        )


SieveState = tuple[dict[str | None, bool], ...]


class Sieve:
    """A filter applied to the lines of one log, in order.

    A line that begins no record is treated like the record before it. Before the first record there
    is none, and such a line is dropped. Containers of docker compose are kept apart.
    """

    def __init__(self, wanted: Filter) -> None:
        self.wanted = wanted
        self.active = wanted != Filter()
        self.limits_time = bool(wanted.since or wanted.until)
        self._kept: dict[str | None, bool] = {}
        self._wanted: dict[str | None, bool] = {}
        self._in_time: dict[str | None, bool] = {}

    def keeps(self, line: Line) -> bool:
        """Return whether a line is wanted."""
        if not self.active:
            return True
        if line.record is None:
            return self.keeps_more_of(line.service)
        record = line.record
        # A Python traceback bears no time: it happened when the record before it did.
        in_time = self._in_time.get(line.service, not self.limits_time)
        if record.time is not None:
            in_time = bool(self.wanted.in_time(record.time, record.time))
        # Plain text has no level when only its collector gives the time.
        before = self._wanted.get(line.service, self.wanted.wants_all)
        wants = before if record.level is None else self.wanted.wants(record)
        self.begin(line.service, in_time=in_time, wants=wants)
        return in_time and wants

    def keeps_more_of(self, service: str | None) -> bool:
        """Return whether a line that begins no record is wanted, by the record before it."""
        return not self.active or self._kept.get(service, False)

    def state(self) -> SieveState:
        """Return a copy of what earlier lines left behind, for `return_to`."""
        return self._kept.copy(), self._wanted.copy(), self._in_time.copy()

    def return_to(self, state: SieveState) -> None:
        """Stand where `state` was taken."""
        self._kept, self._wanted, self._in_time = (part.copy() for part in state)

    def begin(self, service: str | None, *, in_time: bool, wants: bool) -> None:
        """Take note of the fate of a record, for the lines after it."""
        self._in_time[service] = in_time
        self._wanted[service] = wants
        self._kept[service] = in_time and wants


def parse_moment(text: str, now: datetime, zone: tzinfo | None) -> datetime:
    """Return the UTC instant that `--since` and `--until` name.

    `2025-11-15`, `2025-11-15 08:39[:03[.5]]` (also with `T`, `Z` or an offset), `08:39[:03]`
    (today), `today`, `yesterday`, `now`, or back from now: `-3h`, `-90s`, `-2d`. Without an offset
    the zone is `zone` (None: the machine's own).

    Raises:
        InputError: it is not one of these.
    """
    words = text.strip()
    if words == "now":
        return now
    today = now.astimezone(zone).date()
    try:
        if match := _RELATIVE.fullmatch(words):
            return now - timedelta(seconds=float(match[1]) * _UNIT_S[match[2]])
        if words in ("today", "yesterday"):
            moment = datetime.combine(today - timedelta(days=words == "yesterday"), time())
        elif re.fullmatch(r"\d\d:\d\d.*", words):
            moment = datetime.combine(today, time.fromisoformat(words))
        else:
            moment = datetime.fromisoformat(words)
        return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        raise InputError(
            f"{text!r} is not a time",
            hint="Write it like '2025-11-15 08:39', 08:39 (today), or -3h (back from now; units "
            "s, m, h, d, w).",
            code="logs.moment",
        ) from exc
