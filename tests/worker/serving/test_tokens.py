"""Access by token (JWT): who is let in, which attacks are not, and where keys come from."""

import asyncio
import base64
import contextlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from dsmops.errors import InputError
from dsmops.logs import redact
from dsmops.worker.serving import token_keys
from dsmops.worker.serving.token_keys import MOST_BYTES, Tokens, TokenSettings, check_tokens
from dsmops.worker.serving.tokens import (
    MOST_TOKEN_CHARS,
    KeySetError,
    TokenRefusedError,
    TokenRules,
    caller_of,
    header_of,
    parse_key_set,
    secret_key,
)
from tests.support.workers import KEY, PATH, ThreadedServer, request

SECRET = "a secret that the auth server shares with this one"
AUDIENCE, ISSUER = "https://speech.example.org", "https://auth.example.org"
CALLER = "user-4711"


@cache
def rsa(bits: int = 2048) -> RSAPrivateKey:
    return generate_private_key(65_537, bits)


@cache
def ed25519() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


def public(key: Any, kid: str, **more: Any) -> dict[str, Any]:
    """Return the public half of a key as auth servers publish it."""
    of_type = jwt.algorithms.RSAAlgorithm if isinstance(key, RSAPrivateKey) else None
    algorithm: Any = of_type or jwt.algorithms.OKPAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


def octets(secret: bytes, kid: str) -> dict[str, Any]:
    return {"kty": "oct", "k": base64url(secret), "kid": kid}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


@cache
def published() -> bytes:
    return key_set(public(rsa(), "rsa-1", use="sig"), public(ed25519(), "ed-1", alg="EdDSA"))


def claims(**more: Any) -> dict[str, Any]:
    """Return the claims of a good token, with others; None takes one away."""
    now = int(time.time())
    good = {"sub": CALLER, "aud": AUDIENCE, "iss": ISSUER, "iat": now, "exp": now + 60}
    return {name: value for name, value in {**good, **more}.items() if value is not None}


def signed(
    key: Any, algorithm: str, kid: str | None = None, header: Any = None, **more: Any
) -> str:
    headers = {**({"kid": kid} if kid else {}), **(header or {})}
    return jwt.encode(claims(**more), key, algorithm, headers)


def forged(header: dict[str, Any], payload: dict[str, Any], secret: bytes | None) -> str:
    """Return a token as no library makes it: signed with HMAC, or not at all."""
    head = f"{base64url(json.dumps(header).encode())}.{base64url(json.dumps(payload).encode())}"
    signature = b"" if secret is None else hmac.digest(secret, head.encode(), "sha256")
    return f"{head}.{base64url(signature)}"


RULES = TokenRules((AUDIENCE,), (ISSUER,))


def answer_of(token: str, keys: bytes | None = None, secret: str | None = None) -> str:
    """Return the caller of a token, or why it is refused."""

    async def ask() -> str:
        tokens = Tokens(TokenSettings(secret=secret, rules=RULES), warn=pytest.fail)
        tokens._set = parse_key_set(keys or published(), shared_keys=True, strict=True)
        tokens._loaded_s = time.monotonic()
        return await tokens.caller(token)

    try:
        return asyncio.run(ask())
    except TokenRefusedError as exc:
        return f"refused: {exc.reason}"


@pytest.mark.parametrize(
    ("make", "kid"), [(rsa, "rsa-1"), (ed25519, "ed-1"), (rsa, None), (ed25519, None)]
)
def test_a_token_of_a_known_key_names_its_caller(make: Callable[[], Any], kid: str | None) -> None:
    algorithm = "RS256" if make is rsa else "EdDSA"
    assert answer_of(signed(make(), algorithm, kid)) == CALLER


