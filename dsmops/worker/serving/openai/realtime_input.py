"""The input side of a realtime session: its settings, and its sound as samples at 24 kHz."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dsmops.audio import A_LAW, G711_RATE_HZ, MU_LAW, SAMPLE_RATE_HZ, Resampler, Samples
from dsmops.worker.serving.openai.refusals import Refusal

PAUSES_MS = (500, 1000, 2000, 3000)
"""What the model's pause heads stand for, from the first one on."""
_DEFAULT_HEAD = 2
_OLD_FORMATS = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
"""Formats by their name in a `transcription_session`, and their name in a `session`."""
_RATES_HZ = {"audio/pcm": SAMPLE_RATE_HZ, "audio/pcmu": G711_RATE_HZ, "audio/pcma": G711_RATE_HZ}
_SESSION = ("type", "audio", "include", "model", "id", "object", "expires_at")
_OLD_SESSION = (
    *("input_audio_format", "input_audio_transcription", "input_audio_noise_reduction"),
    *("turn_detection", "include", "client_secret", "modalities", "type", "id", "object"),
)


@dataclass(frozen=True, slots=True)
class InputSettings:
    """How a session takes sound. `head` is the pause head that ends turns, None for none."""

    format: str
    head: int | None

    def document(self, session_id: str, model: str, *, old: bool) -> dict[str, Any]:
        """Return the session as its client is shown it, in today's shape or in the older one."""
        transcription = {"model": model, "language": None, "prompt": None}
        turns = None
        if self.head is not None:
            # The threshold and the padding are the model's own.
            turns = {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 0,
                "silence_duration_ms": PAUSES_MS[self.head],
            }
        document = {"id": session_id, "object": "realtime.transcription_session"}
        if old:
            names = {name: old_name for old_name, name in _OLD_FORMATS.items()}
            return {
                **document,
                "input_audio_format": names[self.format],
                "input_audio_transcription": transcription,
                "input_audio_noise_reduction": None,
                "turn_detection": turns,
            }
        sound: dict[str, Any] = {"type": self.format}
        if self.format == "audio/pcm":
            sound["rate"] = SAMPLE_RATE_HZ
        taken = {
            "format": sound,
            "transcription": transcription,
            "noise_reduction": None,
            "turn_detection": turns,
        }
        return {**document, "type": "transcription", "audio": {"input": taken}}


def default_settings(heads: int) -> InputSettings:
    """Return the settings of a new session on a model with so many pause heads."""
    usable = min(heads, len(PAUSES_MS))
    return InputSettings("audio/pcm", min(_DEFAULT_HEAD, usable - 1) if usable else None)


@dataclass(frozen=True, slots=True)
class Update:
    """What a client's `session.update` asks for: settings, and the model that it names, if any."""

    settings: InputSettings
    model: str = ""


def updated(now: InputSettings, session: Mapping[str, Any], heads: int, *, old: bool) -> Update:
    """Return the settings after an update, of which other fields stay as they are.

    Raises:
        Refusal: a field is unknown, or asks for what this server does not have.
    """
    _require_known(session, _OLD_SESSION if old else _SESSION, "session")
    if session.get("type", "transcription") != "transcription":
        raise Refusal(
            400,
            "this server transcribes: session.type must be 'transcription'",
            param="session.type",
            code="invalid_value",
        )
    if session.get("include"):
        raise Refusal(400, "include is not supported", param="session.include")
    if old:
        where, taken = "session", dict(session)
        if "input_audio_format" in taken:
            name = _text(taken, "input_audio_format", where)
            taken["format"] = {"type": _OLD_FORMATS.get(name, name)}
        taken["transcription"] = taken.get("input_audio_transcription")
    else:
        where = "session.audio.input"
        audio = _table(session, "audio", "session")
        _require_known(audio, ("input",), "session.audio")
        taken = dict(_table(audio, "input", "session.audio"))
        known = ("format", "transcription", "noise_reduction", "turn_detection")
        _require_known(taken, known, where)
    if "format" in taken:
        now = replace(now, format=_format(_table(taken, "format", where), f"{where}.format"))
    if "turn_detection" in taken:
        head = _head(taken, heads, where)
        now = replace(now, head=head)
    transcription = _table(taken, "transcription", where)
    return Update(now, _text(transcription, "model", f"{where}.transcription"))


