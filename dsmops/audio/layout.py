"""How a file is read: its segments, each with the decoder that reads it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

from dsmops.audio import chunked, ffmpeg, flac, live, mp3, ogg
from dsmops.audio.decoding import DecodingError, SndfileDecoder
from dsmops.audio.programs import ProgramDecoder
from dsmops.audio.segments import Content, Segment
from dsmops.units import size

_UNKNOWN_SAMPLES = 1 << 62
"""libsndfile gives 2**63 - 1 samples where a header leaves the number open."""

_SKIPPED_BYTES = 8192
"""Bytes between MP3 frames that are worth no warning."""


@dataclass(frozen=True, slots=True)
class Run:
    """A segment with what its decoder knows about it.

    `samples` counts one channel, as the header states it. Each `decode` gives a decoder that begins
    at the start; a run of a live stream can be decoded once.
    """

    decode: Callable[[], SndfileDecoder | ProgramDecoder]
    format: str
    rate_hz: int
    channels: int
    samples: int | None
    segment: Segment


@dataclass(frozen=True, slots=True)
class Layout:
    """The runs of a file, in order. Those of a live stream are found as it is read."""

    runs: Callable[[], Iterator[Run]]
    warnings: list[str] = field(default_factory=list)


def find_layout(content: Content, name: str, stack: ExitStack) -> Layout:
    """Return the runs of audio in `content`.

    It is read to its end, unless it is a live stream of a format that can be decoded as it arrives.
    `stack` closes what decodes it then.

    Raises:
        DecodingError: libsndfile cannot read it.
    """
    if content.is_live:
        if (segments := chunked.segments(content)) is not None:
            next(_runs(content, segments, name, []))
            return Layout(lambda: _runs(content, chunked.segments(content) or (), name, []))
        if (layout := _live_layout(content, name, stack)) is not None:
            return layout
        content.await_end()
    warnings: list[str] = []
    runs = tuple(_runs_of_file(content, name, warnings))
    return Layout(lambda: iter(runs), warnings)


def _live_layout(content: Content, name: str, stack: ExitStack) -> Layout | None:
    """Return a stream as it arrives, None where it has to be read to its end first."""
    warnings: list[str] = []
    runs = _live_runs(content, name, stack, warnings)
    try:
        first = next(runs, None)
    except DecodingError:
        return None
    # The rest is found once, when the first run was read.
    return None if first is None else Layout(lambda: chain((first,), runs), warnings)


def _live_runs(content: Content, name: str, stack: ExitStack, warnings: list[str]) -> Iterator[Run]:
    """Yield the streams of a live stream. Decode each before you ask for the next."""
    for number, (open_stream, promised) in enumerate(live.streams(content), 1):
        try:
            decoder = open_stream()
        except DecodingError as exc:
            if number == 1:
                raise
            warnings.append(_left_out(number, name, exc))
            continue
        stack.callback(decoder.close)
        rate_hz, channels = decoder.samplerate, decoder.channels
        yield Run(
            partial(_given, decoder), decoder.format, rate_hz, channels, promised, Segment(())
        )
        decoder.finish()
    if content.at(0, 4) == b"OggS":
        warnings.extend(_ogg_warnings(is_cut=ogg.segments(content)[1], name=name))
    elif mp3.is_beginning(content.at(0, 4)):
        warnings.extend(_mp3_warnings(mp3.read_streams(content) or (), name))


def _given(decoder: ProgramDecoder) -> ProgramDecoder:
    return decoder


def ffmpeg_layout(path: Path) -> Layout:
    """Return a file as ffmpeg reads it.

    Raises:
        DecodingError: it finds no audio.
    """
    decode = partial(ffmpeg.open_file, path)
    with closing(decode()) as decoder:
        run = Run(decode, decoder.format, decoder.samplerate, decoder.channels, None, Segment(()))
    return Layout(lambda: iter((run,)))


def _runs_of_file(content: Content, name: str, warnings: list[str]) -> Iterator[Run]:
    segments = chunked.segments(content)
    if segments is not None:
        yield from _runs(content, segments, name, warnings)
        return
    whole = _run(content, Segment((range(content.size),)), name)
    if whole.format.startswith("MP3"):
        yield from _mp3_runs(content, whole, name, warnings)
    elif whole.format.startswith("OGG"):
        links, is_cut = ogg.segments(content)
        warnings.extend(_ogg_warnings(is_cut=is_cut, name=name))
        yield from _runs(content, links, name, warnings)
    elif whole.format.startswith("FLAC") and (streams := flac.segments(content)):
        yield from _runs(content, streams, name, warnings)
    else:
        yield whole


def _mp3_runs(content: Content, whole: Run, name: str, warnings: list[str]) -> Iterator[Run]:
    streams = mp3.read_streams(content) if whole.format == "MP3 MPEG_LAYER_III" else None
    if streams is None:
        yield Run(whole.decode, whole.format, whole.rate_hz, whole.channels, None, whole.segment)
        return
    for stream in streams:
        run = _run(content, Segment(tuple(stream.ranges)), name)
        segment, samples = run.segment, run.samples
        if stream.is_cut_at(run.samples or 0):
            segment = Segment((mp3.xing_frame(stream), *stream.ranges))
            samples = stream.samples
        elif not stream.has_xing:
            samples = stream.samples
        yield _run(content, segment, name, samples)
    warnings.extend(_mp3_warnings(streams, name))


def _mp3_warnings(streams: Iterable[mp3.Layer3Stream], name: str) -> list[str]:
    return [
        f"{name} has {size(stream.skipped_bytes)} between its MP3 frames that are not audio"
        for stream in streams
        if stream.skipped_bytes > _SKIPPED_BYTES
    ]


def _ogg_warnings(*, is_cut: bool, name: str) -> list[str]:
    return [f"{name} is cut short: its last page is incomplete"] if is_cut else []


def _left_out(number: int, name: str, exc: DecodingError) -> str:
    return f"part {number} of {name} cannot be read ({exc}): it was left out"


def _runs(
    content: Content, segments: Iterable[Segment], name: str, warnings: list[str]
) -> Iterator[Run]:
    """Yield the segments that can be decoded, the first one or an error."""
    for number, segment in enumerate(segments):
        try:
            run = _run(content, segment, name)
        except DecodingError as exc:
            if not number:
                raise
            warnings.append(_left_out(number + 1, name, exc))
            continue
        yield run


def _run(content: Content, segment: Segment, name: str, samples: int | None = None) -> Run:
    decode = partial(SndfileDecoder, content, segment, name)
    with closing(decode()) as decoder:
        info = decoder.info
        declared = info.frames if info.frames < _UNKNOWN_SAMPLES else None
        return Run(
            decode,
            f"{info.format} {info.subtype}",
            info.samplerate,
            info.channels,
            samples or segment.samples or declared,
            segment,
        )
