"""The batched streaming engine of text-to-speech: one call advances every active slot by one frame.

A step is the language model and its prediction of a text token, the choice of the token to feed,
then the depformer and Mimi's decoder, for all slots at once. Slots are independent rows. On a CUDA
device each part is a captured graph; on a CPU the same code runs unchanged.

`step` runs one step to its end, and lets the caller choose. `launch` takes both tokens that may be
fed and leaves the choice to the device, so that the next step can be launched while this one runs:
the card never waits, and decodes sound beside the language model of the next step.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from dsmops.errors import InputError
from dsmops.worker.models.conventions import END_OF_PADDING, PADDING
from dsmops.worker.models.device import device_errors
from dsmops.worker.models.state import RowState, keep
from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.models.tts_lm import ZERO
from dsmops.worker.models.voice import require_voice
from dsmops.worker.runtime.capture import capture
from dsmops.worker.runtime.tts.interface import TtsChoose, TtsOutput, TtsRequest
from dsmops.worker.runtime.tts.sampling import draw, noise, stream_key
from dsmops.worker.runtime.tts.transfer import MOST_LAUNCHED_STEPS, Transfer

_MOST_TEMPERATURE, _MOST_BONUS, _MOST_CFG = 100.0, 100.0, 100.0
"""Far beyond what changes anything: logits lie within ±30."""
_TOP_K_TEXT, _TOP_K_AUDIO = 25, 250
"""What every published service uses; upstream's defaults."""


