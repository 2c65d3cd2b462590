"""The keys that moshi-server reads from a TOML, as one table.

It has every key of every level, its type, and its meaning where that is not plain. Upstream 0.6.4
is the contract. A key that only the best known fork reads is marked `fork`, one that upstream's own
configs carry and nothing reads is marked `ignored`. Nothing is checked here; see
`dsmops.config.lint`.

Source: moshi-server `main.rs` and `utils.rs`, moshi-core `lm.rs`, `transformer.rs` and
`conditioner.rs`, the three embedded Python scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

U32_MAX = 2**32 - 1
I64_MAX = 2**63 - 1
"""The largest integer that TOML, and so a 64-bit `usize` in it, can hold."""


class ServerVersion(NamedTuple):
    """A release of moshi-server."""

    major: int
    minor: int
    patch: int

    @classmethod
    def parse(cls, text: str) -> ServerVersion:
        """Return the version written like `0.6.4` or `v0.6.4`.

        Raises:
            ValueError: the text is not such a version.
        """
        match = re.fullmatch(
            r"v?(\d{1,4})\.(\d{1,4})\.(\d{1,4})(?:[-+][\w.+-]+)?", text.strip(), re.ASCII
        )
        if match is None:
            raise ValueError(f"{text!r} is not a version of moshi-server; write it like 0.6.4")
        return cls(int(match[1]), int(match[2]), int(match[3]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


_SINCE_0_6_4 = ServerVersion(0, 6, 4)

PUBLIC_TOKEN = "public_token"  # noqa: S105
"""The API key in upstream's own configs, which Kyutai's example clients send. It is public, so it
is not a secret."""


@dataclass(frozen=True, slots=True)
class Text:
    """A string."""


@dataclass(frozen=True, slots=True)
class Flag:
    """`true` or `false`; integers are refused."""


@dataclass(frozen=True, slots=True)
class Whole:
    """An integer from 0 to `most`; floats are refused, whole ones too."""

    most: int = I64_MAX


@dataclass(frozen=True, slots=True)
class Number:
    """A float; an integer will do."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these strings, in this case.

    `tables` are the forms `{name = number}` allowed besides.
    """

    names: tuple[str, ...]
    tables: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Texts:
    """An array of strings."""


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table from free names to strings."""


@dataclass(frozen=True, slots=True)
class CrossAttention:
    """Exactly gating, norm and KV width: the server reads a tuple, so none can be left out."""


@dataclass(frozen=True, slots=True)
class Anything:
    """A table that the server hands on to a Python script; dates in it are refused."""


@dataclass(frozen=True, slots=True)
class Section:
    """A table with known keys.

    `lax` means that pydantic reads it, which turns `"24"` and `24.0` into 24.

    `since` is the first release that knows the table at all; older ones refuse a config with it.
    """

    keys: Mapping[str, Key]
    lax: bool = False
    since: ServerVersion | None = None


@dataclass(frozen=True, slots=True)
class Variants:
    """A table from free names to tables, each of the kind that its `type` names."""

    kinds: Mapping[str, Section]


