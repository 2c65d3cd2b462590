"""The worker's modules as models that a request names."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TypeVar

from dsmops.worker.serving.openai.refusals import Refusal
from dsmops.worker.serving.stt import SttModule
from dsmops.worker.serving.tts import TtsModule

ModuleT = TypeVar("ModuleT", SttModule, TtsModule)

_OPENAI_STT = frozenset(
    (
        "whisper-1",
        "gpt-transcribe",
        "gpt-4o-transcribe",
        "gpt-4o-mini-transcribe",
        "gpt-4o-mini-transcribe-2025-12-15",
    )
)
_OPENAI_REALTIME = frozenset(
    ("gpt-realtime", "gpt-realtime-mini", "gpt-realtime-whisper", "gpt-4o-realtime-preview")
)
_OPENAI_TTS = frozenset(("tts-1", "tts-1-hd", "gpt-4o-mini-tts", "gpt-4o-mini-tts-2025-12-15"))
"""OpenAI's own models, for programs that offer no choice: the first model answers."""


class Served:
    """What can be asked for."""

    def __init__(self, modules: Sequence[object], started_s: int) -> None:
        self._stt = [module for module in modules if isinstance(module, SttModule)]
        self._tts = [module for module in modules if isinstance(module, TtsModule)]
        self._started_s = started_s

    def stt(self, name: str) -> SttModule:
        """Return the speech-to-text module of this name.

        Raises:
            Refusal: there is none.
        """
        return _find(name, self._stt, self._tts, _OPENAI_STT, "transcribes")

    def realtime(self, name: str) -> SttModule:
        """Return the speech-to-text module for a realtime session with a model of this name.

        Raises:
            Refusal: there is none.
        """
        return self.stt("" if name in _OPENAI_REALTIME else name)

    def name_of(self, module: SttModule) -> str:
        """Return the name of a speech-to-text module's model, as `/v1/models` lists it."""
        return _id(module, self._stt)

    def tts(self, name: str) -> TtsModule:
        """Return the text-to-speech module of this name.

        Raises:
            Refusal: there is none.
        """
        return _find(name, self._tts, self._stt, _OPENAI_TTS, "speaks")

    async def voices(self) -> list[dict[str, object]]:
        """Return the voices of the first text-to-speech model, as `/v1/audio/voices` lists them.

        Raises:
            Refusal: no model here speaks.
            DsmopsError: the voices are on the hub, which does not answer.
        """
        return await self.tts("").voices()

    def documents(self) -> list[dict[str, Any]]:
        """Return what `/v1/models` lists."""
        return [
            {
                "id": _id(module, group),
                "object": "model",
                "created": self._started_s,
                "owned_by": "dsmops",
                "purpose": purpose,
                "module": module.name,
                "path": module.path,
                "slots": module.slots,
                "used_slots": module.used_slots,
                "engines": [asdict(facts) for facts in module.facts.read()],
            }
            for purpose, group in (("stt", self._stt), ("tts", self._tts))
            for module in group
        ]


def _id(module: SttModule | TtsModule, group: Sequence[SttModule | TtsModule]) -> str:
    """Return the name of a module's model, or the module's own where several have that model."""
    names = [other.model_name for other in group]
    return module.model_name if names.count(module.model_name) == 1 else module.name


def _find(
    name: str,
    group: Sequence[ModuleT],
    others: Sequence[SttModule | TtsModule],
    stand_ins: frozenset[str],
    does: str,
) -> ModuleT:
    ids = {_id(module, group): module for module in group}
    found = ids.get(name) or next((module for module in group if module.name == name), None)
    if found is None and group and (name in stand_ins or not name):
        found = group[0]
    if found is not None:
        return found
    if not group:
        raise Refusal(404, f"no model here {does}", param="model", code="model_not_found")
    near = difflib.get_close_matches(name, ids, n=1) or list(ids)
    wrong = any(name in (_id(other, others), other.name) for other in others)
    reason = f"never {does}" if wrong else "does not exist"
    raise Refusal(
        404,
        f"The model {name[:80]!r} {reason}. Use {', '.join(near)}.",
        param="model",
        code="model_not_found",
    )
