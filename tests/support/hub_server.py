"""A small hub on loopback that the real huggingface_hub client takes for the real one, and that
misbehaves on request.

    with HubServer({"org/repo": {"model.safetensors": b"..."}}) as hub:
        env = hub.env(tmp_path / "home")  # for a subprocess, or monkeypatch.setenv here
        hub.faults.append(Fault("cdn", after_bytes=1000, then="reset"))
        ...
        assert hub.requests == []

Files in large-file storage (by their suffix) answer with a redirect to another origin, as on the
real hub, which names them by their SHA-256; the others are answered at once and named by their git
hash. Statuses, headers and error codes are those of the real hub, as far as the client reads them.
"""

from __future__ import annotations

import hashlib
import io
import json
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal
from urllib.parse import unquote

LARGE_FILE_SUFFIXES = (".safetensors", ".model", ".bin")
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """What one file holds: bytes in memory, or a file on the disk for full-size tests.

    Its `digest` may be given where working it out would take longer than the test; the bytes are
    then not those it promises.
    """

    name: str
    body: bytes | Path
    digest: str | None = None

    @property
    def is_large(self) -> bool:
        return self.name.endswith(LARGE_FILE_SUFFIXES)

    @property
    def size(self) -> int:
        return self.body.stat().st_size if isinstance(self.body, Path) else len(self.body)

    def open(self) -> BinaryIO:
        return self.body.open("rb") if isinstance(self.body, Path) else io.BytesIO(self.body)

    def etag(self) -> str:
        if self.digest is not None:
            return self.digest
        digest = hashlib.sha256() if self.is_large else hashlib.sha1(b"blob %d\0" % self.size)
        with self.open() as file:
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest()


class Repo:
    """A model repository.

    `readers` are the tokens that may read it, None means everyone; `gated` says why the others may
    not.

    `publish` moves a branch to a new commit; the older commits stay.
    """

    def __init__(
        self,
        files: Mapping[str, bytes | Path | Content],
        *,
        readers: frozenset[str] | None = None,
        gated: bool = False,
    ) -> None:
        self.readers = frozenset() if gated and readers is None else readers
        self.gated = gated
        self.refs: dict[str, str] = {}
        self.commits: dict[str, dict[str, tuple[Content, str]]] = {}
        self.publish(files)

    def publish(
        self, files: Mapping[str, bytes | Path | Content], *, revision: str = "main"
    ) -> str:
        """Make `files` the content of `revision` and return the commit."""
        entries = {
            name: body if isinstance(body, Content) else Content(name, body)
            for name, body in files.items()
        }
        named = {name: (content, content.etag()) for name, content in sorted(entries.items())}
        text = "\n".join(f"{etag} {name}" for name, (_, etag) in named.items())
        commit = hashlib.sha1(f"{revision}\n{text}".encode()).hexdigest()
        self.commits[commit] = named
        self.refs[revision] = commit
        return commit


@dataclass
class Fault:
    """What goes wrong, `times` times, with requests whose `METHOD /path` contains `where`.

    `status` answers that instead, with `headers`; `silent` never answers. Otherwise the body is cut
    `after_bytes` of it and `then` the connection is closed, reset or left hanging; or one byte of
    it is `damaged`; or it comes in 4 KiB blocks with `pause_s` between them.
    """

    where: str
    times: int = 1
    status: int | None = None
    silent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    after_bytes: int | None = None
    then: Literal["close", "reset", "stall"] = "close"
    damaged: bool = False
    pause_s: float = 0.0