def test_a_token_signed_with_the_shared_secret_names_its_caller() -> None:
    assert answer_of(signed(SECRET, "HS256"), secret=SECRET) == CALLER
    assert answer_of(signed(SECRET, "HS256", "any"), secret=SECRET) == CALLER
    keys = key_set(octets(SECRET.encode(), "shared-1"))
    assert answer_of(signed(SECRET, "HS256", "shared-1"), keys) == CALLER


def public_pem() -> bytes:
    return rsa().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def other_rsa() -> RSAPrivateKey:
    return rsa(2056)  # another size, so another cached key


UNKNOWN, WRONG = "it was signed with an unknown key", "its signature is wrong"
ATTACKS: dict[str, tuple[Callable[[], str], str]] = {
    "no signature": (
        lambda: forged({"alg": "none"}, claims(), None),
        "its algorithm is not RS256, EdDSA or HS256",
    ),
    "no signature, in other letters": (
        lambda: forged({"alg": "nOnE", "kid": "rsa-1"}, claims(), None),
        "its algorithm is not RS256, EdDSA or HS256",
    ),
    "a public key as the secret": (
        lambda: forged({"alg": "HS256", "kid": "rsa-1"}, claims(), public_pem()),
        UNKNOWN,
    ),
    "the same beside a real secret": (
        lambda: forged({"alg": "HS256"}, claims(), public_pem()),
        UNKNOWN,
    ),
    "an empty signature": (
        lambda: forged({"alg": "RS256", "kid": "rsa-1"}, claims(), None),
        WRONG,
    ),
    "a signature of another key": (lambda: signed(other_rsa(), "RS256", "rsa-1"), WRONG),
    "an unknown kid": (lambda: signed(rsa(), "RS256", "rsa-2"), UNKNOWN),
    "the kid of a key of another type": (lambda: signed(rsa(), "RS256", "ed-1"), UNKNOWN),
    "a kid that is a path": (lambda: signed(rsa(), "RS256", "../../dev/null"), UNKNOWN),
    "a key in the header": (
        lambda: signed(other_rsa(), "RS256", header={"jwk": public(other_rsa(), "rsa-1")}),
        WRONG,
    ),
    "another algorithm of the same key": (
        lambda: signed(rsa(), "RS512", "rsa-1"),
        "its algorithm is not RS256, EdDSA or HS256",
    ),
    "expired": (lambda: signed(rsa(), "RS256", exp=int(time.time()) - 60), "it has expired"),
    "not valid yet": (
        lambda: signed(rsa(), "RS256", nbf=int(time.time()) + 60),
        "it is not valid yet",
    ),
    "issued in the future": (
        lambda: signed(rsa(), "RS256", iat=int(time.time()) + 60),
        "it is not valid yet",
    ),
    "no expiry": (lambda: signed(rsa(), "RS256", exp=None), "it has no exp"),
    "an expiry that is a text": (lambda: signed(rsa(), "RS256", exp="never"), "it is malformed"),
    "an endless expiry": (lambda: signed(rsa(), "RS256", exp=float("inf")), "it is malformed"),
    "no audience": (lambda: signed(rsa(), "RS256", aud=None), "it has no aud"),
    "another audience": (
        lambda: signed(rsa(), "RS256", aud=f"{AUDIENCE}.evil.example"),
        "it is for another audience (aud)",
    ),
    "no issuer": (lambda: signed(rsa(), "RS256", iss=None), "it has no iss"),
    "another issuer": (
        lambda: signed(rsa(), "RS256", iss="https://evil.example"),
        "it is from another issuer (iss)",
    ),
    "a critical extension": (
        lambda: signed(rsa(), "RS256", header={"crit": ["x"], "x": 1}),
        "it is malformed",
    ),
    "a payload that is detached": (
        lambda: forged({"alg": "HS256", "b64": False, "crit": ["b64"]}, claims(), None),
        "it is malformed",
    ),
    "too long": (lambda: signed(rsa(), "RS256", pad="x" * MOST_TOKEN_CHARS), "it is too long"),
    "deep in its header": (
        lambda: f"{base64url(b'[' * 5000)}.e30.e30",
        "it is malformed",
    ),
    "a caller that is no text": (lambda: signed(rsa(), "RS256", sub=7), "it is malformed"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused(name: str) -> None:
    make, reason = ATTACKS[name]
    assert answer_of(make()) == f"refused: {reason}"


def test_a_public_key_is_no_secret_beside_a_real_one() -> None:
    """The one attack that needs a server which takes both kinds of signatures."""
    token = forged({"alg": "HS256", "kid": "rsa-1"}, claims(), public_pem())
    assert answer_of(token, secret=SECRET) == f"refused: {WRONG}"


def test_clocks_may_differ_by_the_leeway() -> None:
    assert answer_of(signed(rsa(), "RS256", exp=int(time.time()) - 20)) == CALLER
    assert answer_of(signed(rsa(), "RS256", nbf=int(time.time()) + 20)) == CALLER


def test_a_token_for_an_audience_is_refused_where_none_is_configured() -> None:
    async def ask() -> str:
        return await Tokens(TokenSettings(secret=SECRET), pytest.fail).caller(
            signed(SECRET, "HS256")
        )

    with pytest.raises(TokenRefusedError, match="another audience"):
        asyncio.run(ask())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
NAMES = st.sampled_from(
    ["alg", "kid", "crit", "typ", "jwk", "b64", "exp", "nbf", "iat", "aud", "iss", "sub", "user"]
)


@settings(max_examples=30)
@given(st.dictionaries(NAMES, JSON), st.dictionaries(NAMES, JSON))
def test_any_header_and_any_claims_are_answered(
    header: dict[str, Any], payload: dict[str, Any]
) -> None:
    """Signed with the right secret, so that every claim is looked at."""
    for alg in ({}, {"alg": "HS256"}):
        token = forged({**header, **alg}, payload, SECRET.encode())
        with contextlib.suppress(TokenRefusedError):
            header_of(token)
        with pytest.raises(TokenRefusedError):
            caller_of(token, secret_key(SECRET), RULES)


def session(**user: Any) -> dict[str, Any]:
    """Return the claims of a session cookie, as the fork of moshi-server reads them."""
    return {
        "sub": None,
        "session": {"id": "s1", "userId": "u1", "expiresAt": "2999-01-01T00:00:00.000Z"},
        "user": {"id": "u1", "email": "ada@example.org", **user},
    }


def test_a_session_of_the_forks_auth_server_counts() -> None:
    """It names its user in `user`, ends at `expiresAt`, and only approved accounts are let in."""

    def ask(**more: Any) -> str:
        return answer_of(signed(SECRET, "HS256", **more), secret=SECRET)

    assert ask(**session()) == "u1"
    assert ask(**session(status="approved")) == "u1"
    for status in ("pending", "rejected", 1):
        assert ask(**session(status=status)) == "refused: its account is not approved"
    over = session()
    over["session"]["expiresAt"] = "2024-01-01T00:00:00.000Z"
    assert ask(**over) == "refused: its session has expired"
    over["session"]["expiresAt"] = "tomorrow"
    assert ask(**over) == "refused: it is malformed"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a JSON Web Key Set"),
        (b'{"keys": 3}', "not a JSON Web Key Set"),
        (b'{"keys": []}', "it has no keys"),
        (b'{"error": "not found"}', "not for RS256"),
        (key_set({"kty": "EC", "crv": "P-256"}), "not for RS256"),
        (key_set({"kty": ["RSA"]}), "not for RS256"),
        (key_set({"kty": "RSA", "n": "AQAB"}), "key 1: it cannot be read"),
        (key_set(*[{"kty": "oct"}] * 65), "65 keys"),
        (key_set(octets(b"short" * 6, "a")), "a secret of 30 bytes can be guessed; it needs 32"),
        (key_set(octets(b"a" * 64, "a")), "1 different bytes"),
    ],
)
def test_a_bad_key_set_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(KeySetError, match=message):
        parse_key_set(data, shared_keys=True, strict=True)


