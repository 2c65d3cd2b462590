"""Format a big file in sections, one process each, to the same bytes as in one go.

A line's text depends on earlier lines only in a few cases: on an open PEM block or list, on
containers of docker compose, and, for stamps without a zone, in the hour that occurs twice. So each
section begins at a record and is formatted as a log of its own. Its result is used only where the
sections before left nothing behind that matters to it. Otherwise that section is formatted once
more, here.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from dsmops.errors import InputError
from dsmops.files import os_errors
from dsmops.logs.blocks import chunk_sizes, cut_blocks
from dsmops.logs.clock import Clock
from dsmops.logs.compression import MAGIC_BYTES
from dsmops.logs.formatter import Formatter, FormatTotals
from dsmops.logs.reader import Reader
from dsmops.logs.sources import STDIN, is_compressed, local_path
from dsmops.progress import SILENT, Progress

SECTION_BYTES = 16 << 20
"""A smaller section is not worth a process, which costs some 20 ms."""

_MOST_SECTIONS = 8
_HELD = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_LOOK_BYTES, _NEAR_BYTES = 256 << 10, 64 << 10
_RECORD = re.compile(rb"(?<=\n)(?:\x1b\[2m)?20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z.*\n")


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of a file, from `begin` up to `end` (None: whatever there is)."""

    path: Path
    status: os.stat_result
    begin: int
    end: int | None

    def chunks(
        self, progress: Progress = SILENT, *, sizes: Iterable[int] | None = None
    ) -> Iterator[bytes]:
        """Yield its bytes, in pieces of some sizes; by default few at first.

        Raises:
            InputError: another file has the name now.
            FileAccessError: the file cannot be read.
        """
        with os_errors(self.path):
            file = self.path.open("rb", buffering=0)
        progress.start(f"Formatting {self.path.name}", self.end and self.end - self.begin)
        with file:
            if not os.path.samestat(os.fstat(file.fileno()), self.status):
                raise InputError(
                    f"{self.path} was replaced while it was being read",
                    hint="Run the command again.",
                    code="logs.replaced",
                )
            file.seek(self.begin)
            left = sys.maxsize if self.end is None else self.end - self.begin
            for size in sizes or chunk_sizes():
                if not (chunk := self._read(file, min(size, left))):
                    break
                left -= len(chunk)
                progress.advance(len(chunk))
                yield chunk
        progress.finish()

    def _read(self, file: FileIO, size: int) -> bytes:
        with os_errors(self.path):
            return file.read(size)


