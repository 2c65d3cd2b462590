"""Lint a moshi-server TOML: small rules in one tuple, pure functions.

They get the text and `LintInputs`. `report.CODES` lists everything a lint can say. The server
itself checks little: unknown keys are ignored, and most mistakes show only as a process that
listens and never answers.
"""

from __future__ import annotations

from collections.abc import Callable

from dsmops.config.lint import access, device, files, keys, model, text, tts
from dsmops.config.lint.inputs import FileState, KnownFile, LintInputs
from dsmops.config.lint.report import CODES, ConfigFinding, Findings, LintReport
from dsmops.config.load import Config

__all__ = ["CODES", "ConfigFinding", "FileState", "KnownFile", "LintInputs", "LintReport", "lint"]

RULES: tuple[Callable[[Config, LintInputs], Findings], ...] = (
    keys.schema_problems,
    text.control_characters,
    model.transformer_limits,
    model.conditioning,
    model.context_lengths,
    model.batch_sizes,
    tts.codebooks,
    tts.guidance,
    tts.first_token,
    tts.default_voice,
    files.expansion,
    files.sources,
    files.files,
    device.dtype_words,
    device.dtype_on_device,
    device.server_version,
    device.memory,
    device.step_time,
    access.routes,
    access.api_keys,
    access.exposure,
    access.folders,
    access.captures,
    access.instance_name,
)


def lint(config: Config, given: LintInputs) -> LintReport:
    """Return everything the rules find in `config`, by line.

    What `given` leaves open is not judged.
    """
    found = [finding for rule in RULES for finding in rule(config, given)]
    return LintReport(
        tuple(sorted(found, key=lambda item: (item.line, item.code, item.where, item.message)))
    )
