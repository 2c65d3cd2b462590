"""Requests to the hub through huggingface_hub, which only this module imports.

One table translates its exceptions.

Taken from it: addresses, tokens, headers, the HTTP session (proxies, certificates, redirects that
drop the token) and what a status means. Importing it takes 140 ms, so callers import this module
only once they need the network.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

from huggingface_hub import HfApi, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

from dsmops import __version__
from dsmops.errors import CredentialsError, DsmopsError, SourceError, TransferError
from dsmops.hub.settings import HubSettings, without_userinfo
from dsmops.hub.source import FileVersion, HubFile
from dsmops.models import MODELS

# Base of every failure below and above HTTP: the class of httpx under huggingface_hub 1.x, of
# httpx2 under 2.x.
_HTTP_ERROR = cast(
    "type[Exception]", next(base for base in HfHubHTTPError.__bases__ if base is not OSError)
)
_TRY_AGAIN = {408, 429, 500, 502, 503, 504}
_NEIGHBOURS = 5


class TryLaterError(TransferError):
    """The hub or the network failed in a way that often passes.

    `wait_s` is how long the hub asked to wait, 0 if it did not.
    """

    def __init__(self, message: str, *, hint: str, wait_s: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.wait_s = wait_s


def read_version(file: HubFile, settings: HubSettings, commit: str | None = None) -> FileVersion:
    """Ask the hub which version of `file` its revision, or `commit`, has.

    This is one request and downloads no content.

    Raises:
        SourceError: the repository, the revision or the file is not there; for a file with its
            neighbours.
        CredentialsError: the repository is gated, or the hub refused the token.
        TryLaterError: no network, a time-out, an overloaded hub.
        TransferError: the server that answered is not a hub.
    """
    with _translated(file, settings):
        url = _url(file, commit or file.revision, settings)
        found = get_hf_file_metadata(
            url, headers=_headers(), endpoint=settings.endpoint, timeout=settings.timeout_s
        )
    if found.commit_hash is None or found.etag is None or found.size is None:
        raise TransferError(
            f"{settings.shown} does not answer like a Hugging Face hub: no commit, ETag or size for"
            f" {file}",
            hint=(
                "Check HF_ENDPOINT, and whether a proxy or a log-in page of the network answers in"
                " its place."
            ),
            code="hub.answer",
        )
    return FileVersion(found.commit_hash, found.etag, found.size)


def list_files(file: HubFile, settings: HubSettings) -> list[str]:
    """Return the names of all files of the repository at the revision of `file`, in one request.

    The file's own name is not used.

    Raises as `read_version` does.
    """
    with _translated(file, settings):
        return _names(file, settings)


@contextmanager
def open_content(
    file: HubFile, commit: str, settings: HubSettings, *, start: int = 0, stop: int | None = None
) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Give the offset at which the answer begins and its bytes, as they arrive.

    One request; leaving the block closes it.

    Asked for are the bytes from `start` up to, not including, `stop` (None: the end). A server
    without ranges begins at 0 and goes to the end, so look at the offset and stop reading when
    there is enough.
    """
    headers = {**_headers(), "Accept-Encoding": "identity"}
    if start or stop is not None:
        headers["Range"] = f"bytes={start}-{'' if stop is None else stop - 1}"
    url = _url(file, commit, settings)
    with (
        _translated(file, settings),
        get_session().stream(
            "GET", url, headers=headers, timeout=settings.timeout_s, follow_redirects=True
        ) as response,
    ):
        hf_raise_for_status(response)
        yield start if response.status_code == 206 else 0, response.iter_bytes()


def _url(file: HubFile, revision: str, settings: HubSettings) -> str:
    return hf_hub_url(file.repo, file.filename, revision=revision, endpoint=settings.endpoint)


def _headers() -> dict[str, str]:
    headers = build_hf_headers(library_name="dsmops", library_version=__version__)
    if not re.fullmatch(r"[\x20-\x7e]*", headers.get("authorization", "")):
        raise CredentialsError(
            "the Hugging Face token of this machine has characters that no token has",
            hint="Look at HF_TOKEN, or log in again with `hf auth login`.",
            code="hub.token_refused",
        )
    return headers


@contextmanager
def _translated(file: HubFile, settings: HubSettings) -> Iterator[None]:
    try:
        yield
    except _HTTP_ERROR as exc:
        raise _translate(exc, file, settings) from exc


