"""What must not leave in a log: the redaction rules, by field name and by shape.

A rule finds a value and says what stands in its place. Rules run in the order of `RULES` on one
line without its ending, in linear time whatever the line. Letters are ASCII letters only, so a text
and its UTF-8 bytes read as Latin-1 give the same hits.

A hint is the rule as seen on a line whose digits all read 0: where it is absent the rule finds
nothing, whatever the digits and whatever earlier rules put into the line. `redaction` relies on it
to look at few lines. A new rule needs a hint, a higher `RULE_SET_VERSION`, and variants in the
seeded corpus of the tests.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

Pseudonym = Callable[[str, str], str]
"""Returns `<kind:8 hex digits>` for `(kind, value)`, always the same for the same two."""

PSEUDONYM = r"(?:<(?:key|ip|email|user):[0-9a-f]{8}>|<text>|<pem>)"


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing to find. `name` appears in counts; several rules may share one. `replace` returns None for a harmless match."""

    name: str
    hint: str
    pattern: re.Pattern[str]
    replace: Callable[[re.Match[str], Pseudonym], str | None]


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII | re.VERBOSE)


# --- values behind names -------------------------------------------------------------------------------------------------------------
# `name=value`, `name: value`, `"name": "value"`, `("name", "value")`, `name: "name", value: "value"`, `name: Some("value")`, also where
# quotes are escaped once or more, and in a URL inside a URL.

_BEGIN = r"""
    (?: (?<![\w.-]) | (?<=%[0-9A-Fa-f]{2}) | (?<=%25[0-9A-Fa-f]{2}) )
    (?P<opened> (?<=["']) (?P<first> (?<![:=]["']) (?<![:=][ ]["']) (?<![:=]\\["']) (?<![:=][ ]\\["']) )? )?
"""
_VALUE = r"""(?: (?:\\*["'])? value (?:\\*["'])? \s? [:=] \s? )"""
_ENCODED_EQUALS = r"%(?:25){0,2}3[AaDd]"
_FOLLOWS = rf"""
    (?: (?(opened) \\*["'] \s{{0,3}} , \s{{0,3}} (?: {_VALUE} | (?(first) (?=b?\\*["']) | (?!) ) ) | (?!) )
      | (?:\\*["'])? \s{{0,16}} (?: => | =(?!=) | :(?!:) | {_ENCODED_EQUALS} ) \s{{0,16}} )
"""
_WRAPPED = r"(?: (?:Some|Ok|Secret) \( ){0,3}"
_QUOTED = r"""
    (?: (?:[A-Z]\w{0,40}\( | & | r\#{1,3} | b(?=\\*["']) ){0,4} (?P<quote>\\*["']) (?P<quoted> .*? ) (?: (?<!\\)(?P=quote) | $ ) )
"""
# A bare value ends before a blank, a quote or `&`; commas and brackets at its end belong to what is
# around it.
_BARE = r"""(?P<bare> [^\s"'&]+? (?= [,;)\]}]{0,4} (?: [\s"'&] | %(?:25)?26 | $ ) ) )"""
# A list, a set, a struct: to its closing bracket, and where brackets are nested deeper than that to
# the end of the line.
_STRING = r"""(?: "(?:[^"\\]|\\.)*+"? | '(?:[^'\\]|\\.)*+'? )"""
_FLAT = rf"""(?: {_STRING} | [^"'()\[\]{{}}] )"""
_LIST = rf"""
    (?P<list> (?! (?:Some|Ok|Secret)\( ) (?:[A-Z]\w{{0,40}}[ ]?)? [(\[{{]
      (?: {_FLAT} | [(\[{{] {_FLAT}*+ [)\]}}] )*+ (?: [)\]}}] | .* ) )
"""

# Nothing, what stands for nothing, or the bracket that opens a value of several lines.
_HARMLESS = re.compile(
    rf"(?:{PSEUDONYM}|none|null|nil|true|false|\*+|[<\[(]?(?:redacted|sensitive|hidden)[>\])]?|\$\{{?\w+\}}?|\[\]|\{{\}})?\)?"
    r"|(?-i:[A-Z]\w*)?[ ]?[(\[{]",
    re.IGNORECASE | re.ASCII,
)
# A value that runs to the end of the line was replaced before when it begins with a pseudonym.
_DONE = re.compile(rf"""{PSEUDONYM}(?=[\\"'\s,;)}}\]]|$)""")
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{1,9})?", re.ASCII)


