"""Any audio that libsndfile or ffmpeg reads, as 24 kHz mono float32: in blocks, or whole.

All that a file holds is read, whatever its header says about its length. What is missing or not
used is a warning; bad input is an error as early as the format allows.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np

from dsmops.audio import ffmpeg
from dsmops.audio.decoding import DecodingError
from dsmops.audio.layout import Layout, Run, ffmpeg_layout, find_layout
from dsmops.audio.libraries import unreadable
from dsmops.audio.mixing import WINDOW_S, Mixer, regrouped
from dsmops.audio.pcm import SAMPLE_RATE_HZ, Samples, require_audible_numbers
from dsmops.audio.programs import ProgramDecoder
from dsmops.audio.resampling import Resampler
from dsmops.audio.segments import Content
from dsmops.audio.spool import Spool
from dsmops.errors import InputError
from dsmops.files import os_errors

Source = Path | BinaryIO | Literal["-"]
"""A file, a stream of bytes that begins with the file's first one, or `-` for standard input."""

MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000
"""Sample rates that are read: below lies no speech, above no converter."""

MAX_CHANNELS = 64
"""Channels that are read; the largest speaker layouts in use have 24."""

_WINDOW_VALUES = 1 << 20
"""Most values, samples × channels, that are decoded at once: 4 MiB."""

_LOSS_TOLERANCE_S = 0.5
"""Audio that may be missing without a warning: decoders drop a damaged frame or two."""


