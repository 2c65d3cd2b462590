"""A block of lines formatted by its columns: thousands of lines of one kind at a time.

Lines of one length are laid under each other as a table of bytes. A template says of each column
the least and the greatest byte, so two operations on the table tell which lines are of its kind,
and a few copies of columns write them. What is of no known kind is left to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsmops.logs.columns import Bytes, Numbers, line_bounds, row, table_of
from dsmops.logs.learning import Templates
from dsmops.logs.templates import Template

LEAST_ROWS = 16
"""Fewer lines of a length in one block are not worth a table."""

_MOST_KINDS = 12
"""So many kinds of one length are tried."""

Fate = Callable[[Template, datetime], bool | None]
"""Says whether the lines of a minute are wanted; None where each has to be looked at."""
Leaves = Callable[[bytes], bool]
"""Says whether redaction leaves a message as it is."""


@dataclass(slots=True)
class Bulk:
    """The lines of a block, and the text of those of a known kind, one after the other."""

    text: memoryview
    kinds: list[Template | bytes]
    """What `labels` count: templates, and lines that only continue an event, as they are."""
    starts: Numbers
    ends: Numbers
    labels: NDArray[np.int32]
    """By line: an index into `kinds`, or -1 for a line that is left to the caller."""
    kept: NDArray[np.bool_]
    """By line: whether it is of a known kind and wanted. Only such lines have a text."""
    offsets: Numbers
    """Where in `text` the text of each line begins, and the end of the last."""

    @property
    def others(self) -> list[int]:
        """The lines that are left to the caller."""
        return [int(line) for line in np.flatnonzero(self.labels < 0)]

    def lines(self, block: bytes, numbers: list[int]) -> list[bytes]:
        """Return some lines of the block that this was made of."""
        return [block[self.starts[line] : self.ends[line]] for line in numbers]

    def last_kept(self, begin: int, end: int) -> int:
        """Return the last line from `begin` up to `end` that is kept, or one before `begin`."""
        while end > begin and not self.kept[end - 1]:
            end -= 1
        return end - 1

    def cut(self, line: int) -> None:
        """Forget a line and those after it."""
        self.labels[line:] = -1
        self.kept[line:] = False

    def counts(self) -> list[int]:
        """Return how many lines are of each kind."""
        return [*map(int, np.bincount(self.labels[self.labels >= 0], minlength=len(self.kinds)))]

    def kept_counts(self) -> list[int]:
        """Return how many lines of each kind are kept."""
        return [*map(int, np.bincount(self.labels[self.kept], minlength=len(self.kinds)))]


def find_rows(
    block: bytes,
    templates: Templates,
    fate: Fate,
    leaves: Leaves,
    *,
    services: tuple[str | None, ...] | None,
    continuations: bool,
) -> Bulk:
    """Return the lines of a block, those of known kinds formatted.

    Lines whose message redaction changes are left to the caller.

    `services` says of which services lines are looked for (None: all), and `continuations`
    whether remembered lines that continue an event are too.
    """
    starts, ends = line_bounds(block)
    lengths = ends - starts
    finder = _Finder(block, starts, fate, leaves)
    same = _lines_by_content(templates) if continuations else {}
    order = np.argsort(np.minimum(lengths, 0xFFFF).astype(np.uint16), kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        length = int(lengths[group[0]])
        if len(group) < LEAST_ROWS or length >= 0xFFFF:
            continue
        kinds = [
            kind
            for kind in templates.of_length(length)
            if services is None or kind.record.service in services
        ]
        lines = same.get(length, [])
        if kinds or lines:
            finder.find(group, length, kinds[:_MOST_KINDS], lines[:_MOST_KINDS])
    return finder.bulk(ends)


def _lines_by_content(templates: Templates) -> dict[int, list[tuple[bytes, bytes]]]:
    found: dict[int, list[tuple[bytes, bytes]]] = {}
    for raw, (_, shown) in templates.continuations.items():
        found.setdefault(len(raw), []).append((raw, shown))
    return found


class _Form(NamedTuple):
    """What lines of one length may be: the least and the greatest byte of each column."""

    low: Bytes
    spread: Bytes
    take: Callable[[Numbers, Bytes], None]
    """Takes lines and their table."""
    hex_words: tuple[slice, ...] = ()


class _Finder:
    """Labels the lines of one block, and keeps the tables of their text."""

    def __init__(self, block: bytes, starts: Numbers, fate: Fate, leaves: Leaves) -> None:
        self.tables: list[tuple[Numbers, Bytes]] = []
        self._block, self._starts = block, starts
        self._fate, self._leaves = fate, leaves
        self._kinds: list[Template | bytes] = []
        self._labels = np.full(len(starts), -1, np.int32)
        self._kept = np.zeros(len(starts), np.bool_)
        self._sizes = np.zeros(len(starts), np.int64)

    def find(
        self,
        group: Numbers,
        length: int,
        kinds: list[Template],
        lines: list[tuple[bytes, bytes]],
    ) -> None:
        """Label the lines in `group`, all `length` bytes long, of a kind or among `lines`."""
        if length == 0:
            for raw, shown in lines:
                self._same(raw, shown, group, np.empty((0, 0), np.uint8))
            return
        forms = [
            _Form(row(kind.low), row(kind.spread), partial(self._rows, kind), kind.hex_words)
            for kind in kinds
        ]
        table = table_of(self._block, self._starts[group], length)
        nothing = np.zeros(length, np.uint8)
        forms += [_Form(row(raw), nothing, partial(self._same, raw, shown)) for raw, shown in lines]
        for form in forms:
            group, table = self._take(form, group, table)
            if not len(group):
                return

    def _take(self, form: _Form, group: Numbers, table: Bytes) -> tuple[Numbers, Bytes]:
        """Write the rows that are of a form, and return the others."""
        excess = table - form.low
        fits = np.less_equal(excess, form.spread, out=excess.view(np.bool_))
        for word in form.hex_words:
            fits[:, word] &= (table[:, word] - ord("9") - 1) >= ord("a") - ord("9") - 1
        if fits.all():
            form.take(group, table)
            return group[:0], table[:0]
        good = fits.all(axis=1)
        if good.any():
            form.take(group[good], table[good])
            return group[~good], table[~good]
        return group, table

    def _same(self, raw: bytes, shown: bytes, group: Numbers, _: Bytes) -> None:
        self._add(group, raw, np.broadcast_to(row(shown), (len(group), len(shown))))

    def _rows(self, kind: Template, group: Numbers, table: Bytes) -> None:
        """Write rows of a kind. Lines of a minute that is not clear are left alone."""
        minutes = np.ascontiguousarray(table[:, kind.minute]).view("<u8")
        same = minutes[1:] == minutes[:-1]
        change = np.flatnonzero(~(same[:, 0] & same[:, 1])) + 1
        bounds = [0, *change.tolist(), len(group)]
        texts = minutes.tobytes()
        runs: dict[tuple[int, int], list[tuple[int, int, bytes]]] = {}
        for begin, end in pairwise(bounds):
            sides = kind.sides(texts[begin * 16 : begin * 16 + 16])
            if sides is None or (wanted := self._fate(kind, sides.begin)) is None:
                continue
            if not wanted:
                self._add(group[begin:end], kind, None)
                continue
            key = (len(sides.before), len(sides.after))
            if key in runs:
                runs[key].append((begin, end, sides.line))
            else:
                runs[key] = [(begin, end, sides.line)]
        for (before, after), found in runs.items():
            lines = row(b"".join(line for _, _, line in found)).reshape(len(found), -1)
            counts = [end - begin for begin, end, _ in found]
            out = lines.take(np.repeat(np.arange(len(found)), counts), axis=0)
            rows_of, raw = group, table
            if len(out) < len(group):
                chosen = np.concatenate([np.arange(begin, end) for begin, end, _ in found])
                rows_of, raw = group[chosen], table[chosen]
            place = before
            for part in (kind.shown_seconds, after, *kind.parts):
                if isinstance(part, slice):
                    width = part.stop - part.start
                    out[:, place : place + width] = raw[:, part]
                    place += width
                else:
                    place += part if isinstance(part, int) else len(part)
            if kind.message_bytes:
                rows_of, out = self._undisturbed(kind, rows_of, out)
            self._add(rows_of, kind, out)

    def _undisturbed(self, kind: Template, group: Numbers, out: Bytes) -> tuple[Numbers, Bytes]:
        """Return the rows whose message redaction leaves as it is."""
        width = kind.message_bytes
        texts = out[:, -width - 1 : -1].tobytes()
        messages = [texts[place : place + width] for place in range(0, len(texts), width)]
        changed = {message for message in set(messages) if not self._leaves(message)}
        if not changed:
            return group, out
        chosen = np.array([message not in changed for message in messages], np.bool_)
        return group[chosen], out[chosen]

    def _add(self, group: Numbers, kind: Template | bytes, out: Bytes | None) -> None:
        if not self._kinds or self._kinds[-1] is not kind:
            self._kinds.append(kind)
        self._labels[group] = len(self._kinds) - 1
        if isinstance(kind, Template):
            kind.rows += len(group)
        if out is not None:
            self._sizes[group] = out.shape[1]
            self._kept[group] = True
        self.tables.append((group, out if out is not None else np.empty((0, 0), np.uint8)))

    def bulk(self, ends: Numbers) -> Bulk:
        """Return what was found, with the text of all rows in their order."""
        offsets = np.zeros(len(self._sizes) + 1, np.int64)
        np.cumsum(self._sizes, out=offsets[1:])
        text = np.empty(int(offsets[-1]), np.uint8)
        for group, out in self.tables:
            if out.size:
                width = out.shape[1]
                target: Any = np.ndarray(
                    len(text) - width + 1, f"V{width}", buffer=text, strides=(1,)
                )
                target[offsets[group]] = np.ascontiguousarray(out).view(f"V{width}")[:, 0]
        return Bulk(
            text.data,
            self._kinds,
            self._starts,
            ends,
            self._labels,
            self._kept,
            offsets,
        )
