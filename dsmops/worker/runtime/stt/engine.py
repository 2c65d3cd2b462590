"""The batched streaming engine of speech-to-text: one call advances every active slot by one frame.

A step is Mimi's encoder, the language model and the choice of a token, for all slots at once. Slots
are independent rows. On a CUDA device the whole step is one captured graph, in which Mimi is a
branch beside the language model where that reads the frame before; on a CPU the same code runs
unchanged.

`step` runs one step to its end. `launch` only begins it, so that a CUDA device can be given the
next one while this one runs: the audio of a step does not depend on the words of the last one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from enum import StrEnum
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dsmops.worker.models.conventions import END_OF_PADDING, PADDING
from dsmops.worker.models.device import device_errors
from dsmops.worker.models.state import RowState, keep
from dsmops.worker.models.stt import LoadedStt
from dsmops.worker.runtime.capture import capture
from dsmops.worker.runtime.stt.interface import SttOutput

MOST_LAUNCHED_STEPS = 2
"""Steps that may be under way: the one that the device computes, and the next."""


class Alignment(StrEnum):
    """Which frame a step takes, and how Mimi begins a stream. Step 0 takes the initial tokens.

    `SERVER`: step t takes frame t - 1, as in training, moshi-server and MLX; Mimi's downsampling
    begins with zeros, as in moshi-server. `LMGEN`: step t takes frame t, and frame 0 is never
    taken, as in the Python package's `LMGen` fed once per frame; Mimi's downsampling begins with
    copies of its first input, as in PyTorch.

    tests/worker/runtime/stt/test_real_server.py holds `SERVER` to the numbers of a real server.
    """

    SERVER = "server"
    LMGEN = "lmgen"


class SttEngine:
    """A model with `batch_size` slots. All memory that serving takes is taken here.

    Not thread-safe: one thread owns an engine.
    """

    def __init__(
        self,
        model: LoadedStt,
        batch_size: int,
        *,
        alignment: Alignment = Alignment.SERVER,
        cuda_graph: bool = True,
    ) -> None:
        """Allocate the slots and, on a CUDA device, capture the step unless `cuda_graph` is False.

        Raises:
            GpuMemoryError: the slots do not fit.
            DeviceLostError: the device failed during warm-up.
        """
        self.model = model
        self.batch_size = batch_size
        self.alignment = alignment
        device, lm = model.device, model.lm
        heads = lm.shape.extra_heads[0] if lm.shape.extra_heads else 0
        with device_errors(device), torch.inference_mode():
            self._rows = RowState(batch_size, device)
            # moshi-server fills the states of a reset slot with zeros, and its flag for the padding
            # of a stream's start is one for the whole batch: its streams begin with zeros.
            self._mimi = model.mimi.init_state(self._rows, zero_start=alignment is Alignment.SERVER)
            self._ring = lm.init_state(self._rows)
            self._started = self._rows.zeros(dtype=torch.bool)
            self._last_text = self._rows.zeros(dtype=torch.int64)
            self._held_codes = self._rows.zeros(lm.shape.audio_codebooks, dtype=torch.int64)
            # Inputs and outputs stay in place, so that a captured graph finds them.
            self._pcm = torch.zeros(batch_size, model.frame_samples, device=device)
            self._exec_mask = torch.zeros(batch_size, dtype=torch.bool, device=device)
            self._forced = torch.full((batch_size,), -1, dtype=torch.int64, device=device)
            self._report = torch.zeros(batch_size, 2 + heads, device=device)
            self._transfers = [
                _Transfer(self._exec_mask, self._forced, self._report)
                for _ in range(MOST_LAUNCHED_STEPS)
            ]
            # As in moshi-server, a step's language model does not read the frame of the same step.
            self._mimi_stream = (
                torch.cuda.Stream(device)
                if device.type == "cuda" and alignment is Alignment.SERVER
                else None
            )
            self.codes = torch.zeros(
                batch_size, lm.shape.audio_codebooks, dtype=torch.int64, device=device
            )
            """Codes of the last step's frames, int64 [B, K], on the device; overwritten by the next
            step."""
            self.logits = torch.zeros(batch_size, lm.shape.text_out_vocab_size, device=device)
            """Text logits of the last step, float32 [B, V], before any restriction; overwritten by
            the next step."""
            (self._advance,) = (
                capture(self._step) if cuda_graph and device.type == "cuda" else (self._step,)
            )

    @property
    def state_bytes(self) -> int:
        """Bytes of all slots' streaming state."""
        return self._rows.nbytes

    def new_frames(self) -> NDArray[np.float32]:
        """Return a zeroed float32 [B, 1920] for the frames of the next step.

        On a CUDA device its memory is pinned, so that `step` needs no copy of its own. `step` takes
        other arrays too.
        """
        frames = torch.zeros(
            self.batch_size,
            self.model.frame_samples,
            pin_memory=self.model.device.type == "cuda",
        )
        return cast("NDArray[np.float32]", frames.numpy())

    def reset(self, slots: Sequence[int]) -> None:
        """Start new streams in `slots`. Other slots are untouched.

        Raises:
            ValueError: a slot number is out of range (a bug in the caller).
        """
        if not all(0 <= slot < self.batch_size for slot in slots):
            raise ValueError(f"slots {list(slots)} are not all among {self.batch_size}")
        with device_errors(self.model.device), torch.inference_mode():
            self._rows.reset(slots)

    def step(
        self,
        pcm: NDArray[np.float32],
        exec_mask: NDArray[np.bool_],
        forced: NDArray[np.int64] | None = None,
    ) -> SttOutput:
        """Advance every slot marked in `exec_mask` by one frame.

        Shapes (B slots):
            pcm: float32 [B, 1920], 24 kHz mono in [-1, 1]. Idle rows are zeroed first.
            exec_mask: bool [B]. A False row keeps its state.
            forced: int64 [B] or None. Where it is not -1, the token is chosen among padding, end
                of padding and this one.

        A frame is 80 ms, so a `step_ms` above 80 means the engine falls behind. Row i depends on
        row i alone.

        Raises:
            ValueError: a shape does not fit this engine (a bug in the caller).
            DeviceLostError: the GPU failed; every slot is lost.

        Source: masking and reset follow moshi 0.2.13; differences are in runbooks/decisions.
        """
        begin_s = time.perf_counter()
        output = self.launch(pcm, exec_mask, forced).wait()
        return replace(output, step_ms=(time.perf_counter() - begin_s) * 1000)

    def launch(
        self,
        pcm: NDArray[np.float32],
        exec_mask: NDArray[np.bool_],
        forced: NDArray[np.int64] | None = None,
    ) -> SttLaunchedStep:
        """Begin a step as `step` runs it; steps run in the order of their launches.

        Pass an array of `new_frames`: with any other the call waits for a CUDA device. It must
        stay as it is until the step has ended, so two of them take turns. The call also waits for
        the step before the last one, if that still runs.

        Raises:
            ValueError, DeviceLostError: as `step`.
        """
        for name, given, wanted in (
            ("pcm", pcm, self._pcm),
            ("exec_mask", exec_mask, self._exec_mask),
            ("forced", forced, self._forced),
        ):
            if given is not None and given.shape != wanted.shape:
                raise ValueError(
                    f"{name} has shape {list(given.shape)}; this engine takes {list(wanted.shape)}"
                )
        transfer = self._transfers.pop(0)
        self._transfers.append(transfer)
        with device_errors(self.model.device), torch.inference_mode():
            if transfer.launched is not None:
                transfer.launched.wait()
            transfer.begin()
            self._pcm.copy_(torch.from_numpy(pcm), non_blocking=True)
            transfer.send(exec_mask, forced)
            self._advance()
            transfer.fetch()
        transfer.launched = SttLaunchedStep(transfer)
        return transfer.launched

    def _step(self) -> None:
        lm, mask = self.model.lm, self._exec_mask
        with self._beside_the_language_model():
            self._encode()
        fed = self._held_codes if self.alignment is Alignment.SERVER else self.codes
        audio = torch.where(self._started[:, None], fed, lm.initial_audio)
        text = torch.where(self._started, self._last_text, lm.initial_text)
        logits, states = lm(text[:, None], audio[..., None], self._ring, mask)
        self.logits.copy_(logits[:, 0])
        token = self._choose()
        if self._mimi_stream is not None:
            torch.cuda.current_stream().wait_stream(self._mimi_stream)
        keep(self._last_text, token, mask)
        keep(self._held_codes, self.codes, mask)
        self._started.logical_or_(mask)
        self._report[:, 0] = token
        self._report[:, 1] *= self.logits.isfinite().all(-1)
        pauses = lm.pause_probabilities(states)
        if pauses is not None:
            self._report[:, 2:] = pauses[:, 0]

    def _beside_the_language_model(self) -> AbstractContextManager[object]:
        """Put the block's work on the stream of Mimi, where it has one: a branch of the graph."""
        if self._mimi_stream is None:
            return nullcontext()
        self._mimi_stream.wait_stream(torch.cuda.current_stream())
        return torch.cuda.stream(self._mimi_stream)

    def _encode(self) -> None:
        """Note the codes of the step's frames, and report whether what they come from is finite."""
        mimi, mask = self.model.mimi, self._exec_mask
        pcm = torch.where(mask[:, None], self._pcm, 0.0)
        latents = mimi.latents(pcm[:, None], self._mimi, mask)
        self.codes.copy_(mimi.quantizer.encode(latents, self.codes.shape[1])[..., 0])
        # A latent that is NaN still has a nearest centroid: behind the quantiser it would not
        # be noticed.
        self._report[:, 1] = latents.isfinite().flatten(1).all(-1)

    def _choose(self) -> Tensor:
        """Return one token per row, int64 [B].

        It is the most probable one, or drawn at the model's temperature (Gumbel trick).
        """
        logits = self.logits
        ids = torch.arange(logits.shape[1], device=logits.device)
        forced = self._forced[:, None]
        barred = (forced >= 0) & (ids != forced) & (ids != PADDING) & (ids != END_OF_PADDING)
        logits = logits.masked_fill(barred, -torch.inf)
        temperature = self.model.config.temperature
        if temperature > 0:
            logits = logits / temperature - torch.empty_like(logits).exponential_().log()
        return logits.argmax(-1)


