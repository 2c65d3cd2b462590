"""Lists and values of secrets that go on in the lines after their name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from dsmops.logs.rules.edits import is_harmless, key_edit, text_edit
from dsmops.logs.rules.names import (
    BARS,
    BEGIN,
    CREDENTIAL_NAME,
    FOLLOWS,
    NAME_WORDS,
    TEXT_NAME,
)
from dsmops.logs.rules.prefixes import STAMP, inner_span
from dsmops.logs.rules.rule import Edit, Pseudonym, words
from dsmops.logs.rules.tables import opened_columns, row_edits
from dsmops.logs.rules.values import QUOTED, STRING, WRAPPED

OPEN_NEEDLES = words(
    "id key code secret pass kennwort otp auth pwd credential jwt token signature string text prompt"
    " transcript login array"
)
_LIST_KINDS = (("key", CREDENTIAL_NAME), ("text", TEXT_NAME))
_LIST_OPEN = {
    kind: re.compile(
        rf"""{BEGIN} {name} {FOLLOWS} {WRAPPED} (?: (?:[A-Za-z]\w{{0,40}}[ ]?)? [(\[{{] (?: \s* {STRING} \s* , )*+ | [|>][+-]?\d?[+-]? | Array )?
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
    {CREDENTIAL_NAME}
    (?: (?(field) (?:\\*["'])? \s*+ ,? \s*+ | (?!) ) | (?(block) " \s*+ \{{ \s*+ | (?!) ) | (?(tag) \s? </\w{{1,9}}> \s*+ | (?!) )
      | (?(option) ["']? ,? \s*+ | (?!) ) | (?(part) ["']? \s*+ | (?!) ) | (?(number) " | (?!) )
      | \s*+ [:=] \s*+ (?P<heredoc> <<[-~]? ["']?\w{{1,40}}["']? ) \s*+ ) $""",
    re.ASCII | re.VERBOSE,
)
# A key of etcd or Consul, before its value.
_KEY_PATH = re.compile(rf"/(?:[\w.-]{{1,80}}/){{0,9}} {CREDENTIAL_NAME}", re.ASCII | re.VERBOSE)
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
    rf"""|["'`*]{{0,3}}\s*(?:[,;\t)]|{BARS}|\s\s\w)|["'`*]{{0,3}}\s*+$"""
)
OPEN_HINT = (
    rf"""^(?=\s*+\{{|.*"\s*+\{{)(?=.*(?:{NAME_WORDS}))|=>\sarray\s*$|login\s+\S+\s*$|{_FOLLOWING_HINT}"""
    rf"|(?=[acdhjknopsty])(?:{NAME_WORDS}|texts?|prompt|transcripts?)(?:{_OPENS})"
)
"""A line on which a list of secrets, or a value of the next line, may begin, in lower case."""


# The head of a block scalar of YAML.
_SCALAR = re.compile(r":\s{1,9}(?:[!&]\S{1,40}\s{1,9})*[|>][+-]?\d?[+-]?\s*(?:#.*)?$", re.ASCII)
QUOTES = "\"'"
MOST_HERE_LINES = 64
"""Most lines that a here-document without an end may take."""
_STAMPED = re.compile(rf"""\s*(?:\[?{STAMP}[\s\]]|\{{"timestamp":\s?"20\d\d-)""", re.ASCII)
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
    are those cells of the rows that follow, see `tables`.
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
    return "value" if _LOGIN_LINE.fullmatch(inner) else opened_columns(text)


_STRING_ITEM = re.compile(
    rf"""(?: [,\s)\]}}({{\[]*+ (?: (?:\\*["'])?\w{{1,40}}(?:\\*["'])?\s? (?: => | [:=] ) \s? )?? {WRAPPED} {QUOTED} )""",
    re.ASCII | re.VERBOSE,
)
_PUNCTUATION = re.compile(
    r"[\s,;)\]}]*(?:(?:#|//|/\*|--).*)?|\s*(?:array(?:\s|\(\d{1,9}\)\s))?[({]\s*"
    r"|\s*\[\d{1,9}\]\s?=>\s*",
    re.ASCII,
)
_LINE_NUMBER = re.compile(r"\d{1,6}:")
_YAML_ITEM = re.compile(r"-\s+(?P<bare>[^\s#]\S*)\s*+(?:#.*)?", re.ASCII)
_NUMBERED_ITEM = re.compile(r"\s*\[\d{1,9}\]\s=>\s(?P<bare>.+)", re.ASCII)
# One word alone on a line, with a digit or long; no name of a value that follows.
_BARE_ITEM = re.compile(
    r"(?![A-Za-z_][\w.-]{0,80}=(?!=|,?$)) (?P<bare> (?=\S*\d|\S{12}) [^\s,\[\](){}#:=]\S{2,}[^\s,:;\[(){}\]] ) \s*+,?\s*+(?:\#.*)?",
    re.ASCII | re.VERBOSE,
)
_VALUE_LINE = re.compile(
    rf"""[-+\s]* (?: (?:\\*["'])? (?:[Vv]alue|default) (?:\\*["'])? \s? [:=] \s{{0,3}} | (?P<tag> < (?:string|td|dd) > \s? ) | password \s{{1,9}} )
    (?: {QUOTED} | (?(tag) (?P<inner> .+? (?= \s* </ ) ) | (?!) ) | (?P<bare> [^\s"'<]\S* (?: [ ] [^\s"'\#]\S* ){{0,40}} ) ) .*""",
    re.ASCII | re.VERBOSE,
)


_WHOLE_LINE = re.compile(
    rf"""[-+\s]* (?: \d{{1,9}}\) \s )? (?: {QUOTED} | (?P<bare> [^\s"',/-] (?: ,*+ [^\s,] )*+ ) ) [\s,]*""",
    re.ASCII | re.VERBOSE,
)


def block_edits(kind: str, text: str, pseudonym: Pseudonym) -> list[Edit] | None:
    """Return what stands in place of the items in a line of a block, or None where the block
    ended.
    """
    begin, end = inner_span(text)
    if kind.startswith("columns "):
        return row_edits(kind, text, pseudonym)
    if kind.startswith(("scalar ", "until ")):
        return _whole_line(kind, text, pseudonym)
    edit = {"text": text_edit}.get(kind, key_edit)
    if kind in ("part", "word") and begin >= end:
        return []
    if kind == "part":
        if text.startswith("--", begin) or is_harmless(text[begin:end]):
            return None
        return [Edit(begin, end, pseudonym("key", text[begin:end]))]
    # `987654:secret` after `token:`: what `grep -n` would write is hidden with the secret.
    starts = (0, begin) if _LINE_NUMBER.fullmatch(text, 0, begin) else (begin,)
    if kind in ("line", "word", "value"):
        pattern = _VALUE_LINE if kind == "value" else _WHOLE_LINE
        found = _first_match(pattern, text, starts, end)
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
    bare = _first_match(_BARE_ITEM, text, starts, end) if kind == "key" else None
    if bare:
        return [made] if (made := edit(bare, pseudonym)) else []
    return None


def _first_match(
    pattern: re.Pattern[str], text: str, starts: tuple[int, ...], end: int
) -> re.Match[str] | None:
    """Return the match of a whole line from the first place at which there is one."""
    return next(filter(None, (pattern.fullmatch(text, start, end) for start in starts)), None)


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
    if begin >= end or is_harmless(value):
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
