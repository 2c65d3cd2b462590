"""Any audio that libsndfile reads, as 24 kHz mono float32: in blocks at constant memory, or whole.

Bad input is found as early as the format allows: what the header tells at once, damage further in
when the decoder meets it.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from dsmops.audio import mp3, ogg
from dsmops.audio.libraries import soundfile, soxr, unreadable
from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples, require_audible_numbers
from dsmops.errors import InputError
from dsmops.files import BLOCK_BYTES, os_errors, translate

Source = Path | BinaryIO | Literal["-"]
"""A file, a stream of bytes that begins with the file's first one, or `-` for standard input."""

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
"""Sample rates taken: below lies no speech, above no converter. A header outside of this is damaged or a joke."""

MAX_CHANNELS = 64
"""Channels taken; the largest speaker layouts in use have 24."""

_PIECE_VALUES = 1 << 20
"""Most values, samples × channels, that are decoded at once: 4 MiB."""

_UNKNOWN_LENGTH = 0x7FFF0000
"""Sizes from here on are what programs write into a WAV header before they know better: ffmpeg 0xFFFFFFFF, sox and arecord less."""

_UNKNOWN_SAMPLES = 1 << 62
"""libsndfile gives 2**63 - 1 samples where a header leaves the number open, as encoders do that write FLAC into a pipe."""

_SIZE_SLACK_BYTES = 64
"""How much longer than the file a header may claim to be: some writers count the header itself."""

