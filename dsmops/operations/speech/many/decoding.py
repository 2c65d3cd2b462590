"""Decode recordings in processes of their own, ahead of the engine.

Reading a frame of 80 ms takes about as long as everything else that Python does for it. In threads
both share the interpreter lock: on an H200 with 400 slots the engine computed in 29 % of the time.

A library that crashes on a recording takes with it what its process has in hand; another process
takes its place.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsmops.audio import (
    FRAME_SAMPLES,
    SAMPLE_RATE_HZ,
    LevelMeter,
    Levels,
    Samples,
    excerpt,
    frames,
    open_audio,
)
from dsmops.errors import DsmopsError, FileAccessError, InputError, RemoteError
from dsmops.operations.speech.many.ahead import PIECE_FRAMES
from dsmops.operations.speech.many.inputs import BUCKET, opened
from dsmops.operations.speech.many.listing import ListedRecording
from dsmops.operations.speech.many.work import allow_open_files

_FILES_OF_EACH = 4
"""Files and pipes that a recording takes, with ffmpeg."""
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
_OF_ONE = InputError | FileAccessError | RemoteError
"""Errors of a recording; with others nothing can be read."""
_MOST_PROCESSES = 8
"""Enough for 400 slots of an H200: each decodes some 10,000 frames a second."""
_FETCHES = 4
"""Objects of a bucket that a process fetches at a time."""
_FIRST_PIECES = 5
"""Recordings that begin together have first pieces of so many lengths, so that the engine need not
wait for all of them at once, neither at first nor later."""


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """What is known of a recording so far.

    `duration_s` None: its header does not say. `error` says why it could not be read to its end.
    """

    levels: Levels
    duration_s: float | None
    error: DsmopsError | None = None
    warnings: tuple[str, ...] = ()


class _Piece(NamedTuple):
    frames: NDArray[np.float32]
    """[n, 1920]"""
    facts: SourceFacts
    is_last: bool


class _Reader:
    """A recording in the process that reads it. `source` gives its file, or raises why not."""

    def __init__(
        self,
        number: int,
        listed: ListedRecording,
        source: AbstractContextManager[Path | BinaryIO],
    ) -> None:
        self._next_frames = PIECE_FRAMES * (1 + number % _FIRST_PIECES) // _FIRST_PIECES
        self._listed = listed
        self._source = source
        self._meter = LevelMeter()
        self._duration_s = listed.duration_s
        self._error: DsmopsError | None = None
        self._warnings: tuple[str, ...] = ()
        self._frames = self._read()

    def piece(self) -> _Piece:
        wanted, self._next_frames = self._next_frames, PIECE_FRAMES
        read = list(islice(self._frames, wanted))
        stacked = np.stack(read) if read else np.empty((0, FRAME_SAMPLES), np.float32)
        facts = SourceFacts(self._meter.levels, self._duration_s, self._error, self._warnings)
        return _Piece(stacked, facts, is_last=len(read) < wanted)

    def _read(self) -> Iterator[Samples]:
        """Yield its frames. Where it cannot be read to its end, stop and remember why."""
        listed = self._listed
        try:
            with self._source as source, open_audio(source) as audio:
                self._duration_s = self._duration_s or audio.duration_s
                # In pieces of a frame's length, by which silence is judged.
                pieces = audio.blocks(FRAME_S)
                blocks = excerpt(pieces, listed.offset_s, listed.duration_s)
                yield from frames(self._measured(blocks))
                self._warnings = tuple(audio.warnings)
            if not self._meter.levels.duration_s:
                self._error = InputError(
                    f"{listed.file} ends before {listed.offset_s:.2f} s, where its part begins",
                    hint="Check the offset in the manifest.",
                    code="manifest.offset",
                )
        except DsmopsError as exc:
            self._error = exc

    def _measured(self, blocks: Iterator[Samples]) -> Iterator[Samples]:
        for block in blocks:
            self._meter.add(block)
            yield block


_Asked = queue.SimpleQueue[tuple[int, ListedRecording | None] | None]
"""Recordings by their numbers, each the first time with what it is. None: no more will come."""


def _serve(connection: Connection, open_files: int) -> None:
    """Be a process that decodes, until the caller is gone."""
    # Signals to the group are for the caller, with whose end of the pipe this one ends too.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    allow_open_files(open_files)
    answer_all(connection)
    # Without waiting for objects that are still being fetched.
    os._exit(0)


def answer_all(connection: Connection) -> None:
    """Answer each number of a recording with its next piece, until the caller is gone.

    An object of a bucket is fetched beside this, and its first piece comes when it is there, after
    those of others.
    """
    asked: _Asked = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[connection, asked], daemon=True).start()
    fetching = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")
    readers: dict[int, _Reader] = {}
    with suppress(OSError), _socket_of(connection) as samples:
        while (one := asked.get()) is not None:
            number, listed = one
            if listed is not None and listed.file.startswith(BUCKET):
                fetched = fetching.submit(_fetch, listed.file)
                readers[number] = _Reader(number, listed, _fetched(fetched))
                fetched.add_done_callback(partial(_tell, asked, number))
                continue
            if listed is not None:
                readers[number] = _Reader(number, listed, opened(listed.file))
            piece = readers[number].piece()
            if piece.is_last:
                del readers[number]
            connection.send((number, len(piece.frames), piece.facts, piece.is_last))
            samples.sendall(piece.frames.data)
    fetching.shutdown(wait=False, cancel_futures=True)


def _listen(connection: Connection, asked: _Asked) -> None:
    """Pass on what the caller asks for, and at last None."""
    with suppress(EOFError, OSError):
        while True:
            asked.put(connection.recv())
    asked.put(None)


def _tell(asked: _Asked, number: int, _: object) -> None:
    """Have the first piece of an object made, which is there now."""
    asked.put((number, None))


def _fetch(address: str) -> tuple[ExitStack, Path | BinaryIO]:
    """Return an object in a temporary file, which the stack closes. Raises as `opened`."""
    with ExitStack() as stack:
        source = stack.enter_context(opened(address))
        return stack.pop_all(), source


@contextmanager
def _fetched(fetched: Future[tuple[ExitStack, Path | BinaryIO]]) -> Iterator[Path | BinaryIO]:
    stack, source = fetched.result()
    with stack:
        yield source


def _socket_of(connection: Connection) -> socket.socket:
    """Return the socket that a connection has, which a `Pipe` for both directions is."""
    return socket.socket(fileno=os.dup(connection.fileno()))


def _receive(samples: socket.socket, frames: NDArray[np.float32]) -> None:
    """Fill `frames`. `Connection.recv_bytes` would ask for the interpreter lock every 200 KB.

    Raises:
        EOFError: the other end is gone.
    """
    left = frames.reshape(-1).view(np.uint8).data
    while left:
        count = samples.recv_into(left, flags=socket.MSG_WAITALL)
        if not count:
            raise EOFError
        left = left[count:]


class _LostError(Exception):
    """The process that read a recording has died."""


class _Process:
    """A process that decodes, and the thread that takes its pieces. One that died is replaced."""

    def __init__(self, open_files: int) -> None:
        self._open_files = open_files
        self._lock = threading.Lock()
        self._opened: set[int] = set()
        """Recordings that the process, which may be a second one, has opened."""
        self._asked: dict[int, Future[_Piece]] = {}
        self.in_hand = 0
        self._start()

    def ask(self, number: int, listed: ListedRecording | None = None) -> Future[_Piece]:
        """Ask for the next piece of a recording, the first time with what it is.

        The future raises `_LostError` where the process that read it is gone.
        """
        piece: Future[_Piece] = Future()
        with self._lock:
            if listed is not None:
                if not self._process.is_alive():
                    self._lose()
                    self._close()
                    self._start()
                self._opened.add(number)
            if number not in self._opened:
                piece.set_exception(_LostError())
                return piece
            self._asked[number] = piece
            try:
                self._connection.send((number, listed))
            except OSError:
                self._lose()
        return piece

    def end(self) -> None:
        """End it, also while it waits for a disk or a bucket."""
        self._process.kill()
        self._close()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._samples = _socket_of(self._connection)
        self._process = context.Process(target=_serve, args=[theirs, self._open_files], daemon=True)
        self._process.start()
        theirs.close()
        self._thread = threading.Thread(target=self._take, name="decode", daemon=True)
        self._thread.start()

    def _close(self) -> None:
        """Close what belongs to a process that has ended."""
        self._process.join()
        self._connection.close()
        self._samples.close()

    def _take(self) -> None:
        """Take pieces until the process is gone, and what it had in hand with it."""
        connection, samples = self._connection, self._samples
        with suppress(EOFError, OSError):
            while True:
                number, count, facts, is_last = connection.recv()
                frames = np.empty((count, FRAME_SAMPLES), np.float32)
                _receive(samples, frames)
                with self._lock:
                    piece = self._asked.pop(number)
                piece.set_result(_Piece(frames, facts, is_last))
        with self._lock:
            if connection is self._connection:
                self._lose()

    def _lose(self) -> None:
        for piece in self._asked.values():
            piece.set_exception(_LostError())
        self._asked.clear()
        self._opened.clear()


class Source:
    """A recording on its way through the engine. Its next piece is being decoded, from now on."""

    def __init__(self, process: _Process, number: int, listed: ListedRecording) -> None:
        self.listed = listed
        self.facts = SourceFacts(LevelMeter().levels, listed.duration_s)
        self.fed_frames = 0
        self._process, self._number = process, number
        process.in_hand += 1
        self._next = process.ask(number, listed)

    @property
    def weight_done(self) -> float:
        """What of its weight went through the engine, 0 where its length is not known."""
        if not self.facts.duration_s:
            return 0.0
        return self.listed.weight * min(self.fed_frames * FRAME_S / self.facts.duration_s, 1.0)

    def frames(self) -> Iterator[Samples]:
        """Yield its frames, float32 [1920].

        Raises:
            DsmopsError: what keeps any recording from being read, such as a full disk.
        """
        is_last = False
        while not is_last:
            piece = self._piece()
            self.facts, is_last = piece.facts, piece.is_last
            error = self.facts.error
            if error is not None and not isinstance(error, _OF_ONE):
                raise error
            if is_last:
                self._process.in_hand -= 1
            else:
                self._next = self._process.ask(self._number)
            for frame in piece.frames:
                self.fed_frames += 1
                yield frame

    def _piece(self) -> _Piece:
        try:
            return self._next.result()
        except _LostError:
            error = InputError(
                f"{self.listed.file} was not read to its end: the process that decoded it died",
                hint="Run the command again. What fails each time is damaged.",
                code="audio.decoder",
            )
            facts = replace(self.facts, error=error)
            return _Piece(np.empty((0, FRAME_SAMPLES), np.float32), facts, is_last=True)


class Decoders:
    """Processes that decode, each a share of the recordings in work."""

    def __init__(self, processes: Sequence[_Process]) -> None:
        self._processes = processes
        self._opened = 0

    def open(self, listed: ListedRecording) -> Source:
        """Open a recording in the process with the least in hand."""
        self._opened += 1
        return Source(min(self._processes, key=lambda one: one.in_hand), self._opened, listed)


@contextmanager
def decoders(most_open: int) -> Iterator[Decoders]:
    """Give processes that decode, and end them. At most `most_open` recordings are open at once."""
    count = min(_MOST_PROCESSES, max(1, (os.cpu_count() or 1) // 2))
    processes: list[_Process] = []
    try:
        while len(processes) < count:
            processes.append(_Process(_FILES_OF_EACH * most_open))
        yield Decoders(processes)
    finally:
        for process in processes:
            process.end()
