"""Tests the modules of a server that runs already, and leaves it as it was."""

from __future__ import annotations

import json
from urllib.parse import urlsplit, urlunsplit

from dsmops.audio import Samples
from dsmops.client.address import STT_PATH, websocket_url
from dsmops.client.probe import get
from dsmops.errors import RemoteError
from dsmops.operations.smoke.checks import Ledger
from dsmops.operations.smoke.module_checks import Subject, listed_modules
from dsmops.operations.smoke.modules import STT_TYPES, CheckOptions, check_modules
from dsmops.operations.smoke.report import Backend, SmokeReport, make_report
from dsmops.operations.smoke.request import SmokeRequest

_TYPES = {"batched_asr": "BatchedAsr", "py_batched_asr": "PyBatchedAsr", "py": "Py"}
"""Types in /api/modules_info, and those in configs."""
_CONNECT_S = 15.0


async def check_running(ledger: Ledger, request: SmokeRequest, recording: Samples) -> SmokeReport:
    """Test the modules of the server at `request.url`: all of them, or the one at its path."""
    url = websocket_url(request.url or "", default_path="")
    ledger.hide(request.api_key)
    parts = urlsplit(url)
    http_url = urlunsplit((parts.scheme.replace("ws", "http", 1), parts.netloc, "", "", ""))
    server = ["unknown"]

    async def listening() -> str:
        _, text = await get(f"{http_url}/api/build_info")
        server[0] = _server_name(text)
        return f"{http_url} answers: {server[0]}"

    subjects = []
    if await ledger.run("listening", listening, within_s=_CONNECT_S):
        subjects = [
            (module_type, path)
            for module_type, path in await _listed_modules(http_url)
            if parts.path in ("", path)
        ]
    several = len(subjects) > 1
    seen = await check_modules(
        ledger,
        [
            (
                module_type,
                Subject(
                    urlunsplit((parts.scheme, parts.netloc, path, "", "")),
                    http_url,
                    path,
                    request.api_key,
                    module=path if several else None,
                    limits=request.limits,
                ),
            )
            for module_type, path in subjects or [(STT_TYPES[0], parts.path or STT_PATH)]
        ],
        CheckOptions(
            recording,
            is_given=request.audio is not None,
            wants_words=request.audio is not None,
            speech_is_random=False,
            intrusive=request.intrusive,
            patient=False,
        ),
    )
    return make_report(
        ledger.results, seen, backend=Backend.URL, seconds=ledger.seconds, server=server[0], url=url
    )


async def _listed_modules(http_url: str) -> list[tuple[str, str]]:
    """Return types, as configs name them, and paths of the modules in /api/modules_info."""
    try:
        listed = await listed_modules(http_url) or []
    except RemoteError:
        return []
    return [
        (_TYPES[module["type"]], module["path"])
        for module in listed
        if module["type"] in _TYPES and module["path"].startswith("/")
    ]


def _server_name(build_info: str) -> str:
    """Return what answered `/api/build_info`."""
    try:
        return str(json.loads(build_info)["git_describe"])[:100]
    except (ValueError, LookupError, TypeError, RecursionError):
        return "a server without /api/build_info"
