"""Models with random weights, made in memory on the device.

They measure step time and memory, which do not depend on the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dsmops.dtypes import PLAIN, ComputeDType, Quant, Quantised
from dsmops.models import LmShape, TtsShape
from dsmops.worker.models.backbone import Backbone
from dsmops.worker.models.convolution import CausalConv, CausalConvTranspose
from dsmops.worker.models.device import TORCH_DTYPES, materialize
from dsmops.worker.models.mimi import MimiConfig, MimiDecoder, MimiEncoder
from dsmops.worker.models.quantizer import ResidualQuantizer
from dsmops.worker.models.stt import LoadedStt
from dsmops.worker.models.stt_config import SttConfig
from dsmops.worker.models.stt_lm import SttLm
from dsmops.worker.models.tts import LoadedTts
from dsmops.worker.models.tts_config import CONTROL_VALUE, TtsConfig
from dsmops.worker.models.tts_lm import TtsLm


class NoText:
    """Stands in for a tokenizer where only tokens matter."""

    size = 0

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def random_stt(
    shape: LmShape,
    device: torch.device,
    dtype: ComputeDType,
    *,
    seed: int = 0,
    mimi: MimiConfig | None = None,
    quantised: Quantised = PLAIN,
) -> LoadedStt:
    """Return a model of `shape` with weights of scale 1/√fan_in, norms at 1 and Mimi in float32.

    One seed gives the same values whatever is `quantised`, rounded to int8 where it says so.
    """
    generator = torch.Generator(device).manual_seed(seed)
    with torch.device("meta"):
        lm = SttLm(shape, 100_000.0).to(TORCH_DTYPES[dtype])
        encoder = MimiEncoder(mimi or MimiConfig(bins=shape.audio_vocab_size - 1))
    for network in (lm, encoder):
        _fill(network, device, generator)
    _quantise(lm, quantised)
    return LoadedStt(SttConfig(shape, 100_000.0, 6), lm, encoder, NoText(), device)  # type: ignore[arg-type]


def random_tts(
    shape: TtsShape,
    device: torch.device,
    dtype: ComputeDType,
    *,
    n_q: int | None = None,
    seed: int = 0,
    mimi: MimiConfig | None = None,
    quantised: Quantised = PLAIN,
) -> LoadedTts:
    """Return a TTS model of `shape` that generates `n_q` codebooks.

    It has the released model's delays and voices. Otherwise like `random_stt`.
    """
    generator = torch.Generator(device).manual_seed(seed)
    codebooks = shape.lm.audio_codebooks
    config = TtsConfig(
        shape=shape,
        max_period=10_000.0,
        delays=(0, *[2] * (codebooks - 1)),
        delay_steps=16,
        second_stream_ahead=2,
        control_values=(CONTROL_VALUE,),
        cfg_values=(1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0),
    )
    with torch.device("meta"):
        lm = TtsLm(config, n_q or codebooks).to(TORCH_DTYPES[dtype])
        lm.conditioning.float()
        decoder = MimiDecoder(mimi or MimiConfig(bins=shape.lm.audio_vocab_size - 1))
    for network in (lm, decoder):
        _fill(network, device, generator)
    lm.prepare()
    _quantise(lm, quantised)
    return LoadedTts(config, lm, decoder, NoText(), device)  # type: ignore[arg-type]


def _quantise(lm: Backbone, quantised: Quantised) -> None:
    lm.kv = quantised.kv
    if quantised.weights is Quant.INT8:
        lm.hold_int8()


def _fill(network: nn.Module, device: torch.device, generator: torch.Generator) -> None:
    materialize(network, device)
    for name, parameter in network.named_parameters():
        if parameter.dim() < 2 or name.endswith("alpha"):
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            parameter.normal_(generator=generator).mul_(_fan_in(name, parameter) ** -0.5)
    for module in network.modules():
        if isinstance(module, ResidualQuantizer):
            module.codebooks.normal_(generator=generator)
        if isinstance(module, ResidualQuantizer | CausalConv | CausalConvTranspose):
            module.prepare()


def _fan_in(name: str, parameter: Tensor) -> int:
    if name.endswith(("emb", "emb.weight", "embed.weight")):
        return 1
    # Weight sets are stacked matrices; a convolution's kernel has its taps last.
    return parameter.shape[-1] if name.startswith("depformer.") else parameter[0].numel()
