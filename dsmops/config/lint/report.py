"""What a lint says: findings, their severities, and the one table of all codes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dsmops.config.load import Config, KeyPath
from dsmops.findings import Counts, Finding, Severity

_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE

CODES: dict[str, tuple[Severity, str]] = {
    # keys and types: what loading the file decides
    "missing-key": (_E, "a key that the server requires is not there"),
    "wrong-type": (_E, "a value has a type that the server refuses"),
    "out-of-range": (_E, "a number is outside what the server's integer can hold"),
    "wrong-value": (_E, "unknown value (case-sensitive)"),
    "unknown-key": (_W, "no server reads the key; it is ignored without a word"),
    "misplaced-key": (_W, "the key is real, but not at this level or in this module type"),
    "ignored-key": (_W, "upstream's own configs carry the key, and nothing reads it"),
    "fork-key": (_W, "only a fork of the server reads the key"),
    "no-modules": (_W, "the config has no module, so the server has nothing to serve"),
    "control-character": (_E, "a string holds a NUL, a line break or another control character"),
    # the model tables: what the first steps decide
    "unsupported-transformer": (_E, "the server's transformer cannot compute with the value"),
    "conditioning-choice": (_E, "a model with conditioners needs to be told how to condition"),
    "ineffective-key": (_W, "the key has no effect with the rest of this config"),
    "context-too-long": (
        _W,
        "the context has positions that this published model was not trained on",
    ),
    "batch-size-zero": (_E, "a batch of 0 slots serves no client"),
    # Py modules: what the script for speech makes of its table
    "bad-n-q": (_E, "the model cannot generate n_q codebooks"),
    "bad-cfg": (_E, "the model was not distilled with this cfg_coef"),
    "bad-voice": (_W, "voice_folder has no such default_voice"),
    "bos-token": (_W, "text_bos_token is not what a text of the released model begins with"),
    # routes
    "bad-path": (_E, "a route that the server's router cannot read; the server panics at start"),
    "path-clash": (_E, "two handlers share a route and method; the server panics at start"),
    "wildcard-path": (_W, "braces in a route stand for any text; the module answers to all of it"),
    # values and files
    "bad-source": (_E, "an hf:// or hf-snapshot:// value that the server cannot fetch"),
    "unset-variable": (_W, "an environment variable is not set here and becomes an empty string"),
    "not-expanded": (_W, "`~` and `${NAME}` are not expanded by the server"),
    "file-missing": (_E, "a file that the server will open is not there"),
    "not-safetensors": (_E, "a checkpoint is not a readable safetensors file"),
    "swapped-files": (_E, "the language model and Mimi stand in each other's place"),
    "not-mimi": (_E, "the audio tokenizer file does not hold Mimi"),
    "other-mimi": (
        _W,
        "Mimi has other dimensions than the released codec, which only `dsmops worker` can read",
    ),
    "int8-file": (_W, "the checkpoint is in int8, which only `dsmops worker` can read"),
    "tensor-mismatch": (_E, "tensors of the file do not match the [model] tables"),
    "not-tts": (_E, "the checkpoint of a Py module is not a text-to-speech model"),
    "bad-model-config": (_E, "config_path is not the config.json of a text-to-speech model"),
    "not-a-tokenizer": (_E, "the text tokenizer file is not a sentencepiece model"),
    "tokenizer-size": (
        _W,
        "the tokenizer has another number of pieces than the model has text tokens",
    ),
    "cast-at-load": (
        _N,
        "the file's dtype is not the one served in; the server casts while loading",
    ),
    "kept-f32-cast": (_W, "tensors kept in F32 are cast to f16 by the server all the same"),
    "not-checked": (_N, "a file of the hub is not in the cache, and was not looked at"),
    # device, dtype, memory, version
    "bad-dtype": (_E, "the server cannot serve in this dtype_override"),
    "dtype-override-missing": (
        _E,
        "the device has no bf16 arithmetic and nothing tells the server to avoid it",
    ),
    "bf16-on-old-device": (_E, "dtype_override asks for bf16 on a device that has none"),
    "no-f16-kernels": (_E, "dtype_override asks for f16 on a device that has no f16 kernels"),
    "slow-f16": (_W, "f16 arithmetic crawls on this device"),
    "costly-f32": (_N, "f32 takes twice the memory of what this device serves in"),
    "f16-on-bf16-device": (_N, "the device computes bf16, for which the model was trained"),
    "python-bf16": (_W, "a Python-backed module computes in bf16, which this device does not"),
    "override-unread": (_E, "this server version ignores dtype_override, and the device needs it"),
    "override-too-new": (_W, "this server version ignores dtype_override"),
    "needs-newer-server": (
        _N,
        "only servers from 0.6.4 on read dtype_override; older ones say nothing",
    ),
    "module-too-new": (_E, "this server version does not know the module type"),
    "memory-too-small": (_E, "the batch does not fit into the device's memory"),
    "memory-tight": (
        _W,
        (
            "the batch leaves less of the device's memory than `dsmops plan` does, or takes more"
            " than is free now"
        ),
    ),
    "slower-than-real-time": (_N, "the full batch is estimated to miss the 80 ms of a step"),
    # who can get in, and what they can see
    "no-api-keys": (_E, "an empty authorized_ids rejects every client"),
    "empty-api-key": (_E, "an empty API key lets in every client that sends an empty one"),
    "repeated-api-key": (_W, "an API key is listed twice"),
    "short-api-key": (_W, "an API key is short enough to be guessed"),
    "public-token": (_W, "the API key of Kyutai's example clients is known to everybody"),
    "public-token-exposed": (
        _E,
        "the server listens to other machines with a key that everybody knows",
    ),
    "plain-http-exposed": (_W, "the server listens to other machines without TLS"),
    "open-route": (_W, "the server listens to other machines on a route that asks for no key"),
    "bad-addr": (_W, "the server cannot read the address and listens on ::1 instead"),
    "addr-not-given": (_N, "exposure was not judged"),
    "logs-served": (_E, "log_dir lies in static_dir, which the server gives to everybody"),
    "writes-voice": (_W, "the module writes decodable voice tokens into log_dir"),
    "instance-name-dot": (_W, "capture files lose what follows the last dot of instance_name"),
}
"""Every code with its severity and its meaning.

