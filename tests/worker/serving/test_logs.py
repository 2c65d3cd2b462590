"""The worker's log lines: moshi-server's dialect, to the byte, and as every reader in dsmops
understands it.
"""

import io
import re
import shutil
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsmops.errors import SourceError
from dsmops.logs import Clock, parse
from dsmops.worker.runtime.facts import EngineFacts, FactsBoard
from dsmops.worker.serving.logs import (
    ASR,
    BATCHED_ASR,
    MAIN,
    UTILS,
    DailyFile,
    Level,
    Record,
    ServerLog,
    Shown,
    causes,
)
from dsmops.worker.serving.observers import log_engine

AT_NS = 1_763_195_953_344_657_123
"""2025-11-15T08:39:13.344657123Z"""


def test_a_line_is_the_originals_to_the_byte() -> None:
    """But for the line number of a source file that did not say it: 0."""
    record = Record(AT_NS, Level.INFO, BATCHED_ASR, "31.49ms", {"step_idx": 1, "with_data": 2})
    assert record.render(colour=False) == (
        "2025-11-15T08:39:13.344657Z  INFO moshi_server::batched_asr: src/batched_asr.rs:0: "
        "31.49ms step_idx=1 with_data=2\n"
    )
    # As a line of a real log, with the file's colours.
    assert record.render(colour=True) == (
        "\x1b[2m2025-11-15T08:39:13.344657Z\x1b[0m \x1b[32m INFO\x1b[0m "
        "\x1b[2mmoshi_server::batched_asr\x1b[0m\x1b[2m:\x1b[0m "
        "\x1b[2msrc/batched_asr.rs\x1b[0m\x1b[2m:\x1b[0m\x1b[2m0:\x1b[0m 31.49ms "
        "\x1b[3mstep_idx\x1b[0m\x1b[2m=\x1b[0m1 "
        "\x1b[3mwith_data\x1b[0m\x1b[2m=\x1b[0m2\n"
    )


texts = st.text(st.characters(codec="utf-8"), max_size=60)


@given(
    st.sampled_from([Level.ERROR, Level.WARN, Level.INFO, Level.DEBUG, Level.TRACE]),
    st.sampled_from([MAIN, BATCHED_ASR, UTILS, ASR]),
    st.sampled_from(
        ["listening on http://127.0.0.1:8080", "task failed", "received marker", "12.50ms"]
    ),
    st.dictionaries(
        st.sampled_from(["err", "name", "addr", "id"]),
        st.one_of(texts, texts.map(Shown), st.integers()),
    ),
    st.lists(texts, max_size=3),
    st.booleans(),
)
def test_every_record_is_one_event_to_a_log_reader(
    level, origin, message, fields, causes, colour
) -> None:  # type: ignore[no-untyped-def]
    """Whatever stands in fields and causes: time, level, target and message are read back, and
    nothing begins another event.
    """
    record = Record(
        AT_NS,
        level,
        origin,
        message,
        fields,
        ["", "Caused by:", *(f"    {cause}" for cause in causes)] if causes else [],
    )
    found = list(parse(record.render(colour=colour).encode().split(b"\n")[:-1], Clock(UTC)))
    assert len(found) == 1
    assert found[0].time == datetime(2025, 11, 15, 8, 39, 13, 344657, UTC)
    assert (found[0].level, found[0].target, found[0].file, found[0].line) == (
        level.name,
        origin.target,
        origin.file,
        0,
    )
    assert found[0].message.startswith(message)
    assert len(found[0].continuation) == (2 + len(causes) if causes else 0)


def test_levels_are_named_as_the_original_takes_them() -> None:
    """Names in any case, and numbers."""
    assert [Level.parse(text) for text in ("OFF", "error", "Warn", "3", "debug", "5")] == list(
        Level
    )
    for text in ("", "6", "-1", "loud", "1.0"):
        with pytest.raises(ValueError, match="not a log level"):
            Level.parse(text)


def test_causes_are_named_in_order() -> None:
    """One without a number, more with numbers, as the original's."""
    inner, outer = OSError("the disk"), RuntimeError("the reader")
    outer.__cause__ = inner
    lost = KeyError("x")
    assert causes(lost) == []
    lost.__cause__ = inner
    assert causes(lost) == ["", "Caused by:", "    OSError: the disk"]
    lost.__cause__ = outer
    assert causes(lost)[2:] == ["    0: RuntimeError: the reader", "    1: OSError: the disk"]


