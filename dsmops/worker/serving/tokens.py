"""Tokens (JWT) that an auth server has signed: keys that check them, and whose they are.

A key checks one algorithm, that of its type, whatever a token's header asks for: so neither
`alg: none` nor an HS256 signature made with a public key is ever checked as such.

Source of the rules: RFC 7515 to 7519, RFC 8725.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import jwt

MOST_TOKEN_CHARS = 8000
"""A header of the largest size that is read holds a little more."""
MIN_SECRET_BYTES = 32
"""RFC 7518, section 3.2: as long as the hash."""
_MIN_DIFFERENT_BYTES = 6
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MOST_KEYS = 64
DEFAULT_LEEWAY_S, MOST_LEEWAY_S = 30.0, 300.0
_SHARED, _RSA, _EDDSA = "HS256", "RS256", "EdDSA"
_OF_TYPE = {("oct", None): _SHARED, ("RSA", None): _RSA, ("OKP", "Ed25519"): _EDDSA}
"""The algorithm of a key, by its type and curve."""


class KeySetError(ValueError):
    """Why a key or a set of keys is refused."""


class TokenRefusedError(Exception):
    """Why a token is refused: one of few fixed texts, which may be counted and logged."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token must say. Empty `issuers` is any; empty `audiences` takes tokens without one."""

    audiences: Sequence[str] = ()
    issuers: Sequence[str] = ()
    leeway_s: float = DEFAULT_LEEWAY_S
    """By how much the clocks of the two servers may differ."""


@dataclass(frozen=True, slots=True)
class TokenKey:
    """A key that checks signatures of one algorithm. Without a `kid` it is for tokens of any."""

    algorithm: str
    kid: str | None
    key: Any = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Keys, and why others of the same document are not among them."""

    keys: tuple[TokenKey, ...]
    skipped: tuple[str, ...] = ()

    def for_token(self, algorithm: str, kid: str | None) -> TokenKey | None:
        """Return the one key that can have signed a token, None where none or several can."""
        fitting = [key for key in self.keys if key.algorithm == algorithm]
        named = [key for key in fitting if kid is None or key.kid == kid]
        found = named or [key for key in fitting if key.kid is None]
        return found[0] if len(found) == 1 else None


def secret_key(secret: str) -> TokenKey:
    """Return the key of a secret that the auth server shares with this one.

    Raises:
        KeySetError: it can be guessed, or is not a secret.
    """
    return _shared_key(secret.encode(), None)


def parse_key_set(data: bytes, *, shared_keys: bool, strict: bool) -> KeySet:
    """Return the keys of a JSON Web Key Set, or of one key.

    Secrets count with `shared_keys`: a set that anyone can fetch must hold none. A key that must
    not be used raises with `strict`, and is skipped without it. Keys for other purposes and of
    other algorithms are skipped.

    Raises:
        KeySetError: the document is not a key set, or has no usable key.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise KeySetError(f"it is not JSON: {exc}") from exc
    entries = document.get("keys", [document]) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise KeySetError("it is not a JSON Web Key Set: an object with a list `keys`")
    if len(entries) > MOST_KEYS:
        raise KeySetError(f"it has {len(entries)} keys, and at most {MOST_KEYS} are read")
    keys: list[TokenKey] = []
    skipped: list[str] = []
    for number, entry in enumerate(entries, start=1):
        algorithm = _algorithm_of(entry)
        if algorithm is None:
            skipped.append(f"key {number} is not for RS256, EdDSA or HS256 signatures")
            continue
        try:
            keys.append(_parse_key(entry, algorithm, shared_keys=shared_keys))
        except KeySetError as exc:
            if strict:
                raise KeySetError(f"key {number}: {exc}") from exc
            skipped.append(f"key {number}: {exc}")
    if not keys:
        raise KeySetError("; ".join(skipped) or "it has no keys")
    return KeySet(tuple(keys), tuple(skipped))


def _algorithm_of(entry: Mapping[str, Any]) -> str | None:
    """Return the algorithm that a key checks, None where this server checks nothing with it."""
    curve = entry.get("crv")
    kind = entry.get("kty")
    if not isinstance(kind, str) or not isinstance(curve, str | None):
        return None
    algorithm = _OF_TYPE.get((kind, curve))
    is_named = entry.get("alg") in (None, algorithm)
    is_for_signatures = entry.get("use") in (None, "sig")
    return algorithm if is_named and is_for_signatures else None