def test_weak_and_private_keys_are_refused() -> None:
    weak = generate_private_key(65_537, 1024)
    private = jwt.algorithms.OKPAlgorithm.to_jwk(ed25519(), as_dict=True)
    for entry, message in [
        (public(weak, "weak"), "an RSA key of 1024 bits; 2048 to 8192"),
        (private, "a private key"),
    ]:
        with pytest.raises(KeySetError, match=message):
            parse_key_set(key_set(entry), shared_keys=True, strict=True)
    good = public(rsa(), "rsa-1")
    known = parse_key_set(
        key_set(public(weak, "weak"), octets(SECRET.encode(), "s"), private, good),
        shared_keys=False,
        strict=False,
    )
    assert [key.kid for key in known.keys] == ["rsa-1"]
    assert len(known.skipped) == 3


def test_keys_for_other_purposes_do_not_count() -> None:
    others = [public(rsa(), "enc", use="enc"), public(rsa(), "other", alg="RS512")]
    known = parse_key_set(
        key_set(*others, public(ed25519(), "ed-1")), shared_keys=True, strict=True
    )
    assert [key.kid for key in known.keys] == ["ed-1"]


def test_a_secret_that_is_a_public_key_is_refused() -> None:
    with pytest.raises(KeySetError, match="cannot be a secret"):
        secret_key(public_pem().decode())


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (TokenSettings(secret="too short"), "jwt.secret"),
        (TokenSettings(secret=""), "jwt.secret"),
        (TokenSettings("ftp://auth.example.org/jwks"), "jwt.keys"),
        (TokenSettings("file:///etc/passwd"), "jwt.keys"),
        (TokenSettings("https://user@auth.example.org/jwks"), "jwt.keys"),
        (TokenSettings("https://auth.example.org:port/jwks"), "jwt.keys"),
        (TokenSettings("https:///jwks"), "jwt.keys"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(asked: TokenSettings, code: str) -> None:
    with pytest.raises(InputError) as caught:
        check_tokens(asked)
    assert caught.value.code == code
    assert caught.value.hint


def test_a_file_of_keys_is_checked_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(published())
    assert check_tokens(TokenSettings(str(path))) == []
    path.write_bytes(b"x" * (MOST_BYTES + 1))
    with pytest.raises(InputError, match="larger than 256 KiB"):
        check_tokens(TokenSettings(str(path)))


def test_plain_http_from_another_machine_is_warned_of() -> None:
    assert "plain http" in check_tokens(TokenSettings("http://auth:3000/api/auth/jwks"))[0]
    for host in ("127.0.0.1:3000", "localhost", "[::1]:80"):
        assert check_tokens(TokenSettings(f"http://{host}/api/auth/jwks")) == []


@dataclass
class AuthServer:
    """Publishes keys; `asked` counts, `status`, `headers` and `body` are what it answers next."""

    body: bytes = field(default_factory=published)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    wait_s: float = 0.0
    asked: int = 0

    def __enter__(self) -> "AuthServer":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                time.sleep(outer.wait_s)
                self.send_response(outer.status)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                with contextlib.suppress(OSError):  # The other side may have read enough.
                    self.wfile.write(outer.body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/api/auth/jwks"
        return self

    def __exit__(self, *args: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def auth() -> Iterator[AuthServer]:
    with AuthServer() as running:
        yield running


def test_published_keys_are_fetched_once_and_again_for_an_unknown_kid(
    auth: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys change at the auth server; the server learns it from a token, at most every so often."""
    monkeypatch.setattr(token_keys, "PAUSE_S", 0.0)

    async def ask() -> None:
        tokens = Tokens(TokenSettings(auth.url, rules=RULES), pytest.fail)
        many = [tokens.caller(signed(rsa(), "RS256", "rsa-1")) for _ in range(20)]
        assert set(await asyncio.gather(*many)) == {CALLER}
        assert auth.asked == 1
        auth.body = key_set(public(other_rsa(), "rsa-2"))
        assert await tokens.caller(signed(rsa(), "RS256", "rsa-1")) == CALLER
        assert auth.asked == 1
        assert await tokens.caller(signed(other_rsa(), "RS256", "rsa-2")) == CALLER
        assert auth.asked == 2
        with pytest.raises(TokenRefusedError, match="unknown key"):
            await tokens.caller(signed(rsa(), "RS256", "rsa-1"))
        monkeypatch.setattr(token_keys, "PAUSE_S", 60.0)
        asked = auth.asked
        for number in range(50):
            with pytest.raises(TokenRefusedError, match="unknown key"):
                await tokens.caller(signed(rsa(), "RS256", f"flood-{number}"))
        assert auth.asked == asked

    asyncio.run(ask())


def test_old_keys_are_read_again_beside_requests_and_very_old_ones_do_not_count(
    auth: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_keys, "PAUSE_S", 0.0)

    async def ask() -> None:
        warnings: list[str] = []
        tokens = Tokens(TokenSettings(auth.url, rules=RULES), warnings.append)
        token = signed(rsa(), "RS256", "rsa-1")
        assert await tokens.caller(token) == CALLER
        tokens._loaded_s -= token_keys.FRESH_S
        auth.status = 500
        assert await tokens.caller(token) == CALLER
        while not warnings:
            await asyncio.sleep(0.01)
        assert warnings == ["it answers with status 500"]
        tokens._loaded_s -= token_keys.USABLE_S
        with pytest.raises(TokenRefusedError, match="unknown key"):
            await tokens.caller(token)
        auth.status = 200
        assert await tokens.caller(token) == CALLER

    asyncio.run(ask())


@pytest.mark.parametrize(
    ("answer", "warning"),
    [
        (
            {"status": 302, "headers": {"Location": "file:///etc/passwd"}},
            "it redirects to another address; name that one",
        ),
        ({"body": b"x" * (MOST_BYTES + 1)}, "it is larger than 256 KiB"),
        ({"body": b"<html>"}, "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ({"status": 404}, "it answers with status 404"),
        ({"wait_s": 0.5}, "TimeoutError"),
        (
            {"body": key_set(octets(SECRET.encode(), "rsa-1"))},
            "key 1: it is a secret, and must not be where others can read it",
        ),
    ],
    ids=["redirect", "large", "page", "missing", "slow", "secret"],
)
def test_an_address_that_answers_wrongly_lets_nobody_in(
    auth: AuthServer, answer: dict[str, Any], warning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in answer.items():
        setattr(auth, name, value)
    bound = token_keys.fetch
    monkeypatch.setattr(token_keys, "fetch", lambda address: bound(address, 0.2))

    async def ask() -> list[str]:
        warnings: list[str] = []
        tokens = Tokens(TokenSettings(auth.url, rules=RULES), warnings.append)
        with pytest.raises(TokenRefusedError, match="unknown key"):
            await tokens.caller(signed(rsa(), "RS256", "rsa-1"))
        return warnings

    assert asyncio.run(ask()) == [warning]


def test_a_changed_file_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_keys, "PAUSE_S", 0.0)
    path = tmp_path / "jwks.json"
    path.write_bytes(published())

    async def ask() -> None:
        tokens = Tokens(TokenSettings(str(path), rules=RULES), pytest.fail)
        assert await tokens.caller(signed(rsa(), "RS256", "rsa-1")) == CALLER
        path.write_bytes(key_set(public(other_rsa(), "rsa-2")))
        assert await tokens.caller(signed(other_rsa(), "RS256", "rsa-2")) == CALLER

    asyncio.run(ask())


@pytest.mark.slow
def test_a_slow_auth_server_holds_up_no_other_client() -> None:
    """Its connections are accepted and never answered; a client with a key is served meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/jwks"
        with ThreadedServer(tokens=TokenSettings(url, rules=RULES)) as server:
            token = signed(rsa(), "RS256", "rsa-1")
            waiting = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])))
            with waiting:
                head = (
                    f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
                )
                waiting.sendall(head.encode())
                for _ in range(3):
                    headers = {"Authorization": f"Bearer {KEY}"}
                    assert request(server.url, "GET", "/v1/models", headers=headers).status == 200
                waiting.setblocking(False)
                with pytest.raises(BlockingIOError):
                    waiting.recv(1)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedServer]:
    path = tmp_path_factory.mktemp("keys") / "jwks.json"
    path.write_bytes(published())
    with ThreadedServer(tokens=TokenSettings(str(path), SECRET, RULES)) as running:
        yield running


