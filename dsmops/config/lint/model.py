"""Rules about values that load and then fail or do nothing.

They are values that the server's transformer cannot compute with, and batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from dsmops.config.lint.inputs import LintInputs
from dsmops.config.lint.report import Findings, finding
from dsmops.config.load import Config
from dsmops.config.modules import Module, modules
from dsmops.models import STT_MODELS

_TRANSFORMER_MUST = {
    "causal": (True, "fails at the first step"),
    "norm_first": (True, "fails at the first step"),
    "use_conv_block": (False, "does not load the model"),
    "kv_repeat": (1, "fails at the first step"),
}


def transformer_limits(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report values that the server's transformer refuses after the file has loaded."""
    for module in modules(config):
        for keys in (("model", "transformer"), ("model", "depformer", "transformer")):
            for where, message, hint in _limits(module, module.subtable(*keys) or {}):
                yield finding(
                    config, "unsupported-transformer", module.where(*keys, where), message, hint
                )


def _limits(module: Module, table: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yield key, message and hint of each value that the server cannot compute with.

    The values are those in a transformer's table.
    """
    for key, (must, effect) in _TRANSFORMER_MUST.items():
        value = table.get(key)
        # `true` equals 1 in Python, and a wrong type is another rule's business.
        if type(value) is type(must) and value != must:
            shown, wanted = (str(item).lower() for item in (value, must))
            yield key, f"{key} = {shown}: the server {effect}", f"Write {key} = {wanted}."
    if module.type == "BatchedAsr" and table.get("positional_embedding") == "Sin":
        yield (
            "positional_embedding",
            "BatchedAsr cannot compute Sin: it fails at the first step",
            'The published models use "Rope".',
        )
    for key in ("d_model", "num_heads", "num_layers", "context"):
        if type(table.get(key)) is int and table[key] == 0:
            yield (
                key,
                f"{key} is 0, and no model has a size of 0",
                "Copy the [model] tables of the model's own config.",
            )
    width, heads = table.get("d_model"), table.get("num_heads")
    if type(width) is int and type(heads) is int and heads > 0 and width % heads:
        yield (
            "num_heads",
            f"d_model = {width} does not divide into {heads} heads",
            "Copy both from the model's own config.",
        )


def conditioning(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report conditioning keys that contradict the model.

    They are required with conditioners, and without effect otherwise.
    """
    for module in modules(config):
        if module.type not in {"Asr", "BatchedAsr"}:
            continue
        keys = [
            key
            for key in ("conditioning_delay", "conditioning_learnt_padding")
            if _is_given(module, key)
        ]
        if not module.subtable("model", "conditioners"):
            for key in keys:
                message = f"{key} has no effect: the model has no conditioners"
                yield finding(
                    config, "ineffective-key", module.where(key), message, "It may stay or go."
                )
        elif module.type == "BatchedAsr" and len(keys) != 1:
            message = (
                "a model with conditioners needs either conditioning_delay or"
                " conditioning_learnt_padding = true"
            )
            yield finding(
                config,
                "conditioning-choice",
                module.where(),
                message,
                "Both are given." if keys else "Neither is given.",
            )
        elif module.type == "Asr" and "conditioning_delay" not in keys:
            message = "a model with conditioners needs conditioning_delay"
            yield finding(
                config,
                "conditioning-choice",
                module.where(),
                message,
                "conditioning_learnt_padding is not enough for Asr.",
            )


def _is_given(module: Module, key: str) -> bool:
    # `conditioning_learnt_padding = false` is what absence means.
    return key in module.table and module.table[key] is not False


def context_lengths(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report a published model that is given a longer memory than it was trained with."""
    for module in modules(config):
        lm = module.lm_shape() if module.has_lm else None
        for model in STT_MODELS.values():
            own = model.shape
            if lm is None or lm.context <= own.context:
                continue
            if replace(lm, context=own.context, extra_heads=own.extra_heads) == own:
                message = (
                    f"{model.name} was trained on a context of {own.context} steps; positions"
                    " beyond are new to it, and the cache of every slot grows with them"
                )
                where = module.where("model", "transformer", "context")
                yield finding(
                    config,
                    "context-too-long",
                    where,
                    message,
                    f"Write context = {own.context}.",
                )


def batch_sizes(config: Config, given: LintInputs) -> Findings:  # noqa: ARG001
    """Report batches of nothing."""
    for module in modules(config):
        if module.whole("batch_size") == 0:
            hint = "Use 1 or more; `dsmops plan` says what fits."
            yield finding(
                config,
                "batch-size-zero",
                module.where("batch_size"),
                "batch_size is 0: no slot for anybody",
                hint,
            )