class TtsEngine:
    """A model with `batch_size` slots. All memory that serving takes is taken here.

    Not thread-safe: one thread owns an engine; only `check` may be called from any.
    """

    def __init__(
        self, model: LoadedTts, batch_size: int, *, guidance: bool = False, cuda_graph: bool = True
    ) -> None:
        """Allocate the slots and, on a CUDA device, capture the step unless `cuda_graph` is False.

        With `guidance` every slot also runs the model without text and voice, and `TtsRequest.cfg`
        says how far from that it goes: at twice the cost, and only for a model that was not
        distilled to take this number as an input.

        Raises:
            InputError: `guidance` with a distilled model.
            GpuMemoryError: the slots do not fit.
            DeviceLostError: the device failed during warm-up.
        """
        if guidance and model.config.distilled:
            raise InputError(
                "this model takes its guidance as an input; it runs no second, unconditioned pass",
                hint=f"Give each request one of the values {_listed(model.config.cfg_values)}.",
            )
        self.model = model
        self.batch_size = batch_size
        self.offsets: NDArray[np.int64] = np.zeros(batch_size, np.int64)
        """Steps that each row has done since its reset."""
        self._guided = guidance
        config, device, lm = model.config, model.device, model.lm
        shape, codebooks = lm.shape, lm.codebooks
        with device_errors(device), torch.inference_mode():
            # With guidance the language model has two rows a slot: the conditional ones first.
            self._lm_rows = RowState((2 if guidance else 1) * batch_size, device)
            self._ring = lm.init_state(self._lm_rows)
            self._summed = self._lm_rows.zeros(shape.d_model, dtype=lm.dtype)
            length = config.max_speakers * config.voice_frames
            self._cross = lm.init_cross(self._lm_rows, length)
            self._voices: list[bytes | None] = [None] * self._lm_rows.rows
            """The digest of the voices that each row of `_cross` holds."""
            self._rows = RowState(batch_size, device)
            self._mimi = model.mimi.init_state(self._rows)
            self._last_text = self._rows.zeros(dtype=torch.int64)
            # As many past steps as the codebooks lag behind each other; one at least, for the next
            # step's input.
            self._past = self._rows.zeros(
                shape.audio_codebooks, max(config.max_delay, 1), dtype=torch.int64
            )
            self._keys = self._rows.zeros(dtype=torch.int64)
            self._temperature = self._rows.zeros()
            self._padding_bonus = self._rows.zeros()
            self._cfg = self._rows.zeros(dtype=lm.dtype)
            self._delays = torch.tensor(config.delays, device=device)
            self._is_padding = (
                torch.arange(shape.text_out_vocab_size, device=device) == PADDING
            ).float()
            # Inputs and outputs stay in place, so that captured graphs find them.
            self._masks = torch.zeros(2, batch_size, dtype=torch.bool, device=device)
            self._exec_mask, self._sounding = self._masks
            self._text = torch.full((batch_size,), PADDING, dtype=torch.int64, device=device)
            self._options = torch.full((batch_size, 2), PADDING, dtype=torch.int64, device=device)
            self._states = torch.zeros(
                self._lm_rows.rows, shape.d_model, dtype=lm.dtype, device=device
            )
            self._predicted = torch.zeros(batch_size, 2, dtype=torch.int64, device=device)
            # What the decoder reads stays as it is while the next step computes its own.
            self._complete, self._frame = torch.zeros(
                2, batch_size, codebooks, 1, dtype=torch.int64, device=device
            )
            self._decodes, self._are_finite = torch.zeros(
                2, batch_size, dtype=torch.bool, device=device
            )
            self._sound = torch.zeros(batch_size, model.frame_samples + 1, device=device)
            self._transfer = Transfer(self._masks, self._options, self._predicted, self._sound)
            self.text_logits = torch.zeros(batch_size, shape.text_out_vocab_size, device=device)
            """Text logits of the last step, float32 [B, V], before any bonus; overwritten by the
            next step."""
            self.audio_logits = torch.zeros(
                batch_size, codebooks, shape.audio_vocab_size - 1, device=device
            )
            """Logits of the last step's codes, float32 [B, K, card]; overwritten by the next step
            that is not text-only."""
            self.codes = torch.zeros(
                batch_size, shape.audio_codebooks, dtype=torch.int64, device=device
            )
            """Codes that the last step generated, int64 [B, all codebooks], -1 where it generated
            none; overwritten by the next step."""
            self._capture(cuda_graph=cuda_graph and device.type == "cuda")
        self._launched: list[_LaunchedStep] = []
        self._last_end_s = 0.0

    def _capture(self, *, cuda_graph: bool) -> None:
        parts = (self._predict_text, self._generate, self._hand_over, self._advance_silently)
        self._run_text, self._run_audio, self._run_hand_over, self._run_silence = (
            # Before the decoder's work: that is not urgent, and fills the gaps of the depformer.
            capture(*parts, stream=torch.cuda.Stream(priority=-1)) if cuda_graph else parts
        )
        # The decoder runs beside the other graphs, so it shares no memory with them.
        (self._run_decoder,) = (
            capture(self._decode, stream=self._transfer.side) if cuda_graph else (self._decode,)
        )

    @property
    def state_bytes(self) -> int:
        """Bytes of all slots' streaming state."""
        return self._lm_rows.nbytes + self._rows.nbytes

    def check(self, request: TtsRequest) -> None:
        """Tell whether `reset` can follow `request`. Any thread may ask.

        Raises:
            InputError: it has a voice of another shape or too many of them, or a `cfg` that the
                model does not know.
        """
        config = self.model.config
        for voice in request.voices:
            require_voice(voice, config, name="the voice")
        # Not what float32 can hold, which would end the loop at the reset, but what makes sense.
        if (
            not 0 <= request.temperature <= _MOST_TEMPERATURE
            or not abs(request.padding_bonus) <= _MOST_BONUS
        ):
            raise InputError(
                f"temperature {request.temperature:g} and padding bonus "
                f"{request.padding_bonus:g} are not numbers from 0 to "
                f"{_MOST_TEMPERATURE:g} and from -{_MOST_BONUS:g} to {_MOST_BONUS:g}",
                hint="Published values are 0.6, and -2 to 2.",
                code="request.numbers",
            )
        if len(request.voices) > config.max_speakers:
            raise InputError(
                f"{len(request.voices)} voices were given; this model has "
                f"{config.max_speakers} speakers",
                hint="Give the main speaker's voice first, then the other's.",
                code="voice.many",
            )
        if not abs(request.cfg) <= _MOST_CFG or (
            config.distilled and request.cfg not in config.cfg_values
        ):
            raise InputError(
                f"this model was not trained with cfg {request.cfg:g}",
                hint=f"Use one of {_listed(config.cfg_values)}."
                if config.distilled
                else f"Give a number up to {_MOST_CFG:g}.",
                code="cfg.unknown",
            )
        if not config.distilled and not self._guided and request.cfg != 1:
            raise InputError(
                f"cfg {request.cfg:g} needs guidance, which is off",
                hint="Without guidance cfg is 1, and steps cost half.",
                code="cfg.off",
            )

    def reset(self, slots: Sequence[int], requests: Sequence[TtsRequest]) -> None:
        """Start new streams in `slots`, as `requests` say; their next step is a stream's first.

        Other slots are untouched.

        Raises:
            ValueError: a slot number is out of range, or requests and slots differ; a caller's bug.
            InputError: a request cannot be followed, as `check` says; nothing was changed.
        """
        if not all(0 <= slot < self.batch_size for slot in slots) or len(requests) != len(slots):
            raise ValueError(
                f"slots {list(slots)} do not fit {self.batch_size} slots and {len(requests)} "
                "requests"
            )
        for request in requests:
            self.check(request)
        device = self.model.device
        with device_errors(device), torch.inference_mode():
            # The decoder of the step before may still be at work on these rows.
            self._transfer.await_decoder()
            self._rows.reset(slots)
            unconditioned = [slot + self.batch_size for slot in slots] if self._guided else []
            self._lm_rows.reset([*slots, *unconditioned])
            rows = torch.tensor(list(slots), dtype=torch.int64, device=device)
            self.offsets[list(slots)] = 0
            keys = [stream_key(request.seed) for request in requests]
            self._keys[rows] = torch.tensor(keys, dtype=torch.int64, device=device)
            for numbers, given in (
                (self._temperature, [request.temperature for request in requests]),
                (self._padding_bonus, [request.padding_bonus for request in requests]),
                (self._cfg, [request.cfg for request in requests]),
            ):
                numbers[rows] = torch.tensor(given, dtype=numbers.dtype, device=device)
            self._condition(slots, requests)
            if self._guided:
                nobody = [replace(request, voices=()) for request in requests]
                self._condition(unconditioned, nobody, null=True)

    def step(
        self, exec_mask: NDArray[np.bool_], choose: TtsChoose, *, text_only: bool = False
    ) -> TtsOutput:
        """Advance every slot marked in `exec_mask` by one frame.

        `exec_mask` bool [B]; a False row keeps its state as if this step had not happened. `choose`
        gets the predicted text tokens, int64 [B], and returns the tokens to feed, int64 [B],
        multiplexed; should it raise, no row has advanced. With `text_only` no audio is made, which
        only rows may do whose audio has not begun, and which is several times faster.

        A frame is 80 ms, so a `step_ms` above 80 means the engine falls behind. Row i depends on
        row i alone.

        Raises:
            ValueError: a shape does not fit this engine's B, a token no table, or `text_only` a row
                that must speak; a bug in the caller.
            DeviceLostError: the GPU failed during the step; every slot is lost.
        """
        valid = self._begin(exec_mask, text_only=text_only)
        begin_s = time.perf_counter()
        with device_errors(self.model.device), torch.inference_mode():
            self._transfer.send(exec_mask, valid, None)
            self._run_text()
            self._transfer.fetch_predicted()
            predicted = self._transfer.predicted()
        chosen = choose(predicted[:, 0].copy())
        if chosen.shape != (self.batch_size,):
            raise ValueError(f"{list(chosen.shape)} tokens were chosen for {self.batch_size} slots")
        text = np.where(exec_mask, chosen, PADDING)
        self._require_tokens(text)
        with device_errors(self.model.device), torch.inference_mode():
            self._text.copy_(torch.from_numpy(text))
            self._sound_out(text_only=text_only)
        self.offsets[exec_mask] += 1
        return _LaunchedStep(self, valid, begin_s, text_only=text_only).wait()

    def launch(
        self, exec_mask: NDArray[np.bool_], tokens: NDArray[np.int64], *, text_only: bool = False
    ) -> _LaunchedStep:
        """Begin a step as `step` makes it, and return it while the device works.

        `tokens` int64 [B, 2] are fed where the model predicts padding, and where it asks for a
        word. Only one step may be under way besides: what came before the last one is waited for.

        Raises as `step` does; what the device does later is raised by the step's own methods.
        """
        valid = self._begin(exec_mask, text_only=text_only)
        if tokens.shape != (self.batch_size, 2):
            raise ValueError(f"tokens {list(tokens.shape)} do not fit {self.batch_size} slots")
        options = np.where(exec_mask[:, None], tokens, PADDING)
        self._require_tokens(options)
        begin_s = time.perf_counter()
        if len(self._launched) == MOST_LAUNCHED_STEPS:
            self._launched.pop(0).wait()
        if self._launched:
            # Then the device has read what it was sent.
            self._launched[-1].predicted()
        with device_errors(self.model.device), torch.inference_mode():
            self._transfer.send(exec_mask, valid, options)
            self._run_text()
            self._transfer.fetch_predicted()
            self._sound_out(text_only=text_only)
        self.offsets[exec_mask] += 1
        launched = _LaunchedStep(self, valid, begin_s, text_only=text_only)
        self._launched.append(launched)
        return launched

    def _begin(self, exec_mask: NDArray[np.bool_], *, text_only: bool) -> NDArray[np.bool_]:
        """Check what a step is asked for, and return which rows will sound."""
        config = self.model.config
        if exec_mask.shape != (self.batch_size,):
            raise ValueError(
                f"exec_mask {list(exec_mask.shape)} does not fit {self.batch_size} slots"
            )
        if text_only and (self.offsets[exec_mask] >= config.delay_steps).any():
            raise ValueError("a row whose audio has begun cannot do a text-only step")
        valid: NDArray[np.bool_] = exec_mask & (
            self.offsets >= config.delay_steps + config.max_delay
        )
        return valid

    def _require_tokens(self, tokens: NDArray[np.int64]) -> None:
        # A token beyond the table would cost the device, and every stream on it.
        rows = self.model.lm.shape.text_in_vocab_size
        if not ((tokens >= ZERO) & (tokens < rows * (rows + 1))).all():
            raise ValueError(f"the tokens {tokens.tolist()} are not all pairs of {rows} ids")

    def _sound_out(self, *, text_only: bool) -> None:
        """Do the rest of a step, once its text is chosen."""
        if text_only:
            self._run_silence()
            return
        self._run_audio()
        self._transfer.await_decoder()
        self._run_hand_over()
        with self._transfer.beside():
            self._run_decoder()
            self._transfer.fetch_sound()

    def _condition(
        self, rows: Sequence[int], requests: Sequence[TtsRequest], *, null: bool = False
    ) -> None:
        """Tell rows of the language model how they sound. Rows of one voice share its projection,
        which is copied from a row that has it already, if any does.
        """
        lm, device = self.model.lm, self.model.device
        for cfg in {request.cfg for request in requests}:
            same = [row for row, request in zip(rows, requests, strict=True) if request.cfg == cfg]
            self._summed[same] = lm.conditioning.summed(cfg, null=null).to(self._summed.dtype)
        by_voices: dict[bytes, list[int]] = {}
        voices_of: dict[bytes, tuple[NDArray[np.float32], ...]] = {}
        for row, request in zip(rows, requests, strict=True):
            digest = _digest(request.voices)
            voices_of[digest] = request.voices
            if self._voices[row] != digest:
                by_voices.setdefault(digest, []).append(row)
        for digest, wanting in by_voices.items():
            if digest in self._voices:
                source = self._voices.index(digest)
            else:
                source = wanting[0]
                voices = [torch.tensor(voice, device=device) for voice in voices_of[digest]]
                for entries, layer in zip(
                    self._cross, lm.voice(lm.conditioning.cross(voices)), strict=True
                ):
                    entries.put(source, layer)
            for entries in self._cross:
                entries.copy(source, [row for row in wanting if row != source])
            for row in wanting:
                self._voices[row] = digest

    def _predict_text(self) -> None:
        """Run the language model.

        Nothing of a row's state moves on here: that waits for the text token.
        """
        lm, offset = self.model.lm, self._ring.offset
        steps = offset[: self.batch_size]
        audio = torch.where(steps[:, None] <= self._delays, lm.initial_audio, self._past[..., -1])
        text = torch.where(steps == 0, lm.initial_text, self._last_text)
        if self._guided:
            audio = audio.repeat(2, 1)
            text = torch.cat([text, torch.where(steps == 0, lm.initial_text, ZERO)])
        logits, states = lm(text[:, None], audio[..., None], self._summed, self._cross, self._ring)
        self._states.copy_(states[:, 0])
        self.text_logits.copy_(logits[: self.batch_size, 0])
        boosted = self.text_logits + self._padding_bonus[:, None] * self._is_padding
        rolls = noise(self._keys, steps, 0, 1, boosted.shape[-1])[:, 0]
        token = draw(boosted, rolls, self._temperature, _TOP_K_TEXT)
        self._predicted[:, 0] = token
        self._predicted[:, 1] = self.text_logits.isfinite().all(-1)
        # `step` overwrites it with what its caller chose.
        torch.where(
            token == END_OF_PADDING, self._options[:, 1], self._options[:, 0], out=self._text
        )

    def _generate(self) -> None:
        """Choose the codes of this step, and note the frame that they complete."""
        steps, codebooks = self._ring.offset[: self.batch_size], self.model.lm.codebooks
        rolls = noise(self._keys, steps, 1, codebooks, self.audio_logits.shape[-1])

        all_logits: list[Tensor] = []

        def pick(codebook: int, logits: Tensor) -> Tensor:
            if self._guided:
                conditional, null = logits.chunk(2)
                logits = null + (conditional - null) * self._cfg[:, None]
            all_logits.append(logits)
            return draw(logits, rolls[:, codebook], self._temperature, _TOP_K_AUDIO)

        codes = self.model.lm.depformer(self._states, self._text, pick)
        self.audio_logits.copy_(torch.stack(all_logits, dim=1))
        codes = F.pad(codes, (0, len(self._delays) - codebooks), value=ZERO)
        self.codes.copy_(
            torch.where(steps[:, None] < self.model.config.delay_steps + self._delays, ZERO, codes)
        )
        recent = torch.cat([self._past, self.codes[..., None]], dim=-1)
        # The frame that is complete now began as many steps ago as the last codebook's delay.
        begun = recent.shape[-1] - 1 - self.model.config.max_delay
        frame = recent.gather(-1, (begun + self._delays).expand(self.batch_size, -1)[..., None])
        self._complete.copy_(frame[:, :codebooks].clamp(min=0))
        self._advance(recent)

    def _hand_over(self) -> None:
        """Give the frame to the decoder, which must be done with the last one."""
        self._frame.copy_(self._complete)
        self._decodes.copy_(self._sounding)
        self._are_finite.copy_(self.audio_logits.isfinite().flatten(1).all(-1))

    def _decode(self) -> None:
        pcm = self.model.mimi.decode(self._frame, self._mimi, self._decodes)
        self._sound[:, :-1] = pcm[:, 0]
        self._sound[:, -1] = self._are_finite & (pcm[:, 0].isfinite().all(-1) | ~self._decodes)

    def _advance_silently(self) -> None:
        self.codes.fill_(ZERO)
        self._advance(torch.cat([self._past, self.codes[..., None]], dim=-1))

    def _advance(self, recent: Tensor) -> None:
        mask = self._exec_mask
        keep(self._past, recent[..., 1:], mask)
        keep(self._last_text, self._text, mask)
        self._ring.offset.add_(mask.repeat(2) if self._guided else mask)


