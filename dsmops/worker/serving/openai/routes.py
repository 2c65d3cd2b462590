"""The routes below `/v1/`: keys, errors, models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from aiohttp import web
from aiohttp.typedefs import Handler

from dsmops.errors import DsmopsError
from dsmops.worker.serving.access import Access
from dsmops.worker.serving.logs import UTILS, Log, Shown
from dsmops.worker.serving.openai.realtime import realtime
from dsmops.worker.serving.openai.refusals import PREFIX, Refusal, as_refusal
from dsmops.worker.serving.openai.served import Served
from dsmops.worker.serving.openai.speech import speech
from dsmops.worker.serving.openai.transcriptions import transcriptions
from dsmops.worker.serving.settings import Limits


class OpenAiRoutes:
    """OpenAI's endpoints for the modules of a server. Event loop only."""

    def __init__(
        self, modules: Sequence[object], access: Access, limits: Limits, log: Log, *, started_s: int
    ) -> None:
        """`started_s` is when the server was started, as a Unix time."""
        self._served = Served(modules, started_s)
        self._access, self._limits, self._log = access, limits, log

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Add the routes."""
        router.add_get(f"{PREFIX}models", self._handler(self._models))
        router.add_get(f"{PREFIX}models/{{id}}", self._handler(self._model))
        router.add_get(f"{PREFIX}audio/voices", self._handler(self._voices))
        router.add_post(f"{PREFIX}audio/transcriptions", self._handler(self._transcriptions))
        router.add_post(f"{PREFIX}audio/speech", self._handler(self._speech))
        sessions = self._handler(self._realtime, query=True)
        router.add_get(f"{PREFIX}realtime", sessions, allow_head=False)
        router.add_route("*", f"{PREFIX}{{path:.*}}", self._handler(_unknown))

    async def _models(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": self._served.documents()})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["id"]
        for document in self._served.documents():
            if document["id"] == name:
                return web.json_response(document)
        raise Refusal(
            404, f"The model {name[:80]!r} does not exist", param="model", code="model_not_found"
        )

    async def _voices(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "list", "data": await self._served.voices()})

    async def _transcriptions(self, request: web.Request) -> web.StreamResponse:
        return await transcriptions(request, self._served, self._limits, self._log)

    async def _speech(self, request: web.Request) -> web.StreamResponse:
        return await speech(request, self._served, self._limits, self._log)

    async def _realtime(self, request: web.Request) -> web.StreamResponse:
        return await realtime(request, self._served, self._log)

    def _handler(
        self,
        answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
        *,
        query: bool = False,
    ) -> Handler:
        """Return a handler that checks the key first, which may be in the query with `query`.

        Errors have the form that OpenAI's clients expect.
        """

        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                self._access.require(request, query=query)
                return await answer(request)
            except (Refusal, web.HTTPException, DsmopsError) as exc:
                # In a function of its own: a name for it here would keep this frame, and so the
                # connection, until a collection.
                return self._refused(as_refusal(exc))

        return handler

    def _refused(self, refusal: Refusal) -> web.Response:
        if refusal.status != 401:  # Those are counted.
            self._log.error(
                UTILS, f"returning error {refusal.status}", err=Shown(refusal.code or "")
            )
        return refusal.response()


async def _unknown(request: web.Request) -> web.StreamResponse:
    raise Refusal(404, f"Unknown request URL: {request.method} {request.path}", code="unknown_url")
