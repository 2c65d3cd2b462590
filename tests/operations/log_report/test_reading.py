"""Reports on real logs, worked out by hand, and on logs that are damaged, packed or made up."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import zstandard

from dsmops.errors import InputError, SourceError
from dsmops.logs import Clock, Style, format_log
from dsmops.logs.reader import Reader
from dsmops.logs.step_rows import step_rows
from dsmops.operations.log_report import LogReport, read_logs
from dsmops.operations.log_report.collector import Collector
from dsmops.operations.log_report.histograms import Histograms, bins_of, distinct
from dsmops.operations.log_report.log_reader import LogReader
from dsmops.operations.log_report.meanings import LineMemory
from dsmops.operations.log_report.sketch import Sketch
from dsmops.operations.log_report.steps import StepTally
from dsmops.operations.log_report.timeline import Timeline
from tests.logs.server_logs import server_log
from tests.support.cli import dsmops

Real = Callable[[str], Path]


@pytest.fixture
def real(shared_data: Path) -> Real:
    """The path of a real server's log by its name."""

    def path_of(name: str) -> Path:
        fork = "logs/log.config-stt-en_fr-lowram-sm75.2025-11-15"
        path = shared_data / (fork if name == "fork" else f"real-server/logs/{name}")
        if not path.is_file():
            pytest.skip("the logs of a real moshi-server are not here")
        return path

    return path_of


def step_times(path: Path) -> list[float]:
    """Return the step times of a log, read in another way: by looking for `ms step_idx`."""
    text = re.sub(r"\x1b\[\d+m", "", path.read_text())
    return sorted(map(float, re.findall(r"([\d.]+)ms step_idx=", text)))


@pytest.mark.parametrize(
    "name",
    [
        *("fork", "slower-than-real-time-cpu.log", "sm75-kernels-f16.log"),
        *("hostile-clients-cpu.log", "version-0.6.3-cpu.log"),
    ],
)
def test_steps_of_real_logs(name: str, real: Real) -> None:
    """Counts and the largest are exact, percentiles within 1 % of the value of that rank."""
    path = real(name)
    times = step_times(path)
    found = read_logs([path]).steps
    assert found is not None
    assert (found.count, found.max_ms) == (len(times), times[-1])
    assert found.over_80_ms == sum(ms > 80 for ms in times)
    for percentile_ms, share in ((found.p50_ms, 0.5), (found.p95_ms, 0.95), (found.p99_ms, 0.99)):
        # The sketch takes the rank share · (n - 1), rounded down.
        rank = int(share * (len(times) - 1))
        near = times[max(0, rank - 1) : ceil(share * len(times)) + 1]
        assert near[0] * 0.99 <= percentile_ms <= near[-1] * 1.01


def test_a_server_that_is_slower_than_real_time(real: Real) -> None:
    """By hand: 21 clients, 2 of them with a wrong key, 18 slots, 1 refused, 1 silent; 4 at once;
    behind from the first step to the last.
    """
    path = real("slower-than-real-time-cpu.log")
    report = read_logs([path])
    streams = report.streams
    assert (streams.asked, streams.opened, streams.refused) == (21, 18, 1)
    assert (streams.wrong_keys, streams.most_open) == (2, 4)
    assert (streams.dropped_silent, streams.posts, streams.most_with_data) == (1, 0, 3)
    assert streams.lengths_ms is not None
    # From the channel at 02:11:05.237461 to the end of its recv_loop at 02:11:29.285615.
    assert streams.lengths_ms.max_ms == pytest.approx(24048.154)
    [run] = report.runs
    assert run.batch_size == 4
    assert run.start_s == pytest.approx(2.909, abs=0.001)  # 02:11:00.568 to 02:11:03.478
    [behind] = report.behind
    assert behind.steps == 108
    assert behind.since.strftime("%H:%M:%S") == "02:11:03"
    # Every step takes longer than 80 ms, so what is behind only grows.
    assert behind.audio_s == pytest.approx(sum(ms - 80 for ms in step_times(path)) / 1000, abs=0.01)
    assert "It did not keep up" in " ".join(report.capacity)
    # The same with grep -c: `client-silent` is a message of level INFO.
    assert {failure.name: failure.count for failure in report.failures} == {
        "client-silent": 1,
        "no-free-channels": 2,
    }


