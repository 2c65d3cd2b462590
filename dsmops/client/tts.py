"""Streaming text-to-speech from a moshi-server: text in pieces, as fast as it is spoken; sound and word times out.

A server makes sound faster than anybody listens, and keeps none. So text goes out only a few
minutes ahead of what the caller has taken, while everything that comes is read at once, pings
included: neither side's memory grows with the length of the text.

Source: moshi-server 0.6.4, `py_module.rs`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, suppress

import aiohttp

from dsmops.client.http import CHECK_PATH
from dsmops.client.session import (
    Patience,
    Socket,
    ended,
    next_answer,
    not_ready,
    open_session,
    silent,
)
from dsmops.errors import DsmopsError, TransferError
from dsmops.protocol import (
    Audio,
    Eos,
    Error,
    OggOpus,
    Ready,
    Text,
    TtsAnswer,
    TtsFormat,
    TtsText,
    decode_tts_answer,
    encode,
)

WORDS_AHEAD = 400
"""Words sent before the caller has taken their sound, some two and a half minutes."""
_PIECE_WORDS = 50
_QUIET_S = 1.0
"""After so long without anything new, all that was sent is said, however the server counts words."""
_PATIENCE = Patience(marker_s=120.0)
"""Before its first sound a model takes eighteen steps in silence, which on a CPU may need a minute."""
_CLEAN = (0, 1000)
"""Close codes once all is said: moshi-server gives none, which is 0 here; a connection that was cut has 1006."""
_WORD = re.compile(r"(?:<break\s[^<>]*>|\S)+")
"""What the server must not get in two pieces: a word, or a pause's tag, which has a space in it."""

Answer = TtsText | Audio


async def synthesize(
    url: str,
    texts: Iterable[str],
    *,
    voice: str | None = None,
    api_key: str | None = None,
    patience: Patience | None = None,
) -> AsyncGenerator[Answer]:
    """Yield words and sound (float32, 24 kHz mono) of `texts`, said at the WebSocket address `url`, as they come.

    Each of `texts` ends with the end of a word. `voice` None is the server's default one. Servers
    other than ours say an unknown voice with it, too.

    Raises:
        InputError: the server has no such voice, or cannot say the text.
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full, stopped answering, ended in the middle or is no such server.
    """
    patience = patience or _PATIENCE
    asked = {
        "format": TtsFormat.PCM_MESSAGE_PACK.value,
        **({} if voice is None else {"voice": voice}),
    }

    async def await_slot(_: aiohttp.ClientSession, socket: Socket) -> None:
        try:
            async with asyncio.timeout(patience.ready_s):
                answer = await _next(socket, url)
        except TimeoutError:
            raise not_ready(url, patience.ready_s) from None
        if answer is None or isinstance(answer, Error):
            raise await _ended(socket, url, patience.close_s, answer.message if answer else "")
        if not isinstance(answer, Ready):
            raise TransferError(
                f"{url} began without Ready", hint=CHECK_PATH, code="server.foreign"
            )

    async with open_session(url, api_key, patience, await_slot, asked) as socket:
        conversation = _Conversation(socket, url, patience)
        async with aclosing(conversation.run(texts)) as answers:
            async for answer in answers:
                yield answer


class _Conversation:
    """A sender, a reader, and what lies between the reader and the caller."""

    def __init__(self, socket: Socket, url: str, patience: Patience) -> None:
        self._socket, self._url, self._silence_s, self._close_s = (
            socket,
            url,
            patience.marker_s,
            patience.close_s,
        )
        self._answers: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._taken_words = 0
        self._is_all_sent = False

    async def run(self, texts: Iterable[str]) -> AsyncGenerator[Answer]:
        """Yield answers until the server has said all."""
        tasks = [asyncio.create_task(self._send(texts)), asyncio.create_task(self._read())]
        for task in tasks:
            task.add_done_callback(self._report)
        try:
            while (answer := await self._next_answer()) is not None:
                if isinstance(answer, TtsText):
                    self._taken_words += 1
                self._moved.set()
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _report(self, task: asyncio.Task[None]) -> None:
        """Let the caller know what ended a task."""
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._answers.put_nowait(failure)

    async def _next_answer(self) -> Answer | None:
        try:
            async with asyncio.timeout(self._silence_s):
                answer = await self._answers.get()
        except TimeoutError:
            raise silent(self._url, "speech", self._silence_s, "py_model_step_duration") from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _send(self, texts: Iterable[str]) -> None:
        sent_words = 0
        try:
            for piece in _pieces(texts):
                while sent_words - self._taken_words >= WORDS_AHEAD:
                    self._moved.clear()
                    try:
                        async with asyncio.timeout(_QUIET_S):
                            await self._moved.wait()
                    except TimeoutError:
                        if self._answers.empty():
                            break
                await self._socket.send_bytes(encode(Text(piece)))
                sent_words += _PIECE_WORDS
            await self._socket.send_bytes(encode(Eos()))
            self._is_all_sent = True
        except (aiohttp.ClientConnectionError, ConnectionError):
            return  # The reader knows why.

    async def _read(self) -> None:
        while (answer := await _next(self._socket, self._url)) is not None:
            match answer:
                case TtsText() | Audio():
                    self._answers.put_nowait(answer)
                case Error():
                    raise await _ended(self._socket, self._url, self._close_s, answer.message)
                case OggOpus():
                    raise TransferError(
                        f"{self._url} sent Opus, and samples were asked for",
                        hint=CHECK_PATH,
                        code="server.foreign",
                    )
        if self._socket.close_code not in _CLEAN or not self._is_all_sent:
            raise ended(self._url, "speech", "", self._socket.close_code)
        self._answers.put_nowait(None)


async def _ended(socket: Socket, url: str, close_s: float, said: str) -> DsmopsError:
    """Return the error for what a server said last: the close code that follows tells whose fault it was."""
    with suppress(TimeoutError):
        async with asyncio.timeout(close_s):
            await socket.receive()
    return ended(url, "speech", said, socket.close_code)


async def _next(socket: Socket, url: str) -> TtsAnswer | None:
    return await next_answer(socket, url, decode_tts_answer)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts in pieces of at most `_PIECE_WORDS` words."""
    for text in texts:
        words = _WORD.findall(text)
        for start in range(0, len(words), _PIECE_WORDS):
            yield " ".join(words[start : start + _PIECE_WORDS])
