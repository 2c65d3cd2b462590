"""The kinds of lines that a log turned out to have, and when it is worth learning another."""

from __future__ import annotations

from collections import Counter

from dsmops.logs.redaction import has_hints
from dsmops.logs.templates import (
    FriendlyStamps,
    Render,
    Rows,
    ShapeTemplate,
    StepTemplate,
    find_recipe,
)

_MOST_STEP_TEMPLATES = 8
_MOST_SHAPES = 4096
_MOST_CONTINUATIONS = 1024
_LINE_BYTES = 1000
"""Longer lines are not remembered: caches stay small on any log."""
_MOST_LESSONS = 1000
"""A lesson costs about as much as ten lines the slow way.

A log of ever new shapes is not worth more of them.
"""


class Templates:
    """What was learnt of one log."""

    def __init__(self, render: Render, stamps: FriendlyStamps) -> None:
        """`render` is the slow way, and `stamps` are of the clock that it uses."""
        self.steps: list[StepTemplate] = []
        """In the order of how often they came."""
        self.shapes: dict[bytes, ShapeTemplate | None] = {}
        """By shape; None where an experiment failed."""
        self.continuations: dict[bytes, tuple[str | None, bytes]] = {}
        """Raw lines that come again and do nothing but continue an event, with their service and
        what is written for them.
        """
        self._render, self._stamps, self._clock = render, stamps, stamps.clock
        self._seen: set[bytes] = set()
        self._rows: Counter[StepTemplate] = Counter()
        self._lessons = 0

    def took(self, rows: Rows) -> None:
        """Take note that rows went the fast way."""
        self._rows[rows.template] += rows.count

    def sort(self) -> None:
        """Put the kinds first that came most since the last time."""
        self.steps.sort(key=lambda kind: -self._rows[kind])
        self._rows.clear()

    def learn_step(self, raw: bytes, dialect: str) -> bool:
        """Make a kind of a step line that went the slow way, and return whether that worked."""
        row = raw + b"\n"
        if (
            len(self.steps) == _MOST_STEP_TEMPLATES
            or any(kind.find(row) for kind in self.steps)
            or not self._may_learn()
        ):
            return False
        recipe, alone = (
            find_recipe(raw, dialect, self._render, self._stamps, only_message=True),
            self._render(raw),
        )
        if recipe is None or alone is None:
            return False
        kind = StepTemplate(raw, dialect, recipe)
        rows = kind.find(row)
        begins = rows.begins(self._clock) if rows else None
        # The proof of the recipe: the line it was learnt from.
        if rows is None or begins is None or rows.join(begins) != f"{alone.text}\n".encode():
            return False
        self.steps.append(kind)
        return True

    def learn_shape(self, raw: bytes, shape: bytes, dialect: str) -> None:
        """Make a kind of a line that went the slow way, when its shape came before and no redaction
        rule looks at its digits.
        """
        if shape in self.shapes or dialect in ("json", "friendly") or len(raw) > _LINE_BYTES:
            return
        if shape not in self._seen:
            if len(self._seen) >= _MOST_SHAPES:
                self._seen.clear()
            self._seen.add(shape)
        elif len(self.shapes) < _MOST_SHAPES and self._may_learn():
            recipe, alone = (
                find_recipe(raw, dialect, self._render, self._stamps, only_message=False),
                self._render(raw),
            )
            kind = ShapeTemplate(recipe) if recipe and alone and not has_hints(alone.text) else None
            proved = kind and alone and kind.format(raw, self._clock) == f"{alone.text}\n".encode()
            self.shapes[shape] = kind if proved else None

    def learn_continuation(
        self, raw: bytes, service: str | None, shown: bytes, unredacted: bytes
    ) -> None:
        """Remember a line in which no rule may find anything, and which does nothing but continue
        an event.
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

    def _may_learn(self) -> bool:
        self._lessons += 1
        return self._lessons <= _MOST_LESSONS
