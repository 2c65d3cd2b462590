"""Streaming state that can be seen: one row per slot, in tensors that are updated in place.

Every tensor starts a stream as zeros, so a reset is one fill, and a CUDA graph can be captured over
all of it, because no state tensor is ever replaced. A row whose execution mask is False ends a step
as it began.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_FEW_ROWS = 2


class RowState:
    """The state tensors of a model for a fixed number of slots."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self.rows = rows
        self.device = device
        self._tensors: list[Tensor] = []
        self._kept: list[Tensor] = []

    def zeros(
        self, *shape: int, dtype: torch.dtype = torch.float32, is_cleared: bool = True
    ) -> Tensor:
        """Return a new zeroed state tensor [rows, *shape], reset together with the others.

        Where it is not `is_cleared`, `reset` leaves it: the caller overwrites each row.
        """
        tensor = torch.zeros(self.rows, *shape, dtype=dtype, device=self.device)
        (self._tensors if is_cleared else self._kept).append(tensor)
        return tensor

    def reset(self, rows: Sequence[int]) -> None:
        """Start new streams in `rows`, in turn with the device's work. Other rows are untouched.

        Clears the caches too, not only their positions: a NaN left in a masked entry would come
        back as 0·NaN.
        """
        if len(rows) <= _FEW_ROWS:
            # Filling a row that lies in one piece is as fast as memory is.
            for row in rows:
                for tensor in self._tensors:
                    tensor[row].zero_()
            return
        index = torch.tensor(list(rows), dtype=torch.int64)
        if self.device.type == "cuda":
            # From memory that is not pinned the copy would wait for the device.
            index = index.pin_memory().to(self.device, non_blocking=True)
        for tensor in self._tensors:
            tensor.index_fill_(0, index, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all state tensors."""
        return sum(tensor.nbytes for tensor in (*self._tensors, *self._kept))


def keep(state: Tensor, new: Tensor, exec_mask: Tensor) -> None:
    """Write `new` [B, ...] into `state` in the rows that `exec_mask` (bool [B]) marks.

    The others stay.
    """
    torch.where(exec_mask.view(-1, *(1,) * (state.dim() - 1)), new, state, out=state)
