"""Transcripts as people read them, and as files hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dsmops.captions import srt, webvtt
from dsmops.operations.speech.transcription import Transcription
from dsmops.report.document import document
from dsmops.units import counted

_SILENT_SHARE = 0.999
_SHOWN_CHARS = 80
"""How much of a prompt is repeated in a note."""


def rendered(result: Transcription, form: str, *, timestamps: bool, vad: bool) -> str:
    """Return the transcript as `text`, `srt`, `vtt` or `json`, with a newline at its end.

    One that is incomplete says so at its end, as far as the form has a place for it.
    """
    reason = result.incomplete.message if result.incomplete is not None else ""
    match form:
        case "srt":
            return srt(result.words, incomplete=bool(reason))
        case "vtt":
            return webvtt(result.words, incomplete=reason)
        case "json":
            return f"{document('transcribe', result)}\n"
    lines = list(_lines(result, timestamps=timestamps, vad=vad))
    if reason:
        lines.append(f"[incomplete: {reason}]")
    return "".join(f"{line}\n" for line in lines)


def written(result: Transcription, output: Path) -> str:
    """Return what is in a file that was written."""
    mark = ", incomplete" if result.incomplete else ""
    return f"{output}: {counted(len(result.words), 'word')} of {result.audio_s:.1f} s{mark}"


def transcription_notes(result: Transcription, *, vad: bool) -> Iterator[str]:
    """Yield what people should know beside the text: what is missing, silence, speed."""
    yield from (f"warning: {warning}" for warning in result.warnings)
    if result.levels.silent_share > _SILENT_SHARE:
        yield f"warning: {result.audio} is silent (peak {result.levels.peak:.4f} of 1)"
    if vad and not result.has_vad:
        yield (
            f"warning: {result.model} has no semantic VAD; of the published models only "
            "stt-1b-en_fr has, in its -candle repository"
        )
    if result.unsaid_prompt:
        rest = result.unsaid_prompt
        shown = rest if len(rest) <= _SHOWN_CHARS else f"{rest[:_SHOWN_CHARS]}..."
        yield (
            f"warning: the model never wrote all of the prompt ({shown!r} was left), and so "
            "nothing else"
        )
    if result.incomplete is not None:
        yield f"incomplete: the stream failed; the text ends at {result.audio_s:.1f} s or before"
    if result.interrupted:
        yield f"ended early, after {result.audio_s:.1f} s of {result.audio}"
    if result.speedup is not None:
        where = f"{result.dtype} on {result.device}" if result.device else f"through {result.model}"
        yield (
            f"{result.audio_s:.1f} s of audio in {result.compute_s:.1f} s, "
            f"{result.speedup:.1f} × real time, {where}"
        )


def _lines(result: Transcription, *, timestamps: bool, vad: bool) -> Iterator[str]:
    """Yield the text as a paragraph, or a line per word; with `vad` also where turns end."""
    if timestamps:
        words = [
            (word.start_s, f"{_span(word.start_s, word.stop_s)}  {word.text}")
            for word in result.words
        ]
        turns = [
            (turn.time_s, f"{_span(turn.time_s, None)}  (turn ends)")
            for turn in result.turns
            if vad
        ]
        yield from (line for _, line in sorted([*words, *turns], key=lambda entry: entry[0]))
    elif vad and result.turns:
        yield from _paragraphs(result)
    else:
        yield result.text


def _paragraphs(result: Transcription) -> Iterator[str]:
    words = list(result.words)
    for turn in result.turns:
        of_turn = [word.text for word in words if word.start_s < turn.time_s]
        del words[: len(of_turn)]
        if of_turn:
            yield " ".join(of_turn)
    if words:
        yield " ".join(word.text for word in words)


def _span(start_s: float, stop_s: float | None) -> str:
    return f"{start_s:8.2f} {f'{stop_s:8.2f}' if stop_s is not None else ' ' * 8}"
