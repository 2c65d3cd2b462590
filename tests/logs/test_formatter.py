"""The fast ways give the bytes of the plain one, whatever the log and wherever it is cut."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dsmops.logs.formatter
from dsmops.logs import Clock, Filter, Formatter, Redactor, Style, bulk
from dsmops.logs.blocks import cut_blocks
from dsmops.logs.merge import Merger
from tests.logs.oracle import LEVELS, Options, Oracle
from tests.logs.secret_lines import PLANTS
from tests.logs.server_logs import CAUSES, DIALECTS, START, Event, ansi, compose, server_log, step

KEY = b"a key for tests only"
ZONES: list[tzinfo] = [
    UTC,
    ZoneInfo("America/New_York"),
    ZoneInfo("Asia/Kolkata"),
    ZoneInfo("Australia/Lord_Howe"),
]
STARTS = [
    START,
    datetime(2025, 11, 2, 4, 55, tzinfo=UTC),  # New York's clocks go back at 06:00 UTC
    datetime(2025, 3, 9, 6, 50, tzinfo=UTC),  # and forward at 07:00
    datetime(2025, 4, 5, 14, 30, tzinfo=UTC),  # Lord Howe's go back by half an hour at 15:00
]
LIST = ["  auth_id: Some(", '    "s3cret-one",', "authorized_ids = [", "  'a', 'b'", "text: [", "]"]
PEM = [
    "-----BEGIN PRIVATE KEY-----",
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    "  c2hvcnQ=",
    "-----END PRIVATE KEY-----",
]
DAMAGE = [
    b"",
    b"\n",
    b"\xff",
    b"\x1b",
    b"\x1b[0m",
    b"7",
    b" ",
    b'"',
    b"\x00",
    b"\r",
    b"\t",
    "é".encode(),
    "\u202e".encode(),
    b"Z",
    b"{",
    b"0",
]


NEVER = 1 << 60
"""So many bytes into a log the bulk way begins: never."""


@pytest.fixture(autouse=True, scope="module")
def _bulk_of_few_lines() -> Iterator[None]:
    """Let the bulk way take blocks and groups of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dsmops.logs.formatter, "_BULK_BYTES", 1)
        patch.setattr(bulk, "LEAST_ROWS", 1)
        yield


def formatter(options: Options, *, jsonl: bool = False, bulk_from_bytes: int = 0) -> Formatter:
    return Formatter(
        Style(
            Clock(options.zone, hours24=options.hours24),
            source=options.source,
            strip_raw=options.strip_raw,
            jsonl=jsonl,
        ),
        redactor=None if options.key is None else Redactor(options.key),
        wanted=Filter(options.level, options.targets, options.since, options.until),
        bulk_from_bytes=bulk_from_bytes,
    )


def formatted(
    data: bytes,
    chunk: int,
    options: Options,
    *,
    jsonl: bool = False,
    bulk_from_bytes: int = 0,
) -> tuple[bytes, Formatter]:
    ours = formatter(options, jsonl=jsonl, bulk_from_bytes=bulk_from_bytes)
    chunks = [data[place : place + chunk] for place in range(0, len(data), chunk)]
    return b"".join([*(ours.feed(block) for block in cut_blocks(chunks)), ours.flush()]), ours


def some_options(rng: random.Random, start: datetime) -> Options:
    """Return options that differ from the defaults in a few points."""
    options = Options(
        zone=rng.choice(ZONES),
        hours24=rng.random() < 0.3,
        source=rng.random() < 0.7,
        strip_raw=rng.random() < 0.2,
    )
    options.key = rng.choice([None, KEY, KEY])
    if rng.random() < 0.3:
        options.level = rng.choice(LEVELS)
    if rng.random() < 0.2:
        options.targets = (rng.choice(["moshi_server", "moshi_server::batched_asr", "tower_http"]),)
    if rng.random() < 0.2:
        options.since = start + timedelta(seconds=rng.randint(0, 60))
    if rng.random() < 0.2:
        options.until = start + timedelta(seconds=rng.randint(0, 600))
    return options


