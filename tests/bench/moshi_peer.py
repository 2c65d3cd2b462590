"""The `moshi` package as the peer of `tests.bench.steps`: the same shapes, random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import ExitStack

import torch
from moshi.conditioners import ConditionAttributes, TensorCondition  # type: ignore[import-not-found]
from moshi.models import LMGen, loaders  # type: ignore[import-not-found]

from dsmops.dtypes import ComputeDType
from dsmops.models import STT_MODELS
from dsmops.worker.models.device import TORCH_DTYPES
from tests.support.networks import FULL_STT_BODY, FULL_TTS_CONFIG_BODY

Step = Callable[[], object]
Open = Callable[[int], Step]
"""Starts so many streams, ending those before, and returns one whole step of them."""
VOICE_FRAMES, VOICE_FRAMES_USED, VOICE_WIDTH = 625, 125, 512


def stt_steps(model: str, dtype: ComputeDType, *, device: str = "cuda") -> Open:
    """Return what starts streams: Mimi's encoder, language model, words on the host.

    `model` is a published name. Each stream has 80 ms of audio a step.
    """
    shape = STT_MODELS[model].shape
    heads = shape.extra_heads or (0, 6)
    kwargs = FULL_STT_BODY | {
        "dim": shape.d_model,
        "num_heads": shape.num_heads,
        "num_layers": shape.num_layers,
        "context": shape.context,
        "text_card": shape.text_out_vocab_size,
        "card": shape.audio_vocab_size - 1,
        "n_q": shape.audio_codebooks,
        "delays": [0] * (shape.audio_codebooks + 1),
        "extra_heads_num_heads": heads[0],
        "extra_heads_dim": heads[1],
    }
    lm = loaders.get_moshi_lm(None, lm_kwargs=kwargs, device=device, dtype=TORCH_DTYPES[dtype])
    mimi = loaders.get_mimi(None, device=device, num_codebooks=shape.audio_codebooks)
    streams = ExitStack()

    def open_streams(batch: int) -> Step:
        streams.close()
        generator = LMGen(lm, temp=0.0, temp_text=0.0)
        streams.enter_context(mimi.streaming(batch))
        streams.enter_context(generator.streaming(batch))
        pcm = torch.rand(batch, 1, 1920, device=device)

        def step() -> object:
            with torch.no_grad():
                tokens = generator.step(mimi.encode(pcm))
                return None if tokens is None else tokens.cpu()

        return step

    return open_streams


def tts_steps(dtype: ComputeDType, n_q: int, *, device: str = "cuda") -> Open:
    """Return what starts streams: language model, depformer, Mimi's decoder.

    `n_q` is how many codebooks are generated. The text of every stream is padding.
    """
    kwargs = {
        key: value
        for key, value in FULL_TTS_CONFIG_BODY.items()
        if key not in ("model_type", "tts_config", "model_id")
    }
    lm = loaders.get_moshi_lm(
        None, lm_kwargs=copy.deepcopy(kwargs), device=device, dtype=TORCH_DTYPES[dtype]
    )
    lm.dep_q = n_q
    mimi = loaders.get_mimi(None, device=device, num_codebooks=n_q)
    voice = TensorCondition(
        torch.randn(1, VOICE_FRAMES, VOICE_WIDTH),
        (torch.arange(VOICE_FRAMES) < VOICE_FRAMES_USED)[None],
    )
    streams = ExitStack()

    def open_streams(batch: int) -> Step:
        streams.close()
        attributes = [
            ConditionAttributes({"control": "ok", "cfg": "2.0"}, {"speaker_wavs": voice})
        ] * batch
        conditions = lm.condition_provider.prepare_and_provide(attributes)

        def choose(tokens: torch.Tensor) -> None:
            tokens.tolist()
            tokens[:] = torch.tensor([3] * batch, device=tokens.device)

        generator = LMGen(
            lm, temp=0.6, temp_text=0.6, condition_tensors=conditions, on_text_hook=choose
        )
        streams.enter_context(mimi.streaming(batch))
        streams.enter_context(generator.streaming(batch))
        silent = torch.full((batch, lm.n_q - n_q, 1), -1, dtype=torch.int64, device=device)

        def step() -> object:
            with torch.no_grad():
                tokens = generator.step(silent)
                return None if tokens is None else mimi.decode(tokens[:, 1:].clamp(min=0)).cpu()

        return step

    return open_streams
