"""Shared arrays between a model loop and its fronts: frames in, results out.

They are in one process, or shared between several.

Each slot is a lane: a ring of `CELLS` cells. A front writes a frame into a cell and then counts
`head` up. The loop steps the frame, writes the result into the same cell and then counts `tail` up.
The front reads the result, counts `read` up, and only then uses the cell again. So nothing can
overflow, however slow a front is, and each number has one writer. Counters never go back.

The loop handles all lanes by array operations: a step costs it the same Python for one stream as
for a thousand.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dsmops.worker.runtime.shared import shared_arrays

CELLS = 16
"""Frames that a stream may be ahead of the loop, 1.28 s; more waits with its front."""


class SttLanes:
    """The lanes of one model loop.

    Shapes (B slots, C cells, H heads, N samples of a frame):
        frames: float32 [B, C, N].
        token, epoch_of, step_of: int64 [B, C]. finite: bool [B, C]. pauses: float32 [B, C, H].
        everything else: int64 [B].

    Written by the front that holds the slot:
        active: 1 while a stream has the slot. owner: the front's number.
        opened: counted up to ask for a reset. start: frames before it are void after that reset.
        head: frames written. read: results read. told: the value of `seen` that was reported.
        frames.
    Written by the loop:
        seen: the value of `opened` whose reset is done. tail: frames stepped.
        token, finite, pauses, step_of, epoch_of (the value of `seen` in that step).
    """

    def __init__(self, slots: int, heads: int, frame_samples: int) -> None:
        """`heads` is the largest number that the loop may have; `settle` tells the real one."""
        self.slots, self.frame_samples = slots, frame_samples
        lane, cell = (slots,), (slots, CELLS)
        arrays = shared_arrays(
            {
                "facts": (np.int64, (2,)),
                "active": (np.int64, lane),
                "owner": (np.int64, lane),
                "opened": (np.int64, lane),
                "start": (np.int64, lane),
                "head": (np.int64, lane),
                "read": (np.int64, lane),
                "told": (np.int64, lane),
                "seen": (np.int64, lane),
                "tail": (np.int64, lane),
                "token": (np.int64, cell),
                "step_of": (np.int64, cell),
                "epoch_of": (np.int64, cell),
                "finite": (np.bool_, cell),
                "pauses": (np.float32, (*cell, heads)),
                "frames": (np.float32, (*cell, frame_samples)),
            }
        )
        self._facts: NDArray[np.int64] = arrays["facts"]
        self.active: NDArray[np.int64] = arrays["active"]
        self.owner: NDArray[np.int64] = arrays["owner"]
        self.opened: NDArray[np.int64] = arrays["opened"]
        self.start: NDArray[np.int64] = arrays["start"]
        self.head: NDArray[np.int64] = arrays["head"]
        self.read: NDArray[np.int64] = arrays["read"]
        self.told: NDArray[np.int64] = arrays["told"]
        self.seen: NDArray[np.int64] = arrays["seen"]
        self.tail: NDArray[np.int64] = arrays["tail"]
        self.token: NDArray[np.int64] = arrays["token"]
        self.step_of: NDArray[np.int64] = arrays["step_of"]
        self.epoch_of: NDArray[np.int64] = arrays["epoch_of"]
        self.finite: NDArray[np.bool_] = arrays["finite"]
        self.pauses: NDArray[np.float32] = arrays["pauses"]
        self.frames: NDArray[np.float32] = arrays["frames"]

    @property
    def heads(self) -> int:
        """Pause probabilities of a step."""
        return int(self._facts[0])

    @property
    def delay_steps(self) -> int:
        """Steps by which the model's text lags behind its audio."""
        return int(self._facts[1])

    def settle(self, *, slots: int, heads: int, frame_samples: int, delay_steps: int) -> None:
        """Note what the loop's engine has.

        Raises:
            ValueError: that is not what these lanes were made for.
        """
        if (slots, frame_samples) != (self.slots, self.frame_samples) or (
            heads > self.pauses.shape[2]
        ):
            raise ValueError(
                f"an engine of {slots} slots, {heads} heads and frames of {frame_samples} samples "
                f"on lanes of {self.pauses.shape[::2]} and {self.frame_samples}"
            )
        self._facts[:] = heads, delay_steps

    def with_news(self, owner: int) -> list[int]:
        """Return the slots of a front whose results, or whose reset, it has not read yet."""
        news = (self.seen != self.told) | (self.tail > self.read)
        mine: list[int] = np.flatnonzero((self.owner == owner) & (self.active > 0) & news).tolist()
        return mine