@pytest.mark.parametrize("name", ["hostile-clients-cpu.log", "version-0.6.3-cpu.log"])
def test_hostile_clients(name: str, real: Real) -> None:
    """By hand: 45 sockets and 6 posts; 42 and 4 of them had a key that was known."""
    report = read_logs([real(name)])
    streams = report.streams
    assert (streams.asked, streams.posts, streams.wrong_keys) == (45, 6, 5)
    assert (streams.opened, streams.refused, streams.most_open) == (45, 1, 4)
    [module] = report.modules
    assert (module.name, module.batch_size, module.streams) == ("batched_asr", 4, streams)
    assert module.steps == report.steps


@pytest.mark.parametrize(
    "name",
    [
        *("hostile-clients-cpu.log", "out-of-memory.log", "slower-than-real-time-cpu.log"),
        *("sm75-kernels-f16.log", "sm75-kernels-no-override.log", "tts-py-module.log"),
        "version-0.6.3-cpu.log",
    ],
)
def test_the_fast_and_the_slow_way_agree(name: str, tmp_path: Path, real: Real) -> None:
    """What `format-log` made readable goes through its own reader, line by line."""
    path = real(name)
    target = tmp_path / "friendly.log"
    format_log(str(path), str(target), style=Style(Clock(UTC)), key=None)
    fast, slow = read_logs([path]), read_logs([target])
    assert slow.steps == fast.steps
    assert replace(slow.streams, lengths_ms=None) == replace(fast.streams, lengths_ms=None)
    assert replace(slow.tts, texts_ms=None) == replace(fast.tts, texts_ms=None)
    assert [run.batch_size for run in slow.runs] == [run.batch_size for run in fast.runs]
    for found in (slow.streams.lengths_ms, fast.streams.lengths_ms):
        assert found is None or found.count == (fast.streams.lengths_ms or found).count


def read_in_pieces(data: bytes, seed: int) -> LogReport:
    """Read a log whose chunks have any length."""
    dice, chunks, place = random.Random(seed), [], 0
    while place < len(data):
        chunks.append(data[place : place + dice.randrange(1, 20_000)])
        place += len(chunks[-1])
    return collected(chunks)


def collected(chunks: Iterable[bytes]) -> LogReport:
    """The report on one log, without the answer."""
    collector = Collector()
    for batch in LogReader().read(chunks):
        collector.take(batch)
    return collector.report(("log.a",))


@pytest.mark.parametrize("seed", range(4))
def test_what_is_remembered_changes_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of all dialects, with causes, tracebacks, panics, and text between, read line by line
    by the reader of `format-log`, give the same report in every part.
    """
    dice = random.Random(seed)
    dialects = None if seed % 2 else iter(["ansi"] * 10_000)
    lines = list(server_log(dice, 600, steps=0.5, dialects=dialects))
    extra = [
        *("thread 'main' panicked at src/main.rs:1:", "no free channels", "Error: AddrInUse", ""),
        *("Traceback (most recent call last):", "ValueError: CUDA out of memory", "stt | hello"),
        *(line(at, message, level)[:-1] for at in (1, 2) for message, level in (
            ("recv loop short timeout bidx=1", " INFO"), ("no free channels", "ERROR"),
            ("batched-asr channel batch_idx=3", " INFO"), ("build_info=BuildInfo {}", " INFO"),
            ('task failed name="model_loop" err=CUDA_ERROR_NOT_FOUND', "ERROR"),
        )),
        "2026-02-30T03:00:00.000000Z  INFO moshi_server: src/main.rs:1: no such day",
    ]  # fmt: skip
    for _ in range(150):
        lines.insert(dice.randrange(len(lines)), dice.choice(extra))
    data = ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
    remembered = read_in_pieces(data, seed)
    monkeypatch.setattr(LineMemory, "event", lambda *_: None)
    monkeypatch.setattr(Reader, "line", Reader._examined)
    slow = read_in_pieces(data, seed)
    # The quoted lines bear pseudonyms of a key that is not kept.
    for one, other in zip(slow.failures, remembered.failures, strict=True):
        assert one == replace(other, evidence=one.evidence)
    assert replace(slow, failures=()) == replace(remembered, failures=())
    assert len(remembered.failures) > 3


def test_spreads_are_those_of_the_sketches() -> None:
    """Counted by bins or added one by one to the library's sketch, times have one spread."""
    dice = np.random.default_rng(3)
    for size in (1, 2, 7, 300, 5000):
        took_us = dice.integers(1, 200_000, size)
        places = dice.integers(0, 3, size)
        histograms = Histograms()
        histograms.add(places, bins_of(took_us), took_us)
        for place, times in histograms.times():
            sketch = Sketch()
            for us in took_us[places == place].tolist():
                sketch.add(us / 1000)
            assert times == sketch.times()


