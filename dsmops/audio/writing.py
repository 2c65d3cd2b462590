"""24 kHz mono float32 into a file, whole or not at all, or into a stream as it comes.

Every format but MP3 gets 16-bit samples.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from dsmops.audio.libraries import soundfile
from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples, require_audible_numbers
from dsmops.errors import FileAccessError, InputError
from dsmops.files import BLOCK_BYTES, PartialFile, os_errors, replace_atomically, translate

_ENCODERS = {
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}
"""What libsndfile writes, by the ending of the name. WAV needs no library."""

_UNKNOWN_BYTES = 0xFFFFFFFF
"""The size in the header of a WAV that is still being written, as in ffmpeg; also beyond 4 GiB."""

_ENCODER_SAMPLES = 8192
"""Samples handed to libsndfile at once. Its Vorbis encoder keeps them on the stack: some minutes of
audio end the process."""


@dataclass(frozen=True, slots=True)
class Written:
    """How many samples were written, and how many of them were beyond ±1 and clipped to it."""

    samples: int
    clipped: int

    @property
    def duration_s(self) -> float:
        return self.samples / SAMPLE_RATE_HZ


def write(
    target: Path | BinaryIO | Literal["-"],
    blocks: Iterable[Samples],
    *,
    raw: bool = False,
    durable: bool = True,
) -> Written:
    """Write audio and return what was written.

    A path is replaced atomically, in the format of its ending: `.wav`, `.flac`, `.ogg` (Vorbis),
    `.opus` or `.mp3`. A stream, or `-` for standard output, gets a WAV, or with `raw` its samples
    alone, each block as soon as it is there. The WAV's header leaves the length open, until the end
    where the stream can seek. A file that is not `durable` may be lost with the machine's power.
    Sample k of a 16-bit file is k / 32768 in
    `blocks`, so 16-bit audio that was read at 24 kHz is written back bit for bit.

    Raises:
        InputError: the ending is another, there is no sample, or one is not finite.
        DiskFullError, FileAccessError, TargetBusyError: the file cannot be written; nothing of it
            is left.
        BrokenPipeError: the reader of the stream went away.
        ExtraMissingError: the format needs soundfile, which is not installed.
    """
    quantizer = _Quantizer(blocks)
    if not isinstance(target, Path):
        stream = sys.stdout.buffer if target == "-" else target
        if raw:
            _stream(stream, quantizer, b"")
        else:
            with _mended_header(stream, quantizer):
                _stream(stream, quantizer, stream_header())
    elif target.suffix.lower() == ".wav":
        with replace_atomically(target, durable=durable) as partial:
            _write_wav(partial, quantizer)
    elif target.suffix.lower() in _ENCODERS:
        soundfile()
        with replace_atomically(target, durable=durable) as partial:
            _encode(partial, *_ENCODERS[target.suffix.lower()], target, quantizer)
    else:
        raise _unknown_format(target)
    return quantizer.written


def require_writable(target: Path) -> None:
    """Check that `write` could write to a path: its ending, its folder, no folder of that name.

    Raises:
        InputError: it could not.
        ExtraMissingError: the format needs soundfile, which is not installed.
    """
    suffix = target.suffix.lower()
    if suffix in _ENCODERS:
        container, _ = _ENCODERS[suffix]
        if container not in soundfile().available_formats():
            raise InputError(
                f"{target}: the libsndfile here does not write {suffix}",
                hint="`pip install -U soundfile` brings one that does; or write a .wav.",
                code="audio.format",
            )
    elif suffix != ".wav":
        raise _unknown_format(target)
    with os_errors(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = target.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        if not folder.is_dir():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))


def _unknown_format(target: Path) -> InputError:
    return InputError(
        f"{target} does not say in which format to write",
        hint=f"End the name in .wav, {', '.join(_ENCODERS)}.",
        code="audio.format",
    )


@contextmanager
def _mended_header(stream: BinaryIO, quantizer: _Quantizer) -> Iterator[None]:
    """Give a WAV on a stream that can seek its length at the end, also where that comes early."""
    try:
        descriptor = stream.fileno()
        start = stream.tell()
        # Where all writes are appended, none reaches the header.
        can_mend = stream.seekable() and not (fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND)
    except (OSError, ValueError, AttributeError):  # no file behind it, or one that cannot tell
        can_mend = False
    try:
        yield
    finally:
        if can_mend and quantizer.written.samples:
            with suppress(OSError):
                os.pwrite(descriptor, _wav_header(2 * quantizer.written.samples), start)


class _Quantizer:
    """Turns blocks into 16-bit samples, once, and counts."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks = blocks
        self.written = Written(0, 0)

    def __iter__(self) -> Iterator[NDArray[np.int16]]:
        samples = clipped = 0
        for block in self._blocks:
            require_audible_numbers(
                block, name="the audio to write", before=samples, rate_hz=SAMPLE_RATE_HZ
            )
            yield pcm_16(block)
            samples += len(block)
            clipped += int(np.count_nonzero(np.abs(block) > 1))
            self.written = Written(samples, clipped)
        if not samples:
            raise InputError(
                "there is no audio to write",
                code="audio.empty",
                hint="The program that should have made it gave no sample.",
            )


def _write_wav(partial: PartialFile, quantizer: _Quantizer) -> None:
    partial.write(stream_header())
    for values in quantizer:
        partial.write(values.tobytes())
    os.lseek(partial.fd, 0, os.SEEK_SET)
    partial.write(_wav_header(2 * quantizer.written.samples))


def _stream(stream: BinaryIO, quantizer: _Quantizer, header: bytes) -> None:
    for values in quantizer:
        try:
            stream.write(header + values.tobytes())
            stream.flush()
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise translate(exc, "the output") from exc
        header = b""


def _encode(
    partial: PartialFile, container: str, encoding: str, target: Path, quantizer: _Quantizer
) -> None:
    library = soundfile()
    try:
        with library.SoundFile(
            partial.fd, "w", SAMPLE_RATE_HZ, 1, encoding, format=container, closefd=False
        ) as file:
            for values in quantizer:
                for start in range(0, len(values), _ENCODER_SAMPLES):
                    file.write(values[start : start + _ENCODER_SAMPLES])
    except library.LibsndfileError as exc:
        # libsndfile does not say why it could not write. Where the system is the reason, it gives
        # it again.
        os.lseek(partial.fd, 0, os.SEEK_END)
        partial.write(bytes(BLOCK_BYTES))
        raise FileAccessError(
            f"{target}: the encoder failed ({exc.error_string.strip(' .')})",
            hint="Write a .wav instead.",
        ) from exc


def pcm_16(samples: Samples) -> NDArray[np.int16]:
    """Return samples as 16-bit ones, clipped to ±1, in the byte order of a WAV."""
    values: NDArray[np.int16] = np.clip(np.rint(samples * np.float32(32768)), -32768, 32767).astype(
        "<i2"
    )
    return values


def stream_header() -> bytes:
    """Return the header of a WAV of unknown length; 16-bit samples follow."""
    return _wav_header(_UNKNOWN_BYTES)


def _wav_header(data_bytes: int) -> bytes:
    """Return the 44 bytes before the samples: PCM, one channel, 16 bits."""
    riff_bytes = min(data_bytes + 36, _UNKNOWN_BYTES)
    rate = SAMPLE_RATE_HZ
    chunks = struct.pack("<4s4sIHHIIHH", b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return (
        struct.pack("<4sI", b"RIFF", riff_bytes)
        + chunks
        + struct.pack("<4sI", b"data", min(data_bytes, _UNKNOWN_BYTES))
    )