class _LaunchedStep:
    """A step under way."""

    def __init__(
        self, engine: TtsEngine, valid: NDArray[np.bool_], begin_s: float, *, text_only: bool
    ) -> None:
        self._engine, self._valid, self._text_only = engine, valid, text_only
        self._begin_s = begin_s
        self._sound = None if text_only else engine._transfer.take_sound()
        self._predicted: NDArray[np.int64] | None = None
        self._output: TtsOutput | None = None

    def predicted(self) -> NDArray[np.int64]:
        """Wait for the language model, and return each row's predicted text token, int64 [B]."""
        return self._fetched()[:, 0]

    def _fetched(self) -> NDArray[np.int64]:
        if self._predicted is None:
            with device_errors(self._engine.model.device):
                self._predicted = self._engine._transfer.predicted()
        return self._predicted

    def wait(self) -> TtsOutput:
        """Wait for the sound, and return it."""
        if self._output is not None:
            return self._output
        engine = self._engine
        finite = self._fetched()[:, 1].astype(np.bool_)
        if self._sound is None:
            pcm = np.zeros((engine.batch_size, engine.model.frame_samples), np.float32)
        else:
            with device_errors(engine.model.device):
                sound = self._sound()
            pcm, finite = sound[:, :-1], finite & sound[:, -1].astype(np.bool_)
        now_s = time.perf_counter()
        step_ms = (now_s - max(self._begin_s, engine._last_end_s)) * 1000
        engine._last_end_s = now_s
        self._output = TtsOutput(pcm, self._valid, finite, step_ms)
        return self._output


def _digest(voices: Sequence[NDArray[np.float32]]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for voice in voices:
        digest.update(repr((voice.shape, voice.dtype.str)).encode() + voice.tobytes())
    return digest.digest()


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