def some_log(rng: random.Random, start: datetime) -> bytes:
    """Return a log of mixed dialects, with secrets, key blocks, either line end, and damage."""
    gap_ms, steps = rng.choice([1, 80, 30_000, 120_000]), rng.choice([0.3, 0.9, 0.99])
    lines = []
    for line in server_log(rng, rng.randint(1, 150), start=start, gap_ms=gap_ms, steps=steps):
        lines.append(line)
        if rng.random() < 0.05:
            lines.append(
                DIALECTS[rng.choice(sorted(DIALECTS))](
                    Event(
                        start,
                        "INFO",
                        "moshi_server",
                        "src/main.rs",
                        9,
                        rng.choice(PLANTS)(rng).message,
                    )
                )
            )
        if rng.random() < 0.01:
            lines += PEM[: rng.randint(1, 4)]
        if rng.random() < 0.02:
            lines += rng.choices(LIST, k=rng.randint(1, 6))
    data = b"".join(line.encode() + rng.choice([b"\n"] * 9 + [b"\r\n"]) for line in lines)
    if rng.random() < 0.3:
        data = data[: -rng.randint(1, 30)]
    damaged = bytearray(data)
    for _ in range(rng.choice([0, 0, 1, 20])):
        place = rng.randint(0, len(damaged))
        damaged[place : place + rng.randint(0, 2)] = rng.choice(DAMAGE)
    return bytes(damaged)


def assert_same(data: bytes, chunk: int, options: Options) -> None:
    oracle = Oracle(options)
    expected = oracle.format(data)
    for bulk_from_bytes in (0, NEVER):
        got, ours = formatted(data, chunk, options, bulk_from_bytes=bulk_from_bytes)
        assert got == expected
        assert dict(ours.redactions) == oracle.counts
        assert ours.counts.lines == data.count(b"\n") + (not data.endswith(b"\n") and bool(data))


@pytest.mark.slow
@given(seed=st.integers(0, 2**64))
def test_any_log_gives_the_bytes_of_the_plain_way(seed: int) -> None:
    """Mixed dialects, clock changes, secrets, filters and damage, cut into chunks of any size: the
    same bytes and the same counts.
    """
    rng = random.Random(seed)
    start = rng.choice(STARTS)
    assert_same(
        some_log(rng, start), rng.choice([1, 7, 100, 1000, 1 << 20]), some_options(rng, start)
    )


PIECES = [
    *(dialect(step(random.Random(5), START, 17)).encode() for dialect in DIALECTS.values()),
    *(
        dialect(
            Event(START, "ERROR", "moshi_server", "src/main.rs", 7, "py", {"err": "1"})
        ).encode()
        for dialect in DIALECTS.values()
    ),
    *(line.encode() for line in [*PEM, *LIST]),
    *DAMAGE,
    b"Caused by:",
    b"Traceback (most recent call last):",
    b"stt-1  | ",
    b"2025-11-15T08:39:03.595169Z",
    b"auth_id=",
    b"text: ",
]


@given(
    pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=12) | st.just(b"\n"), max_size=40),
    chunk=st.integers(1, 400),
    zone=st.sampled_from(ZONES),
    key=st.sampled_from([None, KEY]),
)
def test_any_bytes_give_the_bytes_of_the_plain_way(
    pieces: list[bytes], chunk: int, zone: tzinfo, key: bytes | None
) -> None:
    """Pieces of log lines and arbitrary bytes in any order never raise, and give what the plain way
    gives.
    """
    assert_same(b"".join(pieces), chunk, Options(zone=zone, key=key))


@pytest.mark.slow
@given(seed=st.integers(0, 2**64))
def test_json_lines_do_not_depend_on_the_cut(seed: int) -> None:
    """With --jsonl each line of the log is in exactly one document, the same ones wherever the log
    is cut.
    """
    rng = random.Random(seed)
    data = some_log(rng, START)
    whole, ours = formatted(data, len(data) or 1, Options(key=KEY), jsonl=True)
    assert formatted(data, rng.choice([1, 50, 999]), Options(key=KEY), jsonl=True)[0] == whole
    assert whole.count(b"\n") == ours.counts.records + ours.counts.unparsed_lines + (
        whole.count(b'"format":"text"') - ours.counts.unparsed_lines
    )