Type = (
    Text
    | Flag
    | Whole
    | Number
    | OneOf
    | Texts
    | TextTable
    | CrossAttention
    | Anything
    | Section
    | Variants
)


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    `default` is what an absent optional key means, None where it means nothing. `meaning` says what
    the name does not.

    `since` is the first release that reads it; older ones ignore it without a word.
    """

    type: Type
    required: bool = False
    default: object = None
    meaning: str = ""
    since: ServerVersion | None = None
    fork: bool = False
    ignored: bool = False


def _required(kind: Type, *names: str) -> dict[str, Key]:
    return {name: Key(kind, required=True) for name in names}


def _fork(kind: Type, *names: str) -> dict[str, Key]:
    return {name: Key(kind, fork=True) for name in names}


NORMS = ("RmsNorm", "LayerNorm")
CROSS_ATTENTION_GATINGS = (
    "Normal",
    "ConstantGatedTanh",
    "ConstantGatedSigmoid",
    "ConditionalGatedTanh",
    "ConditionalGatedSigmoid",
    "ConditionalGatedSigmoidLearnableBias",
    "ConditionalGatedTanhLearnableBias",
)
_ACTIVATIONS = (
    *("silu", "gelu", "newgelu", "gelu_new", "relu", "relu2", "relu6", "sigmoid", "hardsigmoid"),
    *("swiglu", "swish", "hardswish", "gelupytorchtanh", "gelu_pytorch_tanh"),
)

TRANSFORMER = Section(
    {
        **_required(Whole(), "d_model", "num_heads", "num_layers", "dim_feedforward"),
        **_required(Flag(), "causal", "norm_first", "bias_ff", "bias_attn"),
        "layer_scale": Key(
            Number(), meaning="its presence adds layer-scale tensors; the value is not used"
        ),
        "positional_embedding": Key(OneOf(("Rope", "Sin", "None")), required=True),
        **_required(Flag(), "use_conv_block", "use_conv_bias"),
        "conv_kernel_size": Key(Whole(), required=True),
        "conv_layout": Key(Flag(), required=True),
        "cross_attention": Key(CrossAttention()),
        "gating": Key(
            OneOf(_ACTIVATIONS, tables=("elu", "leakyrelu")),
            meaning="absent: a plain two-layer GELU block",
        ),
        "norm": Key(OneOf(NORMS), required=True),
        "context": Key(
            Whole(),
            required=True,
            meaning="attention window in steps of 80 ms, and the length of the KV cache",
        ),
        "max_period": Key(Whole(), required=True),
        "max_seq_len": Key(Whole(), required=True, meaning="must be there, and nothing reads it"),
        "kv_repeat": Key(Whole(), required=True),
        "shared_cross_attn": Key(Flag(), default=False),
        **_fork(Whole(), "gating_idx", "head_dim", "shared_cross_attn_heads"),
    }
)

CONDITIONERS = Variants(
    {
        "Lut": Section(
            {
                "type": Key(Text(), required=True),
                **_required(Whole(), "n_bins", "dim"),
                **_required(Texts(), "possible_values"),
            }
        ),
        "ContinuousAttribute": Section(
            {
                "type": Key(Text(), required=True),
                **_required(Whole(), "dim"),
                **_required(Number(), "scale_factor", "max_period"),
            }
        ),
    }
)

MODEL = Section(
    {
        **_required(
            Whole(),
            "text_in_vocab_size",
            "text_out_vocab_size",
            "audio_vocab_size",
            "audio_codebooks",
        ),
        "transformer": Key(TRANSFORMER, required=True),
        "depformer": Key(
            Section(
                {
                    "num_slices": Key(Whole(), required=True),
                    "low_rank_embeddings": Key(Whole()),
                    "transformer": Key(TRANSFORMER, required=True),
                }
            )
        ),
        "extra_heads": Key(
            Section(_required(Whole(), "num_heads", "dim")),
            meaning="the semantic-VAD heads behind `Step` messages",
        ),
        "conditioners": Key(CONDITIONERS),
    }
)

# Python values below are those of the scripts; their dtype is bfloat16 and no key changes it.
_PY_SHARED = {
    "log_folder": Key(Text(), default="~/tmp/tts-service"),
    **{name: Key(Text()) for name in ("hf_repo", "mimi_weight", "config_path")},
}
PY_TTS = Section(
    {
        **_PY_SHARED,
        "moshi_weight": Key(Text()),
        "tokenizer": Key(Text()),
        "device": Key(Text(), default="cuda"),
        "n_q": Key(Whole(), default=24, meaning="codebooks generated; fewer is faster"),
        "voice_folder": Key(
            Text(), default="~/models/tts-voices", meaning="the only key that takes hf-snapshot://"
        ),
        "default_voice": Key(
            Text(), default="barack_demo.wav", meaning="also taken for a voice that is not there"
        ),
        "temp": Key(Number(), default=0.6),
        "cfg_coef": Key(Number(), default=2.0),
        **{
            name: Key(Whole(), default=steps)
            for name, steps in (
                ("max_padding", 8),
                ("initial_padding", 2),
                ("final_padding", 4),
                ("padding_between", 1),
            )
        },
        "padding_bonus": Key(Number(), default=0),
        "interleaved_text_only": Key(Whole(), default=2),
        "debug": Key(Flag(), default=False),
        "cfg_is_no_text": Key(Flag(), ignored=True),
    },
    lax=True,
)
PY_BATCHED_ASR = Section(
    {
        **_PY_SHARED,
        "moshi_weight": Key(Text()),
        "tokenizer": Key(Text()),
        "asr_delay_in_tokens": Key(Whole(), default=32),
        "device": Key(Text(), default="cuda"),
        "temp": Key(Number(), default=0.0),
        "debug": Key(Flag(), default=False),
    },
    lax=True,
)
PY_VOICE = Section(
    {
        **_PY_SHARED,
        "device": Key(Text(), default="cpu"),
        "dry_fraction": Key(Number(), default=0.02),
        "num_cpu_threads": Key(Whole(), default=8),
    },
    lax=True,
)

_TYPE_AND_PATH = {"type": Key(Text(), required=True), "path": Key(Text(), required=True)}
_LM_FILES = _required(Text(), "lm_model_file", "text_tokenizer_file", "audio_tokenizer_file")
_MODEL = {"model": Key(MODEL, required=True)}
_BATCH_SIZE = {
    "batch_size": Key(
        Whole(), required=True, meaning="simultaneous streams; every step computes all of them"
    )
}
_DELAY = {
    "asr_delay_in_tokens": Key(
        Whole(), required=True, meaning="steps between audio and its text; a property of the model"
    )
}
_STT = {
    "conditioning_delay": Key(Number()),
    "conditioning_learnt_padding": Key(Flag(), default=False),
    "temperature": Key(Number(), default=0.0),
}
SERVER_DTYPES = ("bf16", "f16", "f32")
"""The words that moshi-server reads in `dtype_override`, in lower case only; another is an error
when the module starts. They are the server's own: files and models use more dtypes."""
_DTYPE = {"dtype_override": Key(Text(), default="bf16 on a GPU, f32 on a CPU", since=_SINCE_0_6_4)}
_SCRIPT = {"script": Key(Text(), meaning="a Python file in place of the embedded one")}