def _is_harmless(value: str) -> bool:
    return bool(_HARMLESS.fullmatch(value) or _DONE.match(value))


def _instead(match: re.Match[str], text: str) -> str:
    """Return the match with `text` in place of the value, which is always the last group that took part."""
    start, end = match.span(match.lastgroup or 0)
    return match.string[match.start() : start] + text + match.string[end : match.end()]


# Words of tokenizers and language models, not of credentials.
_VOCABULARY_TOKEN = re.compile(
    r"(?:.*[-_.])?(?:text|audio|image|bos|eos|pad|unk|sep|cls|mask|special|start|end|stop|first|last|next|prev|initial|zero|new)"
    r"[-_]?token",
    re.IGNORECASE,
)


def _secret(match: re.Match[str], pseudonym: Pseudonym) -> str | None:
    value, name = match[match.lastgroup or 0], (match["name"] or "").lower()
    if _is_harmless(value):
        return None
    if name.endswith("token") and (_NUMBER.fullmatch(value) or _VOCABULARY_TOKEN.fullmatch(name)):
        return None
    if name == "pwd" and value.startswith("/"):
        return None
    return _instead(match, pseudonym("key", value))


_SCHEME = re.compile(
    r"(?:Bearer|Basic|Token|ApiKey|Digest|Negotiate|AWS4-HMAC-SHA256)\s+", re.IGNORECASE
)


def _credential(match: re.Match[str], pseudonym: Pseudonym) -> str | None:
    """Keep the scheme, so that `Authorization: Bearer X` and `token=X` show the same pseudonym."""
    value = match[match.lastgroup or 0]
    scheme = found[0] if (found := _SCHEME.match(value)) else ""
    value = value.removeprefix(scheme)
    return None if _is_harmless(value) else _instead(match, scheme + pseudonym("key", value))


def _text(match: re.Match[str], _: Pseudonym) -> str | None:
    value = match[match.lastgroup or 0]
    return None if _is_harmless(value) or _NUMBER.fullmatch(value) else _instead(match, "<text>")


def _key(match: re.Match[str], pseudonym: Pseudonym) -> str | None:
    value = match[match.lastgroup or 0]
    return None if _is_harmless(value) else _instead(match, pseudonym("key", value))


_TEXT_NAME = r"(?i: (?:[a-z0-9]{1,40}[-_]){0,6} (?:texts?|prompt|transcripts?) )"
_TEXT = rf"""
    {_BEGIN} {_TEXT_NAME}
    (?: {_FOLLOWS} (?: {_WRAPPED} {_QUOTED} | {_WRAPPED} {_LIST} )
      | (?: = | {_ENCODED_EQUALS} ) (?![="'\[({{]) (?P<bare> \S .*? ) (?= \s+ [a-z_]\w{{0,40}}= | $ ) )
"""
# `text: hello` is an announcement only where a message begins.
_SAID = r"(?: ^ | (?<=\|[ ]) | (?<=\][ ]) | (?<=\d:[ ]) ) (?i:text|prompt|transcript) : \s{1,3} (?!None) (?P<said> [^\s\d\"'\[({] .* )"
# Debug of a WebSocket message.
_MESSAGE = rf"(?<!\w) (?:Text|Binary) \( {_WRAPPED} {_QUOTED}"
_POST_BODY = r"handling[ ]py[ ]asr[ ]streaming[ ]post[ ]query[ ] (?P<body> .+ )"
_COOKIE = rf"{_BEGIN} (?i: (?:[a-z0-9]{{1,40}}[-_.]){{0,6}} cookies? ) {_FOLLOWS} (?: {_WRAPPED} {_QUOTED} | (?P<rest> [^\s\"'] .* ) )"
_AUTHORIZATION = rf"""
    {_BEGIN} (?i: (?:[a-z0-9]{{1,40}}[-_.]){{0,6}} authorization ) {_FOLLOWS}
    (?: {_WRAPPED} {_QUOTED} | (?P<simple> (?i:Bearer|Basic|Token|ApiKey)\s{{1,3}}[^\s"',;)}}\]]+ ) | (?P<rest> [^\s"'] .* ) )
"""
_BEARER = r"""
    (?<!\w) (?: (?:Bearer|BEARER|bearer|Basic) (?: \s{1,3} | %20 | \+ ) (?P<bare> (?=[^\s"']{0,200}?(?:\d|[a-z][A-Z]|=)) [\w.~+/=-]{8,} )
      | Bearer \s{1,3} (?P<word> [\w.~+/=-]{16,} ) )
"""
_CREDENTIAL_NAME = r"""
    (?P<name> (?i: (?:[a-z0-9]{1,40}[-_.]){0,12} (?:
        auth[-_]?ids? | authorized[-_]?ids? | auth[-_]?key | authorization[-_]?(?:key|token|code) | api[ ]key
      | (?:api|access|secret|private|signing|encryption|redaction|session|account|master|service)[-_]?(?:access[-_]?)?keys?(?:[-_]?id)?
      | (?:[a-z0-9]{0,40}) (?:secret|passwd|password|passphrase) | pwd | credentials? | session[-_]?id | jwt
      | (?:access|refresh|auth|session|id|api|hf|bearer|security|client|user|csrf|xsrf|device|bot|login|secret)? [-_]? token
      | x-(?:amz|goog)-(?:signature|credential|security-token) | awsaccesskeyid
    )))
"""
_NAMED = rf"""
    {_BEGIN} (?P<option>--)? {_CREDENTIAL_NAME} (?: {_FOLLOWS} | (?(option) \s{{1,3}} (?! - | (?:is|was|must|not|or|and)\b ) | (?!) ) )
    (?: {_WRAPPED} {_QUOTED} | {_WRAPPED} {_LIST} | {_WRAPPED} {_BARE} )
"""
_PARAMETER = rf"""
    (?: (?<=[?&]) | (?<=%3[Ff]) | (?<=%26) )
    (?i: key | sig | signature | code | auth | access | session | sid | policy | key-pair-id ) (?: = | %3[Dd] ) {_BARE}
"""

