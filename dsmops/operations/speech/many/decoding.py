"""Decode recordings in processes of their own, ahead of the engine.

Reading a frame of 80 ms takes about as long as everything else that Python does for it. In threads
both share the interpreter lock: on an H200 with 400 slots the engine computed in 29 % of the time.

A library that crashes on a recording takes with it what its process has in hand; another process
takes its place.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import queue
import signal
import socket
import threading
import traceback
import wave
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
    read,
)
from dsmops.errors import DsmopsError, FileAccessError, InputError, RemoteError, ResourceError
from dsmops.files import os_errors
from dsmops.operations.speech.many.ahead import PIECE_FRAMES
from dsmops.operations.speech.many.inputs import BUCKET, opened
from dsmops.operations.speech.many.listing import ListedRecording
from dsmops.operations.speech.many.work import allow_open_files

_FILES_OF_EACH = 4
"""Files and pipes that a recording takes, with ffmpeg."""
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
_OF_ONE = InputError | FileAccessError | RemoteError
"""Errors of a recording; with others nothing can be read."""
_MOST_FAILED_STARTS = 3
"""Processes that die at their start, one after another, before the run ends."""
_STARTED = "started"
"""What a process sends first."""
_MOST_PROCESSES = 8
"""Four decode enough for 400 slots of an H200, some 10,000 frames a second each. Twice as many,
because many recordings want their next piece at about the same time."""
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
        taken = list(islice(self._frames, wanted))
        stacked = np.stack(taken) if taken else np.empty((0, FRAME_SAMPLES), np.float32)
        facts = SourceFacts(self._meter.levels, self._duration_s, self._error, self._warnings)
        return _Piece(stacked, facts, is_last=len(taken) < wanted)

    def _read(self) -> Iterator[Samples]:
        """Yield its frames. Where it cannot be read to its end, stop and remember why."""
        listed = self._listed
        try:
            with os_errors(listed.file), self._source as source, open_audio(source) as audio:
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
    code = 1
    try:
        allow_open_files(open_files)
        _load_libraries()
        with suppress(OSError):  # the caller is gone
            connection.send(_STARTED)
        answer_all(connection)
        code = 0
    except BaseException:  # noqa: BLE001 it ends with its traceback
        traceback.print_exc()
    finally:
        # Without waiting for objects that are still being fetched.
        os._exit(code)


def _load_libraries() -> None:
    """Decode silence, so that a library that crashes at any recording ends the process here."""
    file = io.BytesIO()
    with wave.open(file, "wb") as wav:
        wav.setparams((1, 2, 2 * SAMPLE_RATE_HZ, 0, "NONE", ""))
        wav.writeframes(bytes(2 * FRAME_SAMPLES))
    file.seek(0)
    with suppress(DsmopsError):  # the first recording reports it
        read(file)


def answer_all(connection: Connection) -> None:
    """Answer each number of a recording with its next piece, until the caller is gone.

    An object of a bucket is fetched in a thread, and its first piece comes when it is there, after
    those of others.
    """
    asked: _Asked = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[connection, asked], daemon=True).start()
    fetching = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fetch")
    readers: dict[int, _Reader] = {}
    with _socket_of(connection) as samples:
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
            try:
                connection.send((number, len(piece.frames), piece.facts, piece.is_last))
                samples.sendall(piece.frames.data)
            except OSError:  # the caller is gone
                break
    fetching.shutdown(wait=False, cancel_futures=True)


def _listen(connection: Connection, asked: _Asked) -> None:
    """Pass on what the caller asks for, and at last None."""
    with suppress(EOFError, OSError):
        while True:
            asked.put(connection.recv())
    asked.put(None)


def _tell(asked: _Asked, number: int, _: object) -> None:
    """Queue the first piece of an object that has been fetched."""
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


class _NotTakenError(Exception):
    """The process that was asked for a recording died before it could take it."""


class _Process:
    """A process that decodes, and the thread that takes its pieces."""

    def __init__(self, open_files: int) -> None:
        self.has_started = self.is_gone = False
        """`is_gone`: it takes nothing any more, and what it had is lost."""
        self._lock = threading.Lock()
        """Of what follows, and of the connection."""
        self._asked: dict[int, Future[_Piece]] = {}
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._samples = _socket_of(self._connection)
        self._process = context.Process(target=_serve, args=[theirs, open_files], daemon=True)
        try:
            self._process.start()
        except OSError as exc:
            self._connection.close()
            self._samples.close()
            raise _no_start(f"cannot be started: {exc.strerror}") from exc
        finally:
            theirs.close()
        self._thread = threading.Thread(target=self._take, name="decode", daemon=True)
        self._thread.start()

    def ask(self, number: int, listed: ListedRecording | None = None) -> Future[_Piece]:
        """Ask for the next piece of a recording, the first time with what it is.

        The future raises `_LostError` where the process has died since it took the recording, and
        `_NotTakenError` where it died before.
        """
        piece: Future[_Piece] = Future()
        with self._lock:
            if not self.is_gone:
                self._asked[number] = piece
                try:
                    self._connection.send((number, listed))
                except OSError:
                    del self._asked[number]
                else:
                    return piece
        piece.set_exception(_LostError() if listed is None else _NotTakenError())
        return piece

    def end(self) -> None:
        """End it, also while it waits for a disk or a bucket."""
        with self._lock, suppress(OSError):
            if not self.is_gone:
                # Wakes the thread, to which all else belongs.
                self._samples.shutdown(socket.SHUT_RDWR)
        self._thread.join()

    def _take(self) -> None:
        """Take pieces until the process is gone, and what it had in hand with it."""
        try:
            with suppress(EOFError, OSError):
                self._connection.recv()
                self.has_started = True
                while True:
                    self._take_piece()
        finally:
            with self._lock:
                self.is_gone = True
                self._connection.close()
                self._samples.close()
            for piece in self._asked.values():
                piece.set_exception(_LostError() if self.has_started else _NotTakenError())
            self._asked.clear()
            self._process.kill()
            self._process.join()

    def _take_piece(self) -> None:
        number, count, facts, is_last = self._connection.recv()
        frames = np.empty((count, FRAME_SAMPLES), np.float32)
        _receive(self._samples, frames)
        with self._lock:
            piece = self._asked.pop(number)
        piece.set_result(_Piece(frames, facts, is_last))


class _Decoder:
    """A process that decodes, and after its death another one."""

    def __init__(self, open_files: int) -> None:
        self._open_files = open_files
        self._failed_starts = 0
        self.in_hand = 0
        self.process = _Process(open_files)

    def open(self, number: int, listed: ListedRecording) -> tuple[_Process, Future[_Piece]]:
        """Return the process that opens a recording, and its first piece. Raises as `_replace`."""
        if self.process.is_gone:
            self._replace()
        return self.process, self.process.ask(number, listed)

    def _replace(self) -> None:
        """Start another process.

        A recording can crash its process, and many in a row each theirs. Only deaths before it has
        started are the fault of this machine.

        Raises:
            ResourceError: some in a row died at their start, or there can be no other process.
        """
        self._failed_starts = 0 if self.process.has_started else self._failed_starts + 1
        if self._failed_starts >= _MOST_FAILED_STARTS:
            raise _no_start(f"died at its start, {self._failed_starts} times in a row")
        self.process.end()
        self.process = _Process(self._open_files)


def _no_start(what: str) -> ResourceError:
    return ResourceError(
        f"a process that decodes recordings {what}",
        hint="Look for its own message above. Without one, the system may have killed it: see"
        " `ulimit -a` and the memory limit of this job.",
        code="audio.decoder_start",
    )


class Source:
    """A recording on its way through the engine. Its next piece is being decoded, from now on."""

    def __init__(self, decoder: _Decoder, number: int, listed: ListedRecording) -> None:
        self.listed = listed
        self.facts = SourceFacts(LevelMeter().levels, listed.duration_s)
        self.fed_frames = 0
        self._decoder, self._number = decoder, number
        decoder.in_hand += 1
        self._process, self._next = decoder.open(number, listed)

    @property
    def weight_done(self) -> float:
        """What of its weight went through the engine, 0 where its length is not known."""
        if not self.facts.duration_s:
            return 0.0
        return self.listed.weight * min(self.fed_frames * FRAME_S / self.facts.duration_s, 1.0)

    def frames(self) -> Iterator[Samples]:
        """Yield its frames, float32 [1920].

        Raises:
            DsmopsError: what keeps any recording from being read, such as a full disk, or that
                processes die at their start.
        """
        is_last = False
        while not is_last:
            piece = self._piece()
            self.facts, is_last = piece.facts, piece.is_last
            error = self.facts.error
            if error is not None and not isinstance(error, _OF_ONE):
                raise error
            if is_last:
                self._decoder.in_hand -= 1
            else:
                self._next = self._process.ask(self._number)
            for frame in piece.frames:
                self.fed_frames += 1
                yield frame

    def _piece(self) -> _Piece:
        while True:
            try:
                return self._next.result()
            except _NotTakenError:
                self._process.end()
                self._process, self._next = self._decoder.open(self._number, self.listed)
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

    def __init__(self, started: Sequence[_Decoder]) -> None:
        self.all = started
        self._opened = 0

    def open(self, listed: ListedRecording) -> Source:
        """Open a recording in the process with the least in hand.

        Raises:
            ResourceError: processes die at their start.
        """
        self._opened += 1
        return Source(min(self.all, key=lambda one: one.in_hand), self._opened, listed)


@contextmanager
def decoders(most_open: int) -> Iterator[Decoders]:
    """Give processes that decode, and end them. At most `most_open` recordings are open at once.

    Raises:
        ResourceError: there can be no more processes.
    """
    count = min(_MOST_PROCESSES, max(1, (os.cpu_count() or 1) // 2))
    started: list[_Decoder] = []
    try:
        while len(started) < count:
            started.append(_Decoder(_FILES_OF_EACH * most_open))
        yield Decoders(started)
    finally:
        for one in started:
            one.process.end()
