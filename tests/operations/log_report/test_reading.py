"""Reports on real logs, worked out by hand, and on logs that are damaged, packed or made up."""

from __future__ import annotations

import gzip
import json
import random
import re
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path

import pytest
import zstandard

from dsmops.errors import InputError, SourceError
from dsmops.operations.log_report import LogReport, read_logs
from tests.support.cli import dsmops

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
REAL = SHARED / "real-server" / "logs"
FORK = SHARED / "logs" / "log.config-stt-en_fr-lowram-sm75.2025-11-15"


def real(name: str) -> Path:
    path = FORK if name == "fork" else REAL / name
    if not path.is_file():
        pytest.skip("the logs of a real moshi-server are not here")
    return path


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
def test_steps_of_real_logs(name: str) -> None:
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


def test_a_server_that_is_slower_than_real_time() -> None:
    """By hand: 21 clients, 18 slots, 1 refused, 1 silent; behind from the first step on."""
    report = read_logs([real("slower-than-real-time-cpu.log")])
    streams = report.streams
    assert (streams.asked, streams.opened, streams.refused) == (21, 18, 1)
    assert (streams.dropped_silent, streams.posts, streams.most_with_data) == (1, 0, 3)
    [run] = report.runs
    assert run.batch_size == 4
    assert run.start_s == pytest.approx(2.909, abs=0.001)  # 02:11:00.568 to 02:11:03.478
    [behind] = report.behind
    assert behind.steps == 108
    assert behind.since.strftime("%H:%M:%S") == "02:11:03"
    # Each step's time above 80 ms, summed up.
    times = step_times(real("slower-than-real-time-cpu.log"))
    assert behind.audio_s == pytest.approx(sum(ms - 80 for ms in times) / 1000, abs=0.01)
    assert "It did not keep up" in " ".join(report.capacity)


def test_a_server_that_kept_up() -> None:
    """By hand: three starts, a batch of 2, one stream at a time; one slot was never in use."""
    report = read_logs([real("fork")])
    assert [run.batch_size for run in report.runs] == [2, 2, 2]
    assert [round(run.start_s or 0, 1) for run in report.runs] == [9.7, 5.2, 13.9]
    ends = [run.last_line.strftime("%H:%M:%S") for run in report.runs if run.last_line]
    assert len(ends) == 3
    assert ends == sorted(ends)
    assert report.streams.most_with_data == 1
    said = " ".join(report.capacity)
    assert "Batch 2: at most 1 streams had data" in said
    assert "1 of 2 slots were never in use" in said


def test_a_model_loop_that_died() -> None:
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


def test_text_to_speech() -> None:
    """By hand: 38 clients, 36 slots, 35 ends, each a text with its time from slot to end."""
    tts = read_logs([real("tts-py-module.log")]).tts
    assert (tts.asked, tts.opened, tts.finished) == (38, 36, 35)
    assert tts.texts_ms is not None
    assert tts.texts_ms.count == 35


BEGIN = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)


def line(at_s: float, message: str, level: str = " INFO", module: str = "batched_asr") -> str:
    at = (BEGIN + timedelta(seconds=at_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f"{at} {level} moshi_server::{module}: src/{module}.rs:268: {message}\n"


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