def test_a_day_has_its_file(tmp_path: Path) -> None:
    """By the UTC date of each record; what is there is appended to."""
    folder = tmp_path / "a" / "logs"
    file = DailyFile(folder, "stt")
    day_ns = 86_400 * 10**9
    for number, time_ns in enumerate((AT_NS, AT_NS + day_ns, AT_NS)):
        file.write(time_ns, f"line {number}\n")
    file.close()
    assert (folder / "log.stt.2025-11-15").read_text() == "line 0\nline 2\n"
    assert (folder / "log.stt.2025-11-16").read_text() == "line 1\n"


def test_a_folder_that_cannot_be_made_is_an_error_at_once(tmp_path: Path) -> None:
    """Before anything is served."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(SourceError):
        DailyFile(tmp_path / "taken" / "logs", "stt")


@pytest.mark.parametrize("reason", ["", "No module named 'cuda'; `pip install` it"])
def test_the_log_says_what_computes_attention(reason: str) -> None:
    """On a GPU kernels, or PyTorch with a warning that says why."""
    console, board = io.StringIO(), FactsBoard()
    board.write(EngineFacts("cuda:0", "T4", "f16", None, None, no_kernels=reason))
    log = ServerLog(Level.INFO, None, console, no_color=True)
    log_engine(log, BATCHED_ASR, "stt-1b-en_fr", board, 8)
    log.close()
    loaded, *warnings = console.getvalue().splitlines()
    assert f'attention="{"pytorch" if reason else "kernels"}"' in loaded
    assert [" WARN " in line and reason in line for line in warnings] == [True] * bool(reason)


def test_threads_share_a_log_and_the_level_decides(tmp_path: Path) -> None:
    """Lines stay whole.

    What is below the level is not written; the console and the file get the same.
    """
    console = io.StringIO()
    file = DailyFile(tmp_path, "stt")
    log = ServerLog(Level.INFO, file, console, no_color=True)

    def write() -> None:
        for number in range(200):
            log.info(BATCHED_ASR, "1.00ms", step_idx=number)
            log.write(Level.DEBUG, MAIN, "unseen", {})

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    lines = console.getvalue().splitlines()
    assert len(lines) == 800
    assert all(" 1.00ms step_idx=" in line for line in lines)
    assert next(tmp_path.glob("log.stt.*")).read_text() == console.getvalue()


def test_a_console_that_is_gone_and_a_full_disk_stop_nobody(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Serving goes on; a failing file is reported once, elsewhere."""

    class Gone(io.StringIO):
        def write(self, _text: str) -> int:
            raise BrokenPipeError

    full = DailyFile(tmp_path, "stt")
    full._file.close()
    full._file = Path("/dev/full").open("w")  # noqa: SIM115 closed by the log
    log = ServerLog(Level.INFO, full, Gone(), no_color=True)
    for _ in range(2000):
        log.info(MAIN, "listening on http://127.0.0.1:8080")
    log.close()
    assert caplog.text.count("cannot be written at present") == 1


def until_written(log: ServerLog, path: Path, text: str) -> str:
    """Log until `text` stands in the file, and return all of it."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        log.info(MAIN, "still here")
        time.sleep(0.02)
        if path.is_file() and text in path.read_text():
            return path.read_text()
    raise AssertionError(f"{text!r} never came")


def test_the_file_comes_back_after_a_full_disk(tmp_path: Path) -> None:
    """Lines that could not be written are counted where the file goes on."""
    file = DailyFile(tmp_path, "x")
    path = file.path(time.time_ns())
    file.close()
    path.unlink()
    path.symlink_to("/dev/full")
    log = ServerLog(Level.INFO, DailyFile(tmp_path, "x"), None, no_color=True, retry_s=0.05)
    for _ in range(3):
        log.info(MAIN, "lost")
        time.sleep(0.02)
    path.unlink()
    written = until_written(log, path, "log lines are missing here")
    log.close()
    assert "lost" not in written
    assert int(re.search(r"(\d+) log lines are missing", written)[1]) >= 3  # type: ignore[index]
    assert "still here" in path.read_text()


def test_the_file_comes_back_after_its_folder_was_removed(tmp_path: Path) -> None:
    """The folder is made again, and the file in it."""
    folder = tmp_path / "logs"
    file = DailyFile(folder, "x")
    log = ServerLog(Level.INFO, file, None, no_color=True, retry_s=0.05)
    log.info(MAIN, "before")
    time.sleep(0.1)
    shutil.rmtree(folder)
    until_written(log, file.path(time.time_ns()), "still here")
    log.close()
