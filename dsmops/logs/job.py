"""One run of formatting: from a source to a file or a stream, with a report of what was seen."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import UnsupportedOperation
from pathlib import Path
from threading import Event

from dsmops.files import translate
from dsmops.logs.blocks import cut_blocks, read_chunks
from dsmops.logs.filters import Filter
from dsmops.logs.follow import can_follow, follow
from dsmops.logs.formatter import BULK_FROM_BYTES, Formatter
from dsmops.logs.merge import Merger
from dsmops.logs.redaction import Redactor
from dsmops.logs.render import Style
from dsmops.logs.sections import Section, SectionAtWork, at_work, plan_sections
from dsmops.logs.sinks import STDOUT, Write, open_sink, plan_output, refuse_same_file
from dsmops.logs.sources import STDIN, head_of, local_path, open_source
from dsmops.logs.wrappers import AUTO, LATER, NONE, is_wrapped
from dsmops.progress import SILENT, Progress

_LINES_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class FormatReport:
    """What a run saw and wrote. `output` is None for standard output.

    `redactions` counts hits by rule, None where redaction was off.
    """

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
    wrapper: str = AUTO,
    stop: Event | None = None,
    on_next: Callable[[Path], object] = lambda _: None,
    on_note: Callable[[str], object] = lambda _: None,
    progress: Progress = SILENT,
) -> FormatReport:
    """Format a log and return the report.

    `output` is a path, `-`, or None for the place that `plan_output` finds.

    `key` redacts under this key; None leaves everything in. With `stop` a log that `can_follow` is
    followed until it is set; `on_next` gets each file of a later date in which it goes on.
    `wrapper` is a name of `WRAPPERS`, `auto` or `none`. `on_note` gets warnings.
    The output appears whole or not at all, unless it is followed or a stream.

    Raises:
        InputError: source and output cannot be used as they are.
        FileAccessError, DiskFullError, TargetBusyError: reading or writing failed.
        BrokenPipeError: the reader of standard output went away.
    """
    following = stop is not None and can_follow(source)
    target = plan_output(source, output, following=following)
    # A section is a file until its turn comes, so a stream, which may be endless, gets none. Nor
    # does a wrapped log, whose lines may go on over the edges.
    sections = [] if target is None or following else plan_sections(source)
    if len(sections) > 1:
        if wrapper == AUTO and not is_wrapped(head_of(source)):
            wrapper = LATER
        sections = sections if wrapper in (NONE, LATER) else []
    formatter = Formatter(
        style,
        redactor=Redactor(key) if key is not None else None,
        wanted=wanted,
        wrapper=wrapper,
        bulk_from_bytes=0 if len(sections) > 1 else BULK_FROM_BYTES,
    )
    with (
        _open_chunks(
            source, sections, progress, stop if following else None, on_next, on_note
        ) as chunks,
        # Before the target is opened: a process inherits what is open, and with it the lock that
        # says who writes the target.
        at_work(sections[1:], formatter) as others,
        _open_target(source, target, streaming=following) as write,
        _Behind(write) as out,
    ):
        _pump(chunks, formatter, out)
        _take_over(others, formatter, out)
        out.put(formatter.flush())
    counts = formatter.counts
    return FormatReport(
        input=source,
        output=target,
        lines=counts.lines,
        records=counts.records,
        unparsed_lines=counts.unparsed_lines,
        records_written=counts.records_written,
        redactions=None if key is None else dict(sorted(formatter.redactions.items())),
        read_bytes=formatter.read_bytes,
        written_bytes=out.written_bytes,
    )


@dataclass(frozen=True, slots=True)
class FormatReports:
    """What a run over several logs saw and wrote, in the order in which they were named."""

    files: tuple[FormatReport, ...]


def merge_logs(
    sources: Sequence[str],
    output: str | None = None,
    *,
    style: Style,
    key: bytes | None,
    wanted: Filter | None = None,
    wrapper: str = AUTO,
    on_note: Callable[[str], object] = lambda _: None,
    progress: Progress = SILENT,
) -> FormatReport:
    """Format several logs as one, by time, and return what was seen.

    `output` is a path, or standard output where it is None or `-`. The other arguments and the
    errors are those of `format_log`.
    """
    target = None if output in (None, STDOUT) else Path(str(output))
    for source in sources if target else ():
        refuse_same_file(source, target or Path())
    merger = Merger(style, key=key, wanted=wanted, wrapper=wrapper)
    with _open_target(STDIN, target, streaming=False) as write, _Behind(write) as out:
        lines: list[bytes] = []
        for line in merger.merge(sources, progress=progress, on_note=on_note):
            lines.append(line)
            if len(lines) == _LINES_AT_ONCE:
                out.put(b"".join(lines))
                lines.clear()
        out.put(b"".join(lines))
    counts = merger.counts
    return FormatReport(
        input=" ".join(sources),
        output=target,
        lines=counts.lines,
        records=counts.records,
        unparsed_lines=counts.unparsed_lines,
        records_written=counts.records_written,
        redactions=None if key is None else dict(sorted(merger.redactions.items())),
        read_bytes=merger.read_bytes,
        written_bytes=out.written_bytes,
    )


class _Behind:
    """A writer in a thread of its own.

    Writing releases the interpreter lock, so it costs next to nothing beside the next block.
    """

    def __init__(self, write: Write) -> None:
        self.written_bytes = 0
        self._write = write
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._last: Future[object] | None = None

    def __enter__(self) -> _Behind:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown()
        if self._last and failure is None:
            self._last.result()

    def put(self, data: bytes) -> None:
        """Write `data` after what was put before.

        A failure shows at the next call or at the end.
        """
        if self._last:
            self._last.result()
        self.written_bytes += len(data)
        self._last = self._pool.submit(self._write, data)


def _pump(chunks: Iterable[bytes], formatter: Formatter, out: _Behind) -> None:
    for block in cut_blocks(chunks):
        out.put(formatter.feed(block) if block else formatter.flush())


def _take_over(others: list[SectionAtWork], formatter: Formatter, out: _Behind) -> None:
    """Put the results of other processes for the later sections into `out`.

    A section is formatted here where its process could not know enough.
    """
    for other in others:
        totals = other.totals()
        if totals and formatter.can_take(totals):
            out.put(formatter.flush())
            formatter.take(totals)
            for chunk in read_chunks(other.output):
                out.put(chunk)
        else:
            _pump(other.section.chunks(), formatter, out)


@contextmanager
def _open_chunks(
    source: str,
    sections: list[Section],
    progress: Progress,
    stop: Event | None,
    on_next: Callable[[Path], object],
    on_note: Callable[[str], object],
) -> Iterator[Iterator[bytes]]:
    """Yield the bytes to format here: what grows, the first of several sections, or all."""
    if stop is not None:
        yield follow(local_path(source), stop, on_next=on_next)
    elif len(sections) > 1:
        yield sections[0].chunks(progress)
    else:
        with open_source(source, progress=progress, on_note=on_note) as chunks:
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
        try:
            stdout.write(data)
            stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise translate(exc, "standard output") from exc

    yield write_now
