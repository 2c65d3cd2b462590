"""How many paced streams one client process of `dsmops bench` carries.

A server that does no work answers each frame with a `Step` at once. What the client process takes
of a core is measured at rising numbers of streams, and its own jitter. Target: 500 streams on one
core, p99 of the jitter below 10 ms. `python -m tests.bench.load_client 64 500 1000`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import subprocess
import sys

import numpy as np

from dsmops.client.load.pool import LoadJob, Pool, Report, stt_frames
from dsmops.operations.bench.limits import GRACE_S
from dsmops.operations.bench.statistics import Spread

TARGET_STREAMS = 500
MOST_JITTER_MS = 10.0
STREAMS = (64, 250, 500, 1000)
SECONDS = 10.0
_READY = b"\x82\x0c\x81\xa4type\xa5Ready"
_STEP_BODY = b"\x84\xa4type\xa4Step\xa8step_idx\x01\xa3prs\x94" + 4 * b"\xca\x3e\x4c\xcc\xcd"
_STEP_BODY += b"\xacbuffered_pcm\x00"
_STEP = bytes([0x82, len(_STEP_BODY)]) + _STEP_BODY


class _Answerer(asyncio.Protocol):
    """Counts bytes: frames of the client all have one size, 9,616 bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._head = b""
        self._is_open = False
        self._bytes = 0

    def data_received(self, data: bytes) -> None:
        if not self._is_open:
            self._head += data
            if b"\r\n\r\n" in self._head:
                self._is_open = True
                nonce = self._head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
                accept = hashlib.sha1(nonce + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
                self._transport.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: "
                    + base64.b64encode(accept)
                    + b"\r\n\r\n"
                    + _READY
                )
            return
        self._bytes += len(data)
        frames, self._bytes = divmod(self._bytes, frame_bytes())
        if frames:
            self._transport.write(_STEP * frames)


def frame_bytes() -> int:
    """Return the size of a frame of audio on the wire."""
    return len(stt_frames([np.zeros(1920, np.float32)])[0]) if not _SIZE else _SIZE[0]


_SIZE: list[int] = []


async def _serve() -> None:
    _SIZE.append(frame_bytes())
    server = await asyncio.get_running_loop().create_server(_Answerer, "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _row(streams: int, report: Report) -> dict[str, float | None]:
    """Return the figures of a level. The time of the processor decides, not that of a busy host."""
    lag, jitter, waiting = (
        Spread.of(report.arrays[name]) for name in ("lag_ms", "jitter_ms", "waiting_ms")
    )
    frames = lag.count if lag else 0
    frame_us = 1e6 * report.cpu_shares[0] * (report.seconds + GRACE_S) / max(1, frames)
    return {
        "streams": streams,
        "cpu_share": report.cpu_shares[0],
        "frame_us": round(frame_us, 1),
        "streams_a_core": round(1e6 / frame_us / 12.5),
        "jitter_p99_ms": jitter.p99 if jitter else None,
        "lag_p50_ms": lag.p50 if lag else None,
        "lag_p99_ms": lag.p99 if lag else None,
        "unanswered": waiting.count if waiting else 0,
    }


def main(words: list[str] | None = None) -> int:
    """Measure each number of streams on one client process, and record one line."""
    from tests.bench.harness import record

    streams = [int(word) for word in words or []] or list(STREAMS)
    figures: list[dict[str, float | None]] = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load_client", "--serve"],
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        url = f"ws://127.0.0.1:{int(server.stdout.readline())}/api/asr-streaming"
        noise = np.random.default_rng(0).standard_normal(24_000 * 10).astype(np.float32)
        try:
            with Pool(LoadJob(url, None, frames=stt_frames([noise * 0.1])), 1) as pool:
                for count in streams:
                    opened, errors = pool.open(count)
                    report = pool.measure(1.0, SECONDS, GRACE_S)
                    pool.close()
                    figures.append(_row(opened, report))
                    print(figures[-1], dict(errors) or "", flush=True)
        finally:
            server.kill()
    record("load_client", parameters={"seconds": SECONDS, "processes": 1}, rows=figures)
    carried = max(row["streams_a_core"] or 0 for row in figures)
    print(f"{carried} streams a core; target {TARGET_STREAMS}")
    return 0 if carried >= TARGET_STREAMS else 1


if __name__ == "__main__":
    if sys.argv[1:] == ["--serve"]:
        asyncio.run(_serve())
    sys.exit(main(sys.argv[1:]))