@dataclass(frozen=True, slots=True)
class AudioSource:
    """Audio that is open. `name` is for messages, `format` such as `FLAC PCM_16`.

    Rate and channels are those of the source, of its first segment where files were joined.
    `duration_s` is how much there is to read, None where that cannot be known before. `is_live`:
    a stream that may still run. `warnings` are complete when all blocks were read: what is missing,
    what was not used.
    """

    name: str
    format: str
    sample_rate_hz: int
    channels: int
    duration_s: float | None
    is_live: bool
    _layout: Layout
    _content: Content
    warnings: list[str] = field(default_factory=list)

    def blocks(self, block_s: float = 1.0) -> Iterator[Samples]:
        """Yield the whole audio as 24 kHz mono float32 arrays of `block_s` seconds.

        The last one may be shorter. None is empty.

        Channels are averaged; where they cancel each other, one of them is used. The samples, and
        how many there are, do not depend on `block_s`: n samples become n · 24000 / rate of them,
        rounded. Values beyond ±1 stay as they are. Memory does not grow with the length.

        Raises:
            InputError: the audio is damaged, or holds values that are not audio. What comes before
                was yielded.
            ExtraMissingError: the rate has to be changed, and soxr is not installed.
        """
        return regrouped(self._resampled(), max(1, round(block_s * SAMPLE_RATE_HZ)))

    def _resampled(self) -> Iterator[Samples]:
        """Yield 24 kHz mono audio, through one resampler for all runs of the same rate."""
        self.warnings[:] = self._layout.warnings
        known = len(self.warnings)
        resampler = Resampler(SAMPLE_RATE_HZ)
        read_s = cancelled_s = 0.0
        for run in self._layout.runs():
            if run.rate_hz != resampler.rate_hz:
                yield from resampler.finish()
                resampler = Resampler(run.rate_hz)
            mixer = Mixer(run.rate_hz)
            samples = 0
            try:
                for window in self._windows(run, mixer):
                    require_audible_numbers(
                        window, name=self.name, before=samples, rate_hz=run.rate_hz
                    )
                    samples += len(window)
                    yield from resampler.take(window)
            except DecodingError as exc:
                if not samples or not exc.is_end:
                    yield from resampler.finish()
                    raise self._damaged(exc, read_s + samples / run.rate_hz) from exc
                self.warnings.append(f"{self.name} is cut short: it ends inside a block of audio")
            self._compare(run, samples)
            read_s += samples / run.rate_hz
            cancelled_s += mixer.cancelled_s
        yield from resampler.finish()
        # What is found in a live stream is known now.
        self.warnings[:0] = self._layout.warnings[known:]
        if not read_s:
            raise _no_samples(self.name)
        if cancelled_s:
            self.warnings.append(
                f"the channels of {self.name} cancel each other (opposite phase) in "
                f"{cancelled_s:.1f} s of {read_s:.1f} s: one channel was used there"
            )

    def _windows(self, run: Run, mixer: Mixer) -> Iterator[Samples]:
        """Yield one channel at the source's rate."""
        count = max(1, min(round(WINDOW_S * run.rate_hz), _WINDOW_VALUES // run.channels))
        with closing(run.decode()) as decoder:
            while len(piece := decoder.read(count)):
                yield mixer.mix(piece)
            if isinstance(decoder, ProgramDecoder) and (complaint := decoder.complaint()):
                self.warnings.append(f"{self.name} may be damaged or incomplete ({complaint})")

    def _damaged(self, exc: DecodingError, at_s: float) -> InputError:
        return unreadable(self.name, f"damaged after {at_s:.2f} s ({exc})", code="audio.damaged")

    def _compare(self, run: Run, samples: int) -> None:
        """Warn where the header promises something else than was read."""
        read_s = samples / run.rate_hz
        promised_s, held_s = read_s, read_s
        piece = run.segment.pieces[-1] if run.segment.pieces else b""
        if run.segment.promised is not None and samples and isinstance(piece, range):
            own, held = len(piece), run.segment.held
            if self._content.is_live and piece.stop > self._content.size:
                own = held = self._content.size - piece.start
            promised_s, held_s = read_s * run.segment.promised / own, read_s * held / own
        elif run.samples is not None and not (self._content.is_live and run.segment.pieces):
            promised_s = run.samples / run.rate_hz
        if promised_s > held_s + _LOSS_TOLERANCE_S:
            self.warnings.append(
                f"{self.name} is cut short or damaged: its header promises {promised_s:.2f} s, and "
                f"{held_s:.2f} s are there"
            )
        elif run.segment.promised is not None and promised_s < held_s - _LOSS_TOLERANCE_S:
            self.warnings.append(
                f"the header of {self.name} promises {promised_s:.2f} s, and {held_s:.2f} s are "
                "there: all of it was read"
            )


@contextmanager
def open_audio(source: Source) -> Iterator[AudioSource]:
    """Open audio for reading.

    Standard input and pipes are kept in a temporary file, and read from there while the pipe still
    runs; a format that needs the whole file, like some MP4, when it has ended. What libsndfile does
    not know is read through ffmpeg, where that is installed.

    Raises:
        SourceError: the file does not exist.
        InputError: it is a folder, empty, not audio, or of an absurd rate or number of channels.
        FileAccessError: it may not be read.
        DiskFullError: no room for the temporary file.
        ExtraMissingError: soundfile is not installed.
    """
    name = _name(source)
    with ExitStack() as stack:
        with os_errors(name):
            content = _open_content(source, name, stack)
            try:
                layout = find_layout(content, name, stack)
            except DecodingError as exc:
                content.await_end()
                layout = _through_ffmpeg(source, content, name, exc, stack)
            first = next(layout.runs(), None)
        if first is None:
            raise _no_samples(name)
        _require_sane(first, name)
        yield AudioSource(
            name,
            first.format,
            first.rate_hz,
            first.channels,
            None if content.is_live else _duration_s(layout),
            content.is_live,
            layout,
            content,
            list(layout.warnings),
        )


def read(source: Source) -> Samples:
    """Return the whole audio as 24 kHz mono float32 [n].

    Errors are those of `open_audio` and `AudioSource.blocks`.
    """
    with open_audio(source) as audio:
        return np.concatenate([np.zeros(0, np.float32), *audio.blocks()])


def _name(source: Source) -> str:
    if source == "-":
        return "standard input"
    if isinstance(source, Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the audio"


def _open_content(source: Source, name: str, stack: ExitStack) -> Content:
    """Return the source's bytes, one at least. `stack` closes what is opened here."""
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
    is_live = not stream.seekable()
    if is_live:
        # The buffer has a lock. A thread that waits for a pipe would hold it, and the process could
        # not end.
        stream = getattr(stream, "raw", stream)
        spool = stack.enter_context(closing(Spool(stream)))
        content = Content(cast(BinaryIO, spool), is_live=True)
    else:
        content = Content(stream)
    if not content.at(0, 1):
        raise InputError(
            f"{name} is empty", hint="Check the program that wrote it.", code="audio.empty"
        )
    return content


def _through_ffmpeg(
    source: Source, content: Content, name: str, reason: DecodingError, stack: ExitStack
) -> Layout:
    """Return what ffmpeg finds in a file that libsndfile cannot read.

    Raises:
        InputError: nothing, or it is not installed.
    """
    if not ffmpeg.is_installed():
        raise unreadable(name, f"not readable as audio ({reason})")
    stream = content.stream
    if isinstance(source, Path) and not isinstance(stream, Spool):
        path = source
    elif isinstance(stream, Spool):
        path = Path(stream.path)
    else:
        copy = stack.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
        with os_errors(tempfile.gettempdir()):
            stream.seek(0)
            shutil.copyfileobj(stream, copy)
            copy.flush()
        path = Path(copy.name)
    try:
        return ffmpeg_layout(path)
    except DecodingError as exc:
        raise unreadable(name, f"not readable as audio ({reason}; {exc})") from exc


def _duration_s(layout: Layout) -> float | None:
    total_s = 0.0
    for run in layout.runs():
        if run.samples is None:
            return None
        total_s += run.samples / run.rate_hz
    return total_s


def _require_sane(run: Run, name: str) -> None:
    """Check what the header says."""
    if not MIN_RATE_HZ <= run.rate_hz <= MAX_RATE_HZ:
        reason = f"{run.rate_hz} samples a second, and audio has {MIN_RATE_HZ} to {MAX_RATE_HZ}"
        raise unreadable(name, reason, code="audio.rate")
    if run.channels > MAX_CHANNELS:
        raise unreadable(
            name,
            f"{run.channels} channels, and at most {MAX_CHANNELS} are read",
            code="audio.channels",
        )
    if run.samples == 0:
        raise _no_samples(name)


def _no_samples(name: str) -> InputError:
    return InputError(
        f"{name} has no samples",
        hint="The header is there and no audio follows. Record it again.",
        code="audio.empty",
    )
