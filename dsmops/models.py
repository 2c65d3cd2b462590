"""The DSM models that this program knows: their shapes, files and names, as one table.

Most are published; those of `SHIPPED` are part of the package.

This is foundation, because three packages need it: `checkpoint` recognises a model by its tensors,
`config` writes one into a TOML, `hub` knows where one is kept.

Source of every figure: the published configs and files of Kyutai.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

from dsmops.dtypes import ComputeDType
from dsmops.errors import InputError

FRAME_MS = 80.0
"""One frame of audio, 1920 samples at 24 kHz.

A step must end within this time, or the server falls behind its real-time clients."""


@dataclass(frozen=True, slots=True)
class LmShape:
    """Dimensions of a DSM language model, named as in moshi-server's `[model]` tables.

    `num_heads` cannot be read from tensor shapes. `extra_heads` are the semantic-VAD heads:
    (number, classes each), or None.
    """

    d_model: int
    num_heads: int
    num_layers: int
    dim_feedforward: int
    context: int
    text_in_vocab_size: int
    text_out_vocab_size: int
    audio_vocab_size: int
    audio_codebooks: int
    extra_heads: tuple[int, int] | None

    @property
    def ffn_hidden(self) -> int:
        """Rows of each gate half.

        11·d/4 when `dim_feedforward` is 4·d, else two thirds of it (integer division).
        """
        if self.dim_feedforward == 4 * self.d_model:
            return 11 * self.d_model // 4
        return 2 * self.dim_feedforward // 3

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return name → shape of every tensor that moshi-server loads, in file order.

        RMS-norm gated-SiLU models without biases, conditioners, cross-attention and depformer: the
        STT models. Extra tensors in a file are ignored by the server; a missing one or another
        shape stops its start.
        """
        d, hidden = self.d_model, self.ffn_hidden
        shapes: dict[str, tuple[int, ...]] = {
            f"emb.{index}.weight": (self.audio_vocab_size, d)
            for index in range(self.audio_codebooks)
        }
        for index in range(self.extra_heads[0] if self.extra_heads else 0):
            shapes[f"extra_heads.{index}.weight"] = (
                self.extra_heads[1] if self.extra_heads else 0,
                d,
            )
        shapes["out_norm.alpha"] = (1, 1, d)
        shapes["text_emb.weight"] = (self.text_in_vocab_size, d)
        shapes["text_linear.weight"] = (self.text_out_vocab_size, d)
        for index in range(self.num_layers):
            layer = f"transformer.layers.{index}"
            shapes[f"{layer}.gating.linear_in.weight"] = (2 * hidden, d)
            shapes[f"{layer}.gating.linear_out.weight"] = (d, hidden)
            shapes[f"{layer}.norm1.alpha"] = (1, 1, d)
            shapes[f"{layer}.norm2.alpha"] = (1, 1, d)
            shapes[f"{layer}.self_attn.in_proj_weight"] = (3 * d, d)
            shapes[f"{layer}.self_attn.out_proj.weight"] = (d, d)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights of the language model."""
        d = self.d_model
        per_layer = 4 * d * d + 3 * self.ffn_hidden * d + 2 * d
        tables = (
            self.text_in_vocab_size
            + self.text_out_vocab_size
            + self.audio_codebooks * self.audio_vocab_size
        )
        heads = self.extra_heads[0] * self.extra_heads[1] if self.extra_heads else 0
        return self.num_layers * per_layer + tables * d + d + heads * d

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each matrix of the layers, which `--weights int8` keeps in int8."""
        d, hidden = self.d_model, self.ffn_hidden
        return ((3 * d, d), (d, d), (2 * hidden, d), (d, hidden)) * self.num_layers

    def kv_bytes_per_stream(self, itemsize: int, context: int | None = None) -> int:
        """Return the bytes of one stream's key-value cache.

        2 · layers · context · d_model · itemsize.
        """
        return 2 * self.num_layers * (context or self.context) * self.d_model * itemsize