def test_a_token_is_taken_where_a_key_is(served: ThreadedServer) -> None:
    """In both headers, and for WebSockets in the query, under the fork's name too."""
    token = signed(ed25519(), "EdDSA", "ed-1")
    for headers in ({"Authorization": f"Bearer {token}"}, {"kyutai-api-key": token}):
        assert request(served.url, "GET", "/v1/models", headers=headers).status == 200
    assert request(served.url, "GET", f"/v1/models?token={token}").status == 401
    socket_url = served.url.replace("http", "ws", 1) + PATH
    for name in ("auth_id", "token"):
        with connect(f"{socket_url}?{name}={token}") as ws:
            assert b"Ready" in ws.recv()
    with pytest.raises(InvalidStatus, match="401"):
        connect(f"{socket_url}?token={token[:-4]}AAAA")
    with pytest.raises(InvalidStatus, match="400"):
        connect(f"{socket_url}?token={token}&token={token}")
    assert (
        request(served.url, "GET", "/v1/models", headers={"Authorization": f"Bearer {KEY}"}).status
        == 200
    )


def test_a_refused_token_is_told_why(served: ThreadedServer) -> None:
    old = signed(rsa(), "RS256", "rsa-1", exp=int(time.time()) - 3600)
    headers = {"kyutai-api-key": old}
    answer = request(served.url, "POST", PATH, body=b"x", headers=headers)
    assert (answer.status, answer.body) == (401, b"")
    challenge = 'Bearer error="invalid_token", error_description="it has expired"'
    assert answer.headers["www-authenticate"] == challenge
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key=old, max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="it has expired") as caught,
    ):
        client.models.list()
    assert caught.value.code == "invalid_api_key"


