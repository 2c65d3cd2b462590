"""The form of a transcription request: its fields, and its file in memory or on disk."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from dsmops.worker.serving.openai.refusals import Refusal, require_choice
from dsmops.worker.serving.settings import Limits

FILE = "file"
_IN_MEMORY_BYTES = 2 << 20
"""Of one file. A longer one lies on disk."""
_FIELD_BYTES = 64 << 10
_MOST_PARTS = 64
_RATE_BYTES = 2 << 20
"""A body has `Limits.body_s` for so many bytes, and as long for each further so many."""
_PIECE_BYTES = 64 << 10


@dataclass(slots=True)
class Form:
    """What was posted."""

    file: BinaryIO
    fields: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Without empty values, which count as omitted."""
    file_bytes: int = 0

    def text(self, name: str, default: str = "") -> str:
        """Return the last value of a field."""
        return self.fields[name][-1] if self.fields.get(name) else default

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        """Return the value of a field that has few. Raises as `require_choice`."""
        return require_choice(name, self.text(name, default), choices)

    def flag(self, name: str) -> bool:
        """Return a field that is true or false, in any case: some clients send Python's words.

        Raises as `require_choice`.
        """
        return require_choice(name, self.text(name, "false").lower(), ("true", "false")) == "true"


@contextlib.asynccontextmanager
async def read_form(request: web.Request, limits: Limits) -> AsyncIterator[Form]:
    """Give the form in the body of a request. Its file is deleted at the end.

    Raises:
        Refusal: it is not a form with a file (400), too large (413), or does not come (408).
        ConnectionResetError: the client has hung up.
    """
    if request.content_type != "multipart/form-data":
        raise Refusal(400, "the body must be multipart/form-data with a file", param=FILE)
    with tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES) as spooled:
        form = Form(cast("BinaryIO", spooled))
        await _Reader(request, limits, form).read()
        yield form


class _Reader:
    """Reads one body, whose sender must not be slower than `limits` allow."""

    def __init__(self, request: web.Request, limits: Limits, form: Form) -> None:
        self._request, self._limits, self._form = request, limits, form

    async def read(self) -> None:
        """Fill the form. Raises as `read_form` does."""
        try:
            async with asyncio.timeout(self._limits.body_s) as clock:
                await self._read_parts(clock)
        except TimeoutError:
            raise Refusal(408, "the body came too slowly") from None
        except (ValueError, RuntimeError, HttpProcessingError, web.RequestPayloadError) as exc:
            raise Refusal(400, f"the form cannot be read: {exc}") from exc

    async def _read_parts(self, clock: asyncio.Timeout) -> None:
        parts = await self._request.multipart()
        for _ in range(_MOST_PARTS):
            part = await parts.next()
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                raise Refusal(400, "forms within forms are not read")
            if part.name == FILE:
                await self._read_file(part, clock)
            else:
                name = (part.name or "").removesuffix("[]")
                value = await self._read_field(part, name, clock)
                if value:  # else as if it were omitted
                    self._form.fields[name].append(value)
        else:
            raise Refusal(400, f"the form has more than {_MOST_PARTS} parts")
        if not self._form.file_bytes:
            raise Refusal(400, "the form has no file, or an empty one", param=FILE)
        self._form.file.seek(0)

    async def _read_file(self, part: BodyPartReader, clock: asyncio.Timeout) -> None:
        form, most_bytes = self._form, self._limits.upload_bytes
        async for piece in self._pieces(part, clock):
            form.file_bytes += len(piece)
            if form.file_bytes > most_bytes:
                raise Refusal(413, f"the file has more than {most_bytes:,} bytes", param=FILE)
            form.file.write(piece)

    async def _read_field(self, part: BodyPartReader, name: str, clock: asyncio.Timeout) -> str:
        value = bytearray()
        async for piece in self._pieces(part, clock):
            value += piece
            if len(value) > _FIELD_BYTES:
                raise Refusal(413, f"the field {name} is too long", param=name)
        return value.decode(errors="replace")

    async def _pieces(self, part: BodyPartReader, clock: asyncio.Timeout) -> AsyncIterator[bytes]:
        """Yield what a part holds, and give its sender more time for each piece."""
        while piece := await part.read_chunk(_PIECE_BYTES):
            when_s = clock.when()
            if when_s is not None:
                clock.reschedule(when_s + len(piece) / _RATE_BYTES * self._limits.body_s)
            yield piece
