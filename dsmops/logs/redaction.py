"""Redaction: secrets and personal data out, keyed pseudonyms in, so that one caller stays one caller.

Nothing is promised about free text that no rule describes. What a rule finds is gone: a pseudonym
is an HMAC under a key that stays with the operator, and texts to be spoken are dropped altogether.

Lines of a server log are few texts with other numbers in them. So a line is first looked at with
its digits read as 0, its shape: which rules may find something in it is asked once for each shape
(see the hints in `rules`), and a block is judged by the few shapes it holds.
"""

from __future__ import annotations

import hmac
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

from dsmops.errors import FileAccessError, InputError
from dsmops.files import translate
from dsmops.logs.blocks import cut_blocks, read_chunks
from dsmops.logs.plain_text import without_colours
from dsmops.logs.rules import (
    LIST_BRACKETS,
    LIST_ITEM,
    LIST_OPEN,
    PEM_BODY,
    PEM_CLOSE,
    PEM_LINES,
    PEM_OPEN,
    RULES,
    Rule,
    replace_item,
)

K = TypeVar("K", str, bytes)
V = TypeVar("V")

KEY_VARIABLE = "DSMOPS_REDACTION_KEY"
MIN_KEY_CHARS = 8
"""Shorter keys could be tried out, and with them every IPv4 address. Shorter ones in a log may be words, and stand elsewhere as such."""

_DIGITS_TO_0 = bytes.maketrans(b"123456789", b"0" * 9)
_HINTS = {rule: re.compile(rule.hint.encode()) for rule in RULES}
_ANY_HINT = re.compile("|".join(rule.hint for rule in RULES).encode())
MOST_PASSES = 8
_MOST_KEPT, _LONGEST_KEPT = 4096, 1000
"""Entries of a cache, and the length of a line in one: caches stay small on any log."""


def shape_of(text: bytes) -> bytes:
    """Return `text` with all digits as 0."""
    return text.translate(_DIGITS_TO_0)


def has_hints(text: str) -> bool:
    """Return whether any rule may find something in lines like this one, whatever their digits."""
    return _ANY_HINT.search(_shape(text)) is not None