def test_different_values_near_each_other_and_far_apart() -> None:
    """With and without a table, as numpy says."""
    dice = np.random.default_rng(4)
    for high in (1, 5, 3000, 10**15):
        values = dice.integers(-high, high, 500)
        for ours, theirs in zip(
            distinct(values), np.unique(values, return_inverse=True), strict=True
        ):
            assert (ours == theirs).all()


def test_a_server_that_kept_up(real: Real) -> None:
    """By hand: three starts, a batch of 2, one stream at a time; one slot was never in use."""
    report = read_logs([real("fork")])
    assert [run.batch_size for run in report.runs] == [2, 2, 2]
    assert [round(run.start_s or 0, 1) for run in report.runs] == [9.7, 5.2, 13.9]
    ends = [run.last_line.strftime("%H:%M:%S") for run in report.runs if run.last_line]
    assert len(ends) == 3
    assert ends == sorted(ends)
    assert report.streams.most_with_data == 1
    said = " ".join(report.capacity)
    assert "Batch 2: at most 1 stream had data" in said
    assert "1 of 2 slots were never in use" in said


def test_a_model_loop_that_died(real: Real) -> None:
    """The run names what it died of, with its fix; there is no step."""
    report = read_logs([real("sm75-kernels-no-override.log")])
    assert report.steps is None
    [run] = report.runs
    assert run.died_of == "kernel-missing"
    assert run.ready is None
    assert [failure.name for failure in report.failures] == ["kernel-missing", "model-loop-dead"]
    assert "prep-sm75" in report.failures[0].fix
    assert report.failures[0].first == report.failures[0].last
    assert "stopped serving" in report.capacity[0]


def test_text_to_speech(real: Real) -> None:
    """By hand: 38 clients, 36 slots, 35 ends, each a text with its time from slot to end."""
    tts = read_logs([real("tts-py-module.log")]).tts
    assert (tts.asked, tts.opened, tts.finished) == (38, 36, 35)
    assert (tts.wrong_keys, tts.most_open, tts.first_audio_ms) == (2, 32, None)
    assert tts.texts_ms is not None
    assert tts.texts_ms.count == 35


BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)