_LOSS_TOLERANCE_S = 0.5
"""Audio that may be missing at the end: decoders drop a damaged frame or two, which is no reason to refuse an hour of speech."""


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Audio that is open. `name` is for messages, `format` such as `FLAC PCM_16`; both rates and channels are those of the source.

    `duration_s` is what the source holds according to its header, None where that cannot be known
    before it is read.
    """

    name: str
    format: str
    sample_rate_hz: int
    channels: int
    duration_s: float | None
    _decode: Callable[[], _Decoder]

    def blocks(self, block_s: float = 1.0) -> Iterator[Samples]:
        """Yield the whole audio as 24 kHz mono float32 arrays of about `block_s` seconds, none of them empty.

        Channels are averaged. The samples, and how many there are, do not depend on `block_s`: n
        samples become n · 24000 / rate of them, rounded. Values beyond ±1 stay as they are. Memory
        does not grow with the length.

        Raises:
            InputError: the audio is damaged, ends before its header says, or holds values that are no audio.
            ExtraMissingError: the rate has to be changed, and soxr is not installed.
        """
        pieces = self._pieces(block_s)
        return (
            pieces
            if self.sample_rate_hz == SAMPLE_RATE_HZ
            else _resampled(pieces, self.sample_rate_hz)
        )

    def _pieces(self, block_s: float) -> Iterator[Samples]:
        """Yield mono audio at the source's rate."""
        count = max(1, min(round(block_s * self.sample_rate_hz), _PIECE_VALUES // self.channels))
        done = 0
        with closing(self._decode()) as decoder:
            while len(piece := decoder.read(count)):
                mono = piece[:, 0] if self.channels == 1 else piece.mean(axis=1, dtype=np.float32)
                require_audible_numbers(
                    mono, name=self.name, before=done, rate_hz=self.sample_rate_hz
                )
                done += len(mono)
                yield mono
        self._require_complete(done / self.sample_rate_hz)

    def _require_complete(self, read_s: float) -> None:
        if not read_s:
            raise _no_samples(self.name)
        if self.duration_s is not None and read_s < self.duration_s - _LOSS_TOLERANCE_S:
            reason = (
                f"cut short or damaged: {read_s:.2f} s of {self.duration_s:.2f} s could be read"
            )
            raise unreadable(self.name, reason, code="audio.damaged")


@contextmanager
def open_audio(source: Source) -> Iterator[AudioSource]:
    """Open audio for reading. What cannot seek (standard input, pipes) is read to its end first, into a temporary file.

    Raises:
        SourceError: there is no such file.
        InputError: it is a folder, empty, not audio that libsndfile reads, cut short, or of an absurd rate or number of channels.
        FileAccessError: it may not be read.
        DiskFullError: no room for the temporary file.
        ExtraMissingError: soundfile is not installed.
    """
    name = _name(source)
    with ExitStack() as stack:
        with os_errors(name):
            stream = _open_bytes(source, name, stack)
            decode = partial(_Decoder, stream, name)
            info = stack.enter_context(closing(decode())).info
            samples: int | None = info.frames if info.frames < _UNKNOWN_SAMPLES else None
            if info.format == "MP3":
                layer3 = mp3.read_stream(stream) if info.subtype == "MPEG_LAYER_III" else None
                if layer3 is not None and layer3.is_cut_at(info.frames):
                    decode = partial(
                        _Decoder, stream, name, head=mp3.xing_frame(layer3), start=layer3.start
                    )
                    samples = layer3.samples
                elif layer3 is None or not layer3.has_xing:
                    samples = None if layer3 is None else layer3.samples
            elif info.format == "OGG" and ogg.ends_inside_a_page(stream):
                raise unreadable(
                    name, "cut short: its last page is incomplete", code="audio.damaged"
                )
        _require_sane(info, name)
        duration_s = None if samples is None else samples / info.samplerate
        yield AudioSource(
            name,
            f"{info.format} {info.subtype}",
            info.samplerate,
            info.channels,
            duration_s,
            decode,
        )


def read(source: Source) -> Samples:
    """Return the whole audio as 24 kHz mono float32 [n]; errors as for `open_audio` and `AudioSource.blocks`."""
    with open_audio(source) as audio:
        return np.concatenate([np.zeros(0, np.float32), *audio.blocks()])


def _resampled(pieces: Iterator[Samples], rate_hz: int) -> Iterator[Samples]:
    stream = soxr().ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
    for piece in pieces:
        block = stream.resample_chunk(piece)
        if len(block):
            yield block
    block = stream.resample_chunk(np.zeros(0, np.float32), last=True)
    if len(block):
        yield block


def _name(source: Source) -> str:
    if source == "-":
        return "standard input"
    if isinstance(source, Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the audio"


def _open_bytes(source: Source, name: str, stack: ExitStack) -> BinaryIO:
    """Return a seekable, non-empty stream of the source's bytes, closed by `stack` where we opened it."""
    if isinstance(source, Path):
        stream: BinaryIO = stack.enter_context(source.open("rb"))
    elif source == "-":
        if sys.stdin is None:
            raise InputError(
                "standard input is closed", hint="Pipe audio into the command, or name a file."
            )
        stream = sys.stdin.buffer
    else:
        stream = source
    if not stream.seekable():
        stream = stack.enter_context(_spooled(stream))
    if not stream.seek(0, io.SEEK_END):
        raise InputError(
            f"{name} is empty", hint="Look at what should have written it.", code="audio.empty"
        )
    return stream


@contextmanager
def _spooled(stream: BinaryIO) -> Iterator[BinaryIO]:
    with os_errors(tempfile.gettempdir()):
        file = tempfile.TemporaryFile()  # noqa: SIM115 closed below, and gone then
    with file:
        while block := stream.read(BLOCK_BYTES):
            with os_errors(tempfile.gettempdir()):
                file.write(block)
        yield file


class _Decoder:
    """libsndfile at work on a stream, its errors in our words. `info` is the `soundfile.SoundFile`."""

    def __init__(self, stream: BinaryIO, name: str, *, head: bytes = b"", start: int = 0) -> None:
        self._name = name
        self._bytes = _Bytes(stream, head, start)
        with self._errors("not readable as audio"):
            self.info = _forward_only()(self._bytes)
        self._done = 0

    def read(self, count: int) -> Any:
        """Return up to `count` samples as float32 [n, channels]; none at the end."""
        with self._errors(f"damaged after {self._done / self.info.samplerate:.2f} s"):
            piece = self.info.read(count, dtype="float32", always_2d=True)
        self._done += len(piece)
        return piece

    def close(self) -> None:
        self.info.close()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except soundfile().LibsndfileError as exc:
            self._bytes.raise_failure(self._name)
            code = "audio.damaged" if what.startswith("damaged") else "audio.format"
            raise unreadable(
                self._name, f"{what} (libsndfile: {exc.error_string.strip(' .')})", code=code
            ) from exc
        self._bytes.raise_failure(self._name)


def _forward_only() -> Any:
    """Return a `soundfile.SoundFile` that leaves the position alone.

    The plain one asks for it and seeks to it, where it is anyway, around each read. An MP3 decoder
    that seeks forgets the bits it had saved up, and the next frames come out as noise.
    """
    return type("ForwardOnly", (soundfile().SoundFile,), {"seekable": lambda _self: False})


class _Bytes:
    """What soundfile needs of a stream: `head`, then the bytes of `stream` from `start` on.

    An error of the system cannot pass through libsndfile, so it is kept. There is no `name`, for
    whose ending in `.raw` soundfile would take the bytes for headerless samples.
    """

    def __init__(self, stream: BinaryIO, head: bytes, start: int) -> None:
        self._stream, self._head, self._start = stream, head, start
        self._size = len(head) + stream.seek(0, io.SEEK_END) - start
        self._at = 0
        self._failure: OSError | None = None

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int) -> None:
        self._at = max(
            0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        )

    def read(self, count: int) -> bytes:
        data = self._head[self._at : self._at + count]
        if len(data) < count:
            try:
                self._stream.seek(self._start + self._at + len(data) - len(self._head))
                data += self._stream.read(count - len(data))
            except OSError as exc:
                self._failure = exc
        self._at += len(data)
        return data

    def raise_failure(self, name: str) -> None:
        if self._failure is not None:
            raise translate(self._failure, name) from self._failure


def _require_sane(info: Any, name: str) -> None:
    """Check what the header says."""
    if not MIN_RATE_HZ <= info.samplerate <= MAX_RATE_HZ:
        reason = f"{info.samplerate} samples a second, and audio has {MIN_RATE_HZ} to {MAX_RATE_HZ}"
        raise unreadable(name, reason, code="audio.rate")
    if info.channels > MAX_CHANNELS:
        raise unreadable(
            name,
            f"{info.channels} channels, and at most {MAX_CHANNELS} are taken",
            code="audio.channels",
        )
    # libsndfile shortens silently what the file does not hold; its log tells.
    for claimed, held in re.findall(r": (\d+) \(should be (\d+)\)", info.extra_info):
        if int(held) + _SIZE_SLACK_BYTES < int(claimed) < _UNKNOWN_LENGTH:
            raise unreadable(
                name,
                f"cut short: its header promises {claimed} bytes, and {held} are there",
                code="audio.damaged",
            )
    if not info.frames:
        raise _no_samples(name)


def _no_samples(name: str) -> InputError:
    # A recorder that was killed, or that wrote into a pipe, leaves a header that says 0; ffmpeg can
    # be told not to believe it.
    return unreadable(
        name,
        "no samples in it, or so its header says",
        code="audio.empty",
        flags="-ignore_length 1 ",
    )