def _parse_key(entry: Mapping[str, Any], algorithm: str, *, shared_keys: bool) -> TokenKey:
    kid = entry.get("kid")
    if not isinstance(kid, str | None):
        raise KeySetError("its kid is not a string")
    if algorithm == _SHARED and not shared_keys:
        raise KeySetError("it is a secret, and must not be where others can read it")
    if algorithm != _SHARED and "d" in entry:
        raise KeySetError("it is a private key; this server needs the public one only")
    try:
        key = jwt.PyJWK(dict(entry), algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError) as exc:
        raise KeySetError(f"it cannot be read: {exc}") from exc
    if algorithm == _SHARED:
        return _shared_key(key, kid)
    if algorithm == _RSA and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise KeySetError(
            f"an RSA key of {key.key_size} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted"
        )
    return TokenKey(algorithm, kid, key)


def _shared_key(secret: bytes, kid: str | None) -> TokenKey:
    if len(secret) < MIN_SECRET_BYTES:
        raise KeySetError(
            f"a secret of {len(secret)} bytes can be guessed; it needs {MIN_SECRET_BYTES} or more"
        )
    if len(set(secret)) < _MIN_DIFFERENT_BYTES:
        raise KeySetError(f"a secret of {len(set(secret))} different bytes can be guessed")
    try:
        # PyJWT refuses a public key as a secret.
        key = jwt.get_algorithm_by_name(_SHARED).prepare_key(secret)
    except jwt.PyJWTError as exc:
        raise KeySetError(f"it cannot be a secret: {exc}") from exc
    return TokenKey(_SHARED, kid, key)


def header_of(token: str) -> tuple[str, str | None]:
    """Return the algorithm and the key's name that a token's header asks for. Nothing is checked.

    Raises:
        TokenRefusedError: the token is malformed, or needs what this server does not know.
    """
    if len(token) > MOST_TOKEN_CHARS:
        raise TokenRefusedError("it is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as exc:
        raise TokenRefusedError("it is malformed") from exc
    if "crit" in header:  # Extensions that must be understood; PyJWT before 2.12 ignores them.
        raise TokenRefusedError("it is malformed")
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in _OF_TYPE.values():
        raise TokenRefusedError("its algorithm is not RS256, EdDSA or HS256")
    if not isinstance(kid, str | None):
        raise TokenRefusedError("it is malformed")
    return str(algorithm), kid


def caller_of(token: str, key: TokenKey, rules: TokenRules) -> str:
    """Return who a token was issued to, empty where it does not say.

    Raises:
        TokenRefusedError: its signature or a claim is wrong, or its account is not approved.
    """
    try:
        claims = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=list(rules.audiences) or None,
            issuer=list(rules.issuers) or None,
            leeway=rules.leeway_s,
            options={"require": ["exp"]},
        )
    except jwt.MissingRequiredClaimError as exc:
        raise TokenRefusedError(f"it has no {exc.claim}") from exc
    except jwt.PyJWTError as exc:
        raise TokenRefusedError(_reason(exc)) from exc
    except (ValueError, TypeError, RecursionError, OverflowError) as exc:
        raise TokenRefusedError("it is malformed") from exc
    return _session_user(claims, rules) or str(claims.get("sub") or "")


def _reason(exc: jwt.PyJWTError) -> str:
    reasons: Iterable[tuple[type[jwt.PyJWTError], str]] = (
        (jwt.ExpiredSignatureError, "it has expired"),
        (jwt.ImmatureSignatureError, "it is not valid yet"),
        (jwt.InvalidAudienceError, "it is for another audience (aud)"),
        (jwt.InvalidIssuerError, "it is from another issuer (iss)"),
        (jwt.InvalidSignatureError, "its signature is wrong"),
    )
    return next((text for kind, text in reasons if isinstance(exc, kind)), "it is malformed")


def _session_user(claims: Mapping[str, Any], rules: TokenRules) -> str:
    """Return the user of a session as Better Auth writes it into its cookie, empty without one.

    Raises:
        TokenRefusedError: the session is over, or the user's account is not approved.
    """
    session, user = claims.get("session"), claims.get("user")
    if not isinstance(session, dict) or not isinstance(user, dict):
        return ""
    if user.get("status", "approved") not in ("approved", None):
        raise TokenRefusedError("its account is not approved")
    ends = session.get("expiresAt")
    if ends is not None:
        try:
            left_s = (datetime.fromisoformat(ends) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError) as exc:
            raise TokenRefusedError("it is malformed") from exc
        if left_s < -rules.leeway_s:
            raise TokenRefusedError("its session has expired")
    user_id = claims.get("sub") or user.get("id")
    return user_id if isinstance(user_id, str) else ""