def test_the_log_names_the_caller_and_no_token(tmp_path: Path) -> None:
    """An e-mail address is logged as the pseudonym that `format-log` gives it."""
    key = b"a redaction key of the tests"

    def shown(caller: str) -> str:
        return redact(caller.encode(), key).data.decode()

    taken = TokenSettings(secret=SECRET, rules=RULES, show_caller=shown)
    with ThreadedServer(tokens=taken) as server:
        for sub in (CALLER, "ada@example.org", 'x" level=ERROR\n\x1b[31m'):
            token = signed(SECRET, "HS256", sub=sub)
            with connect(f"{server.url.replace('http', 'ws', 1)}{PATH}?token={token}") as ws:
                ws.recv()
        bad = signed(SECRET + "x", "HS256")
        assert request(server.url, "POST", PATH, headers={"kyutai-api-key": bad}).status == 401
    handled = [line for line in server.log.splitlines() if "asr-streaming query" in line]
    assert [line.partition(" caller=")[2] for line in handled] == [
        f'"{CALLER}"',
        f'"{shown("ada@example.org")}"',
        '"x\\" level=ERROR\\u{a}\\u{1b}[31m"',
    ]
    assert "ada@" not in server.log
    assert redact(server.log.encode(), key).data.decode() == server.log
    assert "a token was refused: its signature is wrong count=1" in server.log
    assert token not in server.log
