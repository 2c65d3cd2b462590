"""Our networks and those of the `moshi` package (0.2.13), fed alike from the same files, and how
far their outputs are apart.

Importing this module does not need `moshi`; following upstream does. Its compiled kernels and CUDA
graphs are switched off: compiled code keeps intermediates that eager code rounds, so 16-bit results
would not compare.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dsmops.worker.models.state import RowState
from dsmops.worker.runtime.tts.engine import TtsEngine
from dsmops.worker.runtime.tts.interface import TtsRequest
from tests.support.networks import LmRows, load_lm, load_mimi, load_tts_model, tts_config

os.environ["NO_TORCH_COMPILE"] = os.environ["NO_CUDA_GRAPH"] = "1"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Per step and row (bool [S, B]): who starts again before the step, who advances in it."""

    resets: Tensor
    masks: Tensor

    @classmethod
    def steady(cls, steps: int, rows: int) -> Schedule:
        """Return the schedule of rows that all advance in every step."""
        return cls(
            torch.zeros(steps, rows, dtype=torch.bool), torch.ones(steps, rows, dtype=torch.bool)
        )

    @classmethod
    def out_of_sync(cls, steps: int, rows: int, *, seed: int = 0) -> Schedule:
        """Return a random schedule: rows advance two times out of three and start again now and
        then; the last one starts late.
        """
        generator = torch.Generator().manual_seed(seed)
        masks = torch.rand(steps, rows, generator=generator) < 0.67
        masks[: min(5, steps // 2), -1] = False
        return cls(torch.rand(steps, rows, generator=generator) < 0.04, masks)


@dataclass(frozen=True, slots=True)
class LmTrace:
    """What a language model gave, on the CPU in float32: logits [S, B, V], tokens [S, B], pauses
    [S, B, heads].
    """

    logits: Tensor
    tokens: Tensor
    pauses: Tensor


@dataclass(frozen=True, slots=True)
class MimiTrace:
    """What a codec gave, on the CPU: latents [S, B, C, T], codes [S, B, K, T] and, decoded from
    them, PCM [S, B, 1, samples].
    """

    latents: Tensor
    codes: Tensor
    pcm: Tensor


@torch.no_grad()
def our_lm(
    path: Path,
    body: Mapping[str, Any],
    codes: Tensor,
    schedule: Schedule,
    *,
    say: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LmTrace:
    """Feed `codes` [S, B, K] by the schedule.

    With `say` [S, B] those tokens are fed back, without it the most probable ones.
    """
    rows = LmRows(load_lm(path, body, dtype=dtype, device=torch.device(device)), codes.shape[1])
    logits, tokens, pauses = [], [], []
    for step, frame in enumerate(codes.to(device)):
        rows.reset(schedule.resets[step].nonzero()[:, 0].tolist())
        out = rows.step(
            frame,
            schedule.masks[step].to(device),
            say=None if say is None else say[step].to(device),
        )
        logits.append(out.logits.float().cpu())
        tokens.append(out.tokens.cpu())
        pauses.append(torch.zeros(len(frame), 0) if out.pauses is None else out.pauses.cpu())
    return LmTrace(torch.stack(logits), torch.stack(tokens), torch.stack(pauses))


@torch.no_grad()
def upstream_lm(
    path: Path,
    body: Mapping[str, Any],
    codes: Tensor,
    schedule: Schedule,
    *,
    say: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> LmTrace:
    """The same through upstream's `LMGen`."""
    from moshi.models import LMGen, loaders  # type: ignore[import-not-found]

    lm = loaders.get_moshi_lm(path, lm_kwargs=copy.deepcopy(dict(body)), device=device, dtype=dtype)
    logits: list[Tensor] = []
    told: list[Tensor] = []
    generation = LMGen(
        lm,
        use_sampling=False,
        support_out_of_sync=True,
        on_text_logits_hook=lambda seen: logits.append(seen[:, 0, 0].float().cpu()),
        on_text_hook=None if say is None else lambda token: token.copy_(told[-1]),
    )
    tokens, pauses = [], []
    with generation.streaming(codes.shape[1]):
        for step, frame in enumerate(codes.to(device)):
            if schedule.resets[step].any():
                generation.reset_streaming(schedule.resets[step].to(device))
            generation.set_exec_mask(schedule.masks[step].to(device))
            if say is not None:
                told.append(say[step].to(device))
            out, heads = generation.step_with_extra_heads(frame[..., None])
            tokens.append(out[:, 0, 0].cpu())
            pauses.append(
                torch.stack([head[:, 0, 0].float().cpu() for head in heads], 1)
                if heads
                else torch.zeros(len(frame), 0)
            )
    return LmTrace(torch.stack(logits), torch.stack(tokens), torch.stack(pauses))


@dataclass(frozen=True, slots=True)
class TtsTrace:
    """What a text-to-speech model gave, on the CPU: text logits [S, B, V], audio logits [S, B, K,
    card] (none where the depformer did not run), codes [S, B, K], chosen by each step.
    """

    text_logits: Tensor
    audio_logits: Tensor
    codes: Tensor


@dataclass(frozen=True, slots=True)
class TtsRows:
    """What the rows of a text-to-speech model are fed: tokens [S, B], each row's voices [voices,
    channels, frames], one cfg for all.
    """

    text: Tensor
    voices: list[Tensor]
    cfg: float


def our_tts(
    path: Path,
    mimi: Path,
    body: Mapping[str, Any],
    rows: TtsRows,
    schedule: Schedule,
    *,
    n_q: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> TtsTrace:
    """Feed `rows.text` by the schedule, greedily."""
    model = load_tts_model(path, mimi, body=body, n_q=n_q, dtype=dtype, device=torch.device(device))
    engine = TtsEngine(
        model,
        rows.text.shape[1],
        guidance=not model.config.distilled and rows.cfg != 1,
        cuda_graph=False,
    )
    requests = [
        TtsRequest(tuple(voice.numpy() for voice in voices), cfg=rows.cfg, temperature=0.0)
        for voices in rows.voices
    ]
    engine.reset(range(engine.batch_size), requests)
    steps = []
    for tokens, resets, mask in zip(
        rows.text.numpy(), schedule.resets, schedule.masks.numpy(), strict=True
    ):
        again = resets.nonzero()[:, 0].tolist()
        engine.reset(again, [requests[row] for row in again])
        engine.step(mask, lambda _, tokens=tokens: tokens)  # type: ignore[misc]
        shown = (engine.text_logits, engine.audio_logits, engine.codes[:, : model.codebooks])
        steps.append([part.to("cpu", copy=True) for part in shown])
    return TtsTrace(*(torch.stack(parts) for parts in zip(*steps, strict=True)))


_LOADERS_KEYS = {
    *(
        "model_type",
        "moshi_name",
        "mimi_name",
        "mimi_config_name",
        "tokenizer_name",
        "model_id",
        "lora_name",
    ),
    *("stt_config", "tts_config", "lm_gen_config"),
}
"""What upstream takes out of a config.json before the language model sees it."""


@torch.no_grad()
def upstream_tts(
    path: Path,
    body: Mapping[str, Any],
    rows: TtsRows,
    schedule: Schedule,
    *,
    n_q: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> TtsTrace:
    """The same through upstream's `LMGen`, with the hooks of its `TTSModel`."""
    from moshi.conditioners import ConditionAttributes, TensorCondition, dropout_all_conditions  # type: ignore[import-not-found]
    from moshi.models import LMGen, loaders

    config = tts_config(body)
    lm = loaders.get_moshi_lm(
        path,
        lm_kwargs=copy.deepcopy(
            {key: value for key, value in body.items() if key not in _LOADERS_KEYS}
        ),
        device=device,
        dtype=dtype,
    )
    lm.dep_q = n_q or lm.dep_q
    count, guided = rows.text.shape[1], not config.distilled and rows.cfg != 1
    attributes = []
    for voices in rows.voices:
        tensor = torch.zeros(1, config.max_speakers, config.voice_frames, config.voice_width)
        mask = torch.zeros(1, config.max_speakers, config.voice_frames, dtype=torch.bool)
        for number, voice in enumerate(voices):
            tensor[0, number], mask[0, number] = voice.t(), True
        text = {"control": "ok"} | ({"cfg": format(rows.cfg, ".1f")} if config.distilled else {})
        attributes.append(
            ConditionAttributes(
                text, {"speaker_wavs": TensorCondition(tensor.flatten(1, 2), mask.flatten(1, 2))}
            )
        )
    attributes += dropout_all_conditions(attributes) if guided else []
    text_logits: list[Tensor] = []
    audio_logits: list[list[Tensor]] = []
    said: list[Tensor] = []
    offsets = torch.zeros(count, dtype=torch.int64)

    def force(codes: Tensor) -> None:
        early = offsets[:, None] < config.delay_steps + torch.tensor(
            config.delays[: codes.shape[1]]
        )
        codes[early.to(codes.device)] = -1

    generation = LMGen(
        lm,
        use_sampling=False,
        support_out_of_sync=True,
        condition_tensors=lm.condition_provider.prepare_and_provide(attributes),
        cfg_coef=rows.cfg if guided else 1.0,
        cfg_is_no_text=True,
        on_text_logits_hook=lambda logits: text_logits.append(logits[:, 0, 0].float().cpu()),
        on_text_hook=lambda tokens: tokens.copy_(said[-1]),
        on_audio_hook=force,
    )
    for number, head in enumerate(lm.linears):
        head.register_forward_hook(
            lambda *call, number=number: audio_logits[-1].append(_mixed(call[2], guided, rows.cfg))
        )
    codes = []
    with generation.streaming(count):
        for tokens, resets, mask in zip(rows.text, schedule.resets, schedule.masks, strict=True):
            if resets.any():
                generation.reset_streaming(resets.to(device))
            generation.set_exec_mask(mask.to(device))
            offsets[resets] = 0
            said.append(tokens.to(device))
            audio_logits.append([])
            silent = torch.full((count, lm.n_q - lm.dep_q, 1), -1, dtype=torch.int64, device=device)
            generation.step(silent)
            # What the step put away as the next one's input.
            state = generation._streaming_state
            position = (state.offsets % state.cache.shape[2])[:, None, None].expand(-1, lm.dep_q, 1)
            codes.append(state.cache[:, 1 : lm.dep_q + 1].gather(2, position)[..., 0].cpu())
            offsets += mask
    return TtsTrace(
        torch.stack(text_logits),
        torch.stack([torch.stack(heads, 1) for heads in audio_logits]),
        torch.stack(codes),
    )


def _mixed(logits: Tensor, guided: bool, cfg: float) -> Tensor:
    logits = logits[:, 0]
    if guided:
        conditional, null = logits.chunk(2)
        logits = null + (conditional - null) * cfg
    return logits.float().cpu()


@torch.no_grad()
def our_mimi(
    path: Path, pcm: Tensor, schedule: Schedule | None, *, codebooks: int, device: str = "cpu"
) -> MimiTrace:
    """Feed `pcm` [S, B, 1, samples] by the schedule; without one, each step is a whole signal."""
    encoder, decoder = load_mimi(path, device=torch.device(device))
    rows = RowState(pcm.shape[1], torch.device(device))
    encoding, decoding = encoder.init_state(rows), decoder.init_state(rows)
    steps = []
    for step, frame in enumerate(pcm.to(device)):
        state: tuple[Any, Any, Any] = (None, None, None)
        if schedule is not None:
            rows.reset(schedule.resets[step].nonzero()[:, 0].tolist())
            state = (encoding, decoding, schedule.masks[step].to(device))
        latents = encoder.latents(frame, state[0], state[2])
        codes = encoder.quantizer.encode(latents, codebooks)
        steps.append((latents, codes, decoder.decode(codes, state[1], state[2])))
    return MimiTrace(
        *(torch.stack([part.cpu() for part in parts]) for parts in zip(*steps, strict=True))
    )


@torch.no_grad()
def upstream_mimi(
    path: Path,
    config: Mapping[str, Any] | None,
    pcm: Tensor,
    schedule: Schedule | None,
    *,
    codebooks: int,
    zero_start: bool = False,
    device: str = "cpu",
) -> MimiTrace:
    """The same through upstream's codec; `config` None is the released model.

    With `zero_start` its downsampling begins a stream with zeros, as moshi-server's does.
    """
    from moshi.models import loaders

    mimi = loaders.get_mimi(
        path,
        mimi_config=config and copy.deepcopy(dict(config)),
        device=device,
        num_codebooks=codebooks,
    )
    if zero_start:
        mimi.downsample.conv.pad_mode = "constant"
    if schedule is not None:
        mimi.streaming_forever(pcm.shape[1])
    steps = []
    for step, frame in enumerate(pcm.to(device)):
        if schedule is not None:
            if schedule.resets[step].any():
                mimi.reset_streaming(schedule.resets[step].to(device))
            mimi.set_exec_mask(schedule.masks[step].to(device))
        latents = mimi.encode_to_latent(frame, quantize=False).clone()
        codes = mimi.quantizer.encode(latents)
        steps.append((latents, codes, mimi.decode(codes)))
    return MimiTrace(
        *(torch.stack([part.cpu() for part in parts]) for parts in zip(*steps, strict=True))
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """The largest absolute difference between two computations and the largest value of the
    second.
    """

    largest: float
    scale: float

    @classmethod
    def of(cls, one: Tensor, other: Tensor, active: Tensor) -> Difference:
        """Compare where `active` (bool [S, B]) is set; NaN anywhere there is an infinite
        difference.
        """
        one, other = one[active], other[active]
        if not one.numel():
            return cls(0.0, 0.0)
        return cls((one - other).abs().nan_to_num(torch.inf).max().item(), other.abs().max().item())


def agreement(one: Tensor, other: Tensor, active: Tensor) -> float:
    """Return the share of equal integers where `active` is set."""
    return (one[active] == other[active]).double().mean().item()
