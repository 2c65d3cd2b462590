"""What it costs `format-log` to look for disguises, on logs that hold none.

The same log is formatted with the search and without it, one right after the other in one process,
and the ratio of processor seconds counts: other work on the machine slows both. Only this file can
switch the search off. Bytes that come out are compared.

Target: at most 15 %.
"""

from __future__ import annotations

import hashlib
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from io import BytesIO
from pathlib import Path
from unittest.mock import patch

from dsmops.logs import Clock, Filter, Formatter, Redactor, Style
from dsmops.logs.blocks import cut_blocks, read_chunks
from tests.bench.format_log import write_log
from tests.bench.harness import record

LOG_BYTES = 60_000_000
ROUNDS = 7
WAYS = {
    "friendly": (False, Filter()),
    "jsonl": (True, Filter()),
    "filtered": (False, Filter("INFO")),
}


@contextmanager
def without_disguise() -> Iterator[None]:
    """Take every line for one that has nothing to see through."""
    with patch("dsmops.logs.redaction._is_disguised", lambda _: False):
        yield


def _format(data: bytes, way: str) -> tuple[float, bytes]:
    """Return the processor seconds, and the digest of what came out."""
    jsonl, wanted = WAYS[way]
    formatter = Formatter(
        Style(Clock(UTC), jsonl=jsonl), redactor=Redactor(b"a key for benchmarks"), wanted=wanted
    )
    begun = time.process_time()
    written = [formatter.feed(block) for block in cut_blocks(read_chunks(BytesIO(data)))]
    written.append(formatter.flush())
    return time.process_time() - begun, hashlib.sha256(b"".join(written)).digest()


def main() -> int:
    """Format in pairs, and show and record the cost and the speed of each way."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "log"
        write_log(log, LOG_BYTES)
        data = log.read_bytes()
    cost, speed = {}, {}
    for way in WAYS:
        ratios, seconds = [], []
        for _ in range(ROUNDS):
            with_s, written = _format(data, way)
            with without_disguise():
                without_s, same = _format(data, way)
            if written != same:
                raise RuntimeError("the search for disguises changed a clean log")
            ratios.append(with_s / without_s)
            seconds.append(with_s)
        cost[way] = round(statistics.median(ratios) - 1, 3)
        speed[way] = round(len(data) / 1e6 / statistics.median(seconds), 1)
        print(f"{way}: disguises cost {cost[way]:.1%}, {speed[way]} MB per processor second")
    record(
        "disguise_cost",
        parameters={"log_bytes": len(data), "rounds": ROUNDS},
        cost_share=cost,
        mb_per_cpu_s=speed,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
