"""The page at `/`: try the server from a browser, and see how it is.

Plain files, which are served as they are. They ask nothing of other servers, and the policy that
comes with them lets a browser ask nothing either.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

from aiohttp import web

_FOLDER = "page/"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def answer(path: str) -> web.Response | None:
    """Return the page for an empty path, or one of its files below `page/`; None for others."""
    name = "index.html" if path in ("", "index.html") else path.removeprefix(_FOLDER)
    held = _files().get(name) if name != path or name == "index.html" else None
    if held is None:
        return None
    kind, body = held
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)


@lru_cache
def _files() -> dict[str, tuple[str, bytes]]:
    """Return name → media type and content of each file of the page."""
    return {
        entry.name: (kind, entry.read_bytes())
        for entry in files(__package__).iterdir()
        for suffix, kind in _TYPES.items()
        if entry.name.endswith(suffix)
    }