@pytest.mark.slow
@given(seed=st.integers(0, 2**64))
def test_json_lines_in_bulk_are_those_of_the_slow_way(seed: int) -> None:
    """Rows that are written in bulk give the bytes and counts that each line by itself gives."""
    rng = random.Random(seed)
    start = rng.choice(STARTS)
    data, options = some_log(rng, start), some_options(rng, start)
    fast, ours = formatted(data, rng.choice([100, 1 << 20]), options, jsonl=True)
    slow = formatter(options, jsonl=True, bulk_from_bytes=NEVER)
    expected = b"".join(map(slow.feed, cut_blocks([data]))) + slow.flush()
    assert fast == expected
    assert (ours.counts, ours.redactions) == (slow.counts, slow.redactions)


@pytest.mark.slow
@pytest.mark.parametrize("jsonl", [False, True])
@pytest.mark.parametrize("name", sorted(DIALECTS))
def test_step_lines_of_every_dialect_go_in_bulk(name: str, jsonl: bool) -> None:
    """After the first lines of each width all lines of a dialect are rows, also for JSON Lines."""
    rng = random.Random(3)
    events = [step(rng, START + timedelta(milliseconds=37 * index), index) for index in range(400)]
    data = "".join(DIALECTS[name](event) + "\n" for event in events).encode()
    out, ours = formatted(data, 1 << 20, Options(key=KEY), jsonl=jsonl)
    assert len(ours._bulk_of(data).others) < 20
    assert out.count(b"\n") == 400
    assert_same(data, 1 << 20, Options(key=KEY))


def test_lines_of_one_form_keep_what_is_not_a_number_of_theirs() -> None:
    """Containers and source lines whose names differ in a digit are not taken for each other."""
    lines = []
    for number in range(60):
        event = Event(
            START + timedelta(seconds=number), "INFO", "moshi_server", "src/main.rs", 77, "slot 1"
        )
        lines += [compose(ansi, f"stt-{number % 3}")(event), ansi(step(random.Random(1), START, 5))]
        other = step(random.Random(number), START, number)
        lines.append(ansi(replace(other, line=261 + number % 4)))
    assert_same("\n".join(lines).encode(), 1 << 20, Options(key=KEY))


@pytest.mark.parametrize("name", ["ansi", "plain", "spans", "local_time", "pretty", "compose_ansi"])
def test_other_lines_that_come_again_are_learnt_by_form(name: str) -> None:
    """After two lines with other numbers a message is known, and its lines still come out as the
    plain way has them.
    """
    events = [
        Event(
            START + timedelta(minutes=index),
            "INFO",
            "moshi_server",
            "src/main.rs",
            50 + index,
            f"slot {index} of 64",
        )
        for index in range(40)
    ]
    data = "".join(DIALECTS[name](event) + "\n" for event in events).encode()
    _, ours = formatted(data, 1 << 20, Options(key=KEY))
    assert ours._templates.count in (1, 2)  # of one digit and of two
    assert_same(data, 1 << 20, Options(key=KEY))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ansi", "plain"])
@pytest.mark.parametrize(
    "around", ['hash: "{}"', 'api_key="{}" of 1', 'sha256("{}"):', '"{}":12: read', "id={}"]
)
def test_lines_with_an_identifier_each_are_learnt_by_form(around: str, name: str) -> None:
    """Long hexadecimal words within quotes differ like numbers. Each message is redacted for
    itself, and a word with any other letter is another form.
    """
    rng = random.Random(11)

    def lines(words: list[str], target: str = "moshi_server") -> bytes:
        events = (
            Event(START, "INFO", target, "src/main.rs", 475, around.format(word)) for word in words
        )
        return "".join(DIALECTS[name](event) + "\n" for event in events).encode()

    words = [f"{rng.getrandbits(160):040x}" for _ in range(40)]
    _, ours = formatted(lines(words), 1 << 20, Options(key=KEY))
    assert (ours._templates.count == 1) == ('"' in around)
    others = [
        f"{word[:9]}{letter}{word[10:]}" for word, letter in zip(words, "gAF:@`/xé", strict=False)
    ]
    spans = [f'moshi_server session{{id="{word}"}}' for word in words]
    data = lines([*words, *others, *words[:20]]) + b"".join(
        lines(words[:2], span) for span in spans
    )
    assert_same(data, 1 << 20, Options(key=KEY))