def _shape(text: str) -> bytes:
    return shape_of(text.encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Redacted:
    """The content without what the rules found, and how often each rule hit. Never the values."""

    data: bytes
    counts: dict[str, int]


class Redactor:
    """Redacts line after line of one text; `counts` grows by rule. Feed lines in order: a PEM block or a list may span many."""

    def __init__(self, key: bytes) -> None:
        self.counts: Counter[str] = Counter()
        self._key = key
        self._rules_by_shape: dict[bytes, tuple[Rule, ...]] = {}
        self._known: dict[str, tuple[str, list[str]]] = {}
        self._pem_lines_left = 0
        self._open_list: str | None = None
        """What the items of a list that has not ended are: the rule that replaces them."""

    def fresh(self) -> Redactor:
        """Return a redactor with the same key that has seen nothing."""
        return Redactor(self._key)

    @property
    def inside_block(self) -> bool:
        """Whether a PEM block or a list is open, so that the next line may be part of it."""
        return self._pem_lines_left > 0 or self._open_list is not None

    def line(self, text: str) -> str:
        """Return one line, without its ending, redacted. Redacting the result again changes nothing."""
        if self._pem_lines_left:
            text = self._inside_pem(text)
        if self._open_list:
            text = self._inside_list(text, self._open_list)
        return self.part(text)

    def part(self, text: str) -> str:
        """Return a part of a line that bears a stamp redacted; such a line may begin a PEM block or a list, and is never inside one."""
        if not self.rules(_shape(text)):
            return text
        if PEM_OPEN.search(text):
            self._pem_lines_left = PEM_LINES
        if text.rstrip().endswith(LIST_BRACKETS):
            self._open_list = next(
                (kind for kind, pattern in LIST_OPEN.items() if pattern.search(text)),
                self._open_list,
            )
        # Callers come back, and with them the same words.
        known = self._known.get(text)
        if known is None:
            known = self._apply(text)
            _remember(self._known, text, known)
        self.counts.update(known[1])
        return known[0]

    def block(self, block: bytes) -> bytes:
        """Return whole lines redacted, each shape of line looked at once. A line in colour that has a hit loses its colours.

        Blocks come in order.
        """
        shapes = shape_of(
            without_colours(block.decode("latin-1")).encode("latin-1")
            if b"\x1b" in block
            else block
        ).split(b"\n")
        loud = {shape for shape in set(shapes) if self.rules(shape)}
        if not loud and not self.inside_block:
            return block
        lines = block.split(b"\n")
        for index, shape in enumerate(shapes):
            if shape in loud or self.inside_block:
                text = without_colours(lines[index].decode("utf-8", "surrogateescape"))
                ending = "\r" if text.endswith("\r") else ""
                shown = self.line(text.removesuffix("\r")) + ending
                if shown != text:
                    lines[index] = shown.encode("utf-8", "surrogateescape")
        return b"\n".join(lines)

    def rules(self, shape: bytes) -> tuple[Rule, ...]:
        """Return the rules that may find something in lines of a shape; for most shapes none."""
        rules = self._rules_by_shape.get(shape)
        if rules is None:
            rules = (
                tuple(rule for rule, hint in _HINTS.items() if hint.search(shape))
                if _ANY_HINT.search(shape)
                else ()
            )
            _remember(self._rules_by_shape, shape, rules)
        return rules

    def _apply(self, text: str) -> tuple[str, list[str]]:
        """Return a text redacted, and the name of the rule for each hit.

        A replacement may uncover another value, so it is done over until nothing is found; that
        also makes it idempotent. A key that one place of the line announces is replaced in all its
        places.
        """
        hits: list[str] = []
        keys: dict[str, str] = {}

        def pseudonym(kind: str, value: str) -> str:
            shown = self._pseudonym(kind, value)
            if kind == "key" and len(value) >= MIN_KEY_CHARS:
                keys[value] = shown
            return shown

        for _ in range(MOST_PASSES):
            before = len(hits)
            for rule in self.rules(_shape(text)):

                def replace(match: re.Match[str], rule: Rule = rule) -> str:
                    instead = rule.replace(match, pseudonym)
                    if instead is None:
                        return match[0]
                    hits.append(rule.name)
                    return instead

                text = rule.pattern.sub(replace, text)
            if len(hits) == before:
                break
        for value, shown in keys.items():
            hits += ["key"] * text.count(value)
            text = text.replace(value, shown)
        return text, hits

    def _inside_pem(self, text: str) -> str:
        if closing := PEM_CLOSE.match(text):
            self._pem_lines_left = 0
            return "<pem>" + text[closing.end() :]
        if body := PEM_BODY.fullmatch(text):
            self._pem_lines_left -= 1
            return body["before"] + "<pem>"
        return text

    def _inside_list(self, text: str, kind: str) -> str:
        item = LIST_ITEM.fullmatch(text)
        if item is None:
            self._open_list = None
            return text
        shown = replace_item(kind, item, self._pseudonym)
        if shown is None:
            return text
        self.counts[kind] += 1
        return shown

    def _pseudonym(self, kind: str, value: str) -> str:
        digest = hmac.digest(
            self._key, f"{kind}\0{value}".encode("utf-8", "surrogateescape"), "sha256"
        )
        return f"<{kind}:{digest[:4].hex()}>"


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    if len(cache) >= _MOST_KEPT:
        cache.clear()
    if len(key) <= _LONGEST_KEPT:
        cache[key] = value


def redact(data: bytes, key: bytes) -> Redacted:
    """Return `data` redacted under `key`, with line endings, invalid UTF-8 and everything the rules do not name as they were.

    Only where a rule hits are the colours of that line gone with it.

    Idempotent: pseudonyms are no hits. The same value gives the same pseudonym under the same key, in this text and any other.
    """
    redactor = Redactor(key)
    out = b"".join(map(redactor.block, cut_blocks(read_chunks(BytesIO(data)))))
    return Redacted(out, dict(redactor.counts))


def scan(content: bytes | Iterable[bytes]) -> dict[str, int]:
    """Return how often each rule would hit in `content`; empty means nothing that redaction knows is left in it.

    Chunks of any size are taken in constant memory; `decompressed` makes them of a stream.
    Compressed content is not looked into.
    """
    chunks = read_chunks(BytesIO(content)) if isinstance(content, bytes) else content
    redactor = Redactor(b"")
    for block in cut_blocks(chunks):
        redactor.block(block)
    return dict(redactor.counts)


def load_or_create_key() -> bytes:
    """Return the operator's redaction key: `DSMOPS_REDACTION_KEY`, else the key file of this user, made on first use (mode 0600).

    The file is `$XDG_STATE_HOME/dsmops/redaction.key`, by default under `~/.local/state`. Two first
    runs at once agree on one key.

    Raises:
        InputError: the variable or the file holds too short a key.
        FileAccessError: the file cannot be read or made.
    """
    given = os.environ.get(KEY_VARIABLE, "")
    if given:
        return _checked(
            given,
            f"the key in {KEY_VARIABLE}",
            f"Set {KEY_VARIABLE} to at least {MIN_KEY_CHARS} characters, or unset it.",
        )
    path = _key_file()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _create_once(path)
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as exc:
        hint = f"Your redaction key is kept there. Make it writable, or set {KEY_VARIABLE} to {MIN_KEY_CHARS} secret characters or more."
        raise FileAccessError(
            translate(exc, path).message, hint=hint, code="logs.redaction_key"
        ) from exc
    return _checked(
        text,
        f"the redaction key in {path}",
        "Remove the file; the next run makes a new key, and with it new pseudonyms.",
    )


def _checked(text: str, what: str, hint: str) -> bytes:
    if len(text) < MIN_KEY_CHARS:
        raise InputError(
            f"{what} has {len(text)} characters, and {MIN_KEY_CHARS} are the least",
            hint=hint,
            code="logs.redaction_key",
        )
    return text.encode()


def _key_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(state) if state.startswith("/") else Path("~/.local/state").expanduser()
    return folder / "dsmops" / "redaction.key"


def _create_once(path: Path) -> None:
    """Write a new key under a name of our own and link it in place, which fails where another process was first."""
    own = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(own, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(secrets.token_hex(32) + "\n")
        with suppress(FileExistsError):
            os.link(own, path)
    finally:
        own.unlink(missing_ok=True)
