"""Decoders that are programs: audio in, from a file or a pipe, and samples as AU out.

AU is the simplest format whose header has rate and channels. A program can wait for a pipe while
this process stays able to react to signals, and what it prints does not reach the terminal.
"""

from __future__ import annotations

import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any, NoReturn, cast

import numpy as np
from numpy.typing import NDArray

from dsmops.audio.decoding import DecodingError

_HEADER_BYTES = 24
_SHOWN_CHARS = 200


class ProgramDecoder:
    """The audio that a program writes, as float samples at its own rate. One process, one pass.

    `format` is the annotation in the header that the program writes, else the program's name.
    """

    def __init__(
        self,
        program: str,
        command: list[str],
        pieces: Iterator[bytes] | None = None,
        *,
        source: str | None = None,
    ) -> None:
        """Start `command`, which gets `pieces` on its standard input. `source` is what it calls its
        input, which may be a temporary file: messages omit it.

        Raises:
            DecodingError: the program ended without any audio.
        """
        self._program, self._source = program, source
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 close() closes it
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if pieces is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # Ctrl-C in a terminal is for us alone: what was read until then is kept.
            start_new_session=True,
        )
        self._feeder: _Feeder | None = None
        if pieces is not None:
            self._feeder = _Feeder(pieces, cast(IO[bytes], self._process.stdin))
        try:
            self.samplerate, self.channels, self.format = self._read_header()
            # A program that cannot go on without seeking may write a header and nothing else.
            self._first = b"" if pieces is None else self._read(4 * self.channels)
            if pieces is not None and not self._first:
                self._fail()
        except DecodingError:
            self.finish()
            raise
        except BaseException:
            self.close()
            raise

    def read(self, count: int) -> NDArray[np.float32]:
        """Return up to `count` samples as float32 [n, channels]; none at the end.

        Raises:
            DecodingError: the program ended with an error, after all that it could read.
        """
        data = self._first + self._read(4 * self.channels * count - len(self._first))
        self._first = b""
        usable = len(data) - len(data) % (4 * self.channels)
        if not usable:
            if self._process.wait():
                self._fail()
            self._raise_failure()
        samples = np.frombuffer(data[:usable], ">f4").astype(np.float32)
        return samples.reshape(-1, self.channels)

    def complaint(self) -> str:
        """Return what the program said about audio that it read to its end, empty for nothing."""
        self._process.wait()
        line = self._last_line()
        return f"{self._program}: {line}" if line else ""

    def finish(self) -> None:
        """Close, and wait until nothing reads the pieces any more."""
        self.close()
        if self._feeder is not None:
            self._feeder.join()

    def close(self) -> None:
        """End the program. A source that gives nothing is not waited for."""
        if self._feeder is not None:
            self._feeder.is_stopped = True
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _read_header(self) -> tuple[int, int, str]:
        """Return the rate, the channels and the format."""
        header = self._read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES:
            self._fail()
        offset, _, _, rate_hz, channels = struct.unpack(">5I", header[4:])
        annotation = self._read(offset - _HEADER_BYTES).rstrip(b"\0")
        return rate_hz, channels, annotation.decode(errors="replace") or self._program

    def _read(self, count: int) -> bytes:
        stdout: Any = self._process.stdout
        data: bytes = stdout.read(count)
        return data

    def _fail(self) -> NoReturn:
        """Raise why the program gave nothing more."""
        self._process.wait()
        self._raise_failure()
        raise DecodingError(
            self._last_line() or "it gave no reason",
            is_end=self._feeder is not None and self._feeder.has_ended,
            program=self._program,
        )

    def _raise_failure(self) -> None:
        if self._feeder is not None and self._feeder.failure is not None:
            raise self._feeder.failure

    def _last_line(self) -> str:
        self._log.seek(0)
        text = self._log.read().decode(errors="replace")
        if self._source is not None:
            text = text.replace(f"{self._source}: ", "").replace(self._source, "the input")
        lines = text.strip().splitlines()
        return lines[-1].strip()[:_SHOWN_CHARS] if lines else ""


class _Feeder(threading.Thread):
    """Writes pieces to a program as they come.

    It is a daemon: it may wait for a pipe that gives nothing, and the process must be able to end.
    """

    def __init__(self, pieces: Iterator[bytes], target: IO[bytes]) -> None:
        super().__init__(name="audio-feeder", daemon=True)
        self._pieces, self._target = pieces, target
        self.is_stopped = False
        self.has_ended = False
        """Whether the program was given everything."""
        self.failure: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            for piece in self._pieces:
                if self.is_stopped:
                    return
                self._target.write(piece)
                self._target.flush()
            self.has_ended = True
        except BrokenPipeError:  # the program needs no more
            pass
        except BaseException as exc:  # noqa: BLE001 raised again where the samples are read
            self.failure = exc
        finally:
            with suppress(OSError):
                self._target.close()
