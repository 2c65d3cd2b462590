"""The hub: does it answer, with which token, and where do downloads go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

from dsmops.errors import DsmopsError, InputError, RemoteError
from dsmops.findings import Severity
from dsmops.hub import HubFile, HubSettings, ask_once, find_tokens, read_settings, server_cache
from dsmops.models import DEFAULT_STT
from dsmops.operations.doctor.findings import DoctorFinding, finding, ok
from dsmops.operations.doctor.site import Site

_TIMEOUT_S = 3
"""For each wait of the network, on a machine that answers at all within a tenth of it."""
_PATIENCE_S = 8.0
"""For all questions together. A resolver that hangs does so for longer than any time limit of a
connection."""
_UNSEEN = "whether the hub gives this machine the files that are missing"

# Error codes of the hub package that say what the hub thinks of a file.
_NAMES = {
    "hub.gated": "hub-refused",
    "hub.token_refused": "hub-refused",
    "hub.forbidden": "hub-refused",
    "hub.repo_missing": "hub-file-missing",
    "hub.revision_missing": "hub-file-missing",
    "hub.file_missing": "hub-file-missing",
    "hub.disabled": "hub-file-missing",
}


def hub(site: Site) -> Iterator[DoctorFinding]:
    """Report settings and tokens, and ask the hub for the missing files.

    It is asked for one file of each repository from which something is missing.
    """
    try:
        settings = read_settings()
    except InputError as exc:
        yield finding("hub-settings", Severity.ERROR, exc.message, fix=exc.hint, unseen=_UNSEEN)
        return
    yield from _tokens()
    if settings.cache.resolve() != server_cache().resolve():
        yield finding(
            "hub-cache-elsewhere",
            Severity.WARNING,
            f"moshi-server looks for downloads in {server_cache()}, and everything else uses"
            f" {settings.cache}",
            "it reads HF_HOME, not HF_HUB_CACHE or XDG_CACHE_HOME",
            fix=(
                f"export HF_HOME={settings.cache.parent}"
                if settings.cache.name == "hub"
                else "Set HF_HOME instead: the cache is its folder hub."
            ),
        )
    missing = site.missing_hub_files
    if settings.offline or site.scope.offline:
        yield _offline(missing, forbidden=settings.offline)
        return
    yield from _ask(settings, missing)


def _tokens() -> Iterator[DoctorFinding]:
    tokens, read = find_tokens(), server_cache().parent / "token"
    if (tokens.variable or tokens.has_file) and not read.is_file():
        yield finding(
            "hub-token-unread",
            Severity.WARNING,
            f"moshi-server does not read {tokens.variable or tokens.file}: to it this machine has"
            " no token",
            f"{read} does not exist",
            "Kyutai's models need no token",
            fix="hf auth login",
        )


def _offline(missing: tuple[HubFile, ...], *, forbidden: bool) -> DoctorFinding:
    """Return the finding for a hub that was not asked.

    dsmops obeys the environment, and would not fetch; `--offline` is only for this run.
    """
    return finding(
        "hub-offline",
        Severity.ERROR if missing and forbidden else Severity.NOTE,
        "the hub was not asked:"
        f" {'HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE is set' if forbidden else '--offline'}",
        *(f"not in the cache: {file}" for file in missing),
        "moshi-server knows no offline mode, and fetches what its cache lacks",
        fix="Fetch where there is a network, and copy the cache." if missing else "",
        unseen=_UNSEEN,
    )


def _ask(settings: HubSettings, missing: tuple[HubFile, ...]) -> Iterator[DoctorFinding]:
    # One file speaks for its repository; with nothing to fetch, the default model's speaks for the
    # hub.
    asked = list({file.repo: file for file in missing}.values()) or [
        HubFile(DEFAULT_STT.hf_repo, "main", DEFAULT_STT.model_file)
    ]
    answers = _within(_PATIENCE_S, lambda: [_answer(file) for file in asked])
    for file, error in zip(asked, answers or [_silence()] * len(asked), strict=True):
        if error is None:
            yield ok("hub", f"{settings.shown} gives this machine {file}", f"token: {_token()}")
        elif isinstance(error, RemoteError):
            yield finding(
                "hub-unreachable",
                Severity.ERROR if missing else Severity.NOTE,
                f"{settings.shown} does not answer this machine",
                error.message,
                fix=(
                    "See whether this goes through, and its proxy settings: "
                    f"curl -I {settings.shown}. On a machine without a network: --offline"
                ),
                unseen=_UNSEEN,
            )
            return
        else:
            severity = Severity.ERROR if missing else Severity.WARNING
            yield finding(
                _NAMES.get(error.code, "hub-refused"),
                severity,
                error.message,
                f"token: {_token()}",
                fix=error.hint,
            )


def _answer(file: HubFile) -> DsmopsError | None:
    try:
        ask_once(file, timeout_s=_TIMEOUT_S)
    except DsmopsError as exc:
        return exc
    return None


def _silence() -> DsmopsError:
    return RemoteError(f"no answer within {_PATIENCE_S:g} s")


def _token() -> str:
    tokens = find_tokens()
    if tokens.variable:
        return f"from {tokens.variable}"
    return f"from {tokens.file}" if tokens.has_file else "none"


def _within(
    seconds: float, ask: Callable[[], list[DsmopsError | None]]
) -> list[DsmopsError | None] | None:
    """Return what `ask` returns, None when it takes longer.

    What still waits then ends with the process.
    """
    answers: list[DsmopsError | None] = []
    thread = threading.Thread(target=lambda: answers.extend(ask()), daemon=True, name="hub")
    thread.start()
    thread.join(seconds)
    return None if thread.is_alive() else answers