# --- shapes --------------------------------------------------------------------------------------------------------------------------

_PEM = r"-----BEGIN[ ][A-Z0-9 ]{1,40}----- .*? (?: -----END[ ][A-Z0-9 ]{1,40}----- | $ )"
_JWT = r"(?<![\w-]) eyJ[\w-]{5,} (?: \.[\w-]{2,} ){1,4} \.?"
_AWS_ID = r"(?<![A-Za-z0-9]) (?:AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AIPA|ANPA|ANVA|APKA|AROA)[A-Z0-9]{16} (?![A-Za-z0-9])"
_AWS_PRIVATE = r"(?<![\w/+=.-]) [A-Za-z0-9/+]{40} (?![\w/+=])"
_VENDOR_KEY = r"""
    (?<![A-Za-z0-9]) (?: hf_[A-Za-z0-9]{30,} | api_org_[A-Za-z0-9]{30,} | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_\w{20,}
      | glpat-[\w-]{20,} | (?<![_-])sk-[\w-]{20,} | [rs]k_(?:live|test)_[A-Za-z0-9]{16,} | npm_[A-Za-z0-9]{30,}
      | pypi-[\w-]{20,} | xox[abprs]-[\w-]{10,} | AIza[\w-]{35} | ya29\.[\w-]{20,} )
"""
_USERINFO = r"(?<=://) (?P<userinfo> [^\s/@:\"'<>]{0,256} : [^\s/@\"'<>]{1,256} ) (?=@)"
# Names of voices and checkpoints hold `@240.safetensors`; `git@host` is no person.
_EMAIL = r"""
    (?<![\w.%+-]) (?!git@) [\w.%+-]{1,64} (?:@|%40) (?: [A-Za-z0-9-]{1,63} \. ){1,8}
    (?! (?:safetensors|wav|mp3|flac|ogg|opus|json|bin|gguf|onnx|toml|txt|log|gz|zst) (?!\w) ) [A-Za-z]{2,24} (?![\w-])
"""
_HOME = rf"""
    (?: (?:/|%2[Ff]) (?:home|Users) (?:/{{1,3}}|%2[Ff]) | (?:\\{{1,4}}|%5[Cc]) (?i:users) (?:\\{{1,4}}|%5[Cc]) )
    (?P<user> (?!{PSEUDONYM}) [^\s/\\"'`<>:,;()\[\]{{}}|*?&=$%]+ )
"""
_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
# After a word and a slash it is a version (`Chrome/120.0.0.0`), unless a port follows.
_IPV4 = rf"""
    (?<![\w.]) (?<!==) (?: (?<![A-Za-z]/) | (?= [\d.]{{7,15}}:\d ) )
    (?:::ffff:)? (?P<address> (?:{_OCTET}\.){{3}}{_OCTET} ) (?! \.?\w | -(?:py|cp)\d )
"""
_IPV4_IN_HOST = rf"(?<![\w-]) (?:ip|ec2) - (?P<address> (?:{_OCTET}-){{3}}{_OCTET} ) (?![\w-])"
_IPV6 = r"(?<![\w:.]) (?P<address> (?: [23fF][0-9a-fA-F]{3} | 64:ff9b | ::(?i:ffff) ) : [0-9a-fA-F:]{1,34} ) (?!\.?\w)"
_VERSION_WORD = re.compile(
    r"(?:\bv(?:er(?:sion)?)?|version|release|build|cuda|cudnn|cublas|nccl|cufft|curand|cusolver|cusparse|tensorrt|torch|python|driver)"
    r"[\"']?\s{0,3}[:=(]?\s{0,3}[\"']?$",
    re.IGNORECASE,
)
_OF_SOMEBODY = tuple(
    ipaddress.ip_network(net)
    for net in ("2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96")
)