@dataclass(frozen=True, slots=True)
class DepformerShape:
    """Dimensions of the small transformer over the codebooks of one frame.

    `schedule[q]` is the weight set that codebook q uses.
    """

    d_model: int
    num_heads: int
    num_layers: int
    ffn_hidden: int
    schedule: tuple[int, ...]
    low_rank: int

    @property
    def weight_sets(self) -> int:
        """Number of weight sets."""
        return max(self.schedule) + 1


@dataclass(frozen=True, slots=True)
class ConditionerShape:
    """One conditioner, `width` wide.

    It is a lookup table of `bins` rows (and one for a missing value), or a tensor where `bins` is
    None.
    """

    name: str
    width: int
    bins: int | None = None


@dataclass(frozen=True, slots=True)
class TtsShape:
    """The dimensions of a DSM text-to-speech model.

    It has a backbone with cross-attention in every layer, a depformer and conditioners.
    """

    lm: LmShape
    depformer: DepformerShape
    conditioners: tuple[ConditionerShape, ...]

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return name → shape of every tensor of a published file.

        Those under `condition_provider.` are stored in F32.
        """
        d, inner, rank = self.lm.d_model, self.depformer.d_model, self.depformer.low_rank
        sets, hidden, bins = (
            self.depformer.weight_sets,
            self.depformer.ffn_hidden,
            self.lm.audio_vocab_size,
        )
        shapes = self.lm.tensors()
        for layer in range(self.lm.num_layers):
            prefix = f"transformer.layers.{layer}"
            shapes[f"{prefix}.cross_attention.in_proj_weight"] = (3 * d, d)
            shapes[f"{prefix}.cross_attention.out_proj.weight"] = (d, d)
            shapes[f"{prefix}.norm_cross.weight"] = shapes[f"{prefix}.norm_cross.bias"] = (d,)
        shapes["text_emb.out1.weight"] = shapes["text_emb.out2.weight"] = (d, d)
        shapes["depformer_text_emb.weight"] = (self.lm.text_in_vocab_size, rank)
        for leaf in ("out1", "out2", "low_rank"):
            shapes[f"depformer_text_emb.{leaf}.weight"] = (inner, rank)
        for number in range(sets):
            shapes[f"depformer_in.{number}.weight"] = (inner, d)
        for codebook in range(len(self.depformer.schedule)):
            shapes[f"linears.{codebook}.weight"] = (bins - 1, inner)
            if codebook:  # the last codebook is never read
                shapes[f"depformer_emb.{codebook - 1}.weight"] = (bins, rank)
                shapes[f"depformer_emb.{codebook - 1}.low_rank.weight"] = (inner, rank)
        for layer in range(self.depformer.num_layers):
            prefix = f"depformer.layers.{layer}"
            shapes[f"{prefix}.self_attn.in_proj_weight"] = (sets * 3 * inner, inner)
            shapes[f"{prefix}.self_attn.out_proj.weight"] = (sets * inner, inner)
            shapes[f"{prefix}.norm1.alpha"] = shapes[f"{prefix}.norm2.alpha"] = (1, 1, inner)
            for number in range(sets):
                shapes[f"{prefix}.gating.{number}.linear_in.weight"] = (2 * hidden, inner)
                shapes[f"{prefix}.gating.{number}.linear_out.weight"] = (inner, hidden)
        for conditioner in self.conditioners:
            prefix = f"condition_provider.conditioners.{conditioner.name}"
            shapes[f"{prefix}.learnt_padding"] = (1, 1, d)
            shapes[f"{prefix}.output_proj.weight"] = (d, conditioner.width)
            if conditioner.bins is not None:
                shapes[f"{prefix}.embed.weight"] = (conditioner.bins + 1, conditioner.width)
        return shapes

    @property
    def parameters(self) -> int:
        """Number of weights, conditioners included."""
        return sum(prod(shape) for shape in self.tensors().values())

    @property
    def context(self) -> int:
        """Attention window of the backbone, in steps."""
        return self.lm.context

    @property
    def distilled(self) -> bool:
        """Whether guidance is an input of the model.

        Without it, every stream runs a conditioned and an unconditioned pass.
        """
        return any(conditioner.name == "cfg" for conditioner in self.conditioners)

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each matrix of the backbone's layers, cross-attention included."""
        d = self.lm.d_model
        return self.lm.layer_matrices + ((3 * d, d), (d, d)) * self.lm.num_layers

    def depformer_matrices(self, codebooks: int) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each matrix of the depformer's layers, for so many codebooks."""
        inner, hidden = self.depformer.d_model, self.depformer.ffn_hidden
        sets = max(self.depformer.schedule[:codebooks]) + 1
        one = ((3 * inner, inner), (inner, inner), (2 * hidden, inner), (inner, hidden))
        return one * sets * self.depformer.num_layers

    @property
    def backbone_parameters(self) -> int:
        """Number of weights that do not belong to the depformer or the conditioners."""
        d = self.lm.d_model
        return self.lm.parameters + self.lm.num_layers * (4 * d * d + 2 * d) + 2 * d * d

    @property
    def conditioner_parameters(self) -> int:
        """Number of weights of the conditioners, which stay in F32."""
        d = self.lm.d_model
        return sum(
            d + d * one.width + (0 if one.bins is None else (one.bins + 1) * one.width)
            for one in self.conditioners
        )

    def depformer_parameters(self, codebooks: int) -> int:
        """The number of weights that generating the first `codebooks` codebooks reads.

        Fewer codebooks need fewer weight sets and heads.
        """
        d, inner, hidden, rank = (
            self.lm.d_model,
            self.depformer.d_model,
            self.depformer.ffn_hidden,
            self.depformer.low_rank,
        )
        sets, bins = max(self.depformer.schedule[:codebooks]) + 1, self.lm.audio_vocab_size
        per_layer = sets * (4 * inner * inner + 3 * hidden * inner) + 2 * inner
        text_table = self.lm.text_in_vocab_size * rank + 2 * inner * rank
        audio_tables = (codebooks - 1) * (bins * rank + inner * rank) + codebooks * (
            bins - 1
        ) * inner
        return sets * inner * d + text_table + audio_tables + self.depformer.num_layers * per_layer

    @property
    def depformer_parameters_per_codebook(self) -> int:
        """Number of weights that one pass of the depformer reads: one weight set and one head."""
        d, inner, hidden = self.lm.d_model, self.depformer.d_model, self.depformer.ffn_hidden
        return (
            inner * d
            + self.depformer.num_layers * (4 * inner * inner + 3 * hidden * inner)
            + (self.lm.audio_vocab_size - 1) * inner
        )


