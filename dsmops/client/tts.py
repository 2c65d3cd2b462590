"""Streaming text-to-speech from a moshi-server: text goes out in pieces, sound and words come back.

A server makes sound faster than it is played, and keeps none. So text goes out only a few minutes
ahead of what the caller has taken, while all that comes is read at once, pings included: the memory
of neither side grows with the length of the text.

The original server ends a finished text with a Close frame without a code and drops the connection
at once. When all text was sent and every word came back, the text is complete however the
connection ended.

Source: moshi-server 0.6.4, `py_module.rs` and `tts_preprocess.rs`.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, suppress

import aiohttp

from dsmops.client.connection import Closed, Connection
from dsmops.client.http import CHECK_PATH
from dsmops.client.session import Patience, ended, next_answer, not_ready, open_session, silent
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
"""After so long without an answer all that was sent is said, however the server counts words."""
_PATIENCE = Patience(silence_s=120.0)
"""Before its first sound a model makes eighteen silent steps; on a CPU that may take a minute."""
_HISTOGRAM = "py_model_step_duration"
_GOOD_CODES = (1000, 1005)
"""Close codes after a whole text: 1000 from our worker, none from moshi-server."""
_WORD = re.compile(r"(?:<break\s[^<>]*>|\S)+")
"""What must not reach the server in two pieces: a word, or a pause's tag, which has a space."""
_BREAK = re.compile(r"<break\s[^<>]*>")
_SPACES = str.maketrans({":": " ", "(": None, ")": None, "–": None})

Answer = TtsText | Audio


async def synthesize(
    url: str,
    texts: Iterable[str],
    *,
    voice: str | None = None,
    api_key: str | None = None,
    patience: Patience | None = None,
) -> AsyncGenerator[Answer]:
    """Yield words and sound (float32, 24 kHz mono) of `texts` as the server at `url` makes them.

    Each of `texts` ends with the end of a word. `voice` None is the server's default. The original
    server uses its default for an unknown voice, too.

    Raises:
        InputError: the server has no such voice, or cannot say the text.
        CredentialsError: the server refused the key.
        TransferError: it cannot be reached, is full, stopped answering, ended early or is not a
            moshi-server.
    """
    patience = patience or _PATIENCE
    asked = {
        "format": TtsFormat.PCM_MESSAGE_PACK.value,
        **({} if voice is None else {"voice": voice}),
    }

    async def await_slot(_: aiohttp.ClientSession, connection: Connection) -> None:
        connection.keep_alive(ping_s=patience.ping_s)
        try:
            async with asyncio.timeout(patience.ready_s):
                answer = await _next(connection, url)
        except TimeoutError:
            raise not_ready(url, patience.ready_s) from None
        if isinstance(answer, Closed):
            raise ended(url, "speech", closed=answer)
        if isinstance(answer, Error):
            raise await _refusal(connection, url, patience.close_s, answer.message)
        if not isinstance(answer, Ready):
            raise TransferError(
                f"{url} began without Ready", hint=CHECK_PATH, code="server.foreign"
            )

    async with open_session(url, api_key, patience, await_slot, asked) as connection:
        conversation = _Conversation(connection, url, patience)
        async with aclosing(conversation.run(texts)) as answers:
            async for answer in answers:
                yield answer


class _Conversation:
    """A sender, a reader, and a queue between the reader and the caller."""

    def __init__(self, connection: Connection, url: str, patience: Patience) -> None:
        self._connection, self._url, self._patience = connection, url, patience
        self._answers: asyncio.Queue[Answer | BaseException | None] = asyncio.Queue()
        self._moved = asyncio.Event()
        self._words_sent = self._words_read = self._words_taken = 0
        self._is_all_sent = False

    async def run(self, texts: Iterable[str]) -> AsyncGenerator[Answer]:
        """Yield answers until the server has said everything."""
        tasks = [asyncio.create_task(self._send(texts)), asyncio.create_task(self._read())]
        for task in tasks:
            task.add_done_callback(self._report)
        try:
            while (answer := await self._next_answer()) is not None:
                if isinstance(answer, TtsText):
                    self._words_taken += 1
                self._moved.set()
                yield answer
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _report(self, task: asyncio.Task[None]) -> None:
        """Hand the failure that ended a task to the caller, behind what was read before it."""
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            self._answers.put_nowait(failure)

    async def _next_answer(self) -> Answer | None:
        silence_s = self._patience.silence_s
        try:
            async with asyncio.timeout(silence_s):
                answer = await self._answers.get()
        except TimeoutError:
            raise silent(self._url, "speech", silence_s, _HISTOGRAM) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _send(self, texts: Iterable[str]) -> None:
        try:
            for piece in _pieces(texts):
                while self._words_sent - self._words_taken >= WORDS_AHEAD:
                    self._moved.clear()
                    try:
                        async with asyncio.timeout(_QUIET_S):
                            await self._moved.wait()
                    except TimeoutError:
                        if self._answers.empty():
                            break
                await self._connection.send(encode(Text(piece)))
                self._words_sent += count_words(piece)
            await self._connection.send(encode(Eos()))
            self._is_all_sent = True
        except ConnectionError:
            return  # the reader knows why

    async def _read(self) -> None:
        while not isinstance(answer := await _next(self._connection, self._url), Closed):
            match answer:
                case TtsText() | Audio():
                    self._words_read += isinstance(answer, TtsText)
                    self._answers.put_nowait(answer)
                case Error():
                    raise await _refusal(
                        self._connection, self._url, self._patience.close_s, answer.message
                    )
                case OggOpus():
                    raise TransferError(
                        f"{self._url} sent Opus where samples were requested",
                        hint=CHECK_PATH,
                        code="server.foreign",
                    )
        if not self._is_complete(answer):
            raise ended(self._url, "speech", closed=answer)
        self._answers.put_nowait(None)

    def _is_complete(self, closed: Closed) -> bool:
        """Return whether the end of the connection was the end of the text.

        A Close frame says so. Without one, the last word has come: moshi-server reports it at the
        end of its sound.
        """
        if not self._is_all_sent:
            return False
        return closed.code in _GOOD_CODES or (
            closed.code is None and 0 < self._words_sent <= self._words_read
        )


async def _refusal(connection: Connection, url: str, close_s: float, said: str) -> DsmopsError:
    """Return the error for a server's last message, and for the close code after it."""
    with suppress(TimeoutError):
        async with asyncio.timeout(close_s):
            await connection.receive()
    return ended(url, "speech", said, connection.closed)


async def _next(connection: Connection, url: str) -> TtsAnswer | Closed:
    return await next_answer(connection, url, decode_tts_answer)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts in pieces of at most `_PIECE_WORDS` words."""
    for text in texts:
        words = _WORD.findall(text)
        for start in range(0, len(words), _PIECE_WORDS):
            yield " ".join(words[start : start + _PIECE_WORDS])


def count_words(piece: str) -> int:
    """Return how many words and pauses a server makes of a piece of text.

    Source: moshi-server's `tts_preprocess.rs`; a pause is reported as a word.
    """
    pauses = _BREAK.findall(piece)
    return len(pauses) + len(_BREAK.sub(" ", piece).translate(_SPACES).split())