class _Transfer:
    """Host buffers of one step: mask, forced tokens, report.

    For a CUDA device they are pinned memory, and nothing waits before `output`.
    """

    def __init__(self, exec_mask: Tensor, forced: Tensor, report: Tensor) -> None:
        self.launched: SttLaunchedStep | None = None
        """The last step that used it."""
        self._there = exec_mask, forced
        self._report = report
        self.device = report.device
        is_cuda = self.device.type == "cuda"
        self._mask_host, self._forced_host, self._report_host = (
            torch.zeros(tensor.shape, dtype=tensor.dtype, pin_memory=is_cuda)
            for tensor in (exec_mask, forced, report)
        )
        self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)] if is_cuda else None
        self._begin_s = self._end_s = 0.0

    def begin(self) -> None:
        if self._events is None:
            self._begin_s = time.perf_counter()
        else:
            self._events[0].record()

    def send(self, exec_mask: NDArray[np.bool_], forced: NDArray[np.int64] | None) -> None:
        self._mask_host.copy_(torch.from_numpy(exec_mask))
        if forced is None:
            self._forced_host.fill_(-1)
        else:
            self._forced_host.copy_(torch.from_numpy(forced))
        for there, host in zip(self._there, (self._mask_host, self._forced_host), strict=True):
            there.copy_(host, non_blocking=True)

    def fetch(self) -> None:
        """Have the report copied once it is there."""
        self._report_host.copy_(self._report, non_blocking=True)
        if self._events is None:
            self._end_s = time.perf_counter()
        else:
            self._events[1].record()

    def output(self) -> SttOutput:
        """Wait for the report, and return what it says."""
        if self._events is None:
            step_ms = (self._end_s - self._begin_s) * 1000
        else:
            begin, end = self._events
            end.synchronize()
            step_ms = begin.elapsed_time(end)
        report = self._report_host.numpy().copy()
        return SttOutput(
            report[:, 0].astype(np.int64), report[:, 2:], report[:, 1].astype(np.bool_), step_ms
        )


class SttLaunchedStep:
    """A step under way."""

    def __init__(self, transfer: _Transfer) -> None:
        self._transfer = transfer
        self._output: SttOutput | None = None

    def wait(self) -> SttOutput:
        """Wait for the step's end, and return its result.

        `step_ms` is the device's time of this step alone; waiting for the step before is not
        counted.

        Raises:
            DeviceLostError: the GPU failed; every slot is lost.
        """
        if self._output is None:
            with device_errors(self._transfer.device):
                self._output = self._transfer.output()
        return self._output