@pytest.mark.slow
def test_a_line_of_a_megabyte_is_a_line_like_others() -> None:
    """A 1 MB message between two step lines is kept whole, and what follows it too."""
    rng = random.Random(1)
    long = DIALECTS["ansi"](
        Event(
            START,
            "INFO",
            "moshi_server",
            "src/main.rs",
            1,
            "x" * 1_000_000 + " auth_id=abcdef12 end",
        )
    )
    lines = [DIALECTS["ansi"](step(rng, START, 1)), long, DIALECTS["ansi"](step(rng, START, 2))]
    assert_same("\n".join(lines).encode(), 64 << 10, Options(key=KEY))


def test_a_line_without_end_is_cut_and_nothing_of_it_is_lost() -> None:
    """Where a line exceeds the limit it becomes several, at the same places however it arrives."""
    data = b"a" * 25 + b"\n" + b"b" * 10 + b"\n" + b"c" * 7
    for size in (1, 3, 10, 100):
        blocks = list(
            cut_blocks(
                [data[place : place + size] for place in range(0, len(data), size)], max_line=10
            )
        )
        lines = [line for block in blocks for line in block.splitlines()]
        assert lines == [b"a" * 10, b"a" * 10, b"a" * 5, b"b" * 10, b"c" * 7]


@pytest.mark.slow
def test_a_printed_table_is_no_fleet_of_containers() -> None:
    """Thousands of names before a bar are kept as they are, in memory that does not grow with
    them.
    """
    lines = [f"name{number} | 1.5" for number in range(3000)] + [
        DIALECTS["compose_ansi"](step(random.Random(1), START, 1))
    ]
    assert_same("\n".join(lines).encode(), 1000, Options(key=KEY))


BOMBS = {
    "empty lines": b"\n",
    "text": b"some text of no dialect\n",
    "text with a secret": b"\x1b[2mtoken\x1b[0m=abcdefgh12345678\n",
    "tracebacks": b"Traceback (most recent call last):\n  File\nValueError: x\n",
    "lists": b"authorized_ids = [\n'a-secret-1',\n]\n",
    "records": ansi(step(random.Random(5), START, 17)).encode() + b"\n",
    "local times": b"2025-12-02 01:36:42.113  INFO moshi_server: src/main.rs:9: starting\n",
}


