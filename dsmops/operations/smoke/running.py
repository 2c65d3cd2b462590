"""A server that runs already: its modules are tested, and it is left as it was."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

from dsmops.audio import Samples
from dsmops.client.address import STT_PATH, websocket_url
from dsmops.client.probe import get
from dsmops.errors import RemoteError
from dsmops.operations.smoke.checks import Ledger
from dsmops.operations.smoke.conversation import Subject, listed_modules
from dsmops.operations.smoke.modules import HEARING, Manner, check_modules
from dsmops.operations.smoke.report import Backend, SmokeReport, make_report
from dsmops.operations.smoke.request import SmokeRequest

_KINDS = {"batched_asr": "BatchedAsr", "py_batched_asr": "PyBatchedAsr", "py": "Py"}
"""Types in /api/modules_info, and in configs."""
_CONNECT_S = 15.0


async def check_running(ledger: Ledger, request: SmokeRequest, clip: Samples) -> SmokeReport:
    """Test the modules of the server at `request.url`, the one at its path where it names one, without starting or ending anything."""
    url = websocket_url(request.url or "", default_path="")
    ledger.hide(request.api_key)
    parts = urlsplit(url)
    http_url = urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, "", "", ""))
    who = ["unknown"]

    async def listening() -> str:
        _, text = await get(f"{http_url}/api/build_info")
        who[0] = _server_name(text)
        return f"{http_url} answers: {who[0]}"

    subjects = []
    if await ledger.run("listening", listening, within_s=_CONNECT_S):
        subjects = [
            (kind, path)
            for kind, path in await _listed_modules(http_url)
            if parts.path in ("", path)
        ]
    several = len(subjects) > 1
    seen = await check_modules(
        ledger,
        [
            (
                kind,
                Subject(
                    urlunsplit((parts.scheme, parts.netloc, path, "", "")),
                    http_url,
                    path,
                    request.api_key,
                    module=path if several else None,
                    limits=request.limits,
                ),
            )
            for kind, path in subjects or [(HEARING[0], parts.path or STT_PATH)]
        ],
        Manner(
            clip, wants_words=request.audio is not None, intrusive=request.intrusive, patient=False
        ),
    )
    return make_report(
        ledger.checks, seen, backend=Backend.URL, seconds=ledger.seconds, server=who[0], url=url
    )


async def _listed_modules(http_url: str) -> list[tuple[str, str]]:
    """Return types, as configs name them, and paths of the modules that /api/modules_info lists; none where it is no such list."""
    try:
        listed = await listed_modules(http_url) or []
    except RemoteError:
        return []
    return [
        (_KINDS[module["type"]], module["path"])
        for module in listed
        if module["type"] in _KINDS and module["path"].startswith("/")
    ]


def _server_name(build_info: str) -> str:
    """Return who answered `/api/build_info`."""
    try:
        return str(json.loads(build_info)["git_describe"])[:100]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "something that has no /api/build_info"
