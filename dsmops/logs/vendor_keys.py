"""Patterns for keys without a fixed start.

`tokens` knows tokens by a fixed start. Here are values behind the name of a vendor
(`statuscake_key=...`), tokens built of several parts, hashes of passwords, and addresses that are
secrets themselves.

A hint is the pattern as seen on a line whose digits all read 0, see `rules`.
"""

from __future__ import annotations

import re


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text, for long lists of them."""
    return tuple(text.split())


# --- a vendor's name, the word that makes it a secret, a random value ----------------------

_KEY_WORD = "(?i:key|secret|token|private|access|login|crumb|(?<=[_.-])pat|api|(?<=access.)code)"
# `key=`, `key: "`, `key', '`, `KEY -> `; a blank or `-` alone is looked at more closely.
_BETWEEN = r"""(?:\\*["'`]|\])?\s{0,8}(?:(?:=>?|:{1,2}=?|->|,)\s{0,8}|(?<=\s)|-)\\*["'`]?"""
VENDOR_KEY_NEEDLES = (
    "key", "secret", "token", "private", "access", "login", "crumb", "pat", "api",
)  # fmt: skip
VENDOR_KEY_HINT = rf"{_KEY_WORD}{_BETWEEN}[A-Za-z0][\w+/=~-]{{11}}"
# The end of a value, not of a name: in `door-key-of_the_acme_key=` the second key is the one.
_NO_NAME = f"(?i:{''.join(f'(?<!{word})' for word in VENDOR_KEY_NEEDLES)})"
# A value is taken whole. What ends like a file name, a module or a call is not a key. What follows
# more than 2,000 characters is not looked at: to do so from each word in them would take a time
# that grows with their square.
VENDOR_KEY = rf"""
    (?P<word> {_KEY_WORD} ) (?P<between> {_BETWEEN} )
    (?P<bare> (?! {_KEY_WORD} [^A-Za-z0-9] ) [A-Za-z0-9] [\w+/~-]{{11,2000}}+
      (?: [\w+/~-]++ ={{0,2}} | (?: {_NO_NAME} ={{1,2}} )? (?: \.[A-Za-z0-9]{{20,}}+ )?
        (?! \.\w | :: | \( | \\(?!\\*["'`]) | =\w ) ) )
"""


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
_UUID = re.compile(r"[0-9a-z]{8}-(?:[0-9a-z]{4}-){3}[0-9a-z]{12}", re.ASCII | re.IGNORECASE)
_HEX = re.compile(r"[0-9a-f]{32,}|[0-9A-F]{32,}", re.ASCII)
_HEX_ALONE = re.compile(r"[0-9a-f]+|[0-9A-F]+", re.ASCII)
_GROUPS = re.compile(r"[A-Z0-9]{4,8}(?:-[A-Z0-9]{4,8}){3,7}", re.ASCII)
_CHANGE = re.compile(r"(?<=[A-Za-z])\d|(?<=\d)[A-Za-z]")
_PARTS = re.compile(r"[A-Za-z0-9]+")
_FINGERPRINT_CHARS = 40
_LEAST_RANDOM_SHARE, _LEAST_RANDOM_CHARS = 0.6, 12
_LEAST_SURE_CHARS, _LEAST_DIFFERENT = 16, 6


def is_vendor_key(match: re.Match[str]) -> bool:
    """Return whether a match of `VENDOR_KEY` is a secret of somebody, by its name and its value."""
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
        if len(value) == _FINGERPRINT_CHARS and _HEX.fullmatch(value) and value.isupper():
            return False
    elif between.strip() == "," and not any(quote in match["between"] for quote in "\"'`"):
        return False
    return is_random(value.partition(".")[0])


def is_random(value: str) -> bool:
    """Return whether a value of 12 characters or more looks like one that a machine drew.

    A UUID, 32 hexadecimal digits, the groups of a licence, or mostly parts in which letters and
    digits mix. Names, dates, paths and versions are made of words and numbers.
    """
    if len(set(value)) < _LEAST_DIFFERENT:  # What stands for a key in a manual.
        return False
    if _UUID.fullmatch(value) or _HEX.fullmatch(value):
        return True
    if _GROUPS.fullmatch(value):
        return any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    in_path = "/" in value
    parts = _PARTS.findall(value)
    mixed = sum(len(part) for part in parts if _is_mixed(part, in_path=in_path))
    return mixed >= _LEAST_RANDOM_SHARE * sum(map(len, parts)) and mixed >= _LEAST_RANDOM_CHARS


def _is_mixed(part: str, *, in_path: bool) -> bool:
    digits = sum(char.isdigit() for char in part)
    letters = len(part) - digits
    if in_path:
        cased = part != part.lower() and part != part.upper()
        return len(part) >= 6 and digits > 0 and cased
    # A word and a number, as in `layer12`, change once. A date, `20251115T083903Z`, has 2 letters.
    changes = len(_CHANGE.findall(part))
    if len(part) < _LEAST_SURE_CHARS:
        return digits > 2 and letters > 2 and changes > 2
    return digits > 1 and letters > 2 and (changes > 1 or len(part) >= 20)


def _is_drawn(part: str) -> bool:
    return bool(_HEX.fullmatch(part)) or _is_mixed(part, in_path=False)


# --- tokens of several parts ----------------------------------------------------------------------

# Sources: the vendors' pages on their keys. Lengths are the least seen there.
MULTIPART_TOKEN = r"""
    (?<![A-Za-z0-9]) (?:
        [a-z0-9]{30,44} (?:FFFF)? NRAL                           # New Relic, licence
      | 00D [A-Za-z0-9]{9,15} (?:!|%21) [\w.]{40,}+              # Salesforce, session
      | [A-Za-z0-9]{60,80} AZDO [A-Za-z0-9]{4}                   # Azure DevOps
      | 1000\.[a-f0-9]{32} (?:\.[a-f0-9]{32})?                   # Zoho
      | [012]/\d{10,20} (?:/\d{10,20})? : [A-Za-z0-9]{32}        # Asana
      | KEY (?=[\w-]{0,60}\d) (?=[\w-]{0,60}[a-z]) [\w-]{50,64}  # Telnyx
      | u\+[\w+-]{18} (?![\w+-])                                 # PagerDuty
      | (?:access|refresh)_token\$(?:production|sandbox)\$[a-z0-9]{12,20}\$[a-f0-9]{32}  # Braintree
    ) (?![A-Za-z0-9])
"""
MULTIPART_TOKEN_NEEDLES = ("nral", "00d", "azdo", "0000.", "0/0000000000", "key", "u+", "_token$")
MULTIPART_TOKEN_HINT = (
    r"[a-zF0]NRAL|00D[A-Za-z0]{9,15}(?:!|%00)|AZDO[A-Za-z0]{4}|0000\.[a-f0]{32}|0/0{10}|KEY[\w-]{50}"
    r"|u\+[\w+-]{18}|_token\$"
)

# Of any vendor, by what is written before what a machine drew.
RANDOM_TOKEN = r"""
    (?<![A-Za-z0-9]) (?:
        live_\d{6,12}_[A-Za-z0-9]{24,}+                          # Twitch, stream
      | pk_\d{5,12}_[A-Z0-9]{32}                                 # ClickUp
      | re_[A-Za-z0-9]{8}_[A-Za-z0-9]{20,}+                      # Resend
      | \d{1,3}-(?P<numbered>[A-Za-z0-9]{64}) (?=["'\s,\]]|$)     # TrueNAS
      | (?:BBFF|BBUS)-[A-Za-z0-9]{26,}+                           # Ubidots
      # `x_live_`, `x_pat_`: what it is good for.
      | [a-z][a-z0-9]{1,11} (?: [_-] (?:live|test|prod|production|sandbox|sbox|stag(?:e|ing)) [_-]
            (?:[a-z]{2,8}_)?
          | _ (?: (?P<secret>sk|pat|key|secret|token|apikey) | oat|sat|api|svc|usr|admin ) _ )
          (?P<typed> [A-Za-z0-9]{16,}+ )
      # A short start, and capitals, small letters and digits without a break.
      | [a-z][a-z0-9]{1,8} _ (?=[a-z0-9]{0,40}[A-Z]) (?=[A-Z0-9]{0,40}[a-z])
          (?=[A-Za-z]{0,40}\d) [A-Za-z0-9]{30,}+
    ) (?![A-Za-z0-9])
"""
RANDOM_TOKEN_NEEDLES = ("_", "-")
RANDOM_TOKEN_HINT = "[_-][A-Za-z0]{16}"


def is_drawn_token(match: re.Match[str]) -> bool:
    """Return whether a match of `RANDOM_TOKEN` is a token, and not a name, a digest or a number.

    Hexadecimal digits are a token only after a word for secrets: `img-prod-` and such stand before
    digests too.
    """
    value = match["typed"] or match["numbered"]
    if value and not match["secret"] and _HEX_ALONE.fullmatch(value):
        return False
    return not value or _is_drawn(value)


# --- hashes of passwords --------------------------------------------------------------------------

# crypt(5), phpass, Drupal, Cisco, Django, LDAP (RFC 2307), Kerberos as its crackers print it,
# Windows.
_HASH_CHARS = r"[\w./+=,$*:@\\-]"
PASSWORD_HASH = rf"""
    (?<![\w$]) (?:
        \$ (?: 1 | 2[abxy]? | 3 | 5 | 6 | 7 | 8 | 9 | 14 | y | gy | apr1 | md5 | sha1 | scram
             | argon2(?:i|d|id) | pbkdf2(?:-sha\d{{1,3}})? | scrypt | [PHS] ) \$
          (?=[^\s]{{0,99}}[A-Za-z]) [\w./+=,$-]{{20,}}+
      | \$krb5(?:asrep|tgs|pa)\$ {_HASH_CHARS}{{20,}}+
      | (?:pbkdf2|bcrypt|scrypt|argon2|md5|sha1)(?:_\w{{1,10}})? \$ [\w./+=,-]{{1,40}} \$
          [\w./+=,$-]{{20,}}+
      | (?: scrypt | pbkdf2 ) : [\w:]{{1,40}} \$ \w{{4,40}} \$ [a-f0-9]{{40,}}+
    )
  | \{{ (?:SSHA|SHA|SMD5|MD5|CRYPT|SSHA256|SSHA512|PBKDF2[\w-]{{0,12}}|ARGON2) \}}
      [\w./+=,$-]{{20,}}+
  | (?<![A-Fa-f0-9]) [a-fA-F0-9]{{32}} : [a-fA-F0-9]{{32}} (?=:::)
"""
PASSWORD_HASH_HINT = (
    r"\$krb0|\$[\w-]{1,16}\$[\w./+=,*$-]{8}|(?:pbkdf0|bcrypt|scrypt|argon0|md0|sha0)\w{0,11}[$:]"
    r"|\{(?:S?SHA|S?MD0|CRYPT|PBKDF0|ARGON0)|:::"
)
PASSWORD_HASH_NEEDLES = ("$", "{", ":::")

# --- addresses that are secrets -------------------------------------------------------------------

# What follows `webhook/` lets anyone post, whatever the service.
WEBHOOK = r"""
    (?<=://) (?:[^\s/@]{1,600}+@)? [\w.-]{1,253} (?::\d{1,5})? /
    (?: (?<=hooks\.zapier\.com/) hooks/catch/ | (?: [\w.-]{1,60}/ ){0,6}?
        (?: (?:incoming|out)?-?webhooks?(?:b2)? | hooks? | heartbeats? | integration | with/key
          | trigger ) / )
    (?P<hook> [\w@./%+=~-]{16,}+ )
  | (?<=://) (?:[^\s/@]{1,600}+@)? (?: hooks? | webhooks? ) \. [\w.-]{1,253} /
      (?P<path> [\w@./%+=~-]{16,}+ )
  | (?<=://) (?:[^\s/@]{1,600}+@)? (?: hc-ping\.com | webhook\.site | cronitor\.link/p ) /
      (?P<ping> [\w./-]{16,}+ )
  | /api/v1/ (?P<device> [A-Za-z0-9]{20} ) (?= /(?:telemetry|attributes|rpc) )
"""
WEBHOOK_HINT = r"hook|heartbeat|integration/|with/key/|trigger/|hc-ping|cronitor\.link|/api/v0/"
WEBHOOK_NEEDLES = ("://", "/api/v0/")


def is_secret_path(path: str) -> bool:
    """Return whether a part of a path is one that a machine drew."""
    return any(
        len(part) >= 12 and (is_random(part) or _is_drawn(part)) for part in re.split(r"[/@]", path)
    )


# --- a password in a sentence ---------------------------------------------------------------------


MOST_CHARS = 4096
"""Of a quoted string that is taken whole."""


def _quoted(name: str) -> str:
    """Return a verbose pattern of a string that may hold blanks; a group is what its quotes hold.

    Quotes may be escaped, as in JSON within JSON.
    """

    def string(kind: str, quote: str) -> str:
        value = rf"(?P<{name}_{kind}> (?: [^{quote}\\\n] | \\++(?!{quote}) ){{1,{MOST_CHARS}}}+ )"
        return rf"\\*{quote} {value} \\*{quote}"

    return f"(?: {string('double', chr(34))} | {string('single', chr(39))} )"


# It ends before an escaped quote too.
BARE_WORD = r"""(?: [^\s"'\\] | \\++(?!["']) )++"""
_NO_OPTION = rf"(?!-){BARE_WORD}"


def argument(name: str, bare: str = _NO_OPTION) -> str:
    """Return a verbose pattern of an argument of a command, quoted or not."""
    return rf"""(?: {_quoted(name)} | (?:\\*["'])? (?P<{name}> {bare} ) )"""


_SAID = r"""[^\s"'`,;()<>]"""
PASSWORD_IN_SENTENCE = rf"""
    (?<![A-Za-z0-9]) (?i: pass(?:word|phrase|code|wort) | passwd )
    (?: \s for [^.\n]{{1,80}}? )?? \s (?i:is|was) :? \s
    (?: {_quoted("said")} | ` (?P<said_tick> [^`\n]{{1,{MOST_CHARS}}} ) `
      | (?P<bare> (?={_SAID}{{0,99}}\d) (?={_SAID}{{0,99}}[A-Za-z]) {_SAID}{{6,128}}?
          (?= [.,;)]? (?: \s | \\*["'] | $ ) ) ) )
  | (?i: unseal | recovery ) \s (?i: key ) \s \d{{1,2}} : \s
      (?P<share> [A-Za-z0-9+/]{{40,90}}={{0,2}} )
"""
PASSWORD_IN_SENTENCE_HINT = (
    r"(?i:pass(?:word|phrase|code|wort)|passwd)\s(?:for\s|(?i:is|was):?\s)"
    r"|(?i:unseal|recovery)\s(?i:key)\s"
)
PASSWORD_IN_SENTENCE_NEEDLES = ("pass", "key")

# --- what some commands take ----------------------------------------------------------------------

_STRING_BEFORE = r"""(?: (?: \\*"[^"\n]{0,200}" | \\*'[^'\n]{0,200}' ) \s? , \s? )"""
COMMAND_KEY = rf"""
    (?<![\w-]) (?: (?i:psexec(?:64)?(?:\.exe)?) | mongo(?:sh|dump|restore|export|import)? | cqlsh
        | evil-winrm | crackmapexec | nxc )
      (?=\s) [^|;&\n]{{0,200}}? [ ]-p[ ]{{1,3}} {argument("lower")}
  | (?<![\w-]) (?: sqlcmd | bcp | mosquitto_(?:pub|sub) | ipmitool | unzip )
      (?=\s) [^|;&\n]{{0,200}}? [ ]-P[ ]{{1,3}} {argument("upper")}
  | (?<![\w-]) (?: ldap(?:search|modify|add|delete|passwd|whoami) | (?:plink|pscp|psftp)(?:\.exe)? )
      (?=\s) [^|;&\n]{{0,200}}? [ ]-(?:w|pw)[ ]{{1,3}} {argument("other")}
  | (?<![\w-]) smbclient[ ] [^|;&\n]{{0,200}}? -U \s? (?:
        \\*" [^\s"%]{{1,64}} % (?P<user_double> [^"\\\n]{{1,{MOST_CHARS}}} ) \\*"
      | \\*' [^\s'%]{{1,64}} % (?P<user_single> [^'\\\n]{{1,{MOST_CHARS}}} ) \\*'
      | (?:\\*["'])? [^\s"'%]{{1,64}} % {argument("share", BARE_WORD)} )
  | (?<![\w-]) rabbitmqctl[ ] (?:[^|;&\n]{{0,60}}?\s)? (?: add_user | change_password )
      \s \S{{1,64}} \s {argument("added", BARE_WORD)}
  | (?: (?: Credentials? | BasicAuth | basic_auth | PasswordAuthentication ) \( \s?
        | DirectoryEntry \( \s? {_STRING_BEFORE} ) {_STRING_BEFORE} {_quoted("passed")}
      (?= \s? [,).] )
  | (?<![\w-]) wandb[ ]login[ ] (?:--relogin[ ])? (?P<wandb> [\w-]{{40,100}} )
  | (?<![\w-]) mc[ ]alias[ ]set[ ] \S{{1,64}} \s \S{{1,200}} \s
      (?P<alias> \S{{1,200}} \s \S{{1,200}} )
  | (?<![\w-]) operator[ ]unseal[ ]{{1,3}} (?P<unseal> [\w+/]{{32,100}}={{0,2}} )
"""
COMMAND_KEY_NEEDLES = (
    " -p",
    " -w ",
    "smbclient",
    "rabbitmqctl",
    "alias",
    "login",
    "unseal",
    "credential",
    "auth",
    "entry(",
)
COMMAND_KEY_HINT = (
    r"(?i:psexec)|mongo|cqlsh|evil-winrm|crackmapexec|nxc\s|sqlcmd|bcp\s|mosquitto_|ipmitool|unzip"
    r"|ldap|plink|pscp|psftp|smbclient|(?:Credentials?|[Aa]uth|Authentication|DirectoryEntry)\("
    r"|rabbitmqctl|wandb login|mc alias|operator unseal"
)
