"""The kinds of lines that a log turned out to have, and when it is worth learning another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dsmops.logs.plain_text import clean, decode
from dsmops.logs.records import LogRecord
from dsmops.logs.redaction import has_hints, shape_of
from dsmops.logs.templates import HEX_WORD, FriendlyStamps, Render, Template, find_recipe

_MOST_FORMS = 4096
_MOST_OF_A_FORM = 8
"""Lines of one form whose digits do not vary freely: step lines of so many source lines."""
_MOST_CONTINUATIONS = 1024
_LINE_BYTES = 1000
"""Longer lines are not remembered: caches stay small on any log."""
_MOST_LESSONS = 1000
"""A lesson costs about as much as ten lines the slow way.

A log with ever new forms is not worth more of them."""


def form_of(raw: bytes) -> bytes:
    """Return a line with all digits as 0, and with them the letters of long hexadecimal words."""
    shape = shape_of(raw)
    if b'"' not in shape:
        return shape
    return HEX_WORD.sub(lambda word: b"0" * len(word[0]), shape)


class Templates:
    """What was learnt of one log."""

    def __init__(
        self, render: Render, stamps: FriendlyStamps, unredacted: Render | None = None
    ) -> None:
        """`render` is the slow way, and `stamps` are of the clock that it uses.

        With `unredacted`, the slow way without redaction, lines that rules may look at are learnt
        too.
        """
        self.count = 0
        """How many kinds are known."""
        self.continuations: dict[bytes, tuple[str | None, bytes]] = {}
        """Raw lines that repeat and only continue an event or are text of no dialect, with their
        service and what is written for them."""
        self.texts: set[bytes] = set()
        """Those of them that are text of no dialect."""
        self.services: set[str | None] = set()
        """Services of which lines are in `continuations`."""
        self._by_form: dict[bytes, list[Template]] = {}
        """Empty where an experiment failed."""
        self._by_length: dict[int, list[Template]] = {}
        self._render, self._stamps, self._clock = render, stamps, stamps.clock
        self._unredacted = unredacted
        self._seen: set[bytes] = set()
        self._lessons = 0

    def like(self, raw: bytes) -> list[Template]:
        """Return what is known of lines of the form of one."""
        return self._by_form.get(form_of(raw), [])

    def of_length(self, length: int) -> list[Template]:
        """Return what is known of lines of so many bytes; what came most stands first."""
        return self._by_length.get(length, [])

    def __iter__(self) -> Iterator[Template]:
        """Yield all kinds."""
        return (kind for kinds in self._by_length.values() for kind in kinds)

    def sort(self) -> None:
        """Put the kinds first that came most since the last time."""
        for kinds in self._by_length.values():
            if len(kinds) > 1:
                kinds.sort(key=lambda kind: -kind.rows)
                for kind in kinds:
                    kind.rows = 0

    def learn(self, raw: bytes, dialect: str, *, is_step: bool) -> None:
        """Make a kind of a line that went the slow way.

        A step line at once; any other when its form came before, and no redaction rule looks at
        its digits.
        """
        if len(raw) > _LINE_BYTES or (not is_step and dialect in ("json", "friendly")):
            return
        form = form_of(raw)
        known = self._by_form.get(form)
        if known is not None and (
            not known or len(known) >= _MOST_OF_A_FORM or any(kind.fits(raw) for kind in known)
        ):
            return
        if not is_step and form not in self._seen:
            if len(self._seen) >= _MOST_FORMS:
                self._seen.clear()
            self._seen.add(form)
        elif len(self._by_form) < _MOST_FORMS and self._may_learn():
            kind = self._learnt(raw, dialect, is_step=is_step)
            kinds = self._by_form.setdefault(form, [])
            if kind:
                kinds.append(kind)
                self.count += 1
                self._by_length.setdefault(len(raw), []).append(kind)

    def _learnt(self, raw: bytes, dialect: str, *, is_step: bool) -> Template | None:
        render, message_bytes = self._render, 0
        alone = render(raw)
        words = HEX_WORD.search(raw)
        if words and alone and not _ends_with(alone.record.message, raw[words.start() :]):
            return None  # Only what stands in a message is redacted each time.
        if alone and not is_step and (words or not _is_harmless(alone.record)):
            if self._unredacted is None or not _is_harmless(replace(alone.record, message="")):
                return None
            # Such a line is copied, and its message redacted each time.
            render = self._unredacted
            alone = render(raw)
            message_bytes = len(alone.record.message.encode()) if alone else 0
        recipe = find_recipe(raw, dialect, render, self._stamps, only_message=is_step)
        if recipe is None or alone is None:
            return None
        kind = Template(raw, dialect, recipe, is_step=is_step, message_bytes=message_bytes)
        # The proof of the recipe: the line it was learnt from.
        return kind if kind.format(raw, self._clock) == f"{alone.text}\n".encode() else None

    def learn_continuation(
        self, raw: bytes, service: str | None, shown: bytes, unredacted: bytes, *, is_text: bool
    ) -> None:
        """Remember a line that only continues an event or, with `is_text`, is text of no dialect,
        and has no match for any rule.
        """
        if (
            raw in self.continuations
            or shown != unredacted
            or len(raw) > _LINE_BYTES
            or len(self.continuations) >= _MOST_CONTINUATIONS
        ):
            return
        if not has_hints(shown.decode().removesuffix("\n")):
            self.continuations[raw] = (service, shown)
            if is_text:
                self.texts.add(raw)
            self.services.add(service)

    def _may_learn(self) -> bool:
        self._lessons += 1
        return self._lessons <= _MOST_LESSONS


def _ends_with(message: str, raw: bytes) -> bool:
    """Return whether the end of a raw line is the end of its message, but for colours."""
    return message.endswith(clean(decode(raw)))


def _is_harmless(record: LogRecord) -> bool:
    """Return whether no rule may find anything in lines like this one, whatever their digits."""
    return not any(has_hints(part) for part in (record.file, record.spans, record.message) if part)
