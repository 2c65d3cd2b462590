"""Whether a speech-to-text module works at all, and whether it answers frames with `Step`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from aiohttp import ClientSession

from dsmops.audio import Samples
from dsmops.client.connection import Closed, Connection
from dsmops.client.session import Patience, ended, next_answer, open_session, silent
from dsmops.client.stt import CLOSING_FRAMES, await_module
from dsmops.protocol import Audio, Error, Marker, Step, SttRequest, decode_stt_answer, encode

_HISTOGRAM = "asr_model_step_duration"


async def sends_steps(url: str, api_key: str | None, audio: Sequence[Samples]) -> bool:
    """Send frames of audio, wait for the first answer, and return whether it is a `Step`.

    Raises:
        CredentialsError, TransferError: as `client.stt.transcribe`.
    """
    patience = Patience(attempts=2)

    async def await_slot(session: ClientSession, connection: Connection) -> None:
        connection.keep_alive()
        await await_module(session, connection, url, patience)

    async with open_session(url, api_key, patience, await_slot) as connection:
        # The silence brings the marker back where no `Step` comes.
        silence = [audio[0] * 0] * CLOSING_FRAMES
        messages: list[SttRequest] = [*map(Audio, audio), Marker(1), *map(Audio, silence)]
        for message in messages:
            with suppress(ConnectionError):  # what was received says why
                await connection.send(encode(message))
        try:
            async with asyncio.timeout(patience.silence_s):
                return await _read(connection, url)
        except TimeoutError:
            raise silent(url, "text", patience.silence_s, _HISTOGRAM) from None


async def _read(connection: Connection, url: str) -> bool:
    while True:
        answer = await next_answer(connection, url, decode_stt_answer)
        if isinstance(answer, Closed):
            raise ended(url, "text", closed=answer)
        if isinstance(answer, Error):
            raise ended(url, "text", answer.message)
        if isinstance(answer, Step | Marker):
            return isinstance(answer, Step)
