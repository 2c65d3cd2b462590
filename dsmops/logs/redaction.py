"""Redaction: replace secrets and personal data by keyed pseudonyms.

So one caller stays one caller.

Nothing is promised about free text that no rule describes. What a rule finds is gone: a pseudonym
is an HMAC under a key that stays with the operator, and texts to be spoken are dropped altogether.

Lines of a server log are few texts with other numbers in them. So a line is first looked at with
its digits read as 0, its shape: which rules may find something in it is asked once for each shape
(see the hints in `rules`), and a block is judged by the few shapes it holds. Only a line with
escapes, invisible or encoded characters in it is looked at without its disguise, each time.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import chain
from secrets import token_bytes
from typing import NamedTuple, TypeVar

from dsmops.logs.blocks import cut_blocks, few_lines, read_chunks
from dsmops.logs.disguise import (
    MOST_WITHIN,
    View,
    has_more_views,
    is_disguised,
    lines_within,
    unveil,
    views,
)
from dsmops.logs.plain_text import without_colours
from dsmops.logs.rules import RULES
from dsmops.logs.rules.multiline import (
    OPEN_HINT,
    OPEN_NEEDLES,
    block_edits,
    next_block,
    opened_block,
)
from dsmops.logs.rules.pem import PEM_LINES, opens_pem, pem_edits
from dsmops.logs.rules.rule import Edit, Pseudonym, Rule

K = TypeVar("K", str, bytes)
V = TypeVar("V")

MIN_VALUE_CHARS = 8
"""A shorter key in a log may be a word, and stand elsewhere as such."""

_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"0" * 9)
_OPEN_HINT = re.compile(OPEN_HINT.encode())


def _as_latin(text: str) -> str:
    """Return the UTF-8 bytes of a text as one character each."""
    return text.encode().decode("latin-1")


_RULES_BY_NEEDLE = {
    _as_latin(needle): sum(1 << place for place, rule in enumerate(RULES) if needle in rule.needles)
    for needle in dict.fromkeys(needle for rule in RULES for needle in rule.needles)
}
"""Each needle once, with the rules that it belongs to, one bit for each. To look for a text in a
text is 6 times faster than for bytes in bytes."""
_RULES_WITHOUT_NEEDLE = sum(1 << place for place, rule in enumerate(RULES) if not rule.needles)
_OPEN_NEEDLES = [*map(_as_latin, OPEN_NEEDLES)]
SECRET_RULES = frozenset({"aws", "cookie", "authorization", "key", "jwt", "token", "pem"})
"""Rules whose findings give access to something. The others find people and what they said."""
WITHIN = "within "
"""Begins the kind of a block that a line within a line opened, see `disguise.lines_within`."""
MOST_PASSES = 8
_FEW_KEYS = 32
_MOST_KEPT, _LONGEST_KEPT, _MOST_LONG = 4096, 1000, 4
"""Entries of a cache, and the length of a line in one: caches stay small on any log. The
last is how many longer shapes are kept."""


def shape_of(text: bytes) -> bytes:
    """Return `text` with all digits as 0."""
    return text.translate(_DIGITS_TO_0)


def has_hints(text: str) -> bool:
    """Return whether any rule may find something in lines like this one, whatever their digits."""
    shape = _shape(text)
    return next(_rules_of(shape), None) is not None or _may_open(shape) or _is_disguised(shape)


def _shape(text: str) -> bytes:
    return shape_of(text.encode("utf-8", "surrogateescape"))


def _is_disguised(shape: bytes) -> bool:
    return is_disguised(shape.decode("utf-8", "surrogateescape"))


def _rules_of(shape: bytes) -> Iterator[Rule]:
    """Yield the rules that may find something in lines of a shape."""
    lower = shape.lower().decode("latin-1")
    likely = _RULES_WITHOUT_NEEDLE
    for needle, rules in _RULES_BY_NEEDLE.items():
        if needle in lower:
            likely |= rules
    for rule in _rules_by_bits(likely):
        if rule.hint_pattern.search(shape):
            yield rule


@lru_cache(maxsize=_MOST_KEPT)
def _rules_by_bits(bits: int) -> tuple[Rule, ...]:
    return tuple(rule for place, rule in enumerate(RULES) if bits >> place & 1)


def _may_open(shape: bytes) -> bool:
    """Return whether a list or a value of several lines may begin on lines of a shape."""
    lower = shape.lower().decode("latin-1")
    for needle in _OPEN_NEEDLES:
        if needle in lower:
            return _OPEN_HINT.search(lower.encode("latin-1")) is not None
    return False


@dataclass(frozen=True, slots=True)
class Redacted:
    """The content without what the rules found, and how often each rule hit. Never the values."""

    data: bytes
    counts: dict[str, int]


class _Looks(NamedTuple):
    """What lines of a shape may hold: values that rules find, the start of a block, a disguise."""

    rules: tuple[Rule, ...]
    may_open: bool
    disguised: bool

    @property
    def loud_undisguised(self) -> bool:
        return bool(self.rules) or self.may_open

    @property
    def loud(self) -> bool:
        return self.loud_undisguised or self.disguised


class _Known(NamedTuple):
    """What became of a line: its text, the rules that hit, and what it begins for later lines."""

    shown: str
    hits: tuple[str, ...]
    opens_pem: bool
    opens: str | None


class Redactor:
    """Redacts line after line of one text; `counts` grows by rule.

    Lines come in order: a PEM block or a list may go on in the lines after.
    """

    def __init__(self, key: bytes, only: frozenset[str] | None = None) -> None:
        """`only` names the rules that apply; None is all of them."""
        self._only = only
        self.counts: Counter[str] = Counter()
        self._key = key
        self._looks_by_shape: dict[bytes, _Looks] = {}
        self._long_looks: dict[bytes, _Looks] = {}
        """Of the last few shapes that are too long for the others."""
        self._known: dict[str, _Known] = {}
        self._long: tuple[str, str, Counter[str]] | None = None
        """The last long line outside of blocks, what became of it, and its hits."""
        self._blocks: deque[tuple[bytes, bytes, Counter[str]]] = deque(maxlen=2)
        """The last blocks of lines, what became of them, and their hits."""
        self._pem_lines_left = 0
        self._open_block: str | None = None
        """What a list or value that has not ended holds, see `opened_block`."""

    def fresh(self) -> Redactor:
        """Return a redactor with the same key that has seen nothing."""
        return Redactor(self._key, self._only)

    @property
    def inside_block(self) -> bool:
        """Whether a PEM block or a list is open, so that the next line may be part of it."""
        return self._pem_lines_left > 0 or self._open_block is not None

    def line(self, text: str) -> str:
        """Return one line, without its ending, redacted. Redacting the result changes nothing."""
        if self._pem_lines_left:
            text = self._inside_pem(text)
        if self._open_block:
            text = self._inside_block(text, self._open_block)
        return self._outside(text)

    def part(self, text: str) -> str:
        """Return the file or the spans of a line that bears a stamp redacted."""
        return self._outside(text)

    def message(self, text: str) -> str:
        """Return the message of a line that bears a stamp redacted.

        It may begin a PEM block or a list, and be part of a PEM block, never of a list.
        """
        return self._outside(self._inside_pem(text) if self._pem_lines_left else text)

    def leaves(self, text: str) -> bool:
        """Return whether a message outside of blocks stays as it is, and begins no block."""
        known = self._known_text(text)
        return known is None or known == _Known(text, (), opens_pem=False, opens=None)

    def block(self, block: bytes) -> bytes:
        """Return whole lines redacted, each shape of line looked at once. Blocks come in order."""
        return b"".join(map(self._block_or_repeat, few_lines(block)))

    def _block_or_repeat(self, block: bytes) -> bytes:
        if self.inside_block:
            return self._block(block)
        # What repeats for gigabytes, as in a bomb, is looked at once.
        for same, shown, hits in self._blocks:
            if same == block:
                self.counts.update(hits)
                return shown
        before, self.counts = self.counts, Counter()
        shown = self._block(block)
        before, self.counts = self.counts, before + self.counts
        if not self.inside_block:
            self._blocks.append((block, shown, before))
        return shown

    def _block(self, block: bytes) -> bytes:
        shapes = shape_of(
            without_colours(block.decode("latin-1")).encode("latin-1")
            if b"\x1b" in block
            else block
        ).split(b"\n")
        loud = {shape for shape in set(shapes) if self.looks(shape).loud}
        if not loud and not self.inside_block:
            return block
        lines = block.split(b"\n")
        if not lines[-1]:  # After the last line end there is not another line.
            shapes.pop()
        for index, shape in enumerate(shapes):
            if shape in loud or self.inside_block:
                text = lines[index].decode("utf-8", "surrogateescape")
                ending = "\r" if text.endswith("\r") else ""
                shown = self.line(text.removesuffix("\r")) + ending
                if shown != text:
                    lines[index] = shown.encode("utf-8", "surrogateescape")
        return b"\n".join(lines)

    def looks(self, shape: bytes) -> _Looks:
        """Return what lines of a shape may hold; for most shapes nothing."""
        known = self._looks_by_shape if len(shape) <= _LONGEST_KEPT else self._long_looks
        looks = known.get(shape)
        if looks is None:
            looks = _Looks(
                tuple(
                    rule
                    for rule in _rules_of(shape)
                    if self._only is None or rule.name in self._only
                ),
                b"----" in shape or _may_open(shape),
                _is_disguised(shape),
            )
            if len(known) >= (_MOST_KEPT if known is self._looks_by_shape else _MOST_LONG):
                known.clear()
            known[shape] = looks
        return looks

    def _outside(self, text: str) -> str:
        if len(text) <= _LONGEST_KEPT:
            return self._redacted(text)
        # Of what repeats for megabytes, as in a hole of a file, each line is looked at once.
        if self._long is None or text != self._long[0]:
            before, self.counts = self.counts, Counter()
            shown = self._redacted(text)
            before, self.counts = self.counts, before + self.counts
            self._long = None if self.inside_block else (text, shown, before)
            return shown
        self.counts.update(self._long[2])
        return self._long[1]

    def _redacted(self, text: str) -> str:
        known = self._known_text(text)
        if known is None:
            return text
        if known.opens_pem:
            self._pem_lines_left = PEM_LINES
        if known.opens:
            self._open_block = known.opens
        if known.hits:
            self.counts.update(known.hits)
        return known.shown

    def _known_text(self, text: str) -> _Known | None:
        """Return what becomes of a text outside of blocks, None where no rule looks at it."""
        # Callers come back, and with them the same words.
        known = self._known.get(text)
        if known is None:
            looks = self.looks(_shape(text))
            if not looks.loud:
                return None
            known = self._look_at(text, looks)
            _remember(self._known, text, known)
        return known

    def _look_at(self, text: str, looks: _Looks) -> _Known:
        plain = unveil(text) if looks.disguised else text
        within = list(lines_within(text))
        if (
            looks.disguised
            and not looks.rules
            and not self.looks(_shape(plain)).loud_undisguised
            and not any(self.looks(_shape(view.text)).loud_undisguised for view in within)
            and not has_more_views(text)
        ):
            return _Known(text, (), opens_pem=False, opens=None)
        inner = self._opened_block(within[0].text) if within else None
        may_open = looks.may_open or (plain is not text and self.looks(_shape(plain)).may_open)
        opens = WITHIN + inner if inner else opened_block(plain) if may_open else None
        shown, hits = self._apply(text, disguised=looks.disguised)
        return _Known(shown, tuple(hits), opens_pem=may_open and opens_pem(plain), opens=opens)

    def _opened_block(self, text: str) -> str | None:
        return opened_block(text) if self.looks(_shape(text)).may_open else None

    def _apply(self, text: str, *, disguised: bool) -> tuple[str, list[str]]:
        """Return a text redacted, and the name of the rule for each hit.

        A replacement may uncover another value, so it is done over until nothing is found; that
        also makes it idempotent. A key that one place of the line announces is replaced in all its
        places.
        """
        hits: list[str] = []
        keys: dict[str, str] = {}

        def pseudonym(kind: str, value: str) -> str:
            shown = self._pseudonym(kind, value)
            if kind == "key" and len(value) >= MIN_VALUE_CHARS:
                keys[value] = shown
            return shown

        seen = _Views(text, disguised=disguised)
        for _ in range(MOST_PASSES):
            before = len(hits)
            # The view without disguise comes first: there a value has its own pseudonym.
            number = 0
            if seen.line != text:
                seen = _Views(text, disguised=disguised)
            while view := seen.get(number):
                for rule in self.looks(_shape(view.text)).rules:
                    edits = list(_edits(rule, view.text, pseudonym))
                    if not edits:
                        continue
                    text = _edited(text, edits, view)
                    hits += [rule.name] * len(edits)
                    seen = _Views(text, disguised=disguised)
                    if (view_now := seen.get(number)) is None:
                        break
                    view = view_now
                number += 1
            for rule in self.looks(_shape(text)).rules:
                edits = list(_edits(rule, text, pseudonym))
                text = _edited(text, edits)
                hits += [rule.name] * len(edits)
            if len(hits) == before:
                break
        text, count = _with_pseudonyms(text, keys)
        return text, hits + ["key"] * count

    def _inside_pem(self, text: str) -> str:
        self._pem_lines_left -= 1
        is_part = ended = False
        for _ in range(MOST_WITHIN):
            view, edits, ended = _part_of_pem(text)
            text, is_part = _edited(text, edits, view), is_part or bool(edits)
            if ended or not edits:
                break
        if ended:
            self._pem_lines_left = 0
        elif not is_part:  # Another line of the log came between.
            self._pem_lines_left += 1
        return text

    def _inside_block(self, text: str, kind: str) -> str:
        # What a collector holds in JSON goes on in JSON; other lines are whole lines.
        is_within, kind = kind.startswith(WITHIN), kind.removeprefix(WITHIN)
        view = next(chain(lines_within(text) if is_within else (), views(text)), None)
        edits = block_edits(kind, view.text if view else text, self._pseudonym)
        following = next_block(kind, edits)
        self._open_block = WITHIN + following if following and is_within else following
        if not edits:
            return text
        self.counts["text" if "text" in kind.split(" ")[:2] else "key"] += len(edits)
        return _edited(text, edits, view)

    def _pseudonym(self, kind: str, value: str) -> str:
        digest = hmac.digest(
            self._key, f"{kind}\0{value}".encode("utf-8", "surrogatepass"), "sha256"
        )
        return f"<{kind}:{digest[:4].hex()}>"


def _part_of_pem(text: str) -> tuple[View | None, list[Edit], bool]:
    """Return what a line after BEGIN shows of a key, and whether the key ends there.

    Of a line that holds others, it is the first of those that shows a part.
    """
    seen: list[View | None] = [*lines_within(text)] or [next(views(text), None)]
    for view in seen:
        edits, ended = pem_edits(view.text if view else text)
        if edits:
            return view, edits, ended
    return None, [], False


class _Views:
    """The views of one text, each made when it is asked for."""

    def __init__(self, text: str, *, disguised: bool) -> None:
        self.line = text
        self._rest = chain(lines_within(text), views(text) if disguised else ())
        self._made: list[View] = []

    def get(self, number: int) -> View | None:
        """Return a view by its number, from 0 on, or None where there are fewer."""
        while len(self._made) <= number:
            if (view := next(self._rest, None)) is None:
                return None
            self._made.append(view)
        return self._made[number]


def _with_pseudonyms(text: str, keys: Mapping[str, str]) -> tuple[str, int]:
    """Return a text with keys replaced wherever they stand, and how many were.

    Of many keys the beginnings are looked up at each place of the text: to search the whole text
    for each would take a time that grows with the square of a line full of keys.
    """
    count = 0
    if len(keys) <= _FEW_KEYS:
        for value, shown in keys.items():
            count += text.count(value)
            text = text.replace(value, shown)
        return text, count
    by_beginning: dict[str, list[str]] = {}
    for value in sorted(keys, key=len, reverse=True):
        by_beginning.setdefault(value[:MIN_VALUE_CHARS], []).append(value)
    out: list[str] = []
    done = at = 0
    while at < len(text):
        for value in by_beginning.get(text[at : at + MIN_VALUE_CHARS], ()):
            if text.startswith(value, at):
                out += (text[done:at], keys[value])
                at = done = at + len(value)
                count += 1
                break
        else:
            at += 1
    return "".join((*out, text[done:])), count


def _edits(rule: Rule, text: str, pseudonym: Pseudonym) -> Iterator[Edit]:
    """Yield what a rule replaces in a text, from its beginning on, none over another."""
    for match in rule.pattern.finditer(text):
        edit = rule.edit(match, pseudonym)
        if isinstance(edit, list):
            yield from edit
        elif edit is not None:
            yield edit


def _edited(text: str, edits: Iterable[Edit], view: View | None = None) -> str:
    """Return a text with edits of it, or of a view of it, made."""
    done = 0
    out: list[str] = []
    for begin, end, instead in sorted(view.source_edits(edits) if view else edits):
        out += (text[done:begin], instead)
        done = max(done, end)
    return "".join((*out, text[done:])) if out else text


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= _MOST_KEPT:
        cache.clear()
    if len(key) <= _LONGEST_KEPT:
        cache[key] = value


def redact(data: bytes, key: bytes) -> Redacted:
    """Return `data` redacted under `key`.

    Line endings, invalid UTF-8 and everything the rules do not name stay unchanged.

    Only where a rule hits are the colours of that line gone with it.

    Idempotent: pseudonyms are not hits. The same value gives the same pseudonym under the same key,
    in this text and any other.
    """
    redactor = Redactor(key)
    out = b"".join(map(redactor.block, cut_blocks(read_chunks(BytesIO(data)))))
    return Redacted(out, dict(redactor.counts))


def scan(content: bytes | Iterable[bytes]) -> dict[str, int]:
    """Return how often each rule would hit in `content`.

    Empty means that nothing that redaction knows is left in it.

    Chunks of any size are taken in constant memory; `decompressed` makes them of a stream.
    Compressed content is not looked into.
    """
    chunks = read_chunks(BytesIO(content)) if isinstance(content, bytes) else content
    redactor = Redactor(b"")
    for block in cut_blocks(chunks):
        redactor.block(block)
    return dict(redactor.counts)


def without_secrets(text: str) -> str:
    """Return text for a terminal without keys, tokens and passwords; names and addresses stay."""
    redactor = Redactor(token_bytes(16), SECRET_RULES)
    return "\n".join(map(redactor.line, text.split("\n")))
