"""One WebSocket of a text-to-speech module: text in, audio and word times out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

from aiohttp import WSMessage, WSMsgType, web

from dsmops import protocol
from dsmops.audio import OpusEncoder, Samples
from dsmops.errors import DsmopsError, InputError
from dsmops.protocol import CloseCode, TtsFormat
from dsmops.worker.runtime.loop import Started, StreamFailed
from dsmops.worker.runtime.tts.interface import TtsRequest
from dsmops.worker.runtime.tts.loop import TtsConversation, TtsEnded, TtsEvent, TtsRefused
from dsmops.worker.runtime.tts.utterance import TtsAudio, TtsWord
from dsmops.worker.serving.connection import Connection, Ending
from dsmops.worker.serving.logs import PY, Log
from dsmops.worker.serving.settings import Limits

SKIPPED = "characters that the tokenizer does not know were skipped"


class TtsWire:
    """Encodes what one client gets, in the format that it asked for.

    Bare formats carry no words and no errors.
    """

    def __init__(self, form: TtsFormat) -> None:
        self._form = form
        self._opus = OpusEncoder() if form.is_opus else None

    def beginning(self) -> Iterator[bytes]:
        """Yield what comes before all audio."""
        if self._form.has_messages:
            yield protocol.encode(protocol.Ready())
        if self._opus is not None:
            yield self._pages(self._opus.headers)

    def audio(self, pcm: Samples) -> bytes:
        if self._opus is not None:
            return self._pages(self._opus.encode(pcm))
        return (
            protocol.encode(protocol.Audio(pcm))
            if self._form.has_messages
            else pcm.astype("<f4").tobytes()
        )

    def word(self, word: TtsWord) -> bytes | None:
        return (
            protocol.encode(protocol.TtsText(word.text, word.start_s, word.stop_s))
            if self._form.has_messages
            else None
        )

    def error_message(self, ending: Ending) -> bytes | None:
        """Return the message that says why a conversation ends, or never began.

        None where there is none.
        """
        return (
            protocol.encode(protocol.Error(ending.reason))
            if ending.reason and self._form.has_messages
            else None
        )

    def _pages(self, pages: bytes) -> bytes:
        return protocol.encode(protocol.OggOpus(pages)) if self._form.has_messages else pages


class TtsConnection(Connection[TtsEvent]):
    """A `TtsStream` on a WebSocket."""

    pings_while_sending = True

    def __init__(
        self,
        ws: web.WebSocketResponse,
        stream: TtsConversation,
        wire: TtsWire,
        request: TtsRequest,
        limits: Limits,
        log: Log,
    ) -> None:
        """`request` is what `speech` was opened with."""
        super().__init__(ws, stream, limits, silence_s=limits.tts_silence_s, no_audio_s=None)
        self._tts_stream, self._wire, self._request, self._log = stream, wire, request, log
        self._asked_s: float | None = None
        self._first_audio: dict[str, int] = {}
        """The field of the log that says when the first sound came, once it has."""

    def error_message(self, ending: Ending) -> bytes | None:
        return self._wire.error_message(ending)

    async def _take(self, message: WSMessage) -> None:
        try:
            asked = (
                protocol.Text(message.data)
                if message.type is WSMsgType.TEXT
                else protocol.decode_tts_request(message.data)
            )
            match asked:
                case protocol.Text(text=text):
                    self._asked_s = self._asked_s or time.monotonic()
                    # The next message is read already: a client that leaves is noticed while its
                    # text waits.
                    await self._wait_for_room()
                    # Tokenizing a long text takes a while.
                    await asyncio.to_thread(self._tts_stream.add_text, text)
                case protocol.Voice():
                    self._tts_stream.change_request(
                        replace(self._request, voices=(_latents(asked),))
                    )
                case protocol.Eos():
                    self._log.info(PY, "received end of stream", bidx=self._tts_stream.slot)
                    await asyncio.to_thread(self._tts_stream.end_text)
        except protocol.ProtocolError as exc:
            raise Ending(CloseCode.BAD_MESSAGE, str(exc)) from exc
        except InputError as exc:
            raise refusal(exc) from None  # a cause would be logged

    def _messages_of(self, event: TtsEvent) -> Iterator[bytes]:
        match event:
            case Started():
                yield from self._wire.beginning()
            case TtsWord():
                word = self._wire.word(event)
                if word is not None:
                    yield word
            case TtsAudio():
                if self._asked_s is not None and not self._first_audio:
                    waited_ms = round(1000 * (time.monotonic() - self._asked_s))
                    self._first_audio = {"first_audio_ms": waited_ms}
                yield self._wire.audio(event.pcm)
            case TtsEnded():
                if self._tts_stream.skipped:
                    self._log.warn(
                        PY,
                        SKIPPED,
                        batch_idx=self._tts_stream.slot,
                        count=self._tts_stream.skipped,
                    )
                self._log.info(
                    PY, "tts finished", batch_idx=self._tts_stream.slot, **self._first_audio
                )
                raise Ending(CloseCode.NORMAL)
            case TtsRefused():
                raise refusal(event.error)
            case StreamFailed():
                raise Ending(CloseCode.FAILED, event.reason, task="send_loop")


def refusal(exc: DsmopsError) -> Ending:
    """Return the ending of a conversation that failed.

    Either the client asked for something impossible, or the server could not get what it needs. The
    text is never logged.
    """
    code = CloseCode.BAD_MESSAGE if isinstance(exc, InputError) else CloseCode.FAILED
    logged = (
        f"the text cannot be synthesized ({exc.code})"
        if exc.code.startswith("text.")
        else exc.message
    )
    # Two lines: a client can tell the reason from the advice.
    return Ending(code, f"{exc.message}\n{exc.hint}".strip(), logged=logged)


def _latents(voice: protocol.Voice) -> Samples:
    """Return a voice as the engine takes it, [channels, frames].

    A leading dimension of one voice is taken off.
    """
    latents = voice.embeddings.reshape(voice.shape)
    return latents[0] if latents.ndim == 3 and len(latents) == 1 else latents
