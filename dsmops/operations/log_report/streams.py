"""Who came, was refused, and left: the streams of one module, from what its server logs.

moshi-server logs that a query comes in before it looks at the key, and again when the key is known:
the difference are the wrong keys. It logs which slot a stream takes, and that a stream ended, but
not which. A slot that is taken again tells which stream had ended; where several had, they are
taken in their order. The mean of the lengths does not depend on that.
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime

from dsmops.operations.log_report.result import StreamCounts, TtsCounts
from dsmops.operations.log_report.sketch import Sketch
from dsmops.operations.log_report.timeline import Timeline


class StreamTally:
    """Takes the events of one module's streams, in their order."""

    def __init__(self, module: str, timeline: Timeline, *, ends_with_text: bool = False) -> None:
        """`ends_with_text`: only streams whose end names their slot have a length."""
        self._ends_with_text = ends_with_text
        self.counts: Counter[str] = Counter()
        self.lengths, self.first_audio = Sketch(), Sketch()
        self.most_open = 0
        self._module, self._timeline = module, timeline
        self._waiting: Counter[str] = Counter()
        """Queries that have not got their slot yet: by `stream` and `post`."""
        self._slots: dict[int, datetime | None] = {}
        """Streams by slot, with their begin."""
        self._ends: deque[datetime | None] = deque(maxlen=10_000)
        """Ends of streams in `_slots` of which the slot is not known yet."""

    @property
    def open(self) -> int:
        """How many streams are connected."""
        return max(0, len(self._slots) - len(self._ends))

    def handle(self, kind: str, *, tells_key: bool) -> None:
        """Take a query, which may still have a wrong key where its server `tells_key` later."""
        self.counts["asked" if kind == "stream" else "posts"] += 1
        if tells_key:
            self.counts["keyless"] += 1
        elif kind == "post":
            self._waiting[kind] += 1

    def accept(self, kind: str) -> None:
        """Take a query whose key is known."""
        self.counts["keyless"] -= 1
        self._waiting[kind] += 1

    def refuse(self, at: datetime | None) -> None:
        """Take the refusal of a stream for which no slot was free."""
        self.counts["refused"] += 1
        self._next_kind()
        if at is not None:
            self._timeline.at(self._module, at).refused += 1

    def take_slot(self, slot: int, at: datetime | None) -> None:
        """Take the begin of a stream or post in a slot."""
        self.counts["opened"] += 1
        if self._next_kind() == "post":
            # Its end is not logged.
            return
        if slot in self._slots:
            self._end(slot, self._ends.popleft() if self._ends else None)
        self._slots[slot] = at
        if at is not None:
            bucket = self._timeline.at(self._module, at)
            bucket.opened += 1
        self._note_open(at)

    def end(self, at: datetime | None, slot: int | None = None) -> bool:
        """Take the end of a stream, and return whether there was one to end."""
        if slot is not None:
            if slot not in self._slots:
                return False
            self._end(slot, at)
        elif not self.open:
            return False
        elif self._ends_with_text:
            self._slots.pop(next(iter(self._slots)))
        elif len(self._slots) == 1:
            self._end(next(iter(self._slots)), at)
        else:
            self._ends.append(at)
            if len(self._ends) == len(self._slots):
                # All have ended. Which ended when does not matter any more.
                for known in list(self._slots):
                    self._end(known, self._ends.popleft())
        self._note_open(at)
        return True

    def forget(self) -> None:
        """Take a start of the server: all who were connected are gone."""
        self._slots.clear()
        self._ends.clear()
        self._waiting.clear()

    def _next_kind(self) -> str:
        """Return whose turn it is: streams do not wait for a slot, posts do."""
        kind = "post" if self._waiting["post"] and not self._waiting["stream"] else "stream"
        self._waiting[kind] = max(0, self._waiting[kind] - 1)
        return kind

    def _end(self, slot: int, at: datetime | None) -> None:
        begun = self._slots.pop(slot)
        if begun is not None and at is not None:
            self.lengths.add(max(0.0, (at - begun).total_seconds() * 1000))

    def _note_open(self, at: datetime | None) -> None:
        self.most_open = max(self.most_open, self.open)
        if at is not None:
            bucket = self._timeline.at(self._module, at)
            bucket.open = self.open
            bucket.most_open = max(bucket.most_open, self.open)

    @property
    def wrong_keys(self) -> int:
        """How many requests had no known key."""
        return max(0, self.counts["keyless"]) + self.counts["refused keys"]


def stream_counts(tallies: list[StreamTally], most_with_data: int, wrong_keys: int) -> StreamCounts:
    """Return what speech-to-text modules did together.

    `wrong_keys` are those of which the log does not tell the module.
    """
    counts = _sum(tallies)
    return StreamCounts(
        counts["asked"],
        counts["opened"],
        counts["refused"],
        counts["silent"],
        counts["posts"],
        most_with_data,
        max((tally.most_open for tally in tallies), default=0),
        sum(tally.wrong_keys for tally in tallies) + wrong_keys,
        _joined([tally.lengths for tally in tallies]).times(),
    )


def tts_counts(tallies: list[StreamTally]) -> TtsCounts:
    """Return what text-to-speech modules did together."""
    counts = _sum(tallies)
    return TtsCounts(
        counts["asked"],
        counts["opened"],
        counts["refused"],
        counts["finished"],
        _joined([tally.lengths for tally in tallies]).times(),
        counts["silent"],
        counts["posts"],
        max((tally.most_open for tally in tallies), default=0),
        sum(tally.wrong_keys for tally in tallies),
        _joined([tally.first_audio for tally in tallies]).times(),
    )


def _sum(tallies: list[StreamTally]) -> Counter[str]:
    total: Counter[str] = Counter()
    for tally in tallies:
        total.update(tally.counts)
    return total


def _joined(sketches: list[Sketch]) -> Sketch:
    whole = Sketch()
    for sketch in sketches:
        whole.merge(sketch)
    return whole
