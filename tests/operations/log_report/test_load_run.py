"""The log of a worker under load says what the load generator saw."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="the worker extra is not installed")

from dsmops.operations.log_report import read_logs
from tests.operations.bench.test_running import lag, run
from tests.operations.log_report.test_reading import write
from tests.support import workers
from tests.support.engines import EchoEngine

pytestmark = pytest.mark.slow


def test_the_log_says_what_the_load_generator_saw(tmp_path: Path) -> None:
    """One, four, then six streams at four slots, and a request with a wrong key."""
    with workers.ThreadedServer(lambda: EchoEngine(4), slots=4) as server:
        test = run(server.url, "1,4,6", api_key=workers.KEY)
        headers = {"kyutai-api-key": "wrong"}
        refused = workers.request(server.url, "POST", workers.PATH, body=b"x", headers=headers)
        assert refused.status == 401
    report = read_logs([write(tmp_path / "log.worker", server.log)])
    streams, levels = report.streams, test.levels
    assert [level.streams for level in levels] == [1, 4, 6]
    assert [level.opened for level in levels] == [1, 4, 4]
    # One more looks at the server before the load.
    assert streams.asked == 1 + sum(level.streams for level in levels)
    assert streams.opened == 1 + sum(level.opened for level in levels)
    assert streams.refused == sum(sum(level.errors.values()) for level in levels) == 2
    assert (streams.most_open, streams.wrong_keys) == (4, 1)
    assert streams.lengths_ms is not None
    assert streams.lengths_ms.count == streams.opened
    assert report.steps is not None
    # A step has data of one to four streams; each answered frame is one of one stream.
    answered = sum(lag(test, number).frames_answered for number in range(len(levels)))
    served = sum(each.streams * each.times.count for each in report.steps_by_streams)
    assert served >= answered
    assert report.runs[0].batch_size == 4
    assert test.server.slots == 4
