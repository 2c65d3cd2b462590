"""Transcripts as people read them."""

from __future__ import annotations

from collections.abc import Iterator

from dsmops.cli.views.captions import srt as to_srt
from dsmops.cli.views.captions import webvtt
from dsmops.operations.speech.transcription import Transcription

_SILENT_SHARE = 0.999
_SHOWN_CHARS = 80
"""How much of a prompt is repeated in a note."""


def show_transcription(heard: Transcription, *, timestamps: bool, vad: bool) -> Iterator[str]:
    """Yield the text as a paragraph, or one line per word; with `vad` a line, or a break, where turns end."""
    if timestamps:
        words = [
            (word.start_s, f"{_span(word.start_s, word.stop_s)}  {word.text}")
            for word in heard.words
        ]
        turns = [
            (turn.time_s, f"{_span(turn.time_s, None)}  (turn ends)") for turn in heard.turns if vad
        ]
        yield from (line for _, line in sorted([*words, *turns], key=lambda entry: entry[0]))
    elif vad and heard.turns:
        yield from _paragraphs(heard)
    else:
        yield heard.text


def captions(heard: Transcription, *, srt: bool) -> list[str]:
    """Return SubRip or WebVTT captions, as blocks of text without their last line's end."""
    return [(to_srt if srt else webvtt)(heard.words).rstrip("\n")]


def listening_notes(heard: Transcription, *, vad: bool) -> Iterator[str]:
    """Yield what people should know beside the text: silence, how fast it went, what the model cannot do."""
    if heard.levels.silent_share > _SILENT_SHARE:
        yield f"warning: {heard.audio} is silent (peak {heard.levels.peak:.4f} of 1)"
    if vad and not heard.has_vad:
        yield f"warning: {heard.model} has no semantic VAD; of the published models only stt-1b-en_fr has, in its -candle repository"
    if heard.unsaid_prompt:
        left = (
            heard.unsaid_prompt
            if len(heard.unsaid_prompt) <= _SHOWN_CHARS
            else f"{heard.unsaid_prompt[:_SHOWN_CHARS]}..."
        )
        yield f"warning: the model never wrote all of the prompt ({left!r} was left), and so nothing else"
    if heard.incomplete is not None:
        yield f"incomplete: the stream failed, and the text ends at {heard.audio_s:.1f} s or before"
    if heard.interrupted:
        yield f"ended early, after {heard.audio_s:.1f} s of {heard.audio}"
    if heard.speedup is not None:
        where = f"{heard.dtype} on {heard.device}" if heard.device else f"through {heard.model}"
        yield f"{heard.audio_s:.1f} s of audio in {heard.compute_s:.1f} s, {heard.speedup:.1f} × real time, {where}"


def _paragraphs(heard: Transcription) -> Iterator[str]:
    words = list(heard.words)
    for turn in heard.turns:
        said = [word.text for word in words if word.start_s < turn.time_s]
        del words[: len(said)]
        if said:
            yield " ".join(said)
    if words:
        yield " ".join(word.text for word in words)


def _span(start_s: float, stop_s: float | None) -> str:
    return f"{start_s:8.2f} {f'{stop_s:8.2f}' if stop_s is not None else ' ' * 8}"