def _format(form: Mapping[str, Any], where: str) -> str:
    name = form.get("type")
    if name not in _RATES_HZ:
        raise Refusal(
            400,
            f"{name!r} is not one of {', '.join(_RATES_HZ)}",
            param=f"{where}.type",
            code="invalid_value",
        )
    rate_hz = form.get("rate")
    if rate_hz not in (None, _RATES_HZ[name]):
        raise Refusal(
            400,
            f"{name} has {_RATES_HZ[name]} samples a second; {rate_hz!r} is not supported",
            param=f"{where}.rate",
            code="invalid_value",
        )
    return str(name)


def _head(taken: Mapping[str, Any], heads: int, where: str) -> int | None:
    """Return the pause head whose pause is nearest to the one asked for."""
    if taken["turn_detection"] is None:
        return None
    where = f"{where}.turn_detection"
    detection = _table(taken, "turn_detection", where)
    if detection.get("type", "server_vad") not in ("server_vad", "semantic_vad"):
        raise Refusal(
            400,
            f"{detection['type']!r} is not server_vad or semantic_vad",
            param=f"{where}.type",
            code="invalid_value",
        )
    pauses_ms = PAUSES_MS[:heads]
    if not pauses_ms:
        raise Refusal(
            400,
            "this model does not tell pauses: set turn_detection to null, and commit the turns",
            param=where,
            code="unsupported_value",
        )
    asked_ms = detection.get("silence_duration_ms")
    if asked_ms is None:
        return default_settings(heads).head
    if isinstance(asked_ms, bool) or not isinstance(asked_ms, int) or asked_ms < 0:
        raise Refusal(
            400,
            f"{asked_ms!r} is not a number of milliseconds",
            param=f"{where}.silence_duration_ms",
            code="invalid_value",
        )
    return min(range(len(pauses_ms)), key=lambda head: abs(pauses_ms[head] - asked_ms))


def _table(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = values.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refusal(400, f"{name} is not an object", param=f"{where}.{name}", code="invalid_type")
    return value


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    if not isinstance(value, str | None):
        raise Refusal(400, f"{name} is not a string", param=f"{where}.{name}", code="invalid_type")
    return value or ""


def _require_known(values: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for name in values:
        if name not in known:
            raise Refusal(
                400,
                f"Unknown parameter: '{where}.{name[:80]}'.",
                param=f"{where}.{name[:80]}",
                code="unknown_parameter",
            )


class InputAudio:
    """Turns a client's bytes into samples at 24 kHz, in pieces of any size."""

    def __init__(self, form: str) -> None:
        self.form, self._half = form, b""
        self._resampler = Resampler(_RATES_HZ[form])

    def take(self, data: bytes) -> list[Samples]:
        """Return the samples that these bytes complete."""
        return list(self._resampler.take(self._decoded(data)))

    def finish(self) -> list[Samples]:
        """Return the samples that were held back. What comes next is a new sound."""
        rest = list(self._resampler.finish())
        self._half, self._resampler = b"", Resampler(_RATES_HZ[self.form])
        return rest

    def _decoded(self, data: bytes) -> Samples:
        if self.form != "audio/pcm":
            table = MU_LAW if self.form == "audio/pcmu" else A_LAW
            return table[np.frombuffer(data, np.uint8)]
        data = self._half + data
        whole = len(data) & ~1
        self._half = data[whole:]
        return np.frombuffer(data[:whole], "<i2").astype(np.float32) / np.float32(32_768)
