"""What stands in place of what a rule found, and what found values are harmless."""

from __future__ import annotations

import re
from collections.abc import Callable

from dsmops.logs.disguise import unveil
from dsmops.logs.rules.rule import Edit, Pseudonym

PSEUDONYM = r"(?:<(?:key|ip|email|user):[0-9a-f]{8}>|<text>|<pem>)"

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
NUMBER = re.compile(r"[-+]?\d{1,9}(?:\.\d{1,9})?", re.ASCII)
"""Of such a length it is a count, not a secret."""


def is_harmless(value: str) -> bool:
    """Return whether a value tells nothing, or was replaced before."""
    return bool(_HARMLESS.fullmatch(value) or _DONE.match(value))


def value_of(match: re.Match[str]) -> tuple[str, int, int]:
    """Return the value, which is always the last group that took part, and where it stands."""
    group = match.lastgroup or 0
    return (unveil(match[group]), *match.span(group))


# Words of tokenizers and language models, not of credentials.
_VOCABULARY_TOKEN = re.compile(
    r"(?:.*(?:[-_.]|[a-z0-9](?=[A-Z])))?(?i:text|audio|image|bos|eos|pad|unk|sep|cls|mask|special|start|end|stop|first|last"
    r"|next|prev|initial|zero|new|context|max|num|per)[-_]?(?i:token)",
)


def secret_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace the value of a name, the group `name`, but not what other things with it are."""
    (value, begin, end), name = value_of(match), match["name"] or ""
    if is_harmless(value):
        return None
    if name.lower().endswith("token") and (
        NUMBER.fullmatch(value) or _VOCABULARY_TOKEN.fullmatch(name)
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


def credential_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Keep the scheme, so that `Authorization: Bearer X` and `token=X` show the same pseudonym."""
    value, begin, end = value_of(match)
    value = value.lstrip()
    scheme = found[0] if (found := _SCHEME.match(value)) else ""
    value = value.removeprefix(scheme)
    return None if is_harmless(value) else Edit(begin, end, scheme + pseudonym("key", value))


def text_edit(match: re.Match[str], _: Pseudonym) -> Edit | None:
    """Replace a text to be spoken."""
    value, begin, end = value_of(match)
    return None if is_harmless(value) or NUMBER.fullmatch(value) else Edit(begin, end, "<text>")


def key_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace the value."""
    value, begin, end = value_of(match)
    return None if is_harmless(value) else Edit(begin, end, pseudonym("key", value))


# `$PASSWORD`, `${...}`, `$(...)`; without a digit also in lower case.
_VARIABLE = re.compile(r"\$(?:[({].*|[A-Z_][A-Z0-9_]*|[^\d]*|\d)", re.ASCII | re.DOTALL)
# `%s`, `%-20s`, `%(name)s`, `%{name}`, `%NAME%`.
_FORMAT = re.compile(r"%(?:[\s\d#+.-]*[A-Za-z]|[({].*|\w*%.*|\S{0,5})", re.ASCII | re.DOTALL)


def command_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace what a command takes as its secret; of `user:password` and cookies all of it.

    A shell puts the value of a variable in its place, but not between single quotes: there `$` and
    a text with a digit is a value. One without a digit stays, as people quote variables so too.
    """
    as_it_is = (match.lastgroup or "").endswith("_single")
    return _setting(match, pseudonym, variable=_VARIABLE if as_it_is else _ANY_VARIABLE)


def setting_edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit | None:
    """Replace what a protocol or a file of settings takes as its secret."""
    return _setting(match, pseudonym, variable=_VARIABLE)


_ANY_VARIABLE = re.compile(r"\$.*", re.DOTALL)


def _setting(
    match: re.Match[str], pseudonym: Pseudonym, *, variable: re.Pattern[str]
) -> Edit | None:
    value, begin, end = value_of(match)
    if is_harmless(value) or value.startswith("/"):
        return None
    if variable.fullmatch(value) or _FORMAT.fullmatch(value):
        return None
    return Edit(begin, end, pseudonym("key", value))


def whole_edit(kind: str) -> Callable[[re.Match[str], Pseudonym], Edit]:
    """Return an edit of everything that a pattern matches."""

    def edit(match: re.Match[str], pseudonym: Pseudonym) -> Edit:
        return Edit(*match.span(), pseudonym(kind, unveil(match[0])))

    return edit
