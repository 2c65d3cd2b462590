"""One WebSocket of a speech-to-text module: audio and markers in, words out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import WSMessage, WSMsgType, web

from dsmops import protocol
from dsmops.audio import OpusDecoder
from dsmops.errors import InputError
from dsmops.protocol import CloseCode
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.stt.stream import SttEvent, SttMarkerReached, SttStepped, SttStream
from dsmops.worker.runtime.stt.words import SttWord, SttWordEnd
from dsmops.worker.serving.connection import Connection, Ending
from dsmops.worker.serving.settings import Limits


@dataclass(frozen=True, slots=True)
class SttRules:
    """How the types of modules differ on the wire."""

    module_type: str
    has_init: bool
    """Whether `Init` and `Ready` exist."""
    counts_all_steps: bool
    """Whether `step_idx` counts the steps of all streams, and `buffered_pcm` is sent."""
    receive_timeouts: bool


BATCHED = SttRules("BatchedAsr", has_init=True, counts_all_steps=True, receive_timeouts=True)
UNBATCHED = SttRules("Asr", has_init=False, counts_all_steps=False, receive_timeouts=False)


class SttConnection(Connection[SttEvent]):
    """A `SttStream` on a WebSocket."""

    def __init__(
        self, ws: web.WebSocketResponse, stream: SttStream, rules: SttRules, limits: Limits
    ) -> None:
        silence_s, no_audio_s = (
            (limits.silence_s, limits.no_audio_s) if rules.receive_timeouts else (None, None)
        )
        super().__init__(ws, stream, limits, silence_s=silence_s, no_audio_s=no_audio_s)
        self._asr_stream, self._rules = stream, rules
        self._opus: OpusDecoder | None = None

    async def _receive(self) -> None:
        await self._wait_for_room()
        await super()._receive()

    async def _take(self, message: WSMessage) -> None:
        if message.type is WSMsgType.BINARY:
            await self._take_message(message.data)
        # Whatever comes next stays in the socket until then.
        await self._wait_for_room()

    async def _take_message(self, data: bytes) -> None:
        stream = self._asr_stream
        try:
            match protocol.decode_stt_request(data):
                case protocol.Audio(pcm=pcm):
                    stream.push(pcm)
                case protocol.OggOpus(data=pages):
                    self._opus = self._opus or OpusDecoder()
                    for pcm in self._opus.decode(pages):
                        stream.push(pcm)
                        await self._wait_for_room()
                case protocol.Marker(id=marker_id):
                    stream.mark(marker_id)
                case protocol.Init():
                    if self._rules.has_init:
                        stream.restart()
        except ValueError as exc:  # a ProtocolError, or too many markers
            raise Ending(CloseCode.BAD_MESSAGE, str(exc)) from exc
        except InputError as exc:
            raise Ending(CloseCode.BAD_MESSAGE, f"{exc.message}. {exc.hint}") from exc

    def _messages_of(self, event: SttEvent) -> Iterable[bytes]:
        if isinstance(event, StreamFailed):
            raise Ending(CloseCode.FAILED, event.reason, task="send_loop")
        message = stt_answer(event, self._rules)
        return () if message is None else (protocol.encode(message),)

    def error_message(self, ending: Ending) -> bytes | None:
        return error_message(ending)


def error_message(ending: Ending) -> bytes | None:
    """Return the message that says why a conversation ends, or never began.

    None where there is nothing to say.
    """
    return protocol.encode(protocol.Error(ending.reason)) if ending.reason else None


def stt_answer(event: SttEvent, rules: SttRules) -> protocol.SttAnswer | None:
    """Return what a client is sent about an event, None where that is nothing."""
    match event:
        case Started():
            return protocol.Ready() if rules.has_init else None
        case SttStepped():
            if rules.counts_all_steps:
                return protocol.Step(event.step_idx, event.pauses, event.waiting_samples)
            return protocol.Step(event.own_step, event.pauses, 0)
        case SttWord():
            return protocol.Word(event.text, event.start_s)
        case SttWordEnd():
            return protocol.EndWord(event.stop_s)
        case SttMarkerReached():
            return protocol.Marker(event.id)
        case StreamFailed():
            return protocol.Error(event.reason)