@dataclass(frozen=True, slots=True)
class MimiSize:
    """The memory, in bytes, of a Mimi with other dimensions than the published one.

    It is that of the embedded worker: the half that its model needs, and the state and the step's
    activations of one stream.
    """

    weight_bytes: int
    state_bytes_per_stream: int
    workspace_bytes_per_stream: int


Shape = LmShape | TtsShape
"""Dimensions of a model: of an STT model's language model, or of a TTS model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Published:
    """What the two kinds of model have in common.

    `hf_repo` is the repository that moshi-server's shipped config loads it from, `batch_size` what
    that config says. A model that only a config or a checkpoint describes has neither `hf_repo` nor
    `preset`. One that travels with the package has no `hf_repo`; its files are in a folder of its
    name. `mimi` None means the published codec, the only one that moshi-server reads.
    `recordings` is a folder of recordings with known words, beside the folders of shipped models;
    a smoke test judges the model by them.
    """

    name: str
    hf_repo: str
    model_file: str
    tokenizer_file: str
    mimi_file: str
    preset: str
    batch_size: int
    mimi: MimiSize | None = None
    recordings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SttModel(_Published):
    """A speech-to-text model. The server itself runs it, in any compute dtype.

    `silence_prefix_s`: silence that the model expects before a recording.
    """

    shape: LmShape
    silence_prefix_s: float = 0.0

    purpose: ClassVar[str] = "speech-to-text"
    server_dtype: ClassVar[ComputeDType | None] = None
    """The one dtype that moshi-server computes it in; None where `dtype_override` chooses."""
    config_file: ClassVar[str | None] = None
    """The model's own config, which a server needs beside the weights."""

    def codebooks(self, asked: int | None) -> None:
        """Return None: codebooks are generated by TTS models only.

        Raises:
            InputError: a number was asked for.
        """
        if asked is not None:
            raise InputError(
                f"{self.name} is a speech-to-text model, and --n-q applies to TTS models only",
                hint="Omit --n-q.",
                code="plan.codebooks",
            )

    def window(self, asked: int | None) -> int:
        """Return the attention window in steps: the one asked for, or the model's own.

        Raises:
            InputError: it is longer than the model's own, or not positive.
        """
        own = self.shape.context
        if asked is None:
            return own
        if not 0 < asked <= own:
            raise InputError(
                f"--context {asked} is invalid for {self.name}",
                hint=f"Use 1 to {own} (the model's own).",
                code="plan.context",
            )
        return asked

    def savings(self, n_q: int | None) -> Iterator[Saving]:
        """Yield what a plan can make smaller: nothing, then shorter attention windows."""
        yield Saving("", None, n_q)
        for short in _SHORTER_CONTEXTS:
            if short < self.shape.context:
                yield Saving(f" --context {short}", short, None)