def line(at_s: float, message: str, level: str = " INFO", module: str = "batched_asr") -> str:
    at = (BEGIN + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{at} {level} moshi_server::{module}: src/{module}.rs:268: {message}\n"


def test_what_belongs_to_a_start_does_not_depend_on_blocks() -> None:
    """A server starts again after the clock was set back: steps before that line belong to the run
    before, whatever their time, and a cause after a step belongs to the step.
    """
    text = (
        line(100, "starting worker num_workers=1", module="main")
        + "".join(line(101 + n, f"20.00ms step_idx={n} with_data=1") for n in range(40))
        + "  0: a cause\n"
        + line(1, "starting worker num_workers=1", module="main")
        + line(2, "20.00ms step_idx=0 with_data=1")
    ).encode()
    whole = collected([text])
    first, second = whole.runs
    assert (first.last_line, second.last_line) == (
        BEGIN + timedelta(seconds=140),
        BEGIN + timedelta(seconds=2),
    )
    assert whole.lines_text == 0
    for size in (7, 150, 1000):
        assert collected(text[place : place + size] for place in range(0, len(text), size)) == whole


def made_up(steps: int = 1000) -> str:
    """A server with eight slots: four streams for half of the time, then six; steps of 10 to 50 ms,
    and ten of 200 ms, one after another.
    """
    dice = random.Random(1)
    lines = [line(0, "starting worker num_workers=1", module="main")]
    lines.append(line(2.5, "starting asr loop 8"))
    for number in range(steps):
        slow = 500 <= number < 510
        ms = 200.0 if slow else dice.uniform(10, 50)
        streams = 4 if number < steps // 2 else 6
        at_s = 3 + number * 0.08 + (0.12 * (min(number, 510) - 500) if number > 500 else 0)
        lines.append(line(at_s, f"{ms:.2f}ms step_idx={number} with_data={streams}"))
    return "".join(lines)


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_made_up_log(tmp_path: Path) -> None:
    """Steps by streams with data, the stretch behind with its audio, the peak, the idle slots."""
    report = read_logs([write(tmp_path / "log.a", made_up())])
    assert [(each.streams, each.times.count) for each in report.steps_by_streams] == [
        (4, 500),
        (6, 500),
    ]
    [behind] = report.behind
    assert (behind.steps, behind.audio_s, behind.most_streams) == (10, 1.2, 6)
    assert report.runs[0].start_s == 2.5
    assert sum(each.steps for each in report.over_time) == 1000
    said = " ".join(report.capacity)
    assert "Batch 8: at most 6 streams" in said
    assert "2 of 8 slots were never in use" in said


def same(first: LogReport, second: LogReport) -> bool:
    return (first.steps, first.steps_by_streams, first.streams, first.behind) == (
        second.steps,
        second.steps_by_streams,
        second.streams,
        second.behind,
    )


def test_packed_coloured_and_rotated_logs_say_the_same(tmp_path: Path) -> None:
    """gzip, zstd, colours, and one log in two files: the figures do not change."""
    text = made_up()
    plain = read_logs([write(tmp_path / "log.a", text)])
    data = text.encode()
    coloured = re.sub(r"(step_idx)(=)", "\x1b[3m\\1\x1b[0m\x1b[2m\\2\x1b[0m", text)
    coloured = re.sub(r"^(\S+)", "\x1b[2m\\1\x1b[0m", coloured, flags=re.MULTILINE)
    for name, packed in (
        ("log.gz", gzip.compress(data)),
        ("log.zst", zstandard.compress(data)),
        ("log.colour", coloured.encode()),
        ("log.crlf", data.replace(b"\n", b"\r\n")),
    ):
        assert same(read_logs([write(tmp_path / name, packed)]), plain), name
    cut = data.index(b"\n", len(data) // 3) + 1
    folder = tmp_path / "rotated"
    folder.mkdir()
    write(folder / "log.b.2026-01-02", data[:cut])
    write(folder / "log.b.2026-01-03", data[cut:])
    assert same(read_logs([folder]), plain)


def test_a_friendly_log_says_the_same(tmp_path: Path) -> None:
    """What `format-log` made readable is read by its own reader."""
    raw = write(tmp_path / "log.a", made_up(200))
    target = tmp_path / "friendly.log"
    assert dsmops("format-log", raw, "-o", target, env={"TZ": "UTC"}).code == 0
    first, second = read_logs([raw]), read_logs([target])
    assert second.steps == first.steps
    assert second.runs[0].batch_size == 8


def test_broken_lines_are_counted_and_never_fatal(tmp_path: Path) -> None:
    """Bytes of any kind between the lines leave the steps unchanged."""
    dice = random.Random(2)
    text = made_up(200)
    plain = read_logs([write(tmp_path / "log.a", text)])
    junk = [
        dice.randbytes(dice.randrange(80)).replace(b"\n", b"") + b"\n" + each
        for each in text.encode().splitlines(keepends=True)
    ]
    found = read_logs([write(tmp_path / "log.b", b"".join(junk))])
    assert found.steps == plain.steps
    assert found.lines > plain.lines


def test_a_client_cannot_forge_a_step(tmp_path: Path) -> None:
    """What clients send stands in quotes, and is not a step."""
    forged = line(1, 'batched-asr ws query auth="x 99.00ms step_idx=1 with_data=9"')
    assert read_logs([write(tmp_path / "log.a", forged)]).steps is None


def test_a_stretch_of_time(tmp_path: Path) -> None:
    """`since` and `until` cut steps and starts alike."""
    path = write(tmp_path / "log.a", made_up())
    report = read_logs(
        [path], since=BEGIN + timedelta(seconds=11), until=BEGIN + timedelta(seconds=19)
    )
    assert report.steps is not None
    assert report.steps.count == 100
    assert report.runs == ()


@pytest.mark.parametrize(
    ("last", "name"),
    [
        ("2026-01-02T03:00:00.1Z ERROR moshi_server::a: src/a.rs:1: no free channels\n",
         "no-free-channels"),
        ("Error: Address already in use\n", "port-taken"),
        ("GPU has fallen off the bus\n", "gpu-lost"),
    ],
)  # fmt: skip
def test_failures_in_repeated_blocks_are_counted(last: str, name: str) -> None:
    """A block of which only the last line counts, forty times: that line is still open while the
    next block is compared.
    """
    block = ("a line of no dialect\n" * 300 + last).encode()
    report = collected([block] * 40)
    assert {found.name: found.count for found in report.failures} == {name: 40}
    assert report.lines == 40 * 301


def test_how_far_it_was_behind(tmp_path: Path) -> None:
    """Fast steps catch up: steps of 90 and 60 ms are never behind by a frame. A pause ends it."""
    alternating = [line(3 + 0.08 * n, f"{(90, 60)[n % 2]}.00ms step_idx={n} with_data=1")
                   for n in range(200)]  # fmt: skip
    assert read_logs([write(tmp_path / "log.a", "".join(alternating))]).behind == ()
    slow = [line(100 + 0.2 * n, f"200.00ms step_idx={n} with_data=2") for n in range(10)]
    # 1.2 s behind; each step of 30 ms takes 50 ms off: 24 steps.
    fast = [line(101.83 + 0.03 * n, f"30.00ms step_idx={n} with_data=2") for n in range(30)]
    [behind] = read_logs([write(tmp_path / "log.b", "".join(slow + fast))]).behind
    assert (behind.steps, behind.audio_s, behind.most_streams) == (34, 1.2, 2)
    later = [line(110 + 0.2 * n, f"200.00ms step_idx={n} with_data=1") for n in range(10)]
    first, second = read_logs([write(tmp_path / "log.c", "".join(slow + later))]).behind
    assert (first.audio_s, second.audio_s) == (1.2, 1.2)
    assert (first.steps, second.steps) == (10, 10)


def test_the_queue_is_that_of_one_step_after_the_other() -> None:
    """Any cut into blocks gives the stretches that a loop over the steps gives."""
    for seed in range(60):
        dice = random.Random(seed)
        at_us = 10**15
        steps = []
        for _ in range(dice.randrange(1, 120)):
            took_us = dice.choice([10_000, 60_000, 80_000, 90_000, 150_000, 300_000])
            at_us += took_us + dice.choice([0, 0, 0, 500, 79_999, 80_000, 200_000])
            steps.append((at_us, took_us, 1))
        tally = StepTally("m", Timeline())
        begin = 0
        while begin < len(steps):
            end = begin + dice.randrange(1, 40)
            tally.take(step_rows("m", steps[begin:end]))
            begin = end
        found = [(each.audio_s, each.steps) for each in tally.behind()]
        assert sorted(found) == sorted(stretches(steps))[-20:]


def stretches(steps: list[tuple[int, int, int]]) -> list[tuple[float, int]]:
    """Return how far behind, and how many steps, of each stretch."""
    found: list[list[int]] = []
    behind, last_us, is_open = 0, None, False
    for at_us, took_us, _ in steps:
        if last_us is not None and at_us - took_us - last_us >= 80_000:
            behind, is_open = 0, False
        behind = max(0, behind + took_us - 80_000)
        if behind and not is_open:
            found.append([0, 0])
            is_open = True
        if is_open:
            found[-1][0] = max(found[-1][0], behind)
            found[-1][1] += 1
        is_open, last_us = behind > 0, at_us
    return [(round(most / 1e6, 2), count) for most, count in found if most >= 80_000]


def test_steps_of_the_fork(tmp_path: Path) -> None:
    """The fork's step lines do not say how many streams had data."""
    text = "".join(line(n, f"20.00ms step_idx={n}") for n in range(30))
    report = read_logs([write(tmp_path / "log.a", text)])
    assert report.steps is not None
    assert (report.steps.count, report.steps_by_streams) == (30, ())


def test_two_containers_in_one_log(tmp_path: Path) -> None:
    """Lines of docker compose: each container is a module of its own."""
    text = made_up(40)
    both = "".join(
        f"{name}  | {each}" for each in text.splitlines(keepends=True) for name in ("a-1", "b-1")
    )
    report = read_logs([write(tmp_path / "log.a", both)])
    assert [(each.name, each.steps and each.steps.count) for each in report.modules] == [
        ("a-1/batched_asr", 40),
        ("b-1/batched_asr", 40),
    ]
    assert report.steps is not None
    assert report.steps.count == 80
    assert sum(moment.steps for moment in report.over_time) == 80


def test_streams_over_time(tmp_path: Path) -> None:
    """Three come, one is refused, one leaves: at most three at once, and who left is known."""
    events = [
        line(0, "starting asr loop 3"),
        *(
            line(at, message)
            for at, slot in ((1, 0), (2, 1), (4, 2))
            for message in (
                "batched-asr ws query query=AsrStreamingQuery { auth_id: None }",
                f"batched-asr channel batch_idx={slot}",
            )
        ),
        line(5, "no free channels", "ERROR"),
        line(7, 'task completed successfully name="recv_loop"', module="utils"),
        line(8, "batched-asr ws query query=AsrStreamingQuery { auth_id: None }"),
        line(8, "batched-asr channel batch_idx=1"),
    ]
    report = read_logs([write(tmp_path / "log.a", "".join(events))])
    assert [(each.most_open, each.refused) for each in report.over_time] == [
        (1, 0), (2, 0), (3, 0), (3, 1), (3, 0), (3, 0),
    ]  # fmt: skip
    assert (report.streams.most_open, report.streams.refused) == (3, 1)
    assert report.streams.lengths_ms is not None
    assert (report.streams.lengths_ms.count, report.streams.lengths_ms.max_ms) == (1, 5000)


def test_what_the_worker_says_more(tmp_path: Path) -> None:
    """`dsmops worker` logs refused keys, its model, and the time to the first sound."""
    events = [
        line(0, "starting worker num_workers=1", module="main"),
        line(1, "engine is loaded model=stt-1b-en_fr device=\"cuda:0\" name=\"x\" dtype=\"f16\" "
                "streams=8"),
        line(2, "starting asr loop 8"),
        line(3, "requests without a known key were refused count=1", " WARN", module="main"),
        line(4, "a token was refused: it has expired count=41", " WARN", module="main"),
        line(4, "batched-py channel bidx=0", module="py_module"),
        line(5, "tts finished batch_idx=0 first_audio_ms=183", module="py_module"),
    ]  # fmt: skip
    text = "".join(events).replace(".rs:268", ".rs:0")
    report = read_logs([write(tmp_path / "log.a", text)])
    assert report.streams.wrong_keys == 42
    assert report.plan is not None
    assert (report.plan.model, report.plan.dtype, report.plan.runtime) == (
        ("stt-1b-en_fr", "f16", "embedded")
    )
    assert report.tts.first_audio_ms is not None
    assert report.tts.first_audio_ms.max_ms == 183


def test_memory_is_bounded(tmp_path: Path) -> None:
    """A log of ten hours has as many moments as one of a minute may have."""
    lines = [line(at, "20.00ms step_idx=1 with_data=1") for at in range(0, 36_000, 10)]
    report = read_logs([write(tmp_path / "log.a", "".join(lines))])
    assert len(report.over_time) <= 480
    assert sum(each.steps for each in report.over_time) == 3600


def test_what_is_not_a_log(tmp_path: Path) -> None:
    """A folder without logs, and a file that is not there."""
    with pytest.raises(InputError, match="holds no log"):
        read_logs([tmp_path])
    with pytest.raises(SourceError):
        read_logs([tmp_path / "nothing.log"])


def test_the_command(tmp_path: Path) -> None:
    """One screen of text, a document with a schema, a page, and a usage error."""
    log = write(tmp_path / "log.a", made_up(300))
    shown = dsmops("log-report", log)
    assert shown.code == 0, shown.stderr
    assert shown.stdout.startswith("Batch 8: at most 6 streams had data in one step.")
    assert len(shown.stdout.splitlines()) <= 40
    target = tmp_path / "report.json"
    run = dsmops("log-report", log, "--json", "-o", target)
    assert run.document["schema"] == "dsmops.log-report/1"
    assert json.loads(target.read_text()) == run.document
    assert dsmops("log-report", log, "-o", tmp_path / "report.txt").code == 2


@pytest.mark.slow
def test_the_page(tmp_path: Path) -> None:
    """Charts with words, tables, no request, and evidence that is redacted and escaped."""
    pytest.importorskip("matplotlib", reason="the extra plots is not installed")
    from dsmops.cli.views.log_report_page import html

    secret = 'task failed name="model_loop" err=<b> kyutai-api-key: 0123456789abcdef0123'
    text = made_up(300) + line(90, secret, "ERROR", "utils")
    page = html(read_logs([write(tmp_path / "log.a", text)]))
    assert page.count('<svg role="img"') == 3
    assert "0123456789abcdef0123" not in page
    assert "<b>" not in page
    assert set(re.findall(r"https?://[^\"'<\s]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert "model-loop-dead" in page
