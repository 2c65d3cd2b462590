"""One run of formatting: from a source to a file or a stream, with a report of what was seen."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import UnsupportedOperation
from itertools import chain
from pathlib import Path
from threading import Event

from dsmops.logs.blocks import cut_blocks
from dsmops.logs.filters import Filter
from dsmops.logs.follow import follow
from dsmops.logs.formatter import Formatter
from dsmops.logs.redaction import Redactor
from dsmops.logs.render import Style
from dsmops.logs.sinks import STDOUT, Write, open_sink, plan_output, refuse_same_file
from dsmops.logs.sources import STDIN, local_path, open_source
from dsmops.progress import SILENT, Progress


@dataclass(frozen=True, slots=True)
class FormatReport:
    """What a run saw and wrote. `output` is None for standard output; `redactions` counts hits by rule, None where redaction was off."""

    input: str
    output: Path | None
    lines: int
    records: int
    unparsed_lines: int
    records_written: int
    redactions: dict[str, int] | None
    read_bytes: int
    written_bytes: int


def format_log(
    source: str,
    output: str | None = None,
    *,
    style: Style,
    key: bytes | None,
    wanted: Filter | None = None,
    stop: Event | None = None,
    progress: Progress = SILENT,
) -> FormatReport:
    """Format a log and return what was seen. `output` is a path, `-`, or None for the place that `plan_output` finds.

    `key` redacts under this key; None leaves everything in. With `stop` the log is followed until it is set; standard input and pipes
    end by themselves. The output appears whole or not at all, unless it is followed or a stream.

    Raises:
        InputError: source and output cannot be used as they are.
        FileAccessError, DiskFullError, TargetBusyError: reading or writing failed.
        BrokenPipeError: the reader of standard output went away.
    """
    following = stop is not None and source != STDIN and local_path(source).is_file()
    target = plan_output(source, STDOUT if output is None and following else output)
    formatter = Formatter(style, redactor=Redactor(key) if key is not None else None, wanted=wanted)
    read_bytes = written_bytes = 0
    with (
        _open_chunks(source, stop if following else None, progress) as chunks,
        _open_target(source, target, streaming=following) as write,
        # Writing leaves the interpreter free, so it costs next to nothing beside the next block.
        ThreadPoolExecutor(max_workers=1) as pool,
    ):
        written: Future[object] | None = None
        for block in chain(cut_blocks(chunks), [b""]):
            read_bytes += len(block)
            out = formatter.feed(block) if block else formatter.flush()
            written_bytes += len(out)
            if written:
                written.result()
            written = pool.submit(write, out)
        if written:
            written.result()
    counts = formatter.counts
    return FormatReport(
        input=source,
        output=target,
        lines=counts.lines,
        records=counts.records,
        unparsed_lines=counts.unparsed_lines,
        records_written=counts.records_written,
        redactions=None if key is None else dict(sorted(formatter.redactions.items())),
        read_bytes=read_bytes,
        written_bytes=written_bytes,
    )


@contextmanager
def _open_chunks(source: str, stop: Event | None, progress: Progress) -> Iterator[Iterator[bytes]]:
    if stop is not None:
        yield follow(local_path(source), stop)
    else:
        with open_source(source, progress=progress) as chunks:
            yield chunks


@contextmanager
def _open_target(source: str, target: Path | None, *, streaming: bool) -> Iterator[Write]:
    if target is not None:
        with open_sink(target, streaming=streaming) as write:
            yield write
        return
    stdout = sys.stdout.buffer
    with suppress(UnsupportedOperation):
        refuse_same_file(source, stdout.fileno())

    def write_now(data: bytes) -> None:
        stdout.write(data)
        stdout.flush()

    yield write_now
