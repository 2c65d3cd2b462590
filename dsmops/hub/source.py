"""The names of files on the hub: `hf://org/repo[@revision]/path/in/repo`, parsed and written.

The revision belongs to the repository, because published file names contain `@`: only an `@` in the
second segment starts one. It is one segment, percent-decoded (`@feature%2Fx`), or one of the hub's
own references, which keep their slashes (`@refs/pr/1`, `@refs/convert/NAME`). huggingface_hub reads
these names in the same way; dsmops takes model repositories only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import quote, unquote

from dsmops.errors import SourceError

SCHEME = "hf://"
DEFAULT_REVISION = "main"
EXAMPLE = "hf://kyutai/stt-1b-en_fr-candle/model.safetensors"

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_OTHER_KINDS = ("datasets", "spaces", "kernels", "buckets")
_HUB_REFERENCE = re.compile(r"refs/(?:pr/\d+|convert/[\w.-]+)(?=/|$)", re.ASCII)
# What the hub allows in each half of a repository's name; no `--` or `..`, no `.git` at the end, 96
# characters in all.
_REPO_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?", re.ASCII)
_REPO_MAX_CHARS = 96
_WEB_PAGE = re.compile(
    r"https?://[^/]+/([^/]+/[^/]+)/(?:blob|resolve|raw)/([^/]+)/([^?#]+)(?:[?#].*)?"
)


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a model repository.

    `revision` is a branch, a tag, a commit or a hub reference such as `refs/pr/1`.

    `str()` gives the `hf://` form, which `parse_source` reads back to the same value.
    """

    repo: str
    revision: str
    filename: str

    def sibling(self, filename: str) -> HubFile:
        """Return the file `filename` of the same repository and revision."""
        return replace(self, filename=filename)

    def __str__(self) -> str:
        if self.revision == DEFAULT_REVISION:
            return f"{SCHEME}{self.repo}/{self.filename}"
        reference = (
            self.revision
            if _HUB_REFERENCE.fullmatch(self.revision)
            else quote(self.revision, safe="")
        )
        return f"{SCHEME}{self.repo}@{reference}/{self.filename}"


@dataclass(frozen=True, slots=True)
class FileVersion:
    """One state of a hub file: the commit it belongs to, the name of its content, its size.

    `etag` is the SHA-256 for files in large-file storage, a git hash or something opaque for the
    others, and empty where a cache keeps a plain copy without a name.
    """

    commit: str
    etag: str
    size_bytes: int

    @property
    def sha256(self) -> str | None:
        """64 hex digits, None where the hub names the content in another way."""
        return self.etag if _SHA256.fullmatch(self.etag) else None


def is_hub_source(source: str) -> bool:
    """Return whether `source` names a file on the hub rather than a local path."""
    return source.startswith(SCHEME)


def parse_source(source: str) -> HubFile:
    """Return the hub file that `source` names, `hf://org/repo[@revision]/path/in/repo`.

    The revision defaults to `main`.

    `hf://models/org/repo/...`, the long form that huggingface_hub writes, is read too.

    Raises:
        SourceError: the text is not such a name; the message says which part is wrong, the hint
        shows
            a right one.
    """
    page = _WEB_PAGE.fullmatch(source)
    if page is not None:
        repo, revision, filename = page[1], unquote(page[2]), unquote(page[3])
        raise _bad(
            source,
            "is a web page or a download link",
            f"Write it as {HubFile(repo, revision, filename)}",
        )
    if not is_hub_source(source):
        raise _bad(source, f"does not begin with {SCHEME}")
    body = source.removeprefix(SCHEME).removeprefix("models/")
    kind = body.partition("/")[0]
    if kind in _OTHER_KINDS:
        raise _bad(source, f"names one of the hub's {kind}, and dsmops reads model repositories")
    org, _, rest = body.partition("/")
    repo_name, at, rest = _split_repo(rest)
    repo = f"{org}/{repo_name}"
    if not is_repo_name(repo):
        raise _bad(source, f"has no valid repository name (read as {repo!r}, should be org/repo)")
    revision, filename = _split_revision(rest) if at else (DEFAULT_REVISION, rest)
    if not _is_safe_path(revision):
        raise _bad(source, f"has no valid revision after the @ (read as {revision!r})")
    if not filename:
        raise _bad(source, f"names a repository, not a file of {repo}")
    if not _is_safe_path(filename):
        raise _bad(source, f"has no valid file name (read as {filename!r})")
    return HubFile(repo, revision, filename)


def is_repo_name(text: str) -> bool:
    """Return whether `text` is a repository name as the hub allows it, `org/repo`."""
    parts = text.split("/")
    return (
        len(parts) == 2
        and all(_REPO_PART.fullmatch(part) for part in parts)
        and len(text) <= _REPO_MAX_CHARS
        and "--" not in text
        and ".." not in text
        and not text.endswith(".git")
    )


def _split_repo(rest: str) -> tuple[str, bool, str]:
    """Split `repo@revision/path` or `repo/path` into name, whether a revision follows, rest."""
    segment = rest.partition("/")[0]
    name, at, _ = segment.partition("@")
    return name, bool(at), rest[len(name) + 1 :]


def _split_revision(rest: str) -> tuple[str, str]:
    reference = _HUB_REFERENCE.match(rest)
    if reference is not None:
        return reference[0], rest[reference.end() + 1 :]
    revision, _, filename = rest.partition("/")
    return unquote(revision), filename


def _is_safe_path(path: str) -> bool:
    """Return whether `path` stays below the folder it is joined to, and prints as one line."""
    return (
        path.isprintable()
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in path.split("/"))
    )


def _bad(source: str, reason: str, hint: str = "") -> SourceError:
    return SourceError(
        f"{source} {reason}",
        hint=hint or f"Name a file as hf://org/repo[@revision]/path, for example {EXAMPLE}",
        code="source.name",
    )