WAYS: dict[str, tuple[Options, bool]] = {
    "friendly": (Options(key=KEY), False),
    "jsonl": (Options(key=KEY), True),
    "filtered": (Options(key=KEY, level="INFO"), False),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "way"),
    [(name, "friendly") for name in BOMBS]
    + [(name, way) for name in ("text with a secret", "records", "local times")
       for way in ("jsonl", "filtered")],
)  # fmt: skip
def test_what_repeats_gives_the_bytes_and_counts_of_the_plain_way(name: str, way: str) -> None:
    """Blocks like those before are not looked at again, and come out and count all the same."""
    block = BOMBS[name] * (17_000 // len(BOMBS[name]))
    data = block * 5
    options, jsonl = WAYS[way]
    if not jsonl:
        assert_same(data, len(block), options)
        return
    shown, ours = formatted(data, len(block), options, jsonl=True, bulk_from_bytes=NEVER)
    expected, apart = formatted(data, 997, options, jsonl=True, bulk_from_bytes=NEVER)
    assert shown == expected
    assert (ours.counts, ours.redactions) == (apart.counts, apart.redactions)


@pytest.mark.slow
@pytest.mark.parametrize("jsonl", [False, True])
@pytest.mark.parametrize("line", ["\x1b[2mfoo\x1b[0m bar key=value", "\x1b]\x1b[", 'token=\\\\"'])
def test_of_lines_that_repeat_for_megabytes_few_are_looked_at(
    line: str, jsonl: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work that a bomb takes does not grow with its size."""
    looked_at: list[int] = []
    plain = Formatter._feed_anew

    def counted(self: Formatter, block: bytes) -> bytes:
        looked_at.append(len(block))
        return plain(self, block) if len(looked_at) < 2 else b""

    monkeypatch.setattr(Formatter, "_feed_anew", counted)
    data = f"{line}\n".encode() * ((16 << 20) // (len(line) + 1))
    formatted(data, 4 << 20, Options(key=KEY), jsonl=jsonl)
    assert sum(looked_at) < 1 << 20


@pytest.mark.slow
def test_an_event_of_endless_lines_becomes_several() -> None:
    """With --jsonl lines that continue an event are gathered, in bounded memory: no line is lost,
    and no event takes more than 4 MiB.
    """
    out, _ = formatted(b"\n" * 200_000, 1 << 20, Options(key=KEY), jsonl=True)
    lines = [1 + len(json.loads(line)["continuation"]) for line in out.splitlines()]
    assert sum(lines) == 200_000
    assert len(lines) > 2


SMALL = {
    "redaction._MOST_KEPT": 64,
    "redaction._LONGEST_KEPT": 200,
    "disguise._MOST_KNOWN": 16,
    "reader._MOST_REPEATING": 16,
    "learning._MOST_FORMS": 32,
    "learning._MOST_CONTINUATIONS": 8,
    "clock._MINUTES_KEPT": 4,
    "templates._MINUTES_KEPT": 4,
    "templates._SIDES_KEPT": 4,
}
"""What caches keep at most, so that logs of 500 to 1,200 lines, of 200 to 430 forms, fill each
many times. With the limits of the product it would take logs 50 times as long."""


@pytest.mark.heavy
@pytest.mark.timeout(1800)  # Two to five seconds an example.
@settings(max_examples=100)
@given(seed=st.integers(0, 2**64))
def test_full_caches_give_the_bytes_of_the_plain_way(seed: int) -> None:
    """The same with logs that fill all caches and hold all kinds of lines."""
    rng = random.Random(seed)
    start = rng.choice(STARTS)
    data = b"".join(some_log(rng, start) for _ in range(7))
    with pytest.MonkeyPatch.context() as patch:
        for name, most in SMALL.items():
            patch.setattr(f"dsmops.logs.{name}", most)
        assert_same(data, rng.choice([4096, 1 << 20]), some_options(rng, start))


@pytest.mark.slow
@pytest.mark.parametrize("level", [None, "WARN"])
def test_messages_of_one_form_are_redacted_each_for_itself(level: str | None) -> None:
    """Of lines that differ in their digits only, some name an address of somebody. Causes between
    them and a list that begins on one of them come out as the plain way writes them.
    """
    rng, lines = random.Random(7), []
    for number in range(300):
        address = rng.choice(["0.0.0.0", "9.9.0.9", "0.8.7.6"])
        level_now = rng.choice([" INFO", " WARN", "ERROR"])
        message = f"listening on http://{address}:80{number % 100:02d}"
        if number % 97 == 5:
            message = "authorized_ids = ["
        lines.append(
            f"2025-11-15T08:39:{number % 60:02d}.{number:06d}Z {level_now} moshi_server: "
            f"src/main.rs:576: {message}"
        )
        if level_now == "ERROR":
            lines += CAUSES
        if message.endswith("["):
            lines += ['  "hunter2-of-a-caller",', "]"]
    assert_same("\n".join(lines).encode(), 1 << 20, Options(key=KEY, level=level))


def test_servers_whose_names_look_alike_are_told_apart(tmp_path: Path) -> None:
    """Names that differ in a code of the terminal only are two; those of two dates are one."""
    paths = [tmp_path / name for name in ("stt", "stt\x1b[0m", "stt.2025-11-15")]
    for path in paths:
        path.write_text("printed\n")
    merge = Merger(Style(), key=KEY, wanted=None).merge
    assert b"".join(merge([str(paths[0]), str(paths[1])])) == b"stt | printed\n" * 2
    assert b"".join(merge([str(paths[0]), str(paths[2])])) == b"printed\n" * 2
