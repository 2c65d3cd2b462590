"""The rule for a random value behind the name of a vendor: `statuscake_key=...`."""

from __future__ import annotations

import re

from dsmops.logs.rules.edits import key_edit
from dsmops.logs.rules.randomness import HEX, is_random
from dsmops.logs.rules.rule import Edit, Pseudonym, Rule, words

_KEY_WORD = "(?i:key|secret|token|private|access|login|crumb|(?<=[_.-])pat|api|(?<=access.)code)"
# `key=`, `key: "`, `key', '`, `KEY -> `; a blank or `-` alone is looked at more closely.
_BETWEEN = r"""(?:\\*["'`]|\])?\s{0,8}(?:(?:=>?|:{1,2}=?|->|,)\s{0,8}|(?<=\s)|-)\\*["'`]?"""
_NEEDLES = (
    "key", "secret", "token", "private", "access", "login", "crumb", "pat", "api",
)  # fmt: skip
# The end of a value, not of a name: in `door-key-of_the_acme_key=` the second key is the one.
_NO_NAME = f"(?i:{''.join(f'(?<!{word})' for word in _NEEDLES)})"

_OWNER = re.compile(r"(?:[A-Za-z]+|\d+)(?=[^A-Za-z0-9]{0,8}$)")
_PATH_OF_CODE = re.compile(r"::\w{0,60}$", re.ASCII)
_HUMP = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
# Stores, tables, maps, languages: their keys are not secrets, and some keys are public.
_OPEN_OWNERS = frozenset(
    words(
        "cache caches primary foreign sort sorting partition public pub row hash group grouping"
        " map dict idempotency idempotence idempotent dedup dedupe deduplication lookup index idx"
        " range order routing object s3 file files record entry item lock mutex metric metrics"
        " trace span config setting settings i18n translation locale msg message event topic queue"
        " kv registry unique composite surrogate natural candidate shard bucket tag label host"
        " known gpg pgp openpgp rsa dsa ecdsa eddsa ed25519 ssh verification verify job task node"
        " build state restore content digest image layer block blob source target input output"
        " param params arg field column attribute property data meta metadata json yaml redis"
        " memcache memcached etag version model weight weights tensor module parameter checkpoint"
        " voice ordering search query storage store artifact package dependency commit tree branch"
        " git revision ref request response correlation run thread test fixture snapshot dataset"
        " feature embedding vector chunk page cursor invalidation socket websocket fingerprint"
        " checksum sha sha1 sha256 md5 crc path dir url uri"
    )
)
_OPEN_ENDS = (
    "cache", "primary", "foreign", "public", "partition", "hash", "index", "lookup", "idempotency",
)  # fmt: skip
# What stands before `key` or `access` in a sentence.
_SENTENCE_WORDS = frozenset(
    words(
        "a an the this that its his her their my your our no any each every some same other"
        " another one two new old last next first wrong bad good valid invalid unknown missing"
        " unexpected duplicate duplicated unused stale current given following with without for by"
        " of and or on in to from at as is was are were be has had have using use used uses got"
        " get gets getting set sets put add added adding remove removed removing delete deleted"
        " deleting evict evicted evicting expire expired find found fetch fetched fetching load"
        " loaded loading read reading write writing store stored storing lock locked unlock"
        " acquire acquired release released register registered import imported importing export"
        " exported generate generated generating rotate rotated trusted untrusted revoked create"
        " created creating insert inserted update updated check checked signed signing server"
        " client user device account session system table root data random denied remote direct"
        " failed allow allowed grant granted http https rest web usb"
    )
)
_FINGERPRINT_CHARS = 40


def _is_secret(match: re.Match[str]) -> bool:
    """Return whether a match of the rule is a secret of somebody, by its name and its value."""
    value, word = match["bare"], match["word"]
    before = match.string[max(0, match.start() - 60) : match.start()]
    if not (found := _OWNER.search(before)) or _PATH_OF_CODE.search(before):
        return False
    hump = _HUMP.findall(found[0])
    owner, last = found[0].lower(), hump[-1].lower() if hump else found[0]
    if word.lower() in ("key", "token", "access") and (
        owner in _OPEN_OWNERS or last in _OPEN_OWNERS or owner.endswith(_OPEN_ENDS)
    ):
        return False
    between = match["between"].strip("\\\"'`]")
    if not any(sign in between for sign in "=:>,"):
        joined = not before[-1].isspace()
        if word.lower() in ("login", "api", "crumb") or owner in _SENTENCE_WORDS:
            return False
        if word.lower() in ("access", "private") and not joined and word.islower():
            return False
        # The fingerprint of a public key.
        if len(value) == _FINGERPRINT_CHARS and HEX.fullmatch(value) and value.isupper():
            return False
    elif between.strip() == "," and not any(quote in match["between"] for quote in "\"'`"):
        return False
    return is_random(value.partition(".")[0])


def _vendor_key_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    return key_edit(match, pseudonym) if _is_secret(match) else None


# A value is taken whole. What ends like a file name, a module or a call is not a key. What follows
# more than 2,000 characters is not looked at: to do so from each word in them would take a time
# that grows with their square.
VENDOR_KEY = Rule(
    "key",
    needles=_NEEDLES,
    hint=rf"(?=[acklpstACKLPST]){_KEY_WORD}{_BETWEEN}[A-Za-z0][\w+/=~-]{{11}}",
    source=rf"""
    (?P<word> {_KEY_WORD} ) (?P<between> {_BETWEEN} )
    (?P<bare> (?! {_KEY_WORD} [^A-Za-z0-9] ) [A-Za-z0-9] [\w+/~-]{{11,2000}}+
      (?: [\w+/~-]++ ={{0,2}} | (?: {_NO_NAME} ={{1,2}} )? (?: \.[A-Za-z0-9]{{20,}}+ )?
        (?! \.\w | :: | \( | \\(?!\\*["'`]) | =\w ) ) )
""",
    edit=_vendor_key_edit,
)