MODULES: Mapping[str, Section] = {
    "Asr": Section({**_TYPE_AND_PATH, **_LM_FILES, **_MODEL, **_DELAY, **_STT, **_DTYPE}),
    "BatchedAsr": Section(
        {
            **_TYPE_AND_PATH,
            **_BATCH_SIZE,
            **_LM_FILES,
            **_MODEL,
            **_DELAY,
            **_STT,
            "log_frequency_s": Key(
                Number(), meaning="writes decodable voice tokens into log_dir this often"
            ),
            **_DTYPE,
        }
    ),
    "PyBatchedAsr": Section(
        {
            **_TYPE_AND_PATH,
            **_BATCH_SIZE,
            "text_tokenizer_file": Key(Text(), required=True),
            **_DELAY,
            **_SCRIPT,
            "py": Key(PY_BATCHED_ASR),
        },
        since=_SINCE_0_6_4,
    ),
    "Tts": Section(
        {
            **_TYPE_AND_PATH,
            **_LM_FILES,
            **_required(Text(), "speaker_tokenizer_file", "voice_dir"),
            "voices": Key(TextTable(), required=True),
            **_MODEL,
            "generation": Key(
                Section(
                    {
                        **_required(
                            Whole(),
                            "acoustic_delay",
                            "text_pad_token",
                            "text_bos_token",
                            "text_eos_token",
                            "text_eop_token",
                        ),
                        **_required(
                            Whole(),
                            "text_start_token",
                            "text_audio_delay_in_tokens",
                            "max_consecutive_pads",
                            "extra_steps",
                        ),
                        **_required(Number(), "speaker_cond_duration_s"),
                        **_required(Whole(), "speaker_cond_dim", "speaker_cond_n_speakers"),
                    }
                ),
                required=True,
            ),
            **_DTYPE,
        }
    ),
    "Lm": Section(
        {
            **_TYPE_AND_PATH,
            **_LM_FILES,
            **_MODEL,
            "gen": Key(
                Section(
                    {
                        **_required(
                            Whole(),
                            "generated_audio_codebooks",
                            "input_audio_codebooks",
                            "audio_vocab_size",
                            "acoustic_delay",
                        ),
                        **_required(
                            Whole(), "text_pad_token", "text_eop_token", "text_start_token"
                        ),
                    }
                ),
                required=True,
            ),
            **_DTYPE,
        }
    ),
    "Mimi": Section(
        {
            **_required(Text(), "type", "send_path", "recv_path", "audio_tokenizer_file"),
            "auth_recv": Key(
                Flag(),
                required=True,
                meaning="whether listening needs an API key; sending always does",
            ),
            "rooms": Key(Texts(), required=True),
            "default_room": Key(Text()),
        }
    ),
    "Py": Section(
        {
            **_TYPE_AND_PATH,
            **_BATCH_SIZE,
            "text_tokenizer_file": Key(Text(), required=True),
            "text_bos_token": Key(Whole(U32_MAX), required=True),
            **_SCRIPT,
            "py": Key(PY_TTS),
        }
    ),
    "PyPost": Section({**_TYPE_AND_PATH, **_SCRIPT, "py": Key(PY_VOICE)}),
}

TOP = Section(
    {
        "static_dir": Key(
            Text(), required=True, meaning="served to everybody for paths that no module has"
        ),
        "log_dir": Key(Text(), required=True),
        "instance_name": Key(Text(), required=True, meaning="part of log and capture file names"),
        "authorized_ids": Key(Texts(), required=True, meaning="API keys that clients may send"),
        "modules": Key(Variants(MODULES), default={}),
        "warmup": Key(Section(_fork(Flag(), "enabled")), fork=True),
    }
)
