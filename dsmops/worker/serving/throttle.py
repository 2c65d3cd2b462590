"""Limits on how often something may be done: too frequent requests wait."""

from __future__ import annotations

import asyncio


class Bucket:
    """Lets `per_s` things pass a second in the long run, and `at_once` without a pause.

    Event loop only. Those that wait pass in the order in which they came.
    """

    def __init__(self, *, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left = at_once
        self._filled_s = asyncio.get_running_loop().time()

    def charge(self, amount: float = 1) -> float:
        """Let `amount` pass, and return the seconds for which the next must wait."""
        now_s = asyncio.get_running_loop().time()
        self._left = min(self._at_once, self._left + (now_s - self._filled_s) * self._per_s)
        self._filled_s = now_s
        self._left -= amount
        return max(0.0, -self._left / self._per_s)

    async def take(self) -> bool:
        """Wait until one more may pass, and return whether it had to wait.

        Others of the event loop get their turn in any case.
        """
        wait_s = self.charge()
        await asyncio.sleep(wait_s)
        return wait_s > 0
