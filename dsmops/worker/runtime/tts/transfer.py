"""What a text-to-speech engine and its device hand each other, and in which order.

On a CUDA device nothing here waits until it is asked to: what is sent lies in pinned memory, what
comes back is copied behind the work that makes it, and the decoder has a stream of its own beside
the main one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_LAUNCHED_STEPS = 2
"""Steps whose sound may wait to be taken: the one under way, and the one before."""


class Transfer:
    """Buffers and events around one engine's tensors. One thread owns it, with its engine."""

    def __init__(self, masks: Tensor, options: Tensor, predicted: Tensor, sound: Tensor) -> None:
        """`masks` bool [2, B] and `options` int64 [B, 2] are sent; `predicted` int64 [B, 2] and
        `sound` float32 [B, samples + 1] come back.
        """
        self._masks, self._options, self._predicted, self._sound = masks, options, predicted, sound
        device = masks.device
        self._is_cuda = device.type == "cuda"
        self._masks_host, self._options_host, self._predicted_host, *self._sounds_host = (
            torch.zeros(there.shape, dtype=there.dtype, pin_memory=self._is_cuda)
            for there in (masks, options, predicted, *[sound] * MOST_LAUNCHED_STEPS)
        )
        self._sounds = 0
        self.side: torch.cuda.Stream | None = None
        """The decoder's stream, on a CUDA device."""
        if self._is_cuda:
            self.side = torch.cuda.Stream(device)
            # Blocking: a thread that waits sleeps.
            self._has_predicted, self._has_frame = (
                torch.cuda.Event(blocking=True),
                torch.cuda.Event(),
            )
            self._has_sound = [torch.cuda.Event(blocking=True) for _ in range(MOST_LAUNCHED_STEPS)]

    def send(
        self,
        exec_mask: NDArray[np.bool_],
        valid: NDArray[np.bool_],
        options: NDArray[np.int64] | None,
    ) -> None:
        """Send a step's inputs. The device must have read the last ones."""
        self._masks_host[0].copy_(torch.from_numpy(exec_mask))
        self._masks_host[1].copy_(torch.from_numpy(valid))
        self._masks.copy_(self._masks_host, non_blocking=True)
        if options is not None:
            self._options_host.copy_(torch.from_numpy(options))
            self._options.copy_(self._options_host, non_blocking=True)

    def fetch_predicted(self) -> None:
        """Have the prediction copied once it is there."""
        self._predicted_host.copy_(self._predicted, non_blocking=True)
        if self._is_cuda:
            self._has_predicted.record()

    def predicted(self) -> NDArray[np.int64]:
        """Wait for the prediction, and return it."""
        if self._is_cuda:
            self._has_predicted.synchronize()
        found: NDArray[np.int64] = self._predicted_host.numpy().copy()
        return found

    def await_decoder(self) -> None:
        """Let what is launched next run after the decoder."""
        if self.side is not None:
            torch.cuda.current_stream().wait_stream(self.side)

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Launch what follows on the decoder's stream, after what was launched so far."""
        if self.side is None:
            yield
            return
        self._has_frame.record()
        self.side.wait_event(self._has_frame)
        with torch.cuda.stream(self.side):
            yield

    def fetch_sound(self) -> None:
        """Have the sound copied once it is there, in place of that of the step before the last."""
        number = self._sounds % MOST_LAUNCHED_STEPS
        self._sounds += 1
        self._sounds_host[number].copy_(self._sound, non_blocking=True)
        if self._is_cuda:
            self._has_sound[number].record()

    def take_sound(self) -> Callable[[], NDArray[np.float32]]:
        """Return what waits for the sound that was fetched last, and returns it: once, and before
        the sound after the next is fetched.
        """
        number = (self._sounds - 1) % MOST_LAUNCHED_STEPS

        def take() -> NDArray[np.float32]:
            if self._is_cuda:
                self._has_sound[number].synchronize()
            # On a CPU too: the next step but one overwrites it.
            sound: NDArray[np.float32] = self._sounds_host[number].numpy().copy()
            return sound

        return take