def _aws_secret(match: re.Match[str], pseudonym: Pseudonym) -> str | None:
    value = match[0]
    # 40 characters alone are also a git commit; a secret mixes cases and stands near a word that
    # says whose it is.
    mixed = not (value.islower() or value.isupper()) and any(char.isdigit() for char in value)
    near = re.search(r"aws|secret|amazon|s3|a[ks]ia[a-z0-9]{16}", match.string, re.IGNORECASE)
    return pseudonym("key", value) if mixed and near else None


def _is_nobodys(address: str) -> bool:
    """Return whether an IPv4 address is 0.0.0.0, loopback or a netmask."""
    return address.split(".", 1)[0] in ("0", "127", "255")


def _ipv4(match: re.Match[str], pseudonym: Pseudonym) -> str | None:
    value = match["address"].replace("-", ".")
    if _is_nobodys(value) or _VERSION_WORD.search(
        match.string, max(0, match.start() - 40), match.start()
    ):
        return None
    return match[0].replace(match["address"], pseudonym("ip", value))


def _ipv6(match: re.Match[str], pseudonym: Pseudonym) -> str | None:
    value = match["address"]
    shown = value if value.endswith("::") else value.removesuffix(":")
    try:
        address = ipaddress.IPv6Address(shown)
    except ValueError:
        return None
    mapped = address.ipv4_mapped
    nobodys = (
        _is_nobodys(str(mapped))
        if mapped
        else not any(address in network for network in _OF_SOMEBODY)
    )
    return None if nobodys else pseudonym("ip", str(mapped or address)) + value[len(shown) :]


# What of a name and of what follows it shows on a line whose digits read 0, but for two harmless
# ones that come on every connection: `text_token=17` and `auth_id: None`.
_FOLLOWS_HINT = (
    r"""(?:\\*["'])?\s{0,16}(?:[=:,]|%0{1,5}[AaDd])(?! None[,;)}\]]{0,4}(?:[\s"'&]|$))"""
)
_TEXT_HINT = rf"(?i:texts?|prompt|transcripts?){_FOLLOWS_HINT}"
_NAMED_HINT = (
    r"(?i:[hdnsy][-_]?ids?|keys?|code|secret|passwd|password|passphrase|pwd|credentials?|jwt|(?<!\btext_)token|signature)"
    rf"{_FOLLOWS_HINT}|--\w[\w.-]*\s"
)
_VENDOR_HINT = (
    "hf_|api_org_|gh[pousr]_|github_pat_|glpat-|sk-|[rs]k_(?:live|test)_|npm_|pypi-|xox|AIza|ya00"
)