One code has one severity, so that scripts can rely on it. An error stops the server from doing its
work. A warning is likely a mistake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFinding(Finding):
    """One thing to know about a config, with a code of `CODES`.

    `where` is the dotted key, `line` the line it stands on, or would.
    """

    where: str
    line: int


@dataclass(frozen=True, slots=True)
class LintReport:
    """The findings of one config, by line."""

    findings: tuple[ConfigFinding, ...]

    @property
    def counts(self) -> Counts:
        """How many findings matter how much."""
        return Counts.of(self.findings)

    @property
    def has_errors(self) -> bool:
        """Whether something keeps the server from doing its job."""
        return self.counts.errors > 0

    def is_clean(self, *, strict: bool) -> bool:
        """Return whether there are no errors, and with `strict` no warnings either."""
        return self.counts.is_clean(strict=strict)


Findings = Iterator[ConfigFinding]


def finding(
    config: Config, code: str, where: KeyPath, message: str, hint: str = ""
) -> ConfigFinding:
    """Return the finding of `code` at a key of `config`, with severity and line."""
    return ConfigFinding(
        code=code,
        severity=CODES[code][0],
        message=message,
        hint=hint,
        where=dotted(where),
        line=config.line(where),
    )


def dotted(where: KeyPath) -> str:
    """Return a key path as TOML writes it: `modules.asr.batch_size`, odd names in quotes."""
    return ".".join(
        name if name and all(char.isalnum() or char in "_-" for char in name) else f'"{name}"'
        for name in where
    )
