"""What a line says once nothing disguises it, with a map back to the characters of the line.

Terminal escape sequences, invisible characters, and the escapes of JSON, URLs, HTML and syslog
stand inside names and values, and hide them from patterns. A `View` is the line without them. A
finding in a view is replaced in the line itself, so everything around it stays as it was.

Sources: ECMA-48 5.4 and 8.3 (escape sequences), xterm "Control Sequences" (OSC), Unicode 16 general
category Cf, RFC 3986 2.1 (percent), HTML 13.5 (named references), rsyslog
`escapeControlCharacters`.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from itertools import islice
from typing import NamedTuple

_ROUNDS = 4
"""Deepest nesting that is resolved: an escape sequence, spelled in JSON, in a URL, in a URL."""
_SHORT_CHARS, _MOST_KNOWN = 16, 4096

_INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef"
)
"""Format characters (Cf), joiners, fillers and variation selectors: all invisible."""
_BLANK = "\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_FULL_WIDTH = "\uff01-\uff5e"
_CONTROLS = r"\x00-\x08\x0a-\x1f\x7f-\x9f"

ESCAPE_SEQUENCE = (
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI, whatever its final byte
    # OSC, DCS, ...: a string ends at the latest where another begins, else each start of a line
    # full of them would look at all that follows.
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]"  # character sets, single functions
)
_LESS = r"\x1b\[7mESC\x1b\[27m\[[0-9;]*[mK]"
"""What `less` makes of a colour: the letters ESC, in reverse."""
_ORPHAN = (
    r"(?<!\\x1[bB])(?<!u001[bB])(?<!0001[bB])(?<!033)(?<!\\e)(?<!\^\[)(?<!1[bB]\})(?<!%1[bB])"
    r"(?<!\#27;)(?<!1[bB];)(?<!\u241b)(?<!\x1b)(?:ESC)?\[[0-9;]{1,12}m|ESC\[[0-9;]{0,12}[mK]"
)
"""A colour that lost its escape when it was copied, and no spelled escape before it."""
_STRING_START = r"\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f]"

_ENTITIES = {
    "quot": '"', "amp": "&", "apos": "'", "lt": "<", "gt": ">", "nbsp": " ", "colon": ":",
    "equals": "=", "num": "#", "commat": "@", "percnt": "%", "sol": "/", "bsol": "\\",
    "lpar": "(", "rpar": ")", "lsqb": "[", "rsqb": "]", "lcub": "{", "rcub": "}", "comma": ",",
    "semi": ";", "period": ".", "lowbar": "_", "hyphen": "-", "quest": "?", "Tab": " ",
    "NewLine": " ", "shy": "", "zwnj": "", "zwj": "", "ZeroWidthSpace": "",
}  # fmt: skip

_ENCODED = (
    r"(?P<high>(?:\\x[89a-fA-F][0-9a-fA-F]|%[89a-fA-F][0-9a-fA-F])+)"  # bytes of UTF-8, spelled
    r"|\\x(?P<hex>[0-9a-fA-F]{2})|\\u(?P<u4>[0-9a-fA-F]{4})|\\u\{(?P<ux>[0-9a-fA-F]{1,6})\}"
    r"|\\U(?P<u8>[0-9a-fA-F]{8})|%(?P<percent>[0-9a-fA-F]{2})"
    r"|(?:\\|\#)(?P<octal>[01][0-7]{2})|(?P<esc>\\e|\^\[|\u241b)|\\(?P<space>[nrt])"
    # A run of backslashes before a quote tells how deep the quote lies: it stays.
    r"|\\(?P<same>/|\\(?!\\{0,32}[\"']))"
    r"|&(?:\#(?P<dec>\d{1,7})|\#[xX](?P<hexref>[0-9a-fA-F]{1,6})"
    rf"|(?P<entity>{'|'.join(_ENTITIES)}));"
)
_BYTES = r"(?P<bytes>(?<=\[)(?:\s?\d{1,3}\s?,){7,}\s?\d{1,3}(?=\s?\]))"
"""A message in the JSON of journald that is not valid text, or has colours."""
_DOUBLED = (
    r"(?P<doubled>(?<=[\[{,:(=\s])\"\"(?=[^\s\",:}\])=])|(?<=[^\s\",:{\[(=])\"\"(?=\s?[:,}\])=]))"
)
"""A quote of JSON within CSV. An empty string has other neighbours."""
# Most characters begin no token, and to see that at once takes a fifth of the time. What a
# backspace wipes out and the bytes of journald may begin with any.
_FIRST = (
    rf"(?=[{_CONTROLS}{_INVISIBLE}{_BLANK}{_FULL_WIDTH}\u241b\\%&#^\"E\[]"
    r"|[^\x08]\x08|(?<=\[)[\s\d])"
)
TOKEN = re.compile(
    rf"{_FIRST}(?:(?P<gone>(?:{_LESS}|{ESCAPE_SEQUENCE}|{_ORPHAN}|[^\x08]\x08|[{_CONTROLS}{_INVISIBLE}]"
    r"|\\x0[0-8bcefBCEF]|\\x1[0-9ac-fAC-F]|\\x7[fF])+)"
    rf"|{_ENCODED}|{_BYTES}|{_DOUBLED}"
    rf"|(?P<blank>[{_BLANK}])|(?P<wide>[{_FULL_WIDTH}]))"
)
PAYLOAD_TOKEN = re.compile(rf"(?P<edge>{_STRING_START}|\x07|\x1b\\|\x9c)|{TOKEN.pattern}")
"""As `TOKEN`, but what a string sequence holds (the target of a link) stays as text of its own."""

# A carriage return or the start of a string sequence, or either as an escape of any kind spells it.
_MORE_VIEWS = re.compile(
    rf"{_STRING_START}|\r|0[dD]|\\r|\#015|\\015|&\#13;|(?:1[bB]|33|\\e|\^\[|\u241b|27[;,])[\]PX^_,]"
)

DISGUISED = re.compile(
    rf"[{_CONTROLS}{_INVISIBLE}{_BLANK}{_FULL_WIDTH}\u241b]"
    r"|\"\"|\\(?:[xuU\\/nrte]|[0-3]\d\d)|%[0-9a-fA-F]{2}|\#\d\d\d|\^\[|&\#?\w{1,14};"
    r"|\[\s?\d{1,3}\s?,\s?\d{1,3}\s?,\s?\d|\[[0-9;]{1,12}m|ESC\["
)
"""Whether a line has anything to see through. Digits may all read 0."""
_SIGNS = (*"\\%#^&[", '""')
"""What a disguise of printable ASCII characters has in it."""

MESSAGE = re.compile(
    r'[{,]\s?"(?:(?:log|message|msg|MESSAGE)|(?P<other>line|text))"\s?(?::|=>)\s?"(?P<inner>(?:[^"\\]|\\.)*+)'
)
CSV_CELL = re.compile(r'(?:^|,)"(?P<inner>\{(?:[^"]|"")*+)')
"""Where the line of another program stands in JSON, and JSON in a cell of CSV."""
MOST_WITHIN = 16
"""Lines of other programs that are looked at in one line."""
JSON_TOKEN = re.compile(
    r'\\(?:(?P<same>["\\/])|u(?P<u4>[0-9a-fA-F]{4})|(?P<tab>t)|(?P<space>[nrbf]))'
)
CSV_TOKEN = re.compile(r'"(?P<same>")')


class _Piece(NamedTuple):
    """A stretch of a view and where it came from. Lengths are equal where it was copied."""

    begin: int
    end: int
    source_begin: int
    source_end: int

    def source(self, begin: int, end: int) -> tuple[int, int]:
        """Return where the characters from `begin` up to `end` of the view came from."""
        if self.end - self.begin != self.source_end - self.source_begin:
            return self.source_begin, self.source_end
        offset = self.source_begin - self.begin
        return max(begin, self.begin) + offset, min(end, self.end) + offset


class View:
    """The text of a line without its disguise.

    Where its characters came from is worked out when something is found in it: most views hold
    nothing.
    """

    def __init__(
        self,
        text: str,
        pieces: Callable[[], list[_Piece]],
        *,
        in_order: bool = True,
        is_line: bool = False,
    ) -> None:
        """`is_line`: it is the line itself."""
        self.text, self.is_line = text, is_line
        self._make_pieces = pieces
        self._in_order = in_order

    @cached_property
    def _pieces(self) -> list[_Piece]:
        return self._make_pieces()

    @cached_property
    def _ends(self) -> list[int]:
        return [piece.end for piece in self._pieces]

    def spans(self, begin: int, end: int) -> list[tuple[int, int]]:
        """Return the stretches of the line behind `text[begin:end]`, in the order of the line.

        What was removed between two neighbours belongs to the stretch. There are several only
        where one text was written over another.
        """
        found: list[tuple[int, int]] = []
        at = bisect_right(self._ends, begin)  # The first piece that ends after `begin`.
        while at < len(self._pieces) and (piece := self._pieces[at]).begin < end:
            at += 1
            span = piece.source(begin, end)
            if found and span[0] >= found[-1][1] and (self._in_order or span[0] == found[-1][1]):
                found[-1] = (found[-1][0], span[1])
            else:
                found.append(span)
        return sorted(found)

    def source_edits(self, edits: Iterable[tuple[int, int, str]]) -> Iterator[tuple[int, int, str]]:
        """Yield edits of this view as edits of the line."""
        for begin, end, text in edits:
            for place, (start, stop) in enumerate(self.spans(begin, end)):
                yield start, stop, "" if place else text


def is_disguised(text: str) -> bool:
    """Return whether a line has anything to see through. Its digits may all read 0."""
    if text.isascii() and text.isprintable():
        # Most lines hold none of these signs, and to look for one is fast.
        for sign in _SIGNS:
            if sign in text:
                return DISGUISED.search(text) is not None
        return False
    return DISGUISED.search(text) is not None


def unveil(text: str) -> str:
    """Return `text` without its disguise, carriage returns read as blanks."""
    for _ in range(_ROUNDS):
        if not is_disguised(text):
            break
        text = TOKEN.sub(_BARE, text)
    return text


def has_more_views(text: str) -> bool:
    """Return whether a line has other views than the one that `unveil` returns."""
    return bool(_MORE_VIEWS.search(text))


def views(text: str) -> Iterator[View]:
    """Yield the views of a line that differ from it: bare, and as a terminal shows it."""
    if not is_disguised(text):
        return
    seen = {text}
    for make in _VIEWS if has_more_views(text) else _VIEWS[:1]:
        view = make(text)
        if view.text not in seen:
            seen.add(view.text)
            yield view


def lines_within(text: str) -> Iterator[View]:
    """Yield the lines of other programs that a line holds in JSON, or in JSON in cells of CSV.

    A message comes before what may be a number of a line. Where one is disguised, it comes first
    without its disguise.
    """
    if "{" in text:
        for view in islice(_innermost(_whole(text), _ROUNDS), MOST_WITHIN):
            bare = _resolved(view, _BARE)
            if bare is not view:
                yield bare
            yield view


def _innermost(view: View, rounds: int) -> Iterator[View]:
    within = list(_lines_within(view)) if rounds else []
    for inner in within:
        yield from _innermost(inner, rounds - 1)
    if not (within or view.is_line):
        yield view


def _lines_within(view: View) -> Iterator[View]:
    text = view.text
    if '"{""' in text:
        reading, found = _OF_CSV, list(islice(CSV_CELL.finditer(text), MOST_WITHIN))
    else:
        found = []
    if not found and "{" in text:
        reading = _OF_JSON
        found = list(islice(MESSAGE.finditer(text, text.index("{")), MOST_WITHIN))
        found.sort(key=lambda match: match["other"] is not None)
    for match in found:
        begin, end = match.span("inner")
        inner = reading.token.sub(reading, text[begin:end]).rstrip()
        yield View(inner, partial(_pieces_of, view, reading, begin, end))


class _Reading:
    """A way to read tokens: each as its meaning, or as `keep` where it holds that."""

    def __init__(self, token: re.Pattern[str], keep: str = "") -> None:
        self.token, self._keep = token, keep
        self._known: dict[str, str] = {}
        """What stands in place of short tokens: the characters of a line are few."""

    def __call__(self, match: re.Match[str]) -> str:
        found = match[0]
        instead = self._known.get(found)
        if instead is None:
            is_kept = match.lastgroup == "gone" and self._keep and self._keep in found
            instead = self._keep if is_kept else meaning(match)
            if len(found) <= _SHORT_CHARS and len(self._known) < _MOST_KNOWN:
                self._known[found] = instead
        return instead


def _whole(text: str) -> View:
    return View(text, lambda: [_Piece(0, len(text), 0, len(text))], is_line=True)


def _resolved(view: View, reading: _Reading) -> View:
    for _ in range(_ROUNDS):
        if not is_disguised(view.text):
            break
        shown = reading.token.sub(reading, view.text)
        if shown == view.text:
            break
        view = View(shown, partial(_pieces_of, view, reading))
    return view


def _pieces_of(
    before: View, reading: _Reading, begin: int = 0, end: int | None = None
) -> list[_Piece]:
    """Return the pieces of the view that `before`, or a part of it, is without its tokens."""
    pieces: list[_Piece] = []
    length, done = 0, begin
    end = len(before.text) if end is None else end
    for match in reading.token.finditer(before.text, begin, end):
        start, stop = match.span()
        instead = reading(match)
        if instead == match[0]:
            continue
        if start > done:
            pieces.append(_Piece(length, length + start - done, done, start))
            length += start - done
        if match.lastgroup == "bytes":
            for number in re.finditer(r"\d+", match[0]):
                first, last = number.span()
                pieces.append(_Piece(length, length + 1, start + first, start + last))
                length += 1
        elif instead:
            pieces.append(_Piece(length, length + len(instead), start, stop))
            length += len(instead)
        done = stop
    if done < end:
        pieces.append(_Piece(length, length + end - done, done, end))
    return _composed(pieces, before)


def _composed(pieces: list[_Piece], before: View) -> list[_Piece]:
    """Return pieces of a view of `before` as pieces of the line that `before` is a view of."""
    if before.is_line:
        return pieces
    out: list[_Piece] = []
    below, at = before._pieces, bisect_right(before._ends, pieces[0].source_begin) if pieces else 0
    for piece in pieces:
        while below[at].end <= piece.source_begin:
            at += 1
        if piece.end - piece.begin != piece.source_end - piece.source_begin:
            spans = before.spans(piece.source_begin, piece.source_end)
            out.append(_Piece(piece.begin, piece.end, spans[0][0], spans[-1][1]))
            continue
        shift, number = piece.begin - piece.source_begin, at
        while number < len(below) and below[number].begin < piece.source_end:
            begin = max(below[number].begin, piece.source_begin)
            end = min(below[number].end, piece.source_end)
            out.append(_Piece(begin + shift, end + shift, *below[number].source(begin, end)))
            number += 1
    return out


def meaning(match: re.Match[str]) -> str:
    """Return what a token stands for."""
    kind, found = match.lastgroup or "", match[0]
    value = match[kind]
    if kind == "gone":
        # What a carriage return separates are two texts.
        return " " if "\r" in found or "\n" in found else ""
    if kind in ("blank", "space", "edge"):
        return " "
    if kind == "wide":
        return unicodedata.normalize("NFKC", found)
    if kind == "high":
        data = bytes.fromhex(found.replace("\\x", "").replace("%", ""))
        return data.decode("utf-8", "ignore")
    if kind == "doubled":
        return '"'
    if kind == "tab":
        return "\t"
    if kind == "esc":
        return "\x1b"
    if kind == "same":
        return value
    if kind == "entity":
        return _ENTITIES[value]
    if kind == "bytes":
        return "".join(chr(int(number) % 256) for number in value.split(","))
    code = int(value, {"dec": 10, "octal": 8}.get(kind, 16))
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


def _overprint(view: View) -> View:
    """Return the text that a terminal shows in the end.

    Each text after a carriage return covers the one before.
    """
    bounds, begin = [], 0
    for part in view.text.split("\r"):
        bounds.append((begin, begin + len(part)))
        begin += len(part) + 1
    text, pieces = "", []
    for start, stop in reversed(bounds):
        covered = start + len(text)
        if covered < stop:
            pieces.append(_Piece(len(text), len(text) + stop - covered, covered, stop))
            text += view.text[covered:stop]

    def composed() -> list[_Piece]:
        return [part for piece in pieces for part in _composed([piece], view)]

    return View(text, composed, in_order=False)


_BARE = _Reading(TOKEN)
_PAYLOAD = _Reading(PAYLOAD_TOKEN)
_PRINTED = _Reading(TOKEN, keep="\r")
_OF_JSON = _Reading(JSON_TOKEN)
_OF_CSV = _Reading(CSV_TOKEN)
_VIEWS: tuple[Callable[[str], View], ...] = (
    lambda text: _resolved(_whole(text), _BARE),
    lambda text: _resolved(_whole(text), _PAYLOAD),
    lambda text: _overprint(_resolved(_whole(text), _PRINTED)),
)
"""Bare; with what string sequences hold; and as a terminal shows it."""
