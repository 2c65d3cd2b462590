"""libsndfile as a program: audio from standard input, AU of 32-bit floats to standard output.

Run as a file of its own, with `flac` as argument for that format. libsndfile reads Ogg and MP3 in
one pass only from a descriptor that is a pipe, and would block this process in C there. FLAC it
reads in one pass only through callbacks.
"""

from __future__ import annotations

import array
import os
import struct
import sys

import soundfile

_OPEN_LENGTH = 1 << 62
_BLOCK_S = 0.08


class _ForwardOnly(soundfile.SoundFile):  # type: ignore[misc]
    """Leaves the position alone. The plain class asks for it and seeks to it around each read."""

    def seekable(self) -> bool:
        return False


class _Forward:
    """Standard input as a file of unknown length. It seeks only in the bytes of its beginning."""

    def __init__(self) -> None:
        self._at = 0
        self._held = bytearray()
        self._is_open = False

    def forget_head(self) -> None:
        """Keep nothing from now on: the header was read."""
        del self._held[: self._at]
        self._is_open = True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: _OPEN_LENGTH}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int) -> bytes:
        if self._is_open:
            data = bytes(self._held[:count]) or os.read(0, count)
            del self._held[:count]
        else:
            while len(self._held) < self._at + count and (more := os.read(0, count)):
                self._held += more
            data = bytes(self._held[self._at : self._at + count])
        self._at += len(data)
        return data


def main() -> int:
    """Decode standard input and return the exit code. The reason of a failure goes to stderr."""
    forward = _Forward() if sys.argv[1:] == ["flac"] else None
    # libmpg123 prints warnings by itself.
    reasons = os.dup(2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        with _ForwardOnly(forward or 0) as file:
            if forward is not None:
                forward.forget_head()
            annotation = f"{file.format} {file.subtype}".encode().ljust(40, b"\0")
            header = struct.pack(
                ">4s5I", b".snd", 64, 0xFFFFFFFF, 6, file.samplerate, file.channels
            )
            _write(header + annotation)
            sample_bytes = 4 * file.channels
            unread = b"\xff" * sample_bytes  # NaN
            buffer = bytearray(max(1, round(_BLOCK_S * file.samplerate)) * sample_bytes)
            count = 1
            while count:
                buffer[:] = unread * (len(buffer) // sample_bytes)
                try:
                    count = file.buffer_read_into(buffer, "float32")
                except soundfile.LibsndfileError:
                    # How much was decoded before is not told: what was not is still NaN.
                    count = (
                        next(
                            (
                                at
                                for at in range(0, len(buffer), sample_bytes)
                                if buffer[at : at + sample_bytes] == unread
                            ),
                            len(buffer),
                        )
                        // sample_bytes
                    )
                    _write_samples(buffer[: count * sample_bytes])
                    raise
                _write_samples(buffer[: count * sample_bytes])
    except soundfile.LibsndfileError as exc:
        os.write(reasons, exc.error_string.strip(" .").encode())
        return 1
    return 0


def _write_samples(data: bytearray) -> None:
    values = array.array("f", bytes(data))
    if sys.byteorder == "little":
        values.byteswap()
    _write(values.tobytes())


def _write(data: bytes) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    sys.exit(main())
