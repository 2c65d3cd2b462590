"""What must not leave in a log: the redaction rules, by field name and by shape.

A rule finds a value and says what stands in its place. Rules run in the order of `RULES` on one
line without its ending, in linear time whatever the line. Letters are ASCII letters only. What
disguises a name or a value was removed before, see `disguise`.

A hint is the rule as seen on a line whose digits all read 0: where it is absent the rule finds
nothing, whatever the digits and whatever earlier rules put into the line. `redaction` relies on it
to look at few lines. A new rule needs a hint, a higher `RULE_SET_VERSION`, and variants in the
seeded corpus of the tests. A new token shape is one line in `tokens`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

from dsmops.logs.commands import (
    COMMAND_SECRET,
    COMMAND_SECRET_HINT,
    COMMAND_SECRET_NEEDLES,
    PROTOCOL_SECRET,
    PROTOCOL_SECRET_HINT,
    PROTOCOL_SECRET_NEEDLES,
    SQL_PASSWORD,
    SQL_PASSWORD_HINT,
    SQL_PASSWORD_NEEDLES,
)
from dsmops.logs.disguise import unveil
from dsmops.logs.tokens import token_hint, token_pattern
from dsmops.logs.vendor_keys import (
    BARE_WORD,
    COMMAND_KEY,
    COMMAND_KEY_HINT,
    COMMAND_KEY_NEEDLES,
    MULTIPART_TOKEN,
    MULTIPART_TOKEN_HINT,
    MULTIPART_TOKEN_NEEDLES,
    PASSWORD_HASH,
    PASSWORD_HASH_HINT,
    PASSWORD_HASH_NEEDLES,
    PASSWORD_IN_SENTENCE,
    PASSWORD_IN_SENTENCE_HINT,
    PASSWORD_IN_SENTENCE_NEEDLES,
    RANDOM_TOKEN,
    RANDOM_TOKEN_HINT,
    RANDOM_TOKEN_NEEDLES,
    VENDOR_KEY,
    VENDOR_KEY_HINT,
    VENDOR_KEY_NEEDLES,
    WEBHOOK,
    WEBHOOK_HINT,
    WEBHOOK_NEEDLES,
    argument,
    is_drawn_token,
    is_secret_path,
    is_vendor_key,
    words,
)

Pseudonym = Callable[[str, str], str]
"""Returns `<kind:8 hex digits>` for `(kind, value)`, always the same for the same two."""

PSEUDONYM = r"(?:<(?:key|ip|email|user):[0-9a-f]{8}>|<text>|<pem>)"


class Edit(NamedTuple):
    """What stands in place of the characters from `begin` up to `end`."""

    begin: int
    end: int
    text: str


@dataclass(frozen=True, eq=False)
class Rule:
    """One thing to find. `name` appears in counts; several rules may share one.

    `source` is its pattern, compiled on first use: all of them take a quarter of a second, and few
    logs need more than ten.

    `needles` are texts in lower case: where none of them stands in a line whose digits read 0, the
    rule finds nothing (no needles: it may anywhere). To look for a text is 100 times faster than to look for a hint.
    `edit` returns None for a harmless match, and several edits where a match holds several values.
    """

    name: str
    needles: tuple[str, ...]
    hint: str
    source: str
    edit: Callable[[re.Match[str], Pseudonym], Edit | list[Edit] | None]

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.source, re.ASCII | re.VERBOSE)

    @cached_property
    def hint_pattern(self) -> re.Pattern[bytes]:
        """The hint, to be looked for in a shape."""
        return re.compile(self.hint.encode())


# --- what stands before a line ---------------------------------------------------------------------

_STAMP = r"20\d\d-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d{1,9})?(?:Z|[+-]\d\d:?\d\d|)"
_TAG = r"[^\s:\[\]<\"]{1,100}(?:\[\d{1,10}\])?:"
# What syslog and the journal write as time.
_TIME = (
    rf"(?: {_STAMP} | [A-Z][a-z]{{2}}\s{{1,2}}\d{{1,2}}\s[\d:.]{{8,15}} | \d{{10}}\.\d{{6}}"
    rf" | [A-Z][a-z]{{2}}\s{_STAMP}\s[A-Z]\w{{1,5}} | \[\s{{0,8}}\d{{1,9}}\.\d{{6}}\] )"
)
PREFIX = re.compile(
    rf"""(?: ^ (?: \d{{1,6}}: | [ ]{{0,5}}\d{{1,6}}\t ) )? (?: \s* (?:
        {_STAMP} \s (?: stdout | stderr ) \s [FP] (?:\s|$)
      | {_STAMP} \s+ (?:TRACE|DEBUG|INFO|WARN|ERROR) \s [A-Za-z_][\w:]{{0,100}}: (?: \s \S{{1,300}}:\d{{1,9}}: )?
      | {_STAMP} \s+ (?:TRACE|DEBUG|INFO|NOTICE|WARN(?:ING)?|ERROR|CRITICAL) \s+ [\w.:]{{1,100}} (?: \s- | : ) (?=\s)
      | {_TIME} \s (?: [^\s:\[\]]{{1,100}} \s )? {_TAG}
      | {_STAMP} (?: \s [^\s\[]{{1,128}} ){{4}} \s (?: - | \[ [^\]]{{0,1000}} \] ) (?=\s|$)
      | {_STAMP} \s \d\d[OE][+\s]
      | {_STAMP} (?=\s)
      | \[ 20\d\d-\d\d-\d\d \s [^\]]{{1,60}} \] \s \[[^\]\s]{{1,9}}\] \s \[[^\]\s]{{1,100}}\] (?: \s \S{{1,300}}:\d{{1,9}}: )?
      | \[pod/[^\]\s]{{1,300}}\] | <\d{{1,3}}> (?: 1 \s )? | [\w./@-]{{1,100}} \s{{0,100}} \|(?=\s|$)
      | [+>|;*#-]{{1,3}} (?=[\s"'\w/<]|$) | // | /\* | \d{{1,6}} [:-] (?=\s)
    ) ){{0,6}} \s*""",
    re.ASCII | re.VERBOSE,
)
"""What collectors, mail, diffs, comments and servers put before a line of something longer; at the
start of the line also numbers of `grep -n` and `cat -n`."""

# --- values behind names --------------------------------------------------------------------------
# `name=value`, `name: value`, `"name": "value"`, `("name", "value")`, `name("value")`,
# `name: "name", value: "value"`, `name: Some("value")`, `x["name"] = "value"`, also where quotes
# are escaped once or more, and in a URL inside a URL.

_BEGIN = r"""
    (?: (?<![\w.-]) | (?<=%[0-9A-Fa-f]{2}) | (?<=%25[0-9A-Fa-f]{2}) )
    (?P<opened> (?<=["']) (?P<first> (?<![:=]["']) (?<![:=][ ]["']) (?<![:=]\\["']) (?<![:=][ ]\\["'])
        (?<![:=]\\{3}["']) (?<![:=][ ]\\{3}["']) )? )?
"""
# What a name may begin with: `_`, `--`, `__Host-`, `my.`, `openai`. The word that makes it a secret
# begins after anything but a letter or digit, or with a capital (`myApiKey`, `HFToken`).
_PREFIX_OF_NAME = r"""
    [\w.$-]{0,80}? (?: (?<![A-Za-z0-9]) | (?<=[a-z0-9])(?=[A-Z]) | (?<=[A-Z])(?=[A-Z][a-z]) )
"""
_VALUE = r"""(?: (?:\\*["'])? [Vv]alue (?:\\*["'])? \s? [:=] \s? )"""
_ENCODED_EQUALS = r"%(?:25){0,2}3[AaDd]"
# `token: str = "..."`, in Python and Rust.
_ANNOTATION = (
    r"(?: : \s? &?(?:'static\s)? (?:[A-Za-z.]{0,20}\[)? (?:str|String|bytes|SecretStr|Any) \]?"
    r" (?:\s?\|\s?None)? \s{0,3} = (?!=) )"
)
_FOLLOWS = rf"""
    (?: (?(opened) \\*["'] \s{{0,3}} , \s{{0,3}} (?: {_VALUE} | (?(first) (?=b?\\*["']|\[) | (?!) ) ) | (?!) )
      | (?(opened) \\*["'] (?: \s{{1,3}} (?=\\*["']) | ; (?: s:\d{{1,9}}: (?=\\*["']) | a:\d{{1,9}}: (?=\{{) ) ) | (?!) )
      | \( \s? (?=(?:[A-Z]\w{{0,40}}\()?b?\\*["'])
      | \s -> \s (?= \\*["'] | [^\s,)]{{0,99}}\d | [^\s,()]{{6,99}}[,)] ) | \s \. \s (?=\\*["'])
      | (?:\\*["'`]|\*{{1,3}})? [\])}}]{{0,2}} \s{{0,16}}
        (?: => | {_ANNOTATION} | (?:\|\||\?\?|[:?+])?=(?!=) | [=!]={{1,2}}(?=\s?\\*["'])
          | :(?!:) \*{{0,3}} | (?P<encoded>{_ENCODED_EQUALS}) ) \s{{0,16}}
        (?: (?: !!?\w{{1,20}} | &\w{{1,40}} ) \s{{1,3}} )?+ )
"""
# What some printers put before a string: its type, its length, its address.
_WRAPPED = r"""
    (?: (?:Some|Ok|Secret|Optional|Str) \( | string\(\d{1,9}\)\s | \((?:\[\])?string\)\s (?: \(len=\d{1,9}(?:\scap=\d{1,9})?\)\s )?
      | 0x[0-9a-f]{4,16}\s (?=\\*") | << (?=\\*") ){0,3}
"""
# A string ends at its own quote. Within a string of a string (`\"`) a backslash at the end of a
# value is written as four. `"C:\dir\" token="x"` is written by programs that escape nothing: what
# looks like one value that ends with `=` goes on to the next quote.
_QUOTED = r"""
    (?: (?:[A-Z]\w{0,40}\( | & | r\#{1,3} | [bBfFrRuU]{1,2}(?=\\*["']) ){0,4}
      (?: (?P<quote> \"\"\" | \'\'\' | ["'] )
          (?P<quoted> (?: (?!(?P=quote))[^\\] | \\. | (?<=[^=:,(\[{\s"'])(?P=quote)(?P=quote)(?=[^\s,;)\]}]) )*+
            (?: (?: (?<=[=:(,]) | (?<=[=:,]\s) ) (?P=quote) (?![\s,;)\]}]|$) (?: (?!(?P=quote))[^\\] | \\. )*+ )?
            (?: (?P=quote) (?: \"'\" | '\"' | \\["'] ) (?P=quote) (?: (?!(?P=quote))[^\\] | \\. )*+ ){0,20}+
            (?: (?P=quote) (?=\w) [^"'=:\\\s]{1,64} (?= (?P=quote) (?:[\s,;)\]}<&]|$) ) )? )
          (?: (?P=quote) | \\?$ )
        | (?P<once> \\["'] ) (?P<quoted_once> .*? ) (?: (?<!\\)(?:\\{4}){0,8}(?P=once) | $ )
        | (?P<often> \\{2,}["'] ) (?P<quoted_often> .*? ) (?: (?<!\\)(?P=often) | $ ) ) )
"""
# A bare value ends before a blank, a quote or `&`; commas and brackets at its end belong to what is
# around it. A quote between letters is part of it, and so is an `&` that no parameter follows, but
# not in a query. An encoded `&` ends only what an encoded `=` began.
_NEXT_PARAMETER = r"& (?= \#?\w{1,8}; | [\w.~%\[\]-]{1,80} (?: = | %3[Dd] ) | [\s\"'] | $ )"
_BARE = rf"""
    (?P<bare> (?: [^\s"'&] | (?<=[^\s,;:=({{\[]) ["'] (?=\w) | (?<=\\)[ ] (?=\w) | (?! {_NEXT_PARAMETER} ) & )+?
      (?= [,;)\]}}]{{0,4}} (?: (?<!\\)\s | \s(?!\w) | \\*["'](?!\w) | {_NEXT_PARAMETER} | </
          | (?(query) & | (?!) ) | (?(encoded) %(?:25){{0,2}}26 | (?!) ) | $ ) ) )
"""
# A list, a set, a struct: to its closing bracket, and where brackets are nested deeper than that to
# the end of the line.
_STRING = r"""(?: "(?:[^"\\]|\\.)*+"? | '(?:[^'\\]|\\.)*+'? )"""
_FLAT = rf"""(?: {_STRING} | [^"'()\[\]{{}}] )"""
_LIST = rf"""
    (?P<list> (?! (?:Some|Ok|Secret|Optional|Str)\( ) (?: [A-Za-z]\w{{0,40}}[ ]? | (?:map)?\[\w{{0,20}}\]\w{{1,20}} )? [(\[{{]
      (?: {_FLAT} | [(\[{{] {_FLAT}*+ [)\]}}] )*+ (?: [)\]}}] | .* ) )
"""

# Nothing, what stands for nothing, or the bracket that opens a value of several lines.
_HARMLESS = re.compile(
    rf"(?:{PSEUDONYM}|none|null|nil|undefined|true|false|\*+|[<\[(]?(?:redacted|sensitive|hidden|masked)[>\])]?"
    # What a template, a manual or a package manager writes in its place.
    r"|\{\{?[ ]?[A-Za-z_.]{1,60}[ ]?\}?\}|%(?:\([a-z_]{1,40}\))?[sdvqr]|\.\.\.|…|x{3,}|all|any|amd64|arm64|i386|array"
    r"|\$\{{?\w+\}?|\$\(|\[\]|\{\}|[|>][+-]?\d?[+-]?|<<[-~]?[\"']?\w{1,40}[\"']?)?\)?|(?-i:[A-Z]\w*)?[ ]?[(\[{]",
    re.IGNORECASE | re.ASCII,
)
# A value that runs to the end of the line was replaced before when it begins with a pseudonym.
_DONE = re.compile(rf"""(?:Some\(|[\\"'\s]){{0,4}}{PSEUDONYM}(?=[\\"'\s,;)}}\]<]|$)""")
_NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{1,9})?", re.ASCII)


def _is_harmless(value: str) -> bool:
    return bool(_HARMLESS.fullmatch(value) or _DONE.match(value))


def _value(match: re.Match[str]) -> tuple[str, int, int]:
    """Return the value, which is always the last group that took part, and where it stands."""
    group = match.lastgroup or 0
    return (unveil(match[group]), *match.span(group))


# Words of tokenizers and language models, not of credentials.
_VOCABULARY_TOKEN = re.compile(
    r"(?:.*(?:[-_.]|[a-z0-9](?=[A-Z])))?(?i:text|audio|image|bos|eos|pad|unk|sep|cls|mask|special|start|end|stop|first|last"
    r"|next|prev|initial|zero|new|context|max|num|per)[-_]?(?i:token)",
)


def _secret(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    (value, begin, end), name = _value(match), match["name"] or ""
    if _is_harmless(value):
        return None
    if name.lower().endswith("token") and (
        _NUMBER.fullmatch(value) or _VOCABULARY_TOKEN.fullmatch(name)
    ):
        return None
    if name.lower().endswith("pwd") and value.startswith("/"):
        return None
    if len(value) == 1 or (value.isalpha() and match.string.startswith("): ", match.end("name"))):
        return None  # `accesskey="u"` of HTML; a function of a ChangeLog, `(write_token): Fix`.
    return Edit(begin, end, pseudonym("key", value))


_SCHEME = re.compile(
    r"(?:Bearer|Basic|Token|ApiKey|Digest|Negotiate|AWS4-HMAC-SHA256)\s+", re.IGNORECASE
)


def _credential(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Keep the scheme, so that `Authorization: Bearer X` and `token=X` show the same pseudonym."""
    value, begin, end = _value(match)
    value = value.lstrip()
    scheme = found[0] if (found := _SCHEME.match(value)) else ""
    value = value.removeprefix(scheme)
    return None if _is_harmless(value) else Edit(begin, end, scheme + pseudonym("key", value))


def _text(match: re.Match[str], _: Pseudonym) -> Edit | None:
    value, begin, end = _value(match)
    return None if _is_harmless(value) or _NUMBER.fullmatch(value) else Edit(begin, end, "<text>")


def _key(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value, begin, end = _value(match)
    return None if _is_harmless(value) else Edit(begin, end, pseudonym("key", value))


def _command(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace what a command takes as its secret; of `user:password` and cookies all of it."""
    value, begin, end = _value(match)
    if _is_harmless(value) or value.startswith(("$", "%", "/")):
        return None
    return Edit(begin, end, pseudonym("key", value))


def _first_value(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace a value that stands before its name."""
    value = unveil(match["first_value"])
    if _is_harmless(value):
        return None
    return Edit(*match.span("first_value"), pseudonym("key", value))


_SQL_PART = re.compile(
    r"'(?P<text>(?:[^'\\]|''|\\.)*+)'|(?P<sign>[(),])|(?P<word>[^'(),\s][^'(),]*)"
)


def _inserted(match: re.Match[str], pseudonym: Pseudonym) -> list[Edit]:
    """Replace the values of the columns that hold secrets, in each row of a statement."""
    names = enumerate(match["columns"].split(","))
    secret = {at for at, name in names if _COLUMN.fullmatch(name.strip())}
    edits: list[Edit] = []
    column = depth = 0
    for part in _SQL_PART.finditer(match.string, *match.span("rows")) if secret else ():
        sign = part["sign"]
        if not sign:
            group = part.lastgroup or ""
            if depth and column in secret and not _is_harmless(part[group].strip()):
                edits.append(Edit(*part.span(group), pseudonym("key", part[group])))
            continue
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "," and depth == 1:
            column += 1
        elif depth <= 0:
            column = depth = 0
    return edits


def _whole(kind: str) -> Callable[[re.Match[str], Pseudonym], Edit]:
    """Return an edit of everything that a pattern matches."""

    def edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit:
        return Edit(*match.span(), pseudonym(kind, unveil(match[0])))

    return edit


_TEXT_NAME = rf"(?: {_PREFIX_OF_NAME} (?i: texts?|prompt|transcripts?) )"
_TEXT = rf"""
    {_BEGIN} {_TEXT_NAME}
    (?: {_FOLLOWS} (?: {_WRAPPED} {_QUOTED} | {_WRAPPED} {_LIST} )
      | (?: = | {_ENCODED_EQUALS} ) (?![="'\[({{]) (?P<bare> \S .*? ) (?= \s+ [a-z_]\w{{0,40}}= | $ ) )
"""
# `text: hello` is an announcement only where a message begins.
_SAID = (
    r"(?: ^ | (?<=\|[ ]) | (?<=\][ ]) | (?<=\d:[ ]) ) (?i:text|prompt|transcript) : \s{1,3}"
    r" (?!None) (?P<said> [^\s\d\"'\[({] .* )"
)
# Debug of a WebSocket message.
_MESSAGE = rf"(?<!\w) (?:Text|Binary) \( {_WRAPPED} {_QUOTED}"
_POST_BODY = r"handling[ ]py[ ]asr[ ]streaming[ ]post[ ]query[ ] (?P<body> .+ )"
_COOKIE = rf"""
    {_BEGIN} (?: {_PREFIX_OF_NAME} (?i: cookies? | sec-websocket-protocol ) ) {_FOLLOWS} (?: {_WRAPPED} {_QUOTED} | (?P<rest> [^\s\"'] .* ) )
"""
_AUTHORIZATION = rf"""
    {_BEGIN} (?: {_PREFIX_OF_NAME} (?i: authorization ) ) {_FOLLOWS}
    (?: {_WRAPPED} {_QUOTED} | (?P<simple> (?i:Bearer|Basic|Token|ApiKey)\s{{1,3}}[^\s"',;<)}}\]]+ ) | (?P<rest> [^\s"'] .* ) )
"""
_BEARER = r"""
    (?<!\w) (?: (?:Bearer|BEARER|bearer|Basic) (?: \s{1,3} | %20 | \+ ) (?P<bare> (?=[\w.~+/=-]{0,200}?(?:\d|[a-z][A-Z]|=)) [\w.~+/=-]{8,} )
      | Bearer \s{1,3} (?P<word> [\w.~+/=-]{16,} ) )
"""
_CREDENTIAL_NAME = rf"""
    (?P<name> {_PREFIX_OF_NAME} (?i:
        auth[-_]?ids? | authorized[-_]?ids? | auth[-_]?key | authorization[-_]?(?:key|token|code) | api[ ]key
      | (?:api|access|secret|private|signing|encryption|redaction|session|account|master|service|subscription|license|admin
          |consumer|app|hmac|deploy|shared)[-_]?(?:access[-_]?)?keys?(?:[-_]?id)?
      | (?:[a-z0-9]{{0,40}}) (?:secret|passwd|password|passphrase|passcode|passwort|kennwort) | mot[ ]de[ ]passe
      | [a-z]{{1,20}}[-_]pass | otp | npm[-_]?auth | pwd | credentials? | session[-_]?id | jwt
      | (?:[a-z0-9]{{0,20}}) (?:access|refresh|auth|session|id|api|hf|bearer|security|client|user|csrf|xsrf|device|bot|login|secret)?
        [-_]? token
      | x-(?:amz|goog)-(?:signature|credential|security-token) | awsaccesskeyid | ossaccesskeyid | sharedaccesssignature
      | connection[-_]?string | secret[-_]?string | client[-_]?key[-_]?data | psk
    ))
"""
_COLUMN = re.compile(
    rf"""["'`*\[]{{0,2}} {_CREDENTIAL_NAME} ["'`*\]]{{0,2}}""", re.ASCII | re.VERBOSE
)
_NAMED = rf"""
    {_BEGIN} (?P<query> (?<=[?&]) )? (?: (?P<option> -- | (?<=\s)-(?=[A-Za-z]) ) | ) {_CREDENTIAL_NAME}
    (?: {_FOLLOWS} | (?(option) \s{{1,3}} (?! - | (?:is|was|are|has|must|not|or|and|but|to|in|for|of|on|by|with|from|as|if|when|which|that|option|flag)\b ) | (?!) ) )
    (?: {_WRAPPED} {_QUOTED} | {_WRAPPED} {_LIST} | {_WRAPPED} {_BARE} )
"""
_PASSWORD_NAME = rf"""
    (?P<name> {_PREFIX_OF_NAME} (?i: [a-z0-9]{{0,40}} (?:secret|passwd|password|passphrase|passwort|kennwort) | [a-z]{{1,20}}[-_]pass ) )
"""
# A password of several words within brackets: `Config(password=a b c, port=80)`.
_WORDS = rf"""
    (?<= [\s,(\[{{] ) {_PASSWORD_NAME} \s? (?: = | : ) \s?
    (?P<words> [^\s"',;=:(){{}}\[\]|&<]+ (?: [ ] [^\s"',;=:(){{}}\[\]|&]+ ){{1,8}}
      (?= , [ ] [\w@]{{1,40}} = | [)}}\]] | [ ] [A-Z]\w{{0,40}}:\S ) )
"""
_PARAMETER = rf"""
    (?P<query> (?<=[?&;]) | (?<=%3[Ff]) | (?<=%26) )
    (?i: key | sig | signature | code | auth | access | session | sid | policy | key-pair-id | verify ) (?: = | (?P<encoded>%3[Dd]) ) {_BARE}
"""
# `curl -u user:password`.
_USER_OPTION = r"""
    (?<![\w-]) (?: -u \s? | curl \s [^|;&\n]{0,400}? (?<=\s) -U \s? | --(?:proxy-)?user [\s=] ) (?:
        \\*" (?P<double> (?: (?!<(?:key|ip|email|user):) [^\s":] ){1,64} : [^"\\\n]{1,4096} ) \\*"
      | \\*' (?P<single> (?: (?!<(?:key|ip|email|user):) [^\s':] ){1,64} : [^'\\\n]{1,4096} ) \\*'
      | ["']? (?P<user> (?: (?!<(?:key|ip|email|user):) [^\s"':] ){1,64} : [^\s"']{1,256} ) )
"""
# `machine host login user password secret` of netrc.
_NETRC = r"\b login \s{1,3} \S{1,100} \s{1,3} password \s{1,3} (?P<bare> \S+ )"
# `"auth": "dXNlcjpwYXNz"` of Docker's config.json.
_DOCKER_AUTH = r"""["']auth\\*["'] \s? : \s? \\*["'] (?P<bare> (?=[\w+/]{0,200}?[0-9A-Z=]) [\w+/]{8,}={0,2} )"""

# --- values beside names, without `=` or `:` --------------------------------------------------------
# `ENV NAME value` and other statements, `<name>value</name>`, table cells of HTML and Markdown,
# attributes, commands of GitHub Actions, and a line of a name and a value alone (netrc, columns).

_TYPE_WORD = (
    "strings?|str|int|integer|number|bool|boolean|bytes|object|array|uuid|file|path|value|required"
    "|optional|sufficient|requisite|include|default|deprecated|yes|no|none|null|true|false|varchar"
    "|text"
)
_BAR = "|│┃║"
_PLACED = rf"""
    (?: (?P<statement> (?<![\w-]) (?: ENV | setx | setenv | \#define | set\s-\w{{1,4}}
          | (?i:set-item) \s{{1,3}} (?:-\w{{1,9}}\s)? (?i:env:) ) \s{{0,3}} )
      | (?P<element> < (?:\w{{1,40}}:)? )
      | (?P<cell> (?: < (?:td|th|dt|b|code|strong|span|label) > | [{_BAR}] ) \s{{0,40}} [*`]{{0,2}} )
      | (?P<attribute> (?<!\w) (?:name|key|id|property) = \\*["'] )
      | (?P<workflow> ::[a-z-]{{1,20}}\sname= )
      | (?P<tuple> \{{ \s? | (?<![\w:]) : (?=[\w-]{{1,80}}\s(?:\\*["']|\[)) )
      | (?P<jar> ^ (?:\S.{{0,200}}[\s\d:])?? [\w.\#-]{{1,253}} \t (?i:TRUE|FALSE) \t \S{{1,200}} \t (?i:TRUE|FALSE) \t \d{{1,20}} \t )
      | (?P<line> ^ {PREFIX.pattern} )
    ) ["']? {_CREDENTIAL_NAME}
    (?: (?(statement) ["']? [\s,]{{1,3}} ["']? | (?!) )
      | (?(element) (?:\s[^<>]{{0,200}})? > \s{{0,40}} | (?!) )
      | (?(cell) \s{{0,40}} [*`]{{0,2}} \s{{0,40}} (?: (?: </\w{{1,12}}> \s{{0,9}} ){{1,3}} (?: <\w{{1,12}}[^<>]{{0,200}}> \s{{0,9}} ){{1,3}}
            (?: Bearer\s )? | [{_BAR}] \s{{0,40}} [*`]{{0,2}} (?= [^{_BAR}]{{6,400}} [{_BAR}] ) (?! [^{_BAR}]* [a-z] [ ] [a-z]+ [ ] ) ) | (?!) )
      | (?(attribute) \\*["'] (?: [^<>]{{0,200}}? (?<!\w) (?:value|content) = \\*["'] | \s{{1,4}} (?=\S[^<>]{{0,400}}\s--) ) | (?!) )
      | (?(workflow) :: | (?!) )
      | (?(tuple) (?: \s? , \s? (?: << )? (?=\\*["']) | \s (?=\\*["']|\[) ) | (?!) )
      | (?(jar) \t | (?!) )
      | (?(line) (?: \s{{1,40}} | , | \s{{1,40}}\|\s ) (?= \S{{8,200}} \s* (?: $ | " \s? [,}}] ) ) (?= \S{{0,199}}\d ) (?= \S{{0,199}}[A-Za-z] ) | (?!) )
      | (?(line) (?: \s{{2,40}} | \t | \s{{1,40}}[{_BAR}]\s )
          (?! (?i: {_TYPE_WORD} ) (?![\w-]) ) (?= [^\s|]{{6,200}} \s* (?: $ | " \s? [,}}] ) ) | (?!) )
      | (?(line) (?: (?<=[A-Z]) \s (?= [\w+=-]{{21,200}} \s* $ ) | ["'] , \s ["'] (?= \S{{2,400}} ["'] \s* $ ) ) | (?!) )
    ) (?: (?(element) (?P<inner> [^\s<] .{{0,4000}}? (?= \s* </ ) | [^\s<>]+ ) | (?!) )
      | (?(cell) (?P<column> (?: [^<{_BAR}]+? | [^{_BAR}]+? (?= \s* [{_BAR}] ) ) (?= [*`]{{0,2}} \s* (?: [{_BAR}] | </ ) ) | [^\s<>{_BAR}]+ ) | (?!) )
      | (?(attribute) (?P<set> [^<>]{{1,4000}}? (?= \\*["'] \s* (?: [\s/>,;)}}\]] | $ ) | \s-- ) ) | (?!) )
      | (?(statement) (?P<stated> \S+ (?: [ ] (?! \w{{1,80}}= | \\ ) \S+ ){{0,20}}? (?= \s* (?: ["'](?!\w) | $ ) ) ) | (?!) )
      | (?(line) (?P<word> (?! [<>{_BAR}] ) \S+? (?= \s | ["']?$ | "\s?[,}}] ) ) | (?!) ) | (?(jar) (?P<kept> \S+ ) | (?!) )
      | (?(tuple) (?: {_QUOTED} | {_LIST} ) | (?!) )
      | (?P<bare> (?! [<>{_BAR}] ) [^\s"'<>`&]+ ) )
"""
# `"value": "...", "name": "HF_TOKEN"`, and `<input value="..." name="csrf_token">`.
_VALUE_FIRST = rf"""
    (?<!\w) (?P<mark> \\*["'] )? [Vv]alue (?(mark) (?P=mark) ) \s? [:=] \s? (?P<edge> \\*["'] )
    (?P<first_value> (?: (?! \\*["']? [\s,]{{1,3}} \\*["']? (?: [NnVv]a[ml]u?e | [Kk]ey | id ) \\*["']? \s? [:=] ) . ){{1,4096}}? )
    (?= (?P=edge) [\s,]{{1,3}} (?(mark) (?P=mark) )
      (?: [Nn]ame | [Kk]ey | id ) (?(mark) (?P=mark) ) \s? [:=] \s? (?P=edge) {_CREDENTIAL_NAME} (?P=edge) )
"""
# `"NAME=value of several words"` as an item of a list or an argument.
_ASSIGNED = rf"""
    (?: (?<![\w:=]) (?<![:=][ ]) | (?<=-var=) ) (?P<edge> \\*["'] ) {_CREDENTIAL_NAME} (?: = | :[ ]? )
    (?P<assigned> (?! ["'\\\[({{] ) (?: [^"'\\ &] | \\(?!["']) )*+ (?: [ &] | ["'](?=\w) | '\"'\"' | '\\'' )
      (?: [^"'\\] | ["'](?=\w) | '\"'\"' | '\\'' | \\(?!["']) )*? ) (?= (?P=edge)(?!\w) )
"""
# Passwords alone hold blanks. One whose name begins the line is all that follows, unless another
# name or a sentence does.
_SENTENCE_WORD = (
    "is|was|must|not|has|should|cannot|can|will|required|expired|invalid|incorrect|mismatch|changed"
    "|reset|too|for|does|of|and|or"
)
# Of a collector, a diff or a list; the message of a server's line may be a sentence.
_LINE_PREFIX = r"""
    (?: 20\d\d-\d\d-\d\dT[\d:.]{8,18}(?:Z|[+-]\d\d:?\d\d) \s (?:std(?:out|err)\s[FP]\s)? | [\w-]{1,60}\s{1,60}\|\s | \[pod/[^\]\s]{1,300}\]\s )?
    \s{0,40} (?: [+>*|\#-]{1,3} \s{0,40} )?
"""
_ALONE = rf"""
    ^ {_LINE_PREFIX} (?: (?:export|declare\s-x|typeset\s-x|environment:|set|header:) \s )? [*`]{{0,2}}
    {_PASSWORD_NAME} \]? [*`]{{0,2}} \s{{0,16}} (?: :(?:STRING)?= | =>? | : ) \s{{0,16}}
    (?P<rest> (?! ["'\[({{<] | [|>][+-]?$ | !! | & | \$\( | (?i:{_SENTENCE_WORD})\s )
      \S+ (?: [ ]{{1,2}} (?! [\w.-]{{1,80}}[=:] | \# | // | -- | -> | \| | \\ ) \S+ ){{1,40}} ) \s* $
"""
# The new value of a plan, `"old" -> "new"`, after the old one was replaced.
_CHANGED = rf"""
    <key:[0-9a-f]{{8}}> ["']? \s (?:->|→) \s (?: {_QUOTED} | (?P<bare> (?! \( | null ) [^\s"'&]+ ) )
"""
# `INSERT INTO users (name, password) VALUES ('bob', '...')`: values stand in the order of columns.
_INSERT = r"""
    (?i: (?<!\w) (?:insert|replace) \s (?: \w{1,9} \s ){0,2} into \s ) [^\s(]{1,200} \s{0,3}
    \( (?P<columns> [^()]{1,4000} ) \) \s{0,3} (?i: values ) \s{0,3} (?P<rows> \( .* )
"""
# A sentence names the value: `the password is ...`, `Incorrect API key provided: ...`.
_SENTENCE = r"""
    (?: (?<![A-Za-z0-9]) | (?<=[a-z])(?=[A-Z]) ) (?i: auth[ _-]?id | (?:api|access|secret|private)[ _-]?key | token | pass(?:word|phrase|wort) | secret | credential ) s?
    (?= [\s:="'`(] ) (?: \s (?:is|was|provided|used|given|of) )? \s? [:=]? \s? ["'`(]{0,2}
    (?P<bare> (?= [\w~+/.-]{0,99}\d ) (?: (?= [\w~+/.-]{0,99}[a-z] ) (?= [\w~+/.-]{0,99}[A-Z] ) (?! \w{1,40}(?:\.|::)[a-z]\w{1,40}(?:\.|::) ) [\w~+/-]{12,}
      | [0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12} (?![\w-]) | (?= [A-Za-z0-9]{0,99}[A-Za-z] ) [A-Za-z0-9]{24,} (?![\w-]) ) )
"""
# What some commands take as a secret, and what GitHub Actions hides from now on.
_COMMAND = rf"""
    ::add-mask:: (?P<mask> \S+ )
  | (?i:convertto-securestring) \s{{1,3}} (?:-\w{{1,9}}\s)? ["'] (?P<secure> [^"']+ )
  | (?i: (?<!\w) password | identified \s{{1,3}} by ) \s{{1,3}} (?:=\s)? ' (?P<sql> [^'\s]{{1,200}} ) '
  | (?<!\w) password \s{{1,3}} " (?P<groovy> [^"\s]{{1,200}} ) "
  | (?<![\w-]) (?: (?:docker|podman|helm|skopeo|nerdctl|az)\s(?:registry\s)?login | sshpass | mysql(?:dump|admin)? | mariadb )
    (?=\s) [^|;&]{{0,200}}? \s -p \s? {argument("option")}
  | (?<!\w) https? \s [^|;&]{{0,200}}? -a \s? ["']? (?P<user> [^\s"':]{{1,64}} : [^\s"']{{1,256}} )
  | (?<![\w-]) (?: redis-cli \s [^|;&]{{0,200}}? -a | htpasswd \s -\w{{0,6}}b\w{{0,6}} \s \S{{1,200}} \s \S{{1,64}}
      | openssl \s [^|;&]{{0,200}}? (?:-k|-K) ) \s{{1,3}} {argument("argument", BARE_WORD)}
  | (?<![\w-]) pass: (?P<pass> (?=\S{{0,199}}\d) [^\s"']{{6,}} )
  | (?<![\w-]) curl \s [^|;&]{{0,400}}? (?: -b | --cookie ) [\s=] ["']? (?P<cookie> [^\s"'=]{{1,80}} = [^"']+? ) (?= ["'] | \s-|\shttps?: | $ )
  | (?<![\w]) _auth \s? [=:] \s? ["']? (?P<npm> [\w+/]{{8,}}={{0,2}} )
  | "value" \s? : \s? " (?P<har> [^"]+ ) " (?= [^{{}}]{{0,300}} "httpOnly" )
"""

# --- shapes ---------------------------------------------------------------------------------------

_PEM_EDGE = "-{4,5}[ ]?%s[ ][A-Z0-9 ]{1,40}?[ ]?-{4,5}"
# To the next END, over a few BEGIN that never ended. No further: each BEGIN of a line would look at
# all that follows it.
_PEM_BODY_PART = r"""
    (?: [^\n-]++ | - (?! -{3,4}[ ]? (?: BEGIN[ ] | END[ ][A-Z0-9 ]{1,40}?[ ]?-{4,5} ) ) )*+
"""
_PEM = rf"""
    {_PEM_EDGE % "BEGIN"} (?:
        (?: {_PEM_BODY_PART} -{{4,5}}[ ]?BEGIN[ ] ){{0,3}}+ {_PEM_BODY_PART} {_PEM_EDGE % "END"}
      | [\w+/=\s\\:,.-]* )
"""
_JWT = r"(?<![\w-]) eyJ[\w-]{5,} (?: \.[\w-]{2,} ){1,4} \.?"
_AWS_ID = (
    r"(?<![A-Za-z0-9])"
    r" (?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA|AGPA|AIDA|AIPA|ANPA|ANVA|APKA|AROA)[A-Z0-9]{16}"
    r" (?![A-Za-z0-9])"
)
_AWS_PRIVATE = r"(?<![\w/+=.-]) [A-Za-z0-9/+]{40} (?![\w/+=])"
_USERINFO = r"""
    (?<=://) (?P<userinfo> (?!\[) [^\s/@:"'<>]{0,256} : (?! (?:https?|wss?) / )
        (?: [^\s/@"'<>] | ["'](?=[\w!\#$%^*+=.-]) | (?<!:) @ (?=[^\s/@"'<>]{1,256}@) | (?<!\d) / (?=[^\s/@"'<>]{1,256}@) ){1,256}
      | [\w.~%-]{20,256} ) (?=@)
"""
# Names of voices and checkpoints hold `@240.safetensors`; `git@host` is not a person.
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
# Names that networks give to the addresses of their customers:
# `ec2-203-0-113-9.compute.amazonaws.com`,
# `203.0.113.9.static.example.net`, and the reverse `9.113.0.203.in-addr.arpa`.
_TOP_LEVEL = r"(?: \.[a-z][\w-]{0,62} ){1,8} (?![\w-])"
_IPV4_IN_HOST = rf"""
    (?<![\w-]) (?P<label> (?: [A-Za-z][\w-]{{0,60}}? [-.] ){{0,2}} ) (?P<address>
      (?: {_OCTET}-){{3}} {_OCTET} (?! \d ) (?= [\w-]{{0,60}} {_TOP_LEVEL} )
      | (?<=ip-) (?: {_OCTET}-){{3}} {_OCTET} (?![\w-]) | (?<=ec2-) (?: {_OCTET}-){{3}} {_OCTET} (?![\w-])
      | (?: {_OCTET}\.){{3}} {_OCTET} (?= (?:\.[a-z][\w-]{{0,62}}){{2,8}} (?![\w-]) )
      | (?: {_OCTET}\.){{3}} {_OCTET} (?= \.in-addr\.arpa ) )
"""
_HEX_IN_HOST = r"(?<![\w-]) p (?P<address> [0-9a-fA-F]{8} ) (?=\.dip0?\.)"
_IPV6_REVERSED = r"(?<![\w.]) (?P<address> (?: [0-9a-fA-F]\. ){32} ) (?=ip6\.arpa)"
_IPV6 = (
    r"(?<![\w:.]) (?P<address> (?: [23fF][0-9a-fA-F]{3} | 64:ff9b | ::(?i:ffff) ) :"
    r" [0-9a-fA-F:]{1,34} ) (?!\.?\w)"
)
_VERSION_WORD = re.compile(
    r"(?:\bv(?:er(?:sion)?)?|version|release|build|cuda|cudnn|cublas|nccl|cufft|curand|cusolver|cusparse|tensorrt|torch|python|driver)"
    r"[\"']?\s{0,3}[:=(]?\s{0,3}[\"']?$",
    re.IGNORECASE,
)
_OF_SOMEBODY = tuple(
    ipaddress.ip_network(net)
    for net in ("2000::/3", "fc00::/7", "fe80::/10", "ff00::/8", "64:ff9b::/96")
)


def _vendor_key(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    return _key(match, pseudonym) if is_vendor_key(match) else None


def _drawn_token(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    return _whole("key")(match, pseudonym) if is_drawn_token(match) else None


def _webhook(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    return _key(match, pseudonym) if is_secret_path(_value(match)[0]) else None


def _aws_secret(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value = match[0]
    # 40 characters alone are also a git commit; a secret mixes cases and stands near a word that
    # says whose it is.
    mixed = not (value.islower() or value.isupper()) and any(char.isdigit() for char in value)
    near = re.search(r"aws|secret|amazon|s3|a[ks]ia[a-z0-9]{16}", match.string, re.IGNORECASE)
    return Edit(*match.span(), pseudonym("key", value)) if mixed and near else None


def _is_nobodys(address: str) -> bool:
    """Return whether an IPv4 address is 0.0.0.0, loopback or a netmask."""
    return address.split(".", 1)[0] in ("0", "127", "255")


def _ipv4(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value = match["address"]
    if _is_nobodys(value) or _VERSION_WORD.search(
        match.string, max(0, match.start() - 40), match.start()
    ):
        return None
    return Edit(*match.span("address"), pseudonym("ip", value))


def _ipv4_in_host(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value, end = match["address"].replace("-", "."), match.end("address")
    if match.string.startswith(".in-addr.arpa", end):
        value = ".".join(reversed(value.split(".")))
    if match["address"].startswith(("127-0-0-1", "0-0-0-0")) or _is_nobodys(value):
        return None
    return Edit(*match.span("address"), pseudonym("ip", value))


def _hex_in_host(match: re.Match[str], pseudonym: Pseudonym) -> Edit:
    address = str(ipaddress.IPv4Address(int(match["address"], 16)))
    return Edit(*match.span("address"), pseudonym("ip", address))


def _ipv6(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    value = match["address"]
    shown = value if value.endswith("::") else value.removesuffix(":")
    return _ipv6_edit(match.start(), len(shown), shown, pseudonym)


def _ipv6_reversed(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    digits = "".join(reversed(match["address"].replace(".", "")))
    address = ":".join(digits[place : place + 4] for place in range(0, 32, 4))
    return _ipv6_edit(match.start(), len(match["address"]) - 1, address, pseudonym)


def _ipv6_edit(begin: int, length: int, shown: str, pseudonym: Pseudonym) -> Edit | None:
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
    return None if nobodys else Edit(begin, begin + length, pseudonym("ip", str(mapped or address)))


# What of a name and of what follows it shows on a line whose digits read 0, but for two harmless
# ones that come on every connection: `text_token=17` and `auth_id: None`.
_FOLLOWS_HINT = (
    r"""(?:(?:\\*["'`]|\*{1,3})?[\])}]{0,2}\s{0,16}[|?+!:]{0,2}(?:[=:,]|%0{1,5}[AaDd])|\(\s?(?:[A-Z]\w{0,40}\()?b?\\*["']"""
    r"""|\\*["'](?:;[as]:|\s{1,3}\\*["'])|\s->\s|\s\.\s\\*["'])"""
    r"""(?! None[,;)}\]]{0,4}(?:[\s"'&]|$))"""
)
_TEXT_HINT = rf"(?i:texts?|prompt|transcripts?){_FOLLOWS_HINT}"
_NAMED_HINT = (
    r"(?i:[hdnsy][-_]?ids?|keys?|code|secret|pass(?:wd|word|phrase|code|wort|e)?|kennwort|otp|auth|pwd|credentials?|jwt|(?<!\btext_)token|signature|string|key[-_]?data|psk)"
    rf"{_FOLLOWS_HINT}|(?:--|(?<=\s)-)[A-Za-z0_][\w.$-]{{0,200}}\s"
)
_NAME_WORDS = (
    "[hdnsy][-_]?ids?|keys?|code|secret|pass(?:wd|word|phrase|code|wort|e)?|kennwort|otp|auth"
    "|pwd|credentials?|jwt|token|signature|string|key[-_]?data|psk"
)
_NAME_WORD = f"(?i:{_NAME_WORDS})"
_BARS = "(?:[|]|│|┃|║)"
_PLACED_HINT = (
    rf"(?:ENV|setx|setenv|#define|set\s-\w{{1,4}}|(?i:env:))\s{{0,3}}[\"']?[\w.$ -]{{0,120}}?{_NAME_WORD}"
    rf"|(?:[<>:]|{_BARS})\s{{0,40}}[*`]{{0,2}}[\"']?[\w.$ -]{{0,120}}?{_NAME_WORD}[\"'*`]{{0,3}}(?:[\s><]|,\s[\"']|{_BARS})"
    rf"|=\\*[\"']?[\w.$ -]{{0,120}}?{_NAME_WORD}\\*(?:[\"']|::)|\{{\s?[\"']?[\w.$-]{{0,120}}?{_NAME_WORD}[\"']?\s?,"
    rf"|{_NAME_WORD}(?:\s{{1,40}}|,|\s{{1,40}}{_BARS}\s)\S+(?:\s*$|(?:\\[nr])*\"\s?[,}}])|\t0+\t[\w.$ -]{{0,120}}?{_NAME_WORD}\t"
)
_VALUE_FIRST_HINT = r"""[Vv]alue(?:\\*["'])?\s?[:=]\s?\\*["']"""
_ASSIGNED_HINT = rf"""["'][\w.$ -]{{0,120}}?{_NAME_WORD}[=:]"""
_HIDDEN_WORDS = "(?i:secret|pass(?:wd|word|phrase|wort)?|kennwort)"
_ALONE_HINT = rf"{_HIDDEN_WORDS}\]?[*`]{{0,2}}\s{{0,16}}[:=]"
_WORDS_HINT = rf"{_HIDDEN_WORDS}\s?[=:]\s?[^\s\"',;=:(){{}}\[\]|&<]+[ ]"


_TEXT_NEEDLES = words("text prompt transcript")
_NAMED_NEEDLES = words(
    "id key code secret pass kennwort otp auth pwd credential jwt token signature string psk --"
)
_PASSWORD_NEEDLES = words("secret pass kennwort")
_AWS_NEEDLES = words("akia asia abia acca agpa aida aipa anpa anva apka aroa a0t")
OPEN_NEEDLES = words(
    "id key code secret pass kennwort otp auth pwd credential jwt token signature string text prompt"
    " transcript login array"
)

RULES: tuple[Rule, ...] = (
    Rule("text", _TEXT_NEEDLES, _TEXT_HINT, _TEXT, _text),
    Rule("text", _TEXT_NEEDLES, r"(?i:text|prompt|transcript):\s", _SAID, _text),
    Rule("text", ("text(", "binary("), r"(?:Text|Binary)\(", _MESSAGE, _text),
    Rule(
        "text",
        ("py asr streaming post query",),
        "py asr streaming post query",
        _POST_BODY,
        _text,
    ),
    Rule(
        "pem",
        ("----",),
        "----[ ]?BEGIN ",
        _PEM,
        lambda match, _: Edit(*match.span(), "<pem>"),
    ),
    Rule(
        "aws",
        words("aws secret amazon s0 akia asia"),
        "[A-Za-z0/+]{40}",
        _AWS_PRIVATE,
        _aws_secret,
    ),
    Rule("cookie", ("cookie", "-protocol"), "(?i:cookie|-protocol)", _COOKIE, _key),
    Rule(
        "authorization",
        ("authorization",),
        "(?i:authorization)",
        _AUTHORIZATION,
        _credential,
    ),
    Rule(
        "authorization",
        ("bearer", "basic"),
        r"(?:[Bb]earer|BEARER|Basic)(?:\s|%00|\+)",
        _BEARER,
        _key,
    ),
    Rule("key", ("value",), _VALUE_FIRST_HINT, _VALUE_FIRST, _first_value),
    Rule("key", SQL_PASSWORD_NEEDLES, SQL_PASSWORD_HINT, SQL_PASSWORD, _key),
    Rule("key", _NAMED_NEEDLES, _ASSIGNED_HINT, _ASSIGNED, _secret),
    Rule("key", _PASSWORD_NEEDLES, _ALONE_HINT, _ALONE, _secret),
    Rule("key", _PASSWORD_NEEDLES, _WORDS_HINT, _WORDS, _secret),
    Rule("key", _NAMED_NEEDLES, _NAMED_HINT, _NAMED, _secret),
    Rule("key", ("->", "→"), r"\s(?:->|→)\s", _CHANGED, _key),
    Rule(
        "key",
        (" into ",),
        r"(?i:insert|replace)\s(?:\w+\s){0,2}(?i:into)\s",
        _INSERT,
        _inserted,
    ),
    Rule(
        "key",
        words("key sig code auth access session sid policy verify"),
        "(?:[?&;]|%0[Ff]|%00)(?i:key|sig|code|auth|access|session|sid|policy|verify)",
        _PARAMETER,
        _key,
    ),
    Rule("key", ("://",), r"://[^\s/@:]*+(?::(?:[^\s@:]|:(?!//))*+)?@", _USERINFO, _key),
    Rule("key", ("-u", "user"), r"-[uU]\s?\S{1,260}:|user[\s=]", _USER_OPTION, _key),
    Rule("key", ("password",), r"password\s", _NETRC, _key),
    Rule("key", _NAMED_NEEDLES, _PLACED_HINT, _PLACED, _secret),
    Rule(
        "key",
        words("key token pass secret credential"),
        r"(?i:key|token|pass(?:word|phrase|wort)|secret|credential)s?(?:\s\w{1,9})?\s?[:=]?\s?"
        r"""["'`(]{0,2}[\w~+/-]{12}""",
        _SENTENCE,
        _key,
    ),
    Rule(
        "key",
        words(
            "::add-mask securestring password identified login sshpass mysql mariadb http redis-cli"
            " htpasswd openssl pass: curl _auth httponly"
        ),
        r"::add-mask|(?i:securestring)|(?i:password|by)\s{1,3}(?:=\s)?[\"']|login\s|sshpass|mysql|mariadb"
        r"|https?\s|redis-cli\s|htpasswd\s|openssl\s|pass:|curl\s|_auth|httpOnly",
        _COMMAND,
        _command,
    ),
    Rule(
        "key", PASSWORD_IN_SENTENCE_NEEDLES, PASSWORD_IN_SENTENCE_HINT, PASSWORD_IN_SENTENCE, _key
    ),
    Rule("key", COMMAND_KEY_NEEDLES, COMMAND_KEY_HINT, COMMAND_KEY, _command),
    Rule("key", COMMAND_SECRET_NEEDLES, COMMAND_SECRET_HINT, COMMAND_SECRET, _command),
    Rule("key", PROTOCOL_SECRET_NEEDLES, PROTOCOL_SECRET_HINT, PROTOCOL_SECRET, _command),
    Rule("key", WEBHOOK_NEEDLES, WEBHOOK_HINT, WEBHOOK, _webhook),
    Rule("key", PASSWORD_HASH_NEEDLES, PASSWORD_HASH_HINT, PASSWORD_HASH, _whole("key")),
    Rule("key", ("auth",), r"""auth\\*["']""", _DOCKER_AUTH, _key),
    Rule("jwt", ("eyj",), "eyJ", _JWT, _whole("key")),
    Rule(
        "aws",
        _AWS_NEEDLES,
        "A(?:KI|SI|BI|CC|GP|ID|IP|NP|NV|PK|RO)A|A0T",
        _AWS_ID,
        _whole("key"),
    ),
    Rule("token", (), token_hint(), token_pattern(), _whole("key")),
    Rule("token", MULTIPART_TOKEN_NEEDLES, MULTIPART_TOKEN_HINT, MULTIPART_TOKEN, _whole("key")),
    Rule("token", RANDOM_TOKEN_NEEDLES, RANDOM_TOKEN_HINT, RANDOM_TOKEN, _drawn_token),
    # After the tokens, of which some have a word like `key-` in them.
    Rule("key", VENDOR_KEY_NEEDLES, VENDOR_KEY_HINT, VENDOR_KEY, _vendor_key),
    Rule(
        "email",
        ("@", "%00"),
        r"@(?!0{1,6}\.safetensors(?![\w.-]))|%00",
        _EMAIL,
        lambda m, p: Edit(*m.span(), p("email", m[0].replace("%40", "@").lower())),
    ),
    Rule(
        "home",
        ("home", "users"),
        r"home[/%]|(?i:users)[/\\%]",
        _HOME,
        lambda m, p: Edit(*m.span("user"), p("user", unveil(m["user"]))),
    ),
    Rule("ip", ("ip0.arpa",), r"(?i:ip0\.arpa)", _IPV6_REVERSED, _ipv6_reversed),
    Rule("ip", ("0.0",), r"0\.0{1,3}\.0{1,3}\.0", _IPV4, _ipv4),
    Rule(
        "ip",
        ("0.0", "0-0"),
        r"0[-.]0{1,3}[-.]0{1,3}[-.]0",
        _IPV4_IN_HOST,
        _ipv4_in_host,
    ),
    Rule(
        "ip",
        (":",),
        r"(?:(?<![\w:.])(?:[0Ff][0A-Fa-f]{3}|00:ff0b)|::[Ff]{4}):",
        _IPV6,
        _ipv6,
    ),
    Rule("ip", (".dip",), r"p[0a-fA-F]{8}\.dip", _HEX_IN_HOST, _hex_in_host),
)

# --- what stands around the lines of a block ------------------------------------------------------


def inner_span(text: str) -> tuple[int, int]:
    """Return where in a line that is part of a block its own content begins and ends."""
    found = PREFIX.match(text)
    return found.end() if found else 0, len(text.rstrip())


# --- PEM over several lines -----------------------------------------------------------------------

_PEM_EDGES = re.compile(
    rf"(?=(?P<begin>{_PEM_EDGE % 'BEGIN'})|(?P<end>{_PEM_EDGE % 'END'})|(?P<putty>\bPrivate-Lines:[ ]\d))"
)
_PEM_CLOSE = re.compile(rf".*?{_PEM_EDGE % 'END'}")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/]+={0,2}|(?:Proc-Type|DEK-Info|Comment): .*)\\?", re.ASCII)
_PEM_RUN = re.compile(
    r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{40,}={0,2}|(?<=\\n)[A-Za-z0-9+/]+={0,2}(?=\\n|$)"
)
PEM_LINES = 256
"""A 16,384-bit RSA key takes about 200 lines of 64 characters; after this many an END that never
came is given up."""


def opens_pem(text: str) -> bool:
    """Return whether a key begins on a line that does not end on it."""
    begun = ended = -1
    for edge in _PEM_EDGES.finditer(text):
        if edge.lastgroup == "putty":
            return True
        if edge.lastgroup == "begin":
            begun = edge.end("begin")
        else:
            ended = edge.start()
    return begun > ended


def pem_edits(text: str) -> tuple[list[Edit], bool]:
    """Return what stands in place of the key in a line after BEGIN, and whether the key ends there.

    Without an edit the line is not part of the key: another line of the log came between.
    """
    begin, end = inner_span(text)
    if closing := _PEM_CLOSE.match(text, begin):
        return [Edit(begin, closing.end(), "<pem>")], True
    if begin < end and _PEM_BODY.fullmatch(text, begin, end):
        return [Edit(begin, end, "<pem>")], False
    return [Edit(*run.span(), "<pem>") for run in _PEM_RUN.finditer(text)], False


# --- lists, and values of several lines -----------------------------------------------------------

_LIST_KINDS = (("key", _CREDENTIAL_NAME), ("text", _TEXT_NAME))
_LIST_OPEN = {
    kind: re.compile(
        rf"""{_BEGIN} {name} {_FOLLOWS} {_WRAPPED} (?: (?:[A-Za-z]\w{{0,40}}[ ]?)? [(\[{{] (?: \s* {_STRING} \s* , )*+ | [|>][+-]?\d?[+-]? | Array )?
        \s*+ (?: [\#/].* )? $""",
        re.ASCII | re.VERBOSE,
    )
    for kind, name in _LIST_KINDS
}
_NAME_LINE = re.compile(
    rf"""(?: (?P<field> (?i: \b(?:name|key|field|header|variable) ) (?:\\*["'])? \s{{0,3}} [:=] \s{{0,3}} (?:\\*["'])? )
      | (?P<block> (?<!\w)variable \s{{1,3}} " ) | (?P<tag> < (?:key|td|th|dt) > \s? ) | (?P<option> (?:^|[\s"'\[,]) -- )
      | (?P<part> form-data; \s name= ["']? ) | (?P<number> (?<![\w.]) \d{{1,9}}\) \s " )
      | (?<![\w.-]) )
    {_CREDENTIAL_NAME}
    (?: (?(field) (?:\\*["'])? \s*+ ,? \s*+ | (?!) ) | (?(block) " \s*+ \{{ \s*+ | (?!) ) | (?(tag) \s? </\w{{1,9}}> \s*+ | (?!) )
      | (?(option) ["']? ,? \s*+ | (?!) ) | (?(part) ["']? \s*+ | (?!) ) | (?(number) " | (?!) )
      | \s*+ [:=] \s*+ (?P<heredoc> <<[-~]? ["']?\w{{1,40}}["']? ) \s*+ ) $""",
    re.ASCII | re.VERBOSE,
)
# A key of etcd or Consul, before its value.
_KEY_PATH = re.compile(rf"/(?:[\w.-]{{1,80}}/){{0,9}} {_CREDENTIAL_NAME}", re.ASCII | re.VERBOSE)
_LOGIN_LINE = re.compile(
    r"\s*(?:machine\s{1,9}\S{1,253}\s{1,9})?login\s{1,9}\S{1,100}\s*", re.ASCII
)
# What Jenkins prints at its first start.
_FOLLOWING_HINT = r"following\s(?:\w{1,20}\s){0,2}(?:password|token|key|secret)\b"
# Of these the next lines show no secrets.
_ABOUT_SECRETS = "types?|names?|files?|ids?|kinds?|lengths?|counts?|paths?|sizes?|hash(?:es)?"
_FOLLOWING = re.compile(
    rf"(?i:{_FOLLOWING_HINT})(?!\s(?i:{_ABOUT_SECRETS})\b).{{0,60}}:\s*", re.ASCII
)
# Where the line ends, a bracket opens or another name comes: one look at each name for all of them.
_OPENS = (
    rf"""(?:\\*["'])?\s*+(?:,?\s*+$|\{{\s*+$|</\w{{1,9}}>\s*+$|[:=]\s*+<<)"""
    r"""|(?:\\*["'`])?[\])}]{0,2}\s{0,16}[|?+:]{0,2}[=:]>?"""
    r"""(?:(?:\s*+(?:some\()*[\w ]*+[(\[{|>][+-]?0?[+-]?)?\s*+(?:[#/].*)?$|\s*+[\w ]*+[(\[{])"""
    rf"""|["'`*]{{0,3}}\s*(?:[,;\t)]|{_BARS}|\s\s\w)|["'`*]{{0,3}}\s*+$"""
)
OPEN_HINT = (
    rf"""^(?=\s*+\{{|.*"\s*+\{{)(?=.*(?:{_NAME_WORDS}))|=>\sarray\s*$|login\s+\S+\s*$|{_FOLLOWING_HINT}"""
    rf"|(?=[acdhjknopsty])(?:{_NAME_WORDS}|texts?|prompt|transcripts?)(?:{_OPENS})"
)
"""A line on which a list of secrets, or a value of the next line, may begin, in lower case."""


# The head of a block scalar of YAML.
_SCALAR = re.compile(r":\s{1,9}(?:[!&]\S{1,40}\s{1,9})*[|>][+-]?\d?[+-]?\s*(?:#.*)?$", re.ASCII)
QUOTES = "\"'"
MOST_HERE_LINES = 64
"""Most lines that a here-document without an end may take."""
_STAMPED = re.compile(rf"""\s*(?:\[?{_STAMP}[\s\]]|\{{"timestamp":\s?"20\d\d-)""", re.ASCII)
"""A line of a server. It ends a block whose lines bear no time."""
_PARTS_OF_PREFIX = re.compile(r"(?P<number>\d+)|(?P<blank>\s+)|[^\d\s]+", re.ASCII)


def _indent(text: str, begin: int) -> int:
    """Return how far the content of a line is indented; dashes of a list count."""
    return begin - len(text[:begin].rstrip(" \t-"))


_OPENED_BY = (("option", "line"), ("number", "line"), ("part", "part"))


def opened_block(text: str) -> str | None:
    """Return what a line begins that goes on in the next ones, or None.

    `key` and `text` are lists, or values on lines of their own; `value` is the value of the name
    that this line holds, as in the environment of a Kubernetes manifest; `line` is the next line,
    as after an option; `until`, how many lines are left, the last word and a pattern of what stands
    before each line are a here-document; `scalar`, `key` or `text`, the indentation of the name and
    that pattern are a block of YAML; `word` is the next line that holds anything,
    where that is one word; `part` is that line whatever it holds, as in a form; `columns` and more
    are those cells of the rows that follow, see `_opened_columns`.
    """
    begin, end = inner_span(text)
    inner = text[begin:end]
    found = None
    for kind, pattern in _LIST_OPEN.items():
        if pattern.search(text):
            found = kind
    if found and _SCALAR.search(inner):
        return f"scalar {found} {_indent(text, begin)} {_prefix_pattern(text, begin)}"
    if found:
        return found
    if named := _NAME_LINE.search(text):
        if here := named["heredoc"]:
            word = here.lstrip("<-~").strip(QUOTES)
            return f"until {MOST_HERE_LINES} {word} {_prefix_pattern(text, begin)}"
        for group, kind in _OPENED_BY:
            if named[group]:
                return kind
        return "value"
    if _KEY_PATH.fullmatch(inner):
        return "line"
    if (following := _FOLLOWING.search(inner)) and following.end() == len(inner):
        return "word"
    return "value" if _LOGIN_LINE.fullmatch(inner) else _opened_columns(text)


_STRING_ITEM = re.compile(
    rf"""(?: [,\s)\]}}({{\[]*+ (?: (?:\\*["'])?\w{{1,40}}(?:\\*["'])?\s? (?: => | [:=] ) \s? )?? {_WRAPPED} {_QUOTED} )""",
    re.ASCII | re.VERBOSE,
)
_PUNCTUATION = re.compile(
    r"[\s,;)\]}]*(?:(?:#|//|/\*|--).*)?|\s*(?:array(?:\s|\(\d{1,9}\)\s))?[({]\s*"
    r"|\s*\[\d{1,9}\]\s?=>\s*",
    re.ASCII,
)
_YAML_ITEM = re.compile(r"-\s+(?P<bare>[^\s#]\S*)\s*+(?:#.*)?", re.ASCII)
_NUMBERED_ITEM = re.compile(r"\s*\[\d{1,9}\]\s=>\s(?P<bare>.+)", re.ASCII)
# One word alone on a line, with a digit or long; no name of a value that follows.
_BARE_ITEM = re.compile(
    r"(?![A-Za-z_][\w.-]{0,80}=(?!=|,?$)) (?P<bare> (?=\S*\d|\S{12}) [^\s,\[\](){}#:=]\S{2,}[^\s,:;\[(){}\]] ) \s*+,?\s*+(?:\#.*)?",
    re.ASCII | re.VERBOSE,
)
_VALUE_LINE = re.compile(
    rf"""[-+\s]* (?: (?:\\*["'])? (?:[Vv]alue|default) (?:\\*["'])? \s? [:=] \s{{0,3}} | (?P<tag> < (?:string|td|dd) > \s? ) | password \s{{1,9}} )
    (?: {_QUOTED} | (?(tag) (?P<inner> .+? (?= \s* </ ) ) | (?!) ) | (?P<bare> [^\s"'<]\S* (?: [ ] [^\s"'\#]\S* ){{0,40}} ) ) .*""",
    re.ASCII | re.VERBOSE,
)


_WHOLE_LINE = re.compile(
    rf"""[-+\s]* (?: \d{{1,9}}\) \s )? (?: {_QUOTED} | (?P<bare> [^\s"',/-] (?: ,*+ [^\s,] )*+ ) ) [\s,]*""",
    re.ASCII | re.VERBOSE,
)

# Blanks before a bar are counted from the first of them on, once.
_BAR_SEPARATOR = re.compile(r"(?:(?<!\s)\s+)?+[|│┃║]\s*+")
_SEPARATORS = {
    "bar": _BAR_SEPARATOR,
    "tab": re.compile(r"\t"),
    "comma": re.compile(r","),
    "semicolon": re.compile(r";"),
    "blanks": re.compile(r"\s{2,}"),
}
_CELL = re.compile(
    r"""\s*(?:"((?:[^"\\]|""|\\.)*+)"|'((?:[^'\\]|''|\\.)*+)'|(\S(?:.*\S)?)|)\s*""", re.ASCII
)
_TITLE = re.compile(r"""["'`*]{0,2}[A-Za-z_][\w .()/-]{0,60}["'`*]{0,2}""", re.ASCII)
_COPY = re.compile(
    r"COPY\s[^\s(]{1,200}\s\((?P<columns>[^()]{1,4000})\)\sFROM\sstdin;?\s*", re.ASCII
)
_RULE = re.compile(r"[\s|+:=│┃║├┼┤─━═╪╬-]+")
MOST_CELLS = 256


def _opened_columns(text: str) -> str | None:
    """Return which cells of the rows after this line hold secrets, or None where it is not a header.

    A header is a line of names alone, at least one of them that of a secret.
    """
    if copy := _COPY.fullmatch(text):
        return _columns_kind("tab", [name.strip() for name in copy["columns"].split(",")])
    begin, end = inner_span(text)
    for name, separator in _SEPARATORS.items():
        if separator.search(text if name == "bar" else text[begin:end]):
            first = separator.split(text[begin:end], 1)[0] if name != "bar" else ""
            if first and not _TITLE.fullmatch(first.strip(" \"'`*")):
                continue
            cells = [text[start:stop] for start, stop in _cells(name, text)]
            if len(cells) > 1 and all(map(_TITLE.fullmatch, cells)):
                return _columns_kind(name, cells)
    return None


def _columns_kind(name: str, cells: list[str]) -> str | None:
    secret = [str(at) for at, cell in enumerate(cells) if _COLUMN.fullmatch(cell)]
    return f"columns {name} {len(cells)} {','.join(secret)}" if secret else None


def _cells(name: str, text: str) -> list[tuple[int, int]]:
    """Return where the cells of a row stand, without blanks and quotes around them."""
    begin, end = (0, len(text)) if name == "bar" else inner_span(text)
    separator = _SEPARATORS[name]
    found: list[tuple[int, int]] = []
    while begin <= end and len(found) < MOST_CELLS:
        quoted = _QUOTED_CELL.match(text, begin, end) if name != "blanks" else None
        next_one = separator.search(text, quoted.end() if quoted else begin, end)
        stop = next_one.start() if next_one else end
        if cell := _CELL.fullmatch(text, begin, stop):
            found.append(cell.span(cell.lastindex or 0))
        begin = next_one.end() if next_one else end + 1
    if name == "bar":  # Bars around the row make no cells.
        found = [
            span for at, span in enumerate(found) if span[0] < span[1] or 0 < at < len(found) - 1
        ]
    return found


_QUOTED_CELL = re.compile(r"""\s*(?:"(?:[^"\\]|""|\\.)*+"|'(?:[^'\\]|''|\\.)*+')""")
_NO_SECRET = re.compile(rf"(?:{_TYPE_WORD}|\\N|[-—x✓]|)", re.ASCII | re.IGNORECASE)


def _row_edits(kind: str, text: str, pseudonym: Pseudonym) -> list[Edit] | None:
    _, name, count, secret = kind.split(" ")
    if _RULE.fullmatch(text):
        return []
    cells = _cells(name, text)
    if len(cells) != int(count):
        return None
    edits = []
    for at in map(int, secret.split(",")):
        value = text[slice(*cells[at])]
        if not (_NO_SECRET.fullmatch(value) or _NUMBER.fullmatch(value) or _is_harmless(value)):
            edits.append(Edit(*cells[at], pseudonym("key", value)))
    return edits


def block_edits(kind: str, text: str, pseudonym: Pseudonym) -> list[Edit] | None:
    """Return what stands in place of the items in a line of a block, or None where the block
    ended.
    """
    begin, end = inner_span(text)
    if kind.startswith("columns "):
        return _row_edits(kind, text, pseudonym)
    if kind.startswith(("scalar ", "until ")):
        return _whole_line(kind, text, pseudonym)
    edit = {"text": _text}.get(kind, _key)
    if kind in ("part", "word") and begin >= end:
        return []
    if kind == "part":
        if text.startswith("--", begin) or _is_harmless(text[begin:end]):
            return None
        return [Edit(begin, end, pseudonym("key", text[begin:end]))]
    if kind in ("line", "word", "value"):
        pattern = _VALUE_LINE if kind == "value" else _WHOLE_LINE
        found = pattern.fullmatch(text, begin, end)
        return [made] if found and (made := edit(found, pseudonym)) else None
    if text[begin : begin + 1] in (")", "]", "}"):
        return None
    if _PUNCTUATION.fullmatch(text, begin, end):
        return []
    if numbered := _NUMBERED_ITEM.fullmatch(text, begin, end):
        return [made] if (made := edit(numbered, pseudonym)) else []
    if yaml := _YAML_ITEM.fullmatch(text.lstrip() and text, _dash(text, begin), end):
        return [made] if (made := edit(yaml, pseudonym)) else []
    matches = list(_string_items(text, begin, end))
    place = matches[-1].end() if matches else begin
    if matches and _PUNCTUATION.fullmatch(text, place, end):
        return [made for found in matches if (made := edit(found, pseudonym))]
    bare = _BARE_ITEM.fullmatch(text, begin, end)
    if kind == "key" and bare:
        return [made] if (made := edit(bare, pseudonym)) else []
    return None


def _prefix_pattern(text: str, begin: int) -> str:
    """Return a pattern of what stands before the next lines of a block that begins on this line.

    It is what stands before this line with other numbers and blanks, and nothing where this line
    has no prefix: then `#`, `+` and numbers are part of the value.
    """
    prefix = text[:begin].rstrip()
    if not prefix:  # A line of a diff that did not change; the next ones may have.
        return r"[+-](?=\s)" if text.startswith(" ") else ""
    return "".join(
        {"number": r"\d+", "blank": r"\s*" if part.start() == 0 else r"\s+"}.get(
            part.lastgroup or "", re.escape(part[0])
        )
        for part in _PARTS_OF_PREFIX.finditer(prefix)
    )


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _whole_line(kind: str, text: str, pseudonym: Pseudonym) -> list[Edit] | None:
    name, what, until, prefix = kind.split(" ", 3)
    before = _compiled(prefix).match(text)
    if not (before and before.end()) and _STAMPED.match(text):
        return None
    end = len(text.rstrip())
    begin = before.end() if before else 0
    begin += len(text[begin:end]) - len(text[begin:end].lstrip())
    value = text[begin:end]
    if name == "until" and value == until:
        return None
    if begin >= end or _is_harmless(value):
        return []
    if name == "scalar" and _indent(text, begin) <= int(until):
        return None
    return [Edit(begin, end, "<text>" if what == "text" else pseudonym("key", value))]


def next_block(kind: str, edits: list[Edit] | None) -> str | None:
    """Return what the lines after one of a block may hold, by its edits, or None where it ended."""
    if edits is None or kind in ("value", "line") or (kind in ("part", "word") and edits):
        return None
    if kind.startswith("until "):
        _, left, rest = kind.split(" ", 2)
        return f"until {int(left) - 1} {rest}" if int(left) > 1 else None
    return kind


def _dash(text: str, begin: int) -> int:
    """Return where a dash stands that `inner_span` took for a prefix, else `begin`."""
    dash = text.rfind("-", 0, begin)
    return dash if dash >= 0 and not text[dash + 1 : begin].strip() else begin


def _string_items(text: str, begin: int, end: int) -> Iterator[re.Match[str]]:
    while found := _STRING_ITEM.match(text, begin, end):
        yield found
        begin = found.end()