def plan_sections(source: str) -> list[Section]:
    """Return the sections of a source: one for each processor.

    At most one where the source is not a big plain file or has no place to cut.
    """

    def cuts(fd: int, size_bytes: int) -> Iterator[int | None]:
        count = min(processors(), size_bytes // SECTION_BYTES)
        for number in range(1, count):
            yield _place_to_cut(fd, size_bytes * number // count)

    return _plan(source, cuts)


def plan_block_sections(source: str) -> list[Section]:
    """Return the sections of a source, a few blocks each.

    Read in pieces of `sizes_from` their begin, they give the blocks that the whole source gives in
    pieces of `chunk_sizes`. All but the first begin with a record. There is at most one where the
    source is not a big plain file, has no place to cut, or there is one processor.
    """

    def cuts(fd: int, size_bytes: int) -> Iterator[int | None]:
        edge = last = 0
        for size in chunk_sizes():
            edge += size
            if edge >= size_bytes or processors() < 2:
                return
            if edge - last >= SECTION_BYTES and (begin := _begin_of_block(fd, edge)):
                yield begin
                last = edge

    return _plan(source, cuts)


def sizes_from(begin: int) -> Iterator[int]:
    """Yield the sizes of reads from a place on that end where reads of `chunk_sizes` end."""
    edge = 0
    for size in chunk_sizes():
        edge += size
        if edge > begin:
            yield edge - begin
            begin = edge


def processors() -> int:
    """Return how many processes may work on sections at once."""
    return min(len(os.sched_getaffinity(0)), _MOST_SECTIONS)


def _plan(source: str, cuts: Callable[[int, int], Iterable[int | None]]) -> list[Section]:
    """Return the sections of a source. `cuts` finds where they begin, by descriptor and size."""
    path = local_path(source)
    # Sections are read in forked processes. To fork beside other threads could lock a child
    # forever.
    if source == STDIN or sys.platform != "linux" or threading.active_count() != 1:
        return []
    try:
        # Before it is opened: closing a named pipe again would end the process that writes to it.
        if not stat.S_ISREG(path.stat().st_mode):
            return []
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if is_compressed(os.pread(file.fileno(), MAGIC_BYTES, 0)):
                return []
            begins = sorted({0, *filter(None, cuts(file.fileno(), status.st_size))})
    except OSError:  # `open_source` will tell.
        return []
    return [
        Section(path, status, begin, end)
        for begin, end in zip(begins, [*begins[1:], None], strict=True)
    ]


def _place_to_cut(fd: int, near: int) -> int | None:
    """Return where the first record soon after `near` begins."""
    for found in _RECORD.finditer(os.pread(fd, _LOOK_BYTES, near)):
        if _begins_record(found[0]):
            return near + found.start()
    return None


def _begin_of_block(fd: int, edge: int) -> int | None:
    """Return where the last line before `edge` ends, None where no record follows it."""
    near = min(edge, _NEAR_BYTES)
    before = os.pread(fd, near, edge - near)
    line_end = before.rfind(b"\n")
    if line_end < 0:
        return None
    begin = edge - len(before) + line_end + 1
    found = _RECORD.match(os.pread(fd, _LOOK_BYTES, begin - 1), 1)
    return begin if found and _begins_record(found[0]) else None


def _begins_record(line: bytes) -> bool:
    return Reader(Clock()).line(line.removesuffix(b"\n")).record is not None


class Child(NamedTuple):
    """A forked process, and the pipe that its results come from."""

    pid: int
    results: BinaryIO

    def end(self) -> int | None:
        """Leave no process and no pipe behind; return the exit code of the process.

        It is the negative number of a signal, and None where it is unknown. Where SIGCHLD is
        ignored, the system has removed a process that ended by itself, and another one may have its
        number. So a signal is sent only to one that still is a child.
        """
        self.results.close()
        with suppress(ChildProcessError, ProcessLookupError):
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if not ended:
                os.kill(self.pid, signal.SIGKILL)
                _, status = os.waitpid(self.pid, 0)
            return os.waitstatus_to_exitcode(status)
        return None


def forked(work: Callable[[int], object], siblings: Iterable[Child] = ()) -> Child:
    """Return a new process that runs `work` with the descriptor for its results, and then ends.

    It never returns to the caller's code. Call it within `signals_held`. `siblings` are the
    processes that were forked before and still run.

    Raises:
        OSError: the system gives no process or no pipe.
    """
    results, theirs = os.pipe()
    try:
        pid = os.fork()
    except OSError:
        os.close(results)
        os.close(theirs)
        raise
    if pid == 0:
        exit_code = 1
        try:
            # A pipe breaks only when no process holds its reading end.
            for inherited in (results, *(each.results.fileno() for each in siblings)):
                os.close(inherited)
            work(theirs)
            exit_code = 0
        finally:
            os._exit(exit_code)
    os.close(theirs)
    return Child(pid, os.fdopen(results, "rb"))


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back while processes are forked, so that each is known before one is handled.

    The forked processes keep these signals blocked: a handler would run the parent's code there.
    The parent ends them.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class SectionAtWork:
    """A section that another process formats into a file of its own."""

    def __init__(self, section: Section, formatter: Formatter) -> None:
        self.section = section
        self.output: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 closed by `end`
        self._child: Child | None = None
        parent = os.getpid()
        with suppress(OSError):  # `totals` says that there is no process.
            self._child = forked(
                lambda results: _work(section, formatter, self.output, results, parent)
            )

    def totals(self) -> FormatTotals | None:
        """Wait for the process and return what it came to.

        None where it failed or never started, and the section has to be formatted here.
        """
        data = self._child.results.read() if self._child else b""
        self.output.seek(0)
        return pickle.loads(data) if data else None  # noqa: S301 written by our own child

    def end(self) -> None:
        """Leave no process and no file behind."""
        if self._child:
            self._child.end()
        self.output.close()


@contextmanager
def at_work(sections: list[Section], formatter: Formatter) -> Iterator[list[SectionAtWork]]:
    """Yield the sections, each being formatted by a process of its own.

    Each has a copy of `formatter`, which has read nothing yet.
    """
    working: list[SectionAtWork] = []
    try:
        with signals_held():
            working.extend(SectionAtWork(section, formatter) for section in sections)
        yield working
    finally:
        for section in working:
            section.end()


def _work(
    section: Section, formatter: Formatter, output: BinaryIO, results: int, parent: int
) -> None:
    """Format a section in the child. The parent sees results or none."""
    for block in cut_blocks(section.chunks()):
        if os.getppid() != parent:  # It was killed, and will not read the results.
            return
        output.write(formatter.feed(block))
    output.write(formatter.flush())
    output.flush()
    os.write(results, pickle.dumps(formatter.totals()))
