"""Several logs as one, in the order of time, in constant memory."""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dsmops.logs.blocks import cut_blocks
from dsmops.logs.filters import Filter, Sieve
from dsmops.logs.formatter import Counts, redacted_record
from dsmops.logs.plain_text import clean, decode
from dsmops.logs.reader import Grouping, Reader, records_of
from dsmops.logs.records import LogRecord
from dsmops.logs.redaction import Redactor
from dsmops.logs.render import Style, render
from dsmops.logs.sources import Note, local_path, open_source
from dsmops.logs.wrappers import AUTO, Unwrapper
from dsmops.progress import SILENT, Progress

_ROTATED = re.compile(r"(?:\.20\d\d-\d\d-\d\d|\.\d{1,4}|\.gz|\.zst|\.log)+$")
_BEGINNING = datetime.min.replace(tzinfo=UTC)


def _shown_name(name: str) -> str:
    """Return a file's name on one line, whatever bytes it holds."""
    return clean(decode(os.fsencode(name)))


@dataclass(slots=True)
class _Event:
    """A record with the time at which it stands: its own, or that of the one before it."""

    time: datetime
    record: LogRecord


class Merger:
    """Merges logs; `counts`, `redactions` and `read_bytes` are of all of them."""

    def __init__(
        self, style: Style, *, key: bytes | None, wanted: Filter | None, wrapper: str = AUTO
    ) -> None:
        self.counts = Counts()
        self.read_bytes = 0
        self._style, self._wanted, self._wrapper = style, wanted or Filter(), wrapper
        self._redactor = Redactor(key) if key is not None else None

    @property
    def redactions(self) -> dict[str, int]:
        """How often each rule hit. Never the values."""
        return dict(self._redactor.counts) if self._redactor else {}

    def merge(
        self, sources: Sequence[str], *, progress: Progress = SILENT, on_note: Note = lambda _: None
    ) -> Iterator[bytes]:
        """Yield the lines of all sources by time; of equal times the earlier source comes first.

        Where logs of several servers are merged, the file's name without its date stands before
        each line, as docker compose writes a container's.
        """
        names = [_ROTATED.sub("", local_path(source).name) for source in sources]
        several = len(set(names)) > 1
        with ExitStack() as stack:
            streams = []
            for source, name in zip(sources, names, strict=True):
                chunks = stack.enter_context(
                    open_source(source, progress=progress, on_note=on_note)
                )
                streams.append(self._events(chunks, _shown_name(name) if several else None))
            for event in heapq.merge(*streams, key=lambda event: event.time):
                yield self._shown(event.record)

    def _events(self, chunks: Iterable[bytes], name: str | None) -> Iterator[_Event]:
        reader, sieve = Reader(self._style.clock.fresh()), Sieve(self._wanted)
        unwrapper, grouping = Unwrapper(self._wrapper), Grouping()
        time = _BEGINNING

        def dated(records: Iterable[LogRecord]) -> Iterator[_Event]:
            nonlocal time
            for record in records:
                # Events of several containers, or threads, may be a little out of order.
                time = max(time, record.time or time)
                named = replace(record, service=name) if name and not record.service else record
                yield _Event(time, named)

        def lines(block: bytes) -> Iterator[_Event]:
            for raw in block.split(b"\n")[: -1 if block.endswith(b"\n") else None]:
                line = reader.line(raw)
                self.counts.lines += 1
                self.counts.unparsed_lines += line.is_text
                self.counts.records += line.record is not None and not line.is_text
                if sieve.keeps(line):
                    yield from dated(records_of(grouping.add(line)))

        for block in cut_blocks(chunks):
            self.read_bytes += len(block)
            if block:
                yield from lines(unwrapper.feed_all(block))
        if rest := unwrapper.flush():
            yield from lines(rest)
        yield from dated(records_of(grouping.finish()))

    def _shown(self, record: LogRecord) -> bytes:
        self.counts.records_written += record.format != "text"
        if self._redactor:
            record = redacted_record(record, self._redactor)
        return render(record, self._style).encode() + b"\n"


_LOG_NAME = re.compile(r"log\.[^/]+|[^/]+\.log(?:\.[^/]+)?")
_NO_LOG = (".json", ".safetensors", ".wav", ".mp3", ".ogg", ".opus", ".flac", ".npz", ".npy")


def logs_in(folder: Path) -> list[Path]:
    """Return the files of a folder that are logs by their names, in the order of their names.

    Captures and audio lie in the same folder; what was formatted before begins with `friendly-`.
    """
    return sorted(
        path
        for path in folder.iterdir()
        if _LOG_NAME.fullmatch(path.name)
        and not path.name.endswith(_NO_LOG)
        and not path.name.startswith(("friendly-", "."))
        and path.is_file()
    )