def _translate(exc: Exception, file: HubFile, settings: HubSettings) -> DsmopsError:
    """Translate exceptions of huggingface_hub and of its HTTP library to errors with a hint."""
    page = f"{settings.shown}/{file.repo}"
    match exc:
        case GatedRepoError():
            return CredentialsError(
                f"{file.repo} is gated: its conditions have to be accepted first",
                hint=f"Accept them at {page}, then log in with `hf auth login` or set HF_TOKEN.",
                code="hub.gated",
            )
        case DisabledRepoError():
            return SourceError(
                f"the hub has disabled {file.repo}", hint=f"See {page}", code="hub.disabled"
            )
        case RevisionNotFoundError():
            return SourceError(
                f"{file.repo} has no revision {file.revision!r}",
                hint=(f"Omit @{file.revision} for the main branch, or look at {page}/commits/main"),
                code="hub.revision_missing",
            )
        case RemoteEntryNotFoundError():
            return SourceError(
                f"{file.repo} has no file {file.filename!r} at {file.revision}",
                hint=_neighbours(file, settings)
                or f"See what it has at {page}/tree/{file.revision}",
                code="hub.file_missing",
            )
        case RepositoryNotFoundError():
            near = difflib.get_close_matches(
                file.repo, [model.hf_repo for model in MODELS.values()], n=1
            )
            return SourceError(
                f"the hub has no repository {file.repo}, or it is private",
                hint=(
                    f"{f'Did you mean {near[0]}?' if near else 'Check the name.'} "
                    "For a private repository log in with `hf auth login` or set HF_TOKEN."
                ),
                code="hub.repo_missing",
            )
        case HfHubHTTPError():
            return _translate_status(exc, file, settings)
        case _:
            reason = without_userinfo(str(exc)) or type(exc).__name__
            return TryLaterError(
                f"cannot get {file} from {settings.shown}: {reason}",
                hint=(
                    "Check the network and its proxy settings. What is in the cache can be used"
                    " without it: HF_HUB_OFFLINE=1."
                ),
            )


def _translate_status(exc: HfHubHTTPError, file: HubFile, settings: HubSettings) -> DsmopsError:
    status = exc.response.status_code
    if status == 401 and "authorization" in exc.response.request.headers:
        return CredentialsError(
            "the hub refuses the Hugging Face token of this machine (401), and with it even public"
            " models",
            hint=(
                "Remove it: `unset HF_TOKEN`, or `hf auth logout`. For a private or gated model log"
                " in again: `hf auth login`."
            ),
            code="hub.token_refused",
        )
    if status in (401, 403):
        return CredentialsError(
            f"the hub refuses access to {file.repo} ({status})",
            hint="Log in with `hf auth login`, with a token that may read this repository.",
            code="hub.forbidden",
        )
    if status in _TRY_AGAIN:
        headers = exc.response.headers
        # The hub limits requests by the RateLimit header of an IETF draft (t: seconds to its next
        # window), others by Retry-After.
        wait = re.fullmatch(r"(\d+)", headers.get("Retry-After", "")) or re.search(
            r";\s*t=(\d+)", headers.get("RateLimit", "")
        )
        return TryLaterError(
            f"{settings.shown} answers {status} for {file}",
            hint="The hub is overloaded or limits requests; try again in a few minutes.",
            wait_s=int(wait[1]) if wait else 0,
        )
    return TransferError(
        f"{settings.shown} answers {status} for {file}",
        hint="Check HF_ENDPOINT.",
        code="hub.answer",
    )


def _names(file: HubFile, settings: HubSettings) -> list[str]:
    found = HfApi(endpoint=settings.endpoint).model_info(
        file.repo, revision=file.revision, timeout=settings.timeout_s
    )
    return [sibling.rfilename for sibling in found.siblings or []]


def _neighbours(file: HubFile, settings: HubSettings) -> str:
    """Return a sentence that names similar files, or nothing if the hub does not list them."""
    names: list[str] = []
    with suppress(_HTTP_ERROR):
        names = _names(file, settings)
    ending = file.filename.rpartition(".")[2]
    near = difflib.get_close_matches(file.filename, names, n=_NEIGHBOURS) or [
        name for name in names if name.endswith(ending)
    ]
    return f"Near names there: {', '.join((near or names)[:_NEIGHBOURS])}" if names else ""
