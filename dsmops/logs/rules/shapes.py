"""Rules for secrets of which the shape tells what they are, wherever they stand.

`tokens` has those that begin with a mark of their vendor.
"""

from __future__ import annotations

import re

from dsmops.logs.rules.edits import key_edit, value_of, whole_edit
from dsmops.logs.rules.randomness import HEX_ALONE, is_drawn, is_secret_path
from dsmops.logs.rules.rule import Edit, Pseudonym, Rule, words

JWT = Rule(
    "jwt",
    needles=("eyj",),
    hint="eyJ",
    source=r"(?<![\w-]) eyJ[\w-]{5,} (?: \.[\w-]{2,} ){1,4} \.?",
    edit=whole_edit("key"),
)

AWS_ID = Rule(
    "aws",
    needles=words("akia asia abia acca agpa aida aipa anpa anva apka aroa a0t"),
    hint="A(?:KI|SI|BI|CC|GP|ID|IP|NP|NV|PK|RO)A|A0T",
    source=(
        r"(?<![A-Za-z0-9])"
        r" (?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AIPA|ANPA|ANVA|APKA|AROA)[A-Z0-9]{16}"
        r" (?![A-Za-z0-9])"
    ),
    edit=whole_edit("key"),
)


def _aws_secret_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value = match[0]
    # 40 characters alone are also a git commit; a secret mixes cases and stands near a word that
    # says whose it is.
    mixed = not (value.islower() or value.isupper()) and any(char.isdigit() for char in value)
    near = re.search(r"aws|secret|amazon|s3|a[ks]ia[a-z0-9]{16}", match.string, re.IGNORECASE)
    return Edit(*match.span(), pseudonym("key", value)) if mixed and near else None


AWS_SECRET = Rule(
    "aws",
    needles=words("aws secret amazon s0 akia asia"),
    hint="[A-Za-z0/+]{40}",
    source=r"(?<![\w/+=.-]) [A-Za-z0-9/+]{40} (?![\w/+=])",
    edit=_aws_secret_edit,
)

# `scheme://user:password@host`, and a long word alone before the `@`. Passwords of databases hold
# blanks too; as tokens (RDS IAM, JWT) they are long.
USERINFO = Rule(
    "key",
    needles=("://",),
    hint=(
        r"://[^\s/@:]*+(?::(?:[^\s@:]|:(?!//))*+)?@"
        r"|(?:sql|postgres|mariadb|mongodb|rediss?|amqps?|server|oracle|clickhouse|cockroachdb|ldaps?"
        r"|ftps?|smb|rtsps?|nats|mqtts?)(?:\+[a-z0]{1,20})?://[^\s/@:]{0,1024}:[^/@:\s]{1,1024} [^/@:]+@"
    ),
    source=r"""
    (?<=://) (?P<userinfo> (?!\[) [^\s/@:"'<>]{0,256} : (?! (?: https? | wss? | \d{1,5} ) / )
        (?: [^\s/@"'<>] | ["'](?=[\w!\#$%^*+=.-]) | (?<!:) @ (?=[^\s/@"'<>]{1,256}@) | / (?=[^\s/@"'<>]{1,256}@) ){1,4096}
      | [\w.~%-]{20,4096} ) (?=@)
  | (?<!\w) (?: postgres(?:ql)? | mysql | mariadb | mongodb | rediss? | amqps? | mssql | sqlserver | oracle
        | clickhouse | cockroachdb | ldaps? | s?ftps? | smb | rtsps? | nats | mqtts? )
      (?:\+[a-z0-9]{1,20})? :// [^\s/@:"'<>]{0,256} : (?! \d{1,5} (?:[/\s?]|$) )
      (?P<spaced> [^\s/@"'<>:,;]{1,256} (?: [ ] [^\s/@"'<>:,;]{1,256} ){1,8} ) (?= @ [\w.-]{1,253} (?: [:/?\s] | $ ) )
""",
    edit=key_edit,
)

# `"auth": "dXNlcjpwYXNz"` of Docker's config.json.
DOCKER_AUTH = Rule(
    "key",
    needles=("auth",),
    hint=r"""auth\\*["']""",
    source=r"""["']auth\\*["'] \s? : \s? \\*["'] (?P<bare> (?=[\w+/]{0,200}?[0-9A-Z=]) [\w+/]{8,}={0,2} )""",
    edit=key_edit,
)

# Sources: the vendors' pages on their keys. Lengths are the least seen there.
MULTIPART_TOKEN = Rule(
    "token",
    needles=("nral", "00d", "azdo", "0000.", "0/0000000000", "key", "u+", "_token$"),
    hint=(
        r"[a-zF0]NRAL|00D[A-Za-z0]{9,15}(?:!|%00)|AZDO[A-Za-z0]{4}|0000\.[a-f0]{32}|0/0{10}|KEY[\w-]{50}"
        r"|u\+[\w+-]{18}|_token\$"
    ),
    source=r"""
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
""",
    edit=whole_edit("key"),
)


def _is_token(match: re.Match[str]) -> bool:
    """Return whether a match of `RANDOM_TOKEN` is a token, and not a name, a digest or a number.

    Hexadecimal digits are a token only after a word for secrets: `img-prod-` and such stand before
    digests too.
    """
    value = match["typed"] or match["numbered"]
    if value and not match["secret"] and HEX_ALONE.fullmatch(value):
        return False
    return not value or is_drawn(value)


def _random_token_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    return whole_edit("key")(match, pseudonym) if _is_token(match) else None


# Of any vendor, by what is written before what a machine drew.
RANDOM_TOKEN = Rule(
    "token",
    needles=("_", "-"),
    hint="[_-][A-Za-z0]{16}",
    source=r"""
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
""",
    edit=_random_token_edit,
)

_HASH_CHARS = r"[\w./+=,$*:@\\-]"
# crypt(5), phpass, Drupal, Cisco, Django, LDAP (RFC 2307), Kerberos as its crackers print it,
# Windows.
PASSWORD_HASH = Rule(
    "key",
    needles=("$", "{", ":::"),
    hint=(
        r"\$krb0|\$[\w-]{1,16}\$[\w./+=,*$-]{8}|(?:pbkdf0|bcrypt|scrypt|argon0|md0|sha0)\w{0,11}[$:]"
        r"|\{(?:S?SHA|S?MD0|CRYPT|PBKDF0|ARGON0)|:::"
    ),
    source=rf"""
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
""",
    edit=whole_edit("key"),
)


def _webhook_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    return key_edit(match, pseudonym) if is_secret_path(value_of(match)[0]) else None


# An address that is a secret: what follows `webhook/` lets anyone post, whatever the service.
WEBHOOK = Rule(
    "key",
    needles=("://", "/api/v0/"),
    hint=r"hook|heartbeat|integration/|with/key/|trigger/|hc-ping|cronitor\.link|/api/v0/",
    source=r"""
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
""",
    edit=_webhook_edit,
)