RULES: tuple[Rule, ...] = (
    Rule("text", _TEXT_HINT, _compile(_TEXT), _text),
    Rule("text", r"(?i:text|prompt|transcript):\s", _compile(_SAID), _text),
    Rule("text", r"(?:Text|Binary)\(", _compile(_MESSAGE), _text),
    Rule("text", "py asr streaming post query", _compile(_POST_BODY), _text),
    Rule("pem", "-----BEGIN ", _compile(_PEM), lambda *_: "<pem>"),
    Rule("aws", "[A-Za-z0/+]{40}", _compile(_AWS_PRIVATE), _aws_secret),
    Rule("cookie", "(?i:cookie)", _compile(_COOKIE), _key),
    Rule("authorization", "(?i:authorization)", _compile(_AUTHORIZATION), _credential),
    Rule("authorization", r"(?:[Bb]earer|BEARER|Basic)(?:\s|%00|\+)", _compile(_BEARER), _key),
    Rule("key", _NAMED_HINT, _compile(_NAMED), _secret),
    Rule(
        "key",
        "(?:[?&]|%0[Ff]|%00)(?i:key|sig|code|auth|access|session|sid|policy)",
        _compile(_PARAMETER),
        _key,
    ),
    Rule("key", r"://[^\s/@]{0,600}@", _compile(_USERINFO), _key),
    Rule("jwt", "eyJ", _compile(_JWT), lambda match, pseudonym: pseudonym("key", match[0])),
    Rule(
        "aws",
        "A[KSBCGIR][CIOPD]A|AN[PV]A",
        _compile(_AWS_ID),
        lambda match, pseudonym: pseudonym("key", match[0]),
    ),
    Rule(
        "token",
        _VENDOR_HINT,
        _compile(_VENDOR_KEY),
        lambda match, pseudonym: pseudonym("key", match[0]),
    ),
    Rule(
        "email",
        r"@(?!0{1,6}\.safetensors(?![\w.-]))|%00",
        _compile(_EMAIL),
        lambda m, p: p("email", m[0].replace("%40", "@").lower()),
    ),
    Rule(
        "home",
        r"home[/%]|(?i:users)[/\\%]",
        _compile(_HOME),
        lambda match, pseudonym: _instead(match, pseudonym("user", match["user"])),
    ),
    Rule("ip", r"0\.0{1,3}\.0{1,3}\.0", _compile(_IPV4), _ipv4),
    Rule("ip", "(?:ip|ec0)-0", _compile(_IPV4_IN_HOST), _ipv4),
    Rule("ip", r"(?:(?<![\w:.])(?:[0Ff][0A-Fa-f]{3}|00:ff0b)|::[Ff]{4}):", _compile(_IPV6), _ipv6),
)

# --- PEM over several lines ----------------------------------------------------------------------------------------------------------

PEM_OPEN = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----(?!.*-----END )")
PEM_CLOSE = re.compile(r".*-----END [A-Z0-9 ]{1,40}-----")
PEM_BODY = re.compile(
    r"(?P<before>\s*(?:[\w.-]+\s+\| ?)?\s*)(?:[A-Za-z0-9+/]+={0,2}|(?:Proc-Type|DEK-Info): .*)\s*",
    re.ASCII,
)
PEM_LINES = 256
"""A 16,384-bit RSA key takes about 200 lines of 64 characters; after this many an END that never came is given up."""

# --- lists over several lines --------------------------------------------------------------------------------------------------------

LIST_OPEN = {
    kind: re.compile(
        rf"{_BEGIN} {name} {_FOLLOWS} {_WRAPPED} (?:[A-Z]\w{{0,40}}[ ]?)? [(\[{{] \s* $",
        re.ASCII | re.VERBOSE,
    )
    for kind, name in (("key", _CREDENTIAL_NAME), ("text", _TEXT_NAME))
}
"""By the rule that replaces its items: a line that ends where a list, or another value of several lines, begins."""
LIST_BRACKETS = ("[", "{", "(")
"""How such a line ends, but for blanks."""
LIST_ITEM = re.compile(
    rf"""(?: \s* (?:[\w.-]+\s+\|[ ]?)? \s* (?: (?:\\*["'])?\w{{1,40}}(?:\\*["'])?\s?[:=]\s? )? ) {_WRAPPED} {_QUOTED} [,)\]}}\s]*""",
    re.ASCII | re.VERBOSE,
)
"""A line of such a list. The first line that is none ends it."""


def replace_item(kind: str, item: re.Match[str], pseudonym: Pseudonym) -> str | None:
    """Return a line of a list without its value, or None for a harmless one."""
    return {"key": _key, "text": _text}[kind](item, pseudonym)