@dataclass
class Request:
    """One request as the server saw it. `body_bytes` were sent in answer."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int = 0
    body_bytes: int = 0


class HubServer:
    """The hub, running from `__enter__` to `__exit__`.

    `tokens` are those it knows; any other token is refused everywhere.
    """

    def __init__(
        self,
        repos: Mapping[str, Repo | Mapping[str, bytes | Path | Content]],
        *,
        tokens: frozenset[str] = frozenset(),
    ) -> None:
        self.repos = {
            name: repo if isinstance(repo, Repo) else Repo(repo) for name, repo in repos.items()
        }
        self.tokens = tokens
        self.faults: list[Fault] = []
        self.knows_ranges = True
        self.requests: list[Request] = []
        self.closing = threading.Event()
        self.stalled = threading.Event()
        """Set once a fault has left a connection hanging."""
        self._lock = threading.Lock()
        self._servers = [_Server(self), _Server(self)]

    def __enter__(self) -> HubServer:
        for server in self._servers:
            threading.Thread(
                target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
            ).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._servers[0].server_port}"

    @property
    def cdn_url(self) -> str:
        """Where large files are redirected to: another host by name, as huggingface_hub 1.x judges
        it, which must never see a token.
        """
        return f"http://localhost:{self._servers[1].server_port}/cdn"

    def env(self, home: Path) -> dict[str, str]:
        """Return the environment that makes huggingface_hub and dsmops use this hub, with cache and
        token file under `home`.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # The client's default is 10 s, which a test of a hanging connection would have to sit
            # out.
            "HF_HUB_DOWNLOAD_TIMEOUT": "1",
            "HF_HUB_ETAG_TIMEOUT": "5",
        }

    def sent_bytes(self, where: str = "cdn") -> int:
        """Return how many body bytes were sent for paths that contain `where`."""
        return sum(request.body_bytes for request in self.requests if where in request.path)

    def take_fault(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if fault.times > 0 and fault.where in f"{request.method} {request.path}":
                    fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: HubServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are what these tests are about; say nothing."""


class _RefusedError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.headers = status, {"X-Error-Code": code, "X-Error-Message": message}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test output clean; `HubServer.requests` is the log."""

    def _serve(self) -> None:
        hub = self.server.hub
        self.close_connection = True
        self.seen = Request(
            self.command, self.path, self.headers.get("Range"), "Authorization" in self.headers
        )
        self.fault = hub.take_fault(self.seen)
        path = self.path.partition("?")[0]
        try:
            if self.fault and self.fault.silent:
                hub.closing.wait()
            elif self.fault and self.fault.status:
                self._send(self.fault.status, self.fault.headers, b"{}")
            elif path.startswith("/cdn/"):
                self._send_content(self._by_sha256(path.rpartition("/")[2]), {})
            elif path.startswith("/api/models/"):
                self._answer_api(
                    [unquote(part) for part in path.removeprefix("/api/models/").split("/")]
                )
            else:
                self._resolve([unquote(part) for part in path.removeprefix("/").split("/")])
        except _RefusedError as refused:
            self._send(
                refused.status,
                {name: text for name, text in refused.headers.items() if text},
                b"{}",
            )

    def _authorize(self, name: str) -> Repo:
        hub = self.server.hub
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in hub.tokens:
            raise _RefusedError(401, "", "Invalid credentials in Authorization header")
        repo = hub.repos.get(name)
        if repo is None or (repo.readers is not None and token not in repo.readers):
            if repo is not None and repo.gated:
                raise _RefusedError(
                    403 if token else 401, "GatedRepo", f"Access to model {name} is restricted."
                )
            raise _RefusedError(404 if token else 401, "RepoNotFound", "Repository not found")
        return repo

    def _commit(self, repo: Repo, revision: str) -> str:
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            raise _RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def _resolve(self, parts: list[str]) -> None:
        if len(parts) < 5 or parts[2] != "resolve":
            raise _RefusedError(404, "", "not here")
        repo = self._authorize("/".join(parts[:2]))
        commit = self._commit(repo, parts[3])
        entry = repo.commits[commit].get("/".join(parts[4:]))
        headers = {"X-Repo-Commit": commit}
        if entry is None:
            self._send(
                404,
                {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"},
                b"",
            )
            return
        content, etag = entry
        if content.is_large:
            location = f"{self.server.hub.cdn_url}/{etag}"
            linked = {
                "X-Linked-Etag": f'"{etag}"',
                "X-Linked-Size": str(content.size),
                "Location": location,
            }
            self._send(302, {**headers, **linked}, f"Found. Redirecting to {location}".encode())
        else:
            self._send_content(content, {**headers, "ETag": f'"{etag}"'})

    def _answer_api(self, parts: list[str]) -> None:
        name, verb = "/".join(parts[:2]), parts[2] if len(parts) > 2 else "revision"
        repo = self._authorize(name)
        commit = self._commit(repo, "/".join(parts[3:]) or "main")
        entries = repo.commits[commit]
        answer: object
        if verb == "tree":
            answer = [
                {"type": "file", "path": path, "size": content.size, "oid": etag}
                for path, (content, etag) in entries.items()
            ]
        else:
            answer = {
                "id": name,
                "sha": commit,
                "siblings": [{"rfilename": path} for path in entries],
            }
        self._send(200, {"Content-Type": "application/json"}, json.dumps(answer).encode())

    def _by_sha256(self, sha256: str) -> Content:
        for repo in self.server.hub.repos.values():
            for entries in repo.commits.values():
                for content, etag in entries.values():
                    if etag == sha256:
                        return content
        raise _RefusedError(404, "", "no such content")

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self._begin(status, {**headers, "Content-Length": str(len(body))})
        if self.command != "HEAD":
            self.seen.body_bytes = len(body)
            self.wfile.write(body)

    def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        self.seen.status = status
        self.send_response(status)
        for name, text in {**headers, "Connection": "close"}.items():
            self.send_header(name, text)
        self.end_headers()

    def _send_content(self, content: Content, headers: Mapping[str, str]) -> None:
        start, stop, status = 0, content.size, 200
        if self.seen.range and self.server.hub.knows_ranges:
            first, _, last = self.seen.range.removeprefix("bytes=").partition("-")
            start, stop, status = int(first), min(content.size, int(last or content.size) + 1), 206
            if start >= content.size:
                raise _RefusedError(416, "", "range not satisfiable")
            headers = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{content.size}"}
        self._begin(status, {**headers, "Content-Length": str(stop - start)})
        if self.command == "HEAD":
            return
        with content.open() as file, suppress(ConnectionError):
            file.seek(start)
            for block in self._blocks(file, stop - start):
                # Counted first: a client that has the bytes may look at the count at once.
                self.seen.body_bytes += len(block)
                self.wfile.write(block)

    def _blocks(self, file: BinaryIO, count: int) -> Iterator[bytes]:
        """Yield the next `count` bytes of `file`, less what the fault of this request takes
        away.
        """
        fault, left = self.fault or Fault(""), count
        if fault.after_bytes is not None:
            left = min(left, fault.after_bytes)
        cut, damaged = left < count, fault.damaged
        while left:
            block = file.read(min(left, 4096 if fault.pause_s else BLOCK_BYTES))
            left -= len(block)
            yield bytes([block[0] ^ 1]) + block[1:] if damaged else block
            damaged = False
            self.server.hub.closing.wait(fault.pause_s)
        if cut and fault.then == "stall":
            self.server.hub.stalled.set()
            self.server.hub.closing.wait()
        if cut and fault.then == "reset":
            # A linger time of zero makes close() send RST instead of FIN.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@contextmanager
def no_hub(home: Path) -> Iterator[dict[str, str]]:
    """Give the environment of a machine whose hub cannot be reached: connections are refused."""
    with socket.socket() as held:
        held.bind(
            ("127.0.0.1", 0)
        )  # bound and not listening: no other process gets the port, no server answers
        yield {
            "HF_ENDPOINT": f"http://127.0.0.1:{held.getsockname()[1]}",
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
