"""libsndfile on one segment of a file: samples, errors in our words, and no messages of its own."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsmops.audio.interrupts import deferred
from dsmops.audio.libraries import soundfile
from dsmops.audio.segments import Content, Segment, SegmentReader

_MPEG_IN_WAV = (b"\x50\0", b"\x55\0")
"""Format tags of layer II and III."""
_stderr_lock = threading.Lock()


class DecodingError(Exception):
    """The decoder's own reason. `is_end`: it failed because the bytes ended."""

    def __init__(self, reason: str, *, is_end: bool, program: str = "libsndfile") -> None:
        super().__init__(f"{program}: {reason}")
        self.is_end = is_end


class SndfileDecoder:
    """A decoder of one segment. `info` is the `soundfile.SoundFile`."""

    def __init__(self, content: Content, segment: Segment, name: str) -> None:
        """Raises DecodingError where libsndfile does not know the format."""
        self._name = name
        self._reader = SegmentReader(content, segment)
        self._failure: DecodingError | None = None
        # libmpg123, which libsndfile uses for MPEG audio alone, prints by itself. The format is not
        # known before the file is open.
        beginning = self._reader.read(22)
        self._reader.seek(0, 0)
        is_mpeg = beginning.startswith((b"ID3", b"\xff"))
        prints = is_mpeg or (beginning[:4] == b"RIFF" and beginning[20:22] in _MPEG_IN_WAV)
        self._closing = ExitStack()
        self._around: AbstractContextManager[object] = nullcontext()
        if prints:
            self._around = self._closing.enter_context(closing(_Muted()))
        with ExitStack() as on_failure, self._errors():
            on_failure.push(self._closing)
            self.info = _forward_only()(self._reader)
            on_failure.pop_all()
        self.samplerate: int = self.info.samplerate
        self.channels: int = self.info.channels

    def read(self, count: int) -> NDArray[np.float32]:
        """Return up to `count` samples as float32 [n, channels]; none at the end.

        What was decoded before a damaged place is returned first; the next call raises.

        Raises:
            DecodingError: the audio is damaged here.
        """
        if self._failure is not None:
            raise self._failure
        # Samples that stay NaN were not decoded. libsndfile does not say how many were, when it
        # fails. Samples that are NaN in the file make no difference: they are refused later.
        values = np.full((count, self.channels), np.nan, np.float32)
        try:
            with self._errors():
                return np.asarray(
                    self.info.read(count, dtype="float32", always_2d=True, out=values)
                )
        except DecodingError as exc:
            done = np.isnan(values).all(axis=1)
            self._failure = exc
            usable = int(np.argmax(done)) if done.any() else count
            if not usable:
                raise
            return values[:usable]

    def close(self) -> None:
        with self._closing, suppress(Exception), self._around:
            self.info.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with self._around, deferred():
                yield
        except soundfile().LibsndfileError as exc:
            self._reader.raise_failure(self._name)
            reason = exc.error_string.strip(" .")
            raise DecodingError(reason, is_end=self._reader.is_at_end) from exc
        self._reader.raise_failure(self._name)


def _forward_only() -> Any:
    """Return a `soundfile.SoundFile` that leaves the position alone.

    The plain one asks for it and seeks to it, where it is anyway, around each read. An MP3 decoder
    that seeks forgets the bits it had saved up, and the next frames come out as noise.
    """
    return type("ForwardOnly", (soundfile().SoundFile,), {"seekable": lambda _self: False})


class _Muted:
    """Hides what libmpg123 prints on stderr. Lines of other threads are printed at the end."""

    def __init__(self) -> None:
        self._kept = tempfile.TemporaryFile()  # noqa: SIM115 close() closes it
        self._saved: int | None = None

    def close(self) -> None:
        self._kept.close()

    def __enter__(self) -> None:
        _stderr_lock.acquire()
        try:
            self._saved = os.dup(2)
        except OSError:  # there is no stderr
            self._saved = None
            return
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(self._kept.fileno(), 2)

    def __exit__(self, *_: object) -> None:
        try:
            if self._saved is None:
                return
            os.dup2(self._saved, 2)
            os.close(self._saved)
            if not self._kept.seek(0, os.SEEK_END):
                return
            self._kept.seek(0)
            others = [line for line in self._kept.readlines() if not _is_of_mpg123(line)]
            self._kept.seek(0)
            self._kept.truncate()
            with suppress(OSError):
                os.write(2, b"".join(others))
        finally:
            _stderr_lock.release()


def _is_of_mpg123(line: bytes) -> bool:
    return line.startswith((b"Note: ", b"Warning: ", b"[src/libmpg123/")) or not line.strip()
