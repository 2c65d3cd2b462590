"""Which lines begin an event, which belong to one, and what a record says."""

import random
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.logs import Clock, LogRecord, Style, parse, render
from dsmops.logs.formats import FORMATS
from dsmops.logs.plain_text import clean
from dsmops.logs.reader import Reader
from tests.logs.server_logs import (
    CAUSES,
    DIALECTS,
    START,
    TRACEBACK,
    Event,
    ansi,
    compose,
    other,
    plain,
)

ERROR = Event(
    START,
    "ERROR",
    "moshi_server::utils",
    "src/utils.rs",
    218,
    "task failed",
    {"name": '"model_loop"'},
)
INFO = Event(START, "INFO", "moshi_server", "src/main.rs", 7, "hello")


def records(*lines: str) -> list[LogRecord]:
    return list(parse((line.encode() for line in lines), Clock(ZoneInfo("America/New_York"))))


def test_colours_within_colours_go_in_linear_time() -> None:
    """A code that only the removal of others puts together goes too, however deep, and what is left
    over is spelled out.
    """
    assert clean("\x1b\x1b[2m[0mone\x1b[3") == "one\\x1b[3"
    assert clean("\x1b[" * 200_000 + "1;2m" * 200_000 + "two") == "two"


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_every_dialect_says_the_same(name: str) -> None:
    """Time, level, target, source and message of an event are found in whatever dialect it was
    written.
    """
    event = Event(
        START.replace(microsecond=595000),
        "WARN",
        "moshi_server::batched_asr",
        "src/batched_asr.rs",
        268,
        "a: b",
        {"x": "1"},
    )
    [record] = records(DIALECTS[name](event))
    assert (record.time, record.level, record.message) == (event.time, "WARN", "a: b x=1")
    assert record.target == (None if name in ("compact", "icon_only") else event.target)
    if name not in ("pretty", "compact", "icon_only"):
        assert (record.file or "").endswith("batched_asr.rs")
        assert record.line == (275 if name == "registry_path" else 268)
    assert (record.service is not None) == name.startswith("compose")


def test_no_line_is_of_two_dialects() -> None:
    """At most one dialect takes a line, so the order in which they are tried cannot matter."""
    rng = random.Random(4)
    for dialect in DIALECTS.values():
        for _ in range(20):
            text = dialect(other(rng, START)).partition(" | ")[2] or dialect(other(rng, START))
            text = text.replace("\x1b", "")
            assert sum(form.parse(text, Clock(UTC)) is not None for form in FORMATS) <= 1


def test_causes_and_tracebacks_stay_with_their_event() -> None:
    """A cause chain and the traceback after an error are its continuation.

    The next event begins a new record.
    """
    first, second, third = records(
        ansi(ERROR), *CAUSES, plain(ERROR), *TRACEBACK, "  note", plain(INFO)
    )
    assert list(first.continuation) == CAUSES
    assert list(second.continuation) == [*TRACEBACK, "  note"]
    assert third.continuation == ()


def test_a_traceback_that_no_error_announced_is_an_error_of_its_own() -> None:
    """After an INFO line a traceback begins an event of level ERROR, chained exceptions included.

    A print after it does not belong.
    """
    chain = [
        *TRACEBACK,
        "",
        "During handling of the above exception, another exception occurred:",
        "",
        *TRACEBACK,
    ]
    info, error, text = records(plain(INFO), *chain, "printed")
    assert info.continuation == ()
    assert (error.format, error.level, [error.message, *error.continuation]) == (
        "python",
        "ERROR",
        chain,
    )
    assert (text.format, text.message, text.level) == ("text", "printed", None)


def test_containers_are_kept_apart() -> None:
    """A cause that comes after another container's line belongs to its own container's event."""
    stt, tts = compose(ansi, "stt-1"), compose(plain, "tts-1")
    found = records(
        stt(ERROR),
        tts(INFO),
        "stt-1    |",
        "tts-1    | printed",
        "stt-1    | Caused by:",
        "stt-1    |     0: x",
    )
    assert [(record.service, record.continuation) for record in found] == [
        ("tts-1", ()),
        ("stt-1", ("", "Caused by:", "    0: x")),
        ("tts-1", ()),
    ]


@pytest.mark.slow
@given(
    lines=st.lists(
        st.text(st.characters(exclude_characters="\n"), max_size=30)
        | st.sampled_from([*CAUSES, *TRACEBACK, plain(INFO)])
    )
)
def test_no_line_is_lost(lines: list[str]) -> None:
    """Whatever the lines, each is the beginning of one record or in the continuation of one, in
    order; nothing raises.
    """
    reader = Reader(Clock(UTC))
    shown = [reader.line(line.encode("utf-8", "surrogatepass")) for line in lines]
    found = [
        record
        for record in parse((line.encode("utf-8", "surrogatepass") for line in lines), Clock(UTC))
        if not record.service
    ]
    assert sum(1 + len(record.continuation) for record in found) == sum(
        not line.prefix for line in shown
    )


@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_rendered_records_read_the_same_again(name: str) -> None:
    """Rendering, reading and rendering again gives the same line, in 12 and 24 hours and in other
    zones.
    """
    rng = random.Random(6)
    for zone in ("UTC", "Asia/Kolkata", "America/St_Johns"):
        for hours24 in (False, True):
            style = Style(Clock(ZoneInfo(zone), hours24=hours24))
            for _ in range(5):
                [record] = records(DIALECTS[name](other(rng, START)))
                line = render(record, style)
                [again] = parse([line.encode()], style.clock)
                assert render(again, style) == line


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2025-11-15T08:39:03.595169Z", datetime(2025, 11, 15, 8, 39, 3, 595169, tzinfo=UTC)),
        ("2025-11-15T10:39:03.595169+02:00", datetime(2025, 11, 15, 8, 39, 3, 595169, tzinfo=UTC)),
        ("2025-11-15 03:39:03.595", datetime(2025, 11, 15, 8, 39, 3, 595000, tzinfo=UTC)),
        ("2025-11-15T08:39:03Z", datetime(2025, 11, 15, 8, 39, 3, tzinfo=UTC)),
        ("2025-02-30T08:39:03Z", None),
        ("2025-11-15T24:39:03Z", None),
        ("1999-11-15T08:39:03Z", None),
    ],
)
def test_stamps(text: str, time: datetime | None) -> None:
    """With Z, with an offset or in local time.

    A time that does not exist makes no record, and the line is kept as text.
    """
    [record] = records(f"{text}  INFO moshi_server: src/main.rs:1: x")
    assert record.time == time
    assert time or record.message == f"{text}  INFO moshi_server: src/main.rs:1: x"