@dataclass(frozen=True, slots=True, kw_only=True)
class TtsModel(_Published):
    """A text-to-speech model. moshi-server runs it through its Python script, in bf16 only."""

    shape: TtsShape

    purpose: ClassVar[str] = "text-to-speech"
    server_dtype: ClassVar[ComputeDType | None] = ComputeDType.BF16
    """The one dtype that moshi-server computes it in: its script has bf16 written into it."""
    config_file: ClassVar[str | None] = "config.json"
    """The model's own config, which a server needs beside the weights."""

    def codebooks(self, asked: int | None) -> int:
        """Return how many codebooks the model generates: the number asked for, or all.

        Raises:
            InputError: the model does not have that many.
        """
        most = self.shape.lm.audio_codebooks
        if asked is not None and not 1 <= asked <= most:
            raise InputError(
                f"--n-q {asked} is invalid for {self.name}",
                hint=f"Use 1 to {most}; fewer are faster.",
                code="plan.codebooks",
            )
        return most if asked is None else asked

    def window(self, asked: int | None) -> int:
        """Return the attention window in steps, which the model's config.json sets.

        Raises:
            InputError: another was asked for.
        """
        if asked is not None:
            raise InputError(
                f"--context applies to speech-to-text models only; the config.json of {self.name}"
                f" sets its context",
                hint="Omit --context; --n-q makes it faster.",
                code="plan.context",
            )
        return self.shape.context

    def savings(self, n_q: int | None) -> Iterator[Saving]:
        """Yield what a plan can make smaller: nothing, then fewer codebooks."""
        words = f" --n-q {n_q}" if n_q and n_q < self.shape.lm.audio_codebooks else ""
        yield Saving(words, None, n_q)
        for fewer in reversed(CODEBOOK_CHOICES):
            if n_q and fewer < n_q:
                yield Saving(f" --n-q {fewer}", None, fewer)


PublishedModel = SttModel | TtsModel
"""One released model, or one that a config or a checkpoint describes."""


@dataclass(frozen=True, slots=True)
class Saving:
    """A smaller way to serve a model: as options, and the context and codebooks they mean."""

    options: str
    context: int | None
    n_q: int | None


CODEBOOK_CHOICES = (8, 16, 24, 32)
"""Codebooks that a plan for a TTS model compares: of 32, moshi-server's config generates 24."""
_SHORTER_CONTEXTS = (375, 250, 125)
"""Attention windows tried when nothing fits: 30, 20 and 10 s."""
_MIMI = "mimi-pytorch-e351c8d8@125.safetensors"

