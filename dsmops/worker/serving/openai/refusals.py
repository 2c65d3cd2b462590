"""Errors as OpenAI's clients expect them: a JSON object `error` beside the status."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from aiohttp import web

from dsmops.errors import DsmopsError, InputError
from dsmops.worker.serving.access import TokenRefused
from dsmops.worker.serving.module import NoFreeSlotError

PREFIX = "/v1/"
_OVERLOADED = "overloaded"


class Refusal(Exception):  # noqa: N818 the client's error, not ours
    """Why a request is not served."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    @property
    def error(self) -> dict[str, object]:
        """The error itself, without what is around it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    @property
    def document(self) -> dict[str, object]:
        """The body of the answer."""
        return {"error": self.error}

    def response(self) -> web.Response:
        """Return the answer."""
        return web.json_response(self.document, status=self.status, headers=self.headers)


def require_choice(name: str, value: str, choices: Sequence[str]) -> str:
    """Return the value of a part of a request that has few.

    Raises:
        Refusal: it has another.
    """
    if value not in choices:
        raise Refusal(
            400,
            f"{value!r} is not one of {', '.join(choices)}",
            param=name,
            code="unsupported_value",
        )
    return value


def as_refusal(exc: Exception, *, param: str | None = None) -> Refusal:
    """Return the refusal that a client gets for an error.

    `param` names the part of the request that an `InputError` is about.
    """
    match exc:
        case Refusal():
            return exc
        case NoFreeSlotError():
            return Refusal(503, exc.message, code=_OVERLOADED, headers={"Retry-After": "10"})
        case InputError():
            return Refusal(400, f"{exc.message}. {exc.hint}", code=exc.code, param=param)
        case DsmopsError():
            return Refusal(500, f"{exc.message} {exc.hint}".strip(), code=exc.code)
        case web.HTTPException():
            return _of_status(exc)
    raise exc


def restated(request: web.Request, refusal: web.Response) -> web.Response:
    """Return a refusal from before any handler in the shape that the request's path asks for."""
    if not request.path.startswith(PREFIX):
        return refusal
    return Refusal(refusal.status, (refusal.text or "").strip()).response()


def _of_status(exc: web.HTTPException) -> Refusal:
    names = ("Retry-After", "Allow", "WWW-Authenticate")
    kept = {name: exc.headers[name] for name in names if name in exc.headers}
    if isinstance(exc, TokenRefused):
        message = f"The token is refused: {exc.why}."
        return Refusal(401, message, code="invalid_api_key", headers=kept)
    if exc.status == 401:
        return Refusal(
            401,
            "The API key is missing or wrong. Send one of the server's authorized_ids as"
            " `Authorization: Bearer KEY`.",
            code="invalid_api_key",
        )
    code = _OVERLOADED if exc.status == 503 else None
    return Refusal(exc.status, (exc.text or exc.reason).strip(), code=code, headers=kept)


def event(document: Mapping[str, object], *, name: str = "") -> bytes:
    """Return one server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()
