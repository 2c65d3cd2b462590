"""The kinds of lines that a log turned out to have, and when it is worth learning another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from dsmops.logs.clock import Clock
from dsmops.logs.kinds import Render, Rows, ShapeKind, StepKind, find_recipe

_MOST_STEP_KINDS = 8
_MOST_SHAPES = 4096
_MOST_CONTINUATIONS, _CONTINUATION_BYTES = 1024, 1000
_MOST_LESSONS = 1000
"""A lesson costs about as much as ten lines the slow way. A log of ever new shapes is not worth more of them."""


class Kinds:
    """Kinds of step lines in the order of how often they came, and kinds by shape."""

    def __init__(self, render: Render, clock: Clock, is_quiet: Callable[[str], bool]) -> None:
        """`render` is the slow way, `clock` the one it uses; `is_quiet` tells of a friendly line whether its digits matter to nobody."""
        self.steps: list[StepKind] = []
        self._render, self._clock, self._is_quiet = render, clock, is_quiet
        self.continuations: dict[bytes, tuple[str | None, bytes]] = {}
        self.shapes: dict[bytes, ShapeKind | None] = {}
        self._seen: set[bytes] = set()
        self._rows: Counter[StepKind] = Counter()
        self._lessons = 0

    def took(self, rows: Rows) -> None:
        """Take note that rows went the fast way."""
        self._rows[rows.kind] += rows.count

    def sort(self) -> None:
        """Put the kinds first that came most since the last time."""
        self.steps.sort(key=lambda kind: -self._rows[kind])
        self._rows.clear()

    def learn_step(self, raw: bytes, dialect: str) -> bool:
        """Make a kind of a step line that went the slow way, and return whether that worked."""
        row = raw + b"\n"
        if len(self.steps) == _MOST_STEP_KINDS or not self._may_learn() or any(kind.find(row) for kind in self.steps):
            return False
        recipe = find_recipe(raw, dialect, self._render, self._clock, only_message=True)
        if recipe is None:
            return False
        kind = StepKind(raw, dialect, recipe)
        rows, alone = kind.find(row), self._render(raw)
        begins = rows.begins(self._clock) if rows else None
        # The proof of the recipe: the line it was learnt from.
        if not (rows and begins and alone) or rows.join(begins, self._clock) != f"{alone.text}\n".encode():
            return False
        self.steps.append(kind)
        return True

    def learn_shape(self, raw: bytes, shape: bytes, dialect: str) -> None:
        """Make a kind of a line that went the slow way, when its shape came before."""
        if shape in self.shapes or dialect in ("json", "friendly"):
            return
        if shape not in self._seen:
            if len(self._seen) >= _MOST_SHAPES:
                self._seen.clear()
            self._seen.add(shape)
            return
        if len(self.shapes) >= _MOST_SHAPES or not self._may_learn():
            return
        recipe, alone = find_recipe(raw, dialect, self._render, self._clock, only_message=False), self._render(raw)
        kind = ShapeKind(recipe) if recipe and alone and self._is_quiet(alone.text) else None
        if kind and alone and kind.format(raw, self._clock) != f"{alone.text}\n".encode():
            kind = None
        self.shapes[shape] = kind

    def learn_continuation(self, raw: bytes, service: str | None, shown: bytes, unredacted: bytes) -> None:
        """Remember a line of which nothing was redacted, and which does nothing but continue an event."""
        if shown == unredacted and len(self.continuations) < _MOST_CONTINUATIONS and len(raw) <= _CONTINUATION_BYTES:
            self.continuations[raw] = (service, shown)

    def _may_learn(self) -> bool:
        self._lessons += 1
        return self._lessons <= _MOST_LESSONS