MODELS: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        SttModel(
            name="stt-1b-en_fr",
            hf_repo="kyutai/stt-1b-en_fr-candle",
            model_file="model.safetensors",
            tokenizer_file="tokenizer_en_fr_audio_8000.model",
            mimi_file=_MIMI,
            preset="config-stt-en_fr-hf.toml",
            shape=LmShape(2048, 16, 16, 8192, 750, 8001, 8000, 2049, 32, (4, 6)),
            batch_size=64,
        ),
        SttModel(
            name="stt-2.6b-en",
            hf_repo="kyutai/stt-2.6b-en-candle",
            model_file="model.safetensors",
            tokenizer_file="tokenizer_en_audio_4000.model",
            mimi_file=_MIMI,
            preset="config-stt-en-hf.toml",
            shape=LmShape(2048, 32, 48, 8192, 375, 4001, 4000, 2049, 32, None),
            batch_size=16,
            silence_prefix_s=1.0,
        ),
        TtsModel(
            name="tts-1.6b-en_fr",
            hf_repo="kyutai/tts-1.6b-en_fr",
            model_file="dsm_tts_1e68beda@240.safetensors",
            tokenizer_file="tokenizer_spm_8k_en_fr_audio.model",
            mimi_file="tokenizer-e351c8d8-checkpoint125.safetensors",
            preset="config-tts.toml",
            batch_size=8,
            shape=TtsShape(
                lm=LmShape(2048, 16, 16, 8448, 500, 8001, 8000, 2049, 32, None),
                depformer=DepformerShape(
                    1024, 16, 4, 2048, (*range(8), *[8] * 8, *[9] * 8, *[10] * 8), 128
                ),
                conditioners=(
                    ConditionerShape("speaker_wavs", 512),
                    ConditionerShape("cfg", 16, 7),
                    ConditionerShape("control", 2048, 1),
                ),
            ),
        ),
    )
}

MIMI_TENSOR_PROBES: dict[str, tuple[int, ...]] = {
    "encoder.model.0.conv.conv.weight": (64, 1, 7),
    "downsample.conv.conv.conv.weight": (512, 512, 4),
    "quantizer.rvq_first.vq.layers.0._codebook.embedding_sum": (2048, 256),
}
"""A few tensors, with their shapes, by which a Mimi file is recognised."""


SHIPPED: dict[str, PublishedModel] = {
    model.name: model
    for model in (
        SttModel(
            name="tiny",
            hf_repo="",
            model_file="model.safetensors",
            tokenizer_file="tokenizer_tiny_en_1200.model",
            mimi_file="mimi-tiny@1.safetensors",
            preset="config-stt-tiny.toml",
            shape=LmShape(256, 4, 4, 864, 250, 1201, 1200, 513, 8, (4, 6)),
            batch_size=4,
            # Its activations are estimated: 16 of the published codec's 64 filters.
            mimi=MimiSize(7_776_544, 437_600, 900_000),
            recordings="recordings",
        ),
    )
}
"""The trained models of the package: small, for machines without a card or a network."""
KNOWN = {**MODELS, **SHIPPED}
"""Every model that a name, a shape or a checkpoint's tensors can mean."""

STT_MODELS = {name: model for name, model in MODELS.items() if isinstance(model, SttModel)}
TTS_MODELS = {name: model for name, model in MODELS.items() if isinstance(model, TtsModel)}

DEFAULT_STT = STT_MODELS["stt-1b-en_fr"]
"""The model that commands use when no other is named: 8 GB cards serve it."""
DEFAULT_TTS = TTS_MODELS["tts-1.6b-en_fr"]
"""The same for speech; also what moshi-server's script loads when a config names no repository."""


def model_of_repo(hf_repo: str) -> PublishedModel | None:
    """Return the published model of `hf_repo`; `org/name` and `org/name-candle` count alike."""
    plain = hf_repo.removesuffix("-candle")
    return next(
        (model for model in MODELS.values() if model.hf_repo.removesuffix("-candle") == plain), None
    )


def model_of_shape(shape: Shape) -> PublishedModel | None:
    """Return the known model with these dimensions. An STT model's context may be shorter."""
    return next((model for model in KNOWN.values() if same_dimensions(shape, model.shape)), None)


def same_dimensions(shape: Shape | None, other: Shape) -> bool:
    """Return whether two shapes are one model's.

    An STT model's `context` does not count: it may be lowered to save memory.
    """
    if isinstance(shape, LmShape) and isinstance(other, LmShape):
        return replace(shape, context=other.context) == other
    return shape == other
