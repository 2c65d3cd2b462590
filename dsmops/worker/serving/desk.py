"""The slots of one module on all its devices, and the posts that wait for one.

No I/O here. With front processes the supervisor has the desks, so that slots are counted in one
place that outlives each front.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

HELD_BY_POSTS = 3 / 4
"""The share of the slots that posts may hold at once, so that files never lock out conversations.
One slot is always theirs."""


@dataclass(frozen=True, slots=True)
class Place:
    """A slot of a device; devices count from 0."""

    device: int
    slot: int


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """A request for a slot. `owner` is the front that asks."""

    owner: int
    post: bool


@dataclass(slots=True)
class Desk:
    """Lends places, the lowest slot of the emptiest device first.

    A WebSocket gets a place at once or not at all. Posts wait, and get places in the order in which
    they came. A place that comes back goes to a post first.
    """

    _slots: dict[int, int] = field(default_factory=dict)
    _held: dict[Place, Turn] = field(default_factory=dict)
    _queue: dict[Turn, None] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """Posts that wait."""
        return len(self._queue)

    @property
    def total(self) -> int:
        """Slots of all devices."""
        return sum(self._slots.values())

    def add_device(self, device: int, slots: int) -> None:
        """Lend slots of another device."""
        self._slots[device] = slots

    def remove_device(self, device: int) -> None:
        """Lend none of this device's slots any more."""
        self._slots.pop(device, None)
        self._held = {place: turn for place, turn in self._held.items() if place.device != device}

    def lend(self, turn: Turn) -> Place | None:
        """Return a place that is free now, None where there is none for this turn."""
        if turn.post and (self._queue or not self._post_may_hold()):
            return None
        return self._take(turn)

    def wait(self, turn: Turn) -> None:
        """Let a post wait for a place."""
        self._queue[turn] = None

    def leave(self, turn: Turn) -> None:
        """Take a turn out of the queue."""
        self._queue.pop(turn, None)

    def give_back(self, place: Place) -> None:
        """Take a place back."""
        self._held.pop(place, None)

    def next_served(self) -> tuple[Turn, Place] | None:
        """Return the post whose turn it is, with its place; None where none can be served."""
        for turn in self._queue:
            place = self._take(turn) if self._post_may_hold() else None
            if place is None:
                return None
            del self._queue[turn]
            return turn, place
        return None

    def drop_owner(self, owner: int) -> list[Place]:
        """Take back all that a front has, and return its places."""
        for turn in [turn for turn in self._queue if turn.owner == owner]:
            del self._queue[turn]
        places = [place for place, turn in self._held.items() if turn.owner == owner]
        for place in places:
            del self._held[place]
        return places

    def _take(self, turn: Turn) -> Place | None:
        used = Counter(place.device for place in self._held)
        free = {device: slots - used[device] for device, slots in self._slots.items()}
        device = max(free, key=lambda device: free[device], default=None)
        if device is None or not free[device]:
            return None
        places = (Place(device, slot) for slot in range(self._slots[device]))
        place = next(place for place in places if place not in self._held)
        self._held[place] = turn
        return place

    def _post_may_hold(self) -> bool:
        held = sum(turn.post for turn in self._held.values())
        return held < max(1, int(self.total * HELD_BY_POSTS))


class Lender(Protocol):
    """The source of a module's slots: a desk in this process, or the supervisor's."""

    def ask(self, *, post: bool) -> asyncio.Future[Place | None]:
        """Ask for a place.

        A WebSocket gets one at once or not at all; a post waits. Cancel the future to stop asking.
        """

    def give_back(self, place: Place) -> None: ...


class LocalLender:
    """Lends from a desk in this process. Event loop only."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._asked: dict[Turn, asyncio.Future[Place | None]] = {}

    def ask(self, *, post: bool) -> asyncio.Future[Place | None]:
        turn = Turn(0, post)
        asked: asyncio.Future[Place | None] = asyncio.get_running_loop().create_future()
        place = self.desk.lend(turn)
        if place is not None or not post:
            asked.set_result(place)
            return asked
        self.desk.wait(turn)
        self._asked[turn] = asked
        asked.add_done_callback(lambda done: self._forget(turn) if done.cancelled() else None)
        # For a desk whose slots come later or never.
        self._serve()
        return asked

    def give_back(self, place: Place) -> None:
        self.desk.give_back(place)
        self._serve()

    def _forget(self, turn: Turn) -> None:
        self.desk.leave(turn)
        self._asked.pop(turn, None)

    def _serve(self) -> None:
        while (served := self.desk.next_served()) is not None:
            turn, place = served
            asked = self._asked.pop(turn, None)
            if asked is None or asked.done():
                # The client left in this moment.
                self.desk.give_back(place)
            else:
                asked.set_result(place)
